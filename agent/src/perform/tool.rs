//! What a foreign tool is given before its container is made: its image is asked what it holds, and what it needs is
//! rendered into the folder of its configuration.

use std::fs;
use std::path::Path;
use std::time::Duration;

use hone_proto::assignment::{Assignment, Channel};
use hone_proto::event::Payload;
use hone_proto::quantity::{Bytes, MilliCpu};
use hone_proto::time::Now;
use rand::distr::{Alphanumeric, SampleString as _};

use super::contract::give_file;
use super::launch::user_of;
use super::{Performer, image_name, never, of_file, of_runtime};
use crate::adapters::job::ToolJob;
use crate::adapters::push::{TOKEN_NAME, url};
use crate::adapters::render::{Rendered, Scene, TOOL_DIR, render};
use crate::adapters::steering::{self, Steering};
use crate::adapters::versions::{PYTHONS, QUESTION, Versions};
use crate::core::input::StepError;
use crate::driver::Record;
use crate::layout::AttemptDirs;
use crate::runtime::docker::Answer;
use crate::runtime::{ContainerSpec, EnvVar, LogLimit, Network, Refusal, RuntimeError, Tmpfs};
use crate::tools::elastic::ERROR_NAME;

/// How long an image may take to say what it holds: a disk that is busy staging is slow.
const PATIENCE: Duration = Duration::from_secs(120);
/// Memory of the container that is asked.
const MEMORY: Bytes = Bytes::mib(512);
/// Least code of a program that a signal ended.
const KILLED: i64 = 128;
/// Files of a channel that a configuration can name.
const MAX_FILES: usize = 1000;
/// Characters of a token: more than 128 bits.
const TOKEN_LEN: usize = 32;

/// A tool with what it is given.
pub(super) struct Tool {
    job: ToolJob,
    rendered: Rendered,
    grace: Duration,
}

impl Performer {
    /// What the attempt's tool is given; nothing where hone's own trainer runs.
    pub(super) async fn tool(
        &self,
        assignment: &Assignment,
        uid: u32,
    ) -> Result<Option<Tool>, StepError> {
        let job = ToolJob::of_spec(&assignment.trainer_spec);
        let Some(job) = job.map_err(|error| never("bad_spec", super::chain(&error)))? else {
            return Ok(None);
        };
        let scene = Scene {
            versions: self.versions(assignment, uid).await?,
            train: self.files(assignment, Channel::Train)?,
            eval: self.files(assignment, Channel::Eval)?,
            resumes: assignment.resume.is_some(),
            gpus: assignment.promise.gpus.len(),
            command: assignment.command.clone(),
        };
        let rendered = render(&job, &scene)
            .map_err(|error| never("tool_unsupported", super::chain(&error)))?;
        Ok(Some(Tool { job, rendered, grace: assignment.grace }))
    }

    /// What the attempt's image holds, asked once in this life of the agent.
    async fn versions(&self, assignment: &Assignment, uid: u32) -> Result<Versions, StepError> {
        let reference = &assignment.image.reference;
        if let Some(known) = self.versions.lock().await.get(reference) {
            return Ok(known.clone());
        }
        let mut answers = Answers::default();
        for python in PYTHONS {
            let spec = question(assignment, uid, python, &self.prefix)?;
            match self.runtime.question(&spec, PATIENCE).await {
                Ok(answer) if answers.take(&answer) => break,
                Ok(answer) => {
                    tracing::warn!(image = %reference, python, code = answer.code, "it does not say what it holds");
                }
                // An image without Python holds none of its packages.
                Err(RuntimeError::Refused { refusal: Refusal::NoSuchProgram, .. }) => {}
                Err(error) => return Err(of_runtime(&error)),
            }
        }
        let (versions, certain) = answers.versions(reference)?;
        tracing::info!(image = %reference, holds = versions.told(), "its tool is known");
        if certain {
            self.versions.lock().await.insert(reference.clone(), versions.clone());
        }
        Ok(versions)
    }

    /// Names of a channel's files, below its folder, sorted.
    fn files(&self, assignment: &Assignment, channel: Channel) -> Result<Vec<String>, StepError> {
        let input = assignment.inputs.iter().find(|input| input.channel == channel);
        let Some(input) = input else { return Ok(Vec::new()) };
        let root = self.layout.cached(&assignment.project, input.manifest);
        let mut names = Vec::new();
        walk(&root, "", &mut names)?;
        names.sort();
        Ok(names)
    }

    /// Tells the job's owner what the tool was given.
    pub(super) async fn tell_rendered(&self, assignment: &Assignment, tool: &Tool) {
        let notice = Payload::Notice {
            attempt: assignment.attempt,
            level: "info".to_owned(),
            code: "tool_config".to_owned(),
            message: tool.rendered.told.clone(),
        };
        let driver = self.driver.clone();
        let record = Record { events: vec![(Now::read(), notice)], ..Record::default() };
        let told = tokio::task::spawn_blocking(move || driver.record_blocking(record)).await;
        if !matches!(told, Ok(Ok(_))) {
            tracing::debug!("nobody takes the notice: the agent ends");
        }
    }
}

/// What the Pythons of an image said.
#[derive(Default)]
struct Answers {
    found: Option<Versions>,
    /// One ran and did not say it.
    unsaid: bool,
    /// One was killed before it could, with this code.
    killed: Option<i64>,
}

impl Answers {
    /// Whether this one says it.
    fn take(&mut self, answer: &Answer) -> bool {
        self.found = Versions::parse(&answer.output);
        self.unsaid |= self.found.is_none();
        self.killed = self.killed.or((answer.code >= KILLED).then_some(answer.code));
        self.found.is_some()
    }

    /// What the image holds, and whether that is certain. One without Python holds nothing; nor does one whose Python is
    /// too old to say it, as far as is known. One that was killed may answer the next time.
    fn versions(self, image: &str) -> Result<(Versions, bool), StepError> {
        match (self.found, self.killed) {
            (Some(found), _) => Ok((found, true)),
            (None, None) => Ok((Versions::default(), !self.unsaid)),
            (None, Some(code)) => Err(StepError {
                retryable: true,
                cause: "image_unknown".to_owned(),
                message: format!(
                    "{image}: its Python was killed, with code {code}, before it said which packages it has"
                ),
                elsewhere: true,
            }),
        }
    }
}

fn walk(dir: &Path, under: &str, names: &mut Vec<String>) -> Result<(), StepError> {
    for entry in fs::read_dir(dir).map_err(of_file(dir))? {
        let entry = entry.map_err(of_file(dir))?;
        let kind = entry.file_type().map_err(of_file(dir))?;
        let name = format!("{under}{}", entry.file_name().to_string_lossy());
        if kind.is_dir() {
            walk(&entry.path(), &format!("{name}/"), names)?;
        } else if kind.is_file() && names.len() < MAX_FILES {
            names.push(name);
        }
    }
    Ok(())
}

/// A container that asks the image's own Python, closed as every other.
fn question(
    assignment: &Assignment,
    uid: u32,
    python: &str,
    prefix: &str,
) -> Result<ContainerSpec, StepError> {
    Ok(ContainerSpec {
        attempt: assignment.attempt,
        name: format!("{prefix}-question-{}", crate::layout::name(assignment.attempt)),
        image: image_name(&assignment.image.reference)?,
        entrypoint: Some(vec![python.to_owned()]),
        command: Some(vec!["-c".to_owned(), QUESTION.to_owned()]),
        workdir: None,
        user_env: Vec::new(),
        env: vec![EnvVar { name: "HOME".to_owned(), value: "/tmp".to_owned() }],
        mounts: Vec::new(),
        tmpfs: vec![Tmpfs { target: "/tmp".into(), size: Bytes::mib(16), exec: false }],
        user: user_of(assignment, uid),
        memory: MEMORY,
        cpus: MilliCpu::cores(1),
        cpuset: None,
        pids: 64,
        shm: Bytes::mib(16),
        open_files: None,
        gpus: Vec::new(),
        network: Network::None,
        stop_grace: Duration::from_secs(1),
        log: LogLimit::default(),
    })
}

impl Tool {
    /// The whole command line; empty for the image's own.
    pub(super) fn command(&self) -> &[String] {
        &self.rendered.command
    }

    /// Variables that are the user's, and those that the user named: checked as the user's are.
    pub(super) fn user_environment(&self) -> Vec<EnvVar> {
        let own = self.job.environment.clone().into_iter();
        own.chain(self.rendered.environment.clone())
            .map(|(name, value)| EnvVar { name, value })
            .collect()
    }

    /// Variables of hone's own.
    pub(super) fn environment(&self) -> Vec<EnvVar> {
        // A launcher of torch leaves there why the first of its processes failed; whoever has none does not look.
        let mut all = vec![("TORCHELASTIC_ERROR_FILE", format!("/hone/metrics/{ERROR_NAME}"))];
        if self.rendered.pushes {
            all.push(("KUBEFLOW_TRAINER_SERVER_URL", url()));
            all.push(("KUBEFLOW_TRAINER_SERVER_TOKEN", format!("{TOOL_DIR}/{TOKEN_NAME}")));
        }
        let variable = |(name, value): (&str, String)| EnvVar { name: name.to_owned(), value };
        all.into_iter().map(variable).collect()
    }

    /// Writes the configuration where the container finds it, and what the agent needs later where it does not.
    pub(super) fn write(&self, dirs: &AttemptDirs, owner: u32) -> Result<(), StepError> {
        let tool = dirs.tool();
        for (name, text) in &self.rendered.files {
            give_file(&tool.join(name), text, None)?;
        }
        let token = tool.join(TOKEN_NAME);
        // One that is there already is known to a container that may run.
        if self.rendered.pushes && !token.exists() {
            let text = Alphanumeric.sample_string(&mut rand::rng(), TOKEN_LEN);
            give_file(&token, &text, Some(owner))?;
        }
        let steering = Steering {
            stop: self.rendered.stop,
            grace: self.grace,
            trigger: self.rendered.trigger.clone(),
            ranks: self.rendered.ranks,
        };
        steering::keep(dirs, &steering).map_err(of_file(dirs.root()))?;
        let kept = dirs.kept();
        fs::create_dir_all(&kept).map_err(of_file(&kept))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_python_that_does_not_answer_is_asked_again_and_an_image_without_one_holds_nothing() {
        let answer = |code, output: &str| Answer { code, output: output.as_bytes().to_vec() };
        let none = Answers::default().versions("x");
        assert_eq!(none.expect("no Python"), (Versions::default(), true));
        let mut answers = Answers::default();
        assert!(!answers.take(&answer(137, "")));
        let error = answers.versions("x").expect_err("unknown");
        assert!(error.retryable && error.message.contains("code 137"), "{}", error.message);
        let mut answers = Answers::default();
        assert!(!answers.take(&answer(1, "No module named importlib.metadata")));
        assert_eq!(answers.versions("x").expect("an old one"), (Versions::default(), false));
        let mut answers = Answers::default();
        assert!(!answers.take(&answer(137, "")));
        assert!(answers.take(&answer(0, r#"{"python": "3.12.1", "packages": {"trl": "1.15"}}"#)));
        let (found, certain) = answers.versions("x").expect("an answer");
        assert!(found.has("trl") && certain);
    }
}
