//! What a tool is given: its configuration, its command, its variables. Pure; rendered when its image is there, since
//! the keys go by the versions that the image holds.

mod axolotl;
mod batch;
mod hugging_face;
mod llamafactory;
mod lora;
mod rows;
mod said;
pub(super) mod saves;
mod trl;

use std::fmt::Write as _;

use super::config::{Config, ConfigError};
use super::job::{ResumeBy, StopSignal, ToolJob, ToolKind};
use super::versions::Versions;

/// Where the rendered configuration lies in the container.
pub const TOOL_DIR: &str = "/hone/tool";
/// Where the base model lies.
const MODEL: &str = "/hone/input/model";
/// Where the rows lie, by channel.
const DATA: &str = "/hone/input/data";
/// Where the tool writes.
pub const OUTPUT: &str = "/hone/output";
/// Where TensorBoard files go.
pub const TENSORBOARD: &str = "/hone/metrics/tb";
/// Where the checkpoint to continue from lies.
pub const RESUME: &str = "/hone/resume";

/// What rendering goes by, besides the job.
#[derive(Debug, Clone, Default)]
pub struct Scene {
    /// What the image holds.
    pub versions: Versions,
    /// Names of the data files of each channel, sorted.
    pub train: Vec<String>,
    /// Of the held-out rows, where they have a channel of their own.
    pub eval: Vec<String>,
    /// Whether there is a checkpoint to continue from.
    pub resumes: bool,
    /// GPUs of the attempt.
    pub gpus: usize,
    /// The user's own command; empty for the tool's.
    pub command: Vec<String>,
}

/// A rendered tool.
#[derive(Debug, Clone, PartialEq)]
pub struct Rendered {
    /// The whole command line; empty for the image's own.
    pub command: Vec<String>,
    /// Variables besides those of every container.
    pub environment: Vec<(String, String)>,
    /// Files below [`TOOL_DIR`], by name.
    pub files: Vec<(String, String)>,
    /// What people are told: what hone wrote, and what it changed.
    pub told: String,
    /// How it is stopped.
    pub stop: StopSignal,
    /// The file below its output that makes it save where it is, where it knows one.
    pub trigger: Option<String>,
    /// Whether records can be pushed.
    pub pushes: bool,
    /// Processes that train together, each of which saves a part; nothing where hone does not start them itself.
    pub ranks: Option<usize>,
}

/// A tool that cannot be rendered.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// The user's configuration is no mapping.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is no configuration, and hone writes none for this tool.
    #[error(
        "hone writes no configuration for {0}: name yours with `trainer.config`, or give `trainer.command`"
    )]
    NoConfig(&'static str),
    /// The image lacks the tool.
    #[error("the image has no package {package}: it holds {found}")]
    NoTool {
        /// The package.
        package: &'static str,
        /// What is there.
        found: String,
    },
    /// The tool cannot read such rows.
    #[error("{tool} does not read rows of format {format}; {hint}")]
    Format {
        /// The tool.
        tool: &'static str,
        /// The format.
        format: String,
        /// What to do.
        hint: &'static str,
    },
    /// The tool in this version cannot do what the spec asks.
    #[error("{0}")]
    Unsupported(String),
}

/// What `job` is given in this scene.
///
/// # Errors
/// When the tool cannot do what the job asks, or its image lacks it.
pub fn render(job: &ToolJob, scene: &Scene) -> Result<Rendered, RenderError> {
    let mut rendered = match job.kind {
        ToolKind::Trl => trl::render(job, scene)?,
        ToolKind::Axolotl => axolotl::render(job, scene)?,
        ToolKind::Llamafactory => llamafactory::render(job, scene)?,
        ToolKind::Hf => hugging_face::render(job, scene)?,
        ToolKind::Torchtune | ToolKind::Unsloth | ToolKind::Custom => plain(job, scene)?,
    };
    let written = matches!(job.kind, ToolKind::Trl | ToolKind::Axolotl | ToolKind::Llamafactory);
    if written && !scene.command.is_empty() {
        rendered.command = scene.command.clone();
        rendered.ranks = None;
        if let (Some(file), Some((place, _))) = (&job.config, rendered.files.last()) {
            name_config(&mut rendered.command, &file.name, place);
        }
    }
    resume(job, scene, &mut rendered);
    rendered.stop = job.stop.unwrap_or(rendered.stop);
    let _ = write!(rendered.told, "; command: {}", shown(&rendered.command));
    Ok(rendered)
}

/// How an own script is told to go on: by the spec's word. What is known by its kind has its own way.
fn resume(job: &ToolJob, scene: &Scene, rendered: &mut Rendered) {
    if !scene.resumes {
        return;
    }
    match &job.resume {
        Some(ResumeBy::Argument(argument)) => {
            rendered.command.push(argument.replace("{path}", RESUME));
        }
        Some(ResumeBy::Environment(name)) => {
            rendered.environment.push((name.clone(), RESUME.to_owned()));
        }
        None => {}
    }
}

/// A tool that gets what its user gave: the configuration file as it is, and the command.
fn plain(job: &ToolJob, scene: &Scene) -> Result<Rendered, RenderError> {
    if scene.command.is_empty() {
        return Err(RenderError::NoConfig(job.kind.name()));
    }
    let mut command = scene.command.clone();
    if let Some(file) = &job.config {
        name_config(&mut command, &file.name, &file.name);
    }
    let files = job.config.iter().map(|config| (config.name.clone(), config.text.clone()));
    Ok(Rendered {
        command,
        environment: Vec::new(),
        files: files.collect(),
        told: format!("{} runs as it is ({})", job.kind.name(), scene.versions.told()),
        stop: StopSignal::Term,
        trigger: trigger(job),
        pushes: scene.versions.at_least("transformers", [5, 4]),
        ranks: None,
    })
}

/// Puts the place of the configuration into the command wherever an argument is the file's name, or a path to it, by
/// itself or after `--key=`. `place` is what it is called there. Returns whether an argument was.
fn name_config(command: &mut [String], name: &str, place: &str) -> bool {
    let mut found = false;
    for argument in command {
        let (key, path) = match argument.split_once('=') {
            Some((key, path)) => (format!("{key}="), path),
            None => (String::new(), argument.as_str()),
        };
        if path.rsplit('/').next() == Some(name) {
            *argument = format!("{key}{TOOL_DIR}/{place}");
            found = true;
        }
    }
    found
}

/// The file that a script of the user's own looks for.
fn trigger(job: &ToolJob) -> Option<String> {
    job.checkpoint.as_ref().and_then(|checkpoint| checkpoint.request.clone())
}

/// The user's configuration, or an empty one; the last word is said by [`finish`].
fn begin(job: &ToolJob) -> Result<Config, RenderError> {
    Ok(match &job.config {
        Some(file) => Config::parse(&file.name, &file.text)?,
        None => Config::default(),
    })
}

/// The user's last word over the configuration, which then is what the tool reads.
fn finish(config: &mut Config, job: &ToolJob, scene: &Scene) -> Result<(), RenderError> {
    config.override_with(&job.overrides);
    saves::require_evaluations(&said::Said { config, job, scene })
}

/// Requires the tool's own package in the image.
fn require(scene: &Scene, package: &'static str) -> Result<(), RenderError> {
    if scene.versions.has(package) {
        return Ok(());
    }
    Err(RenderError::NoTool { package, found: scene.versions.told() })
}

/// What people are told of a rendered configuration.
fn told(job: &ToolJob, scene: &Scene, config: &Config, trigger: Option<&str>) -> String {
    let begin = match &job.config {
        Some(file) => format!("{} with {}, over which hone lays", job.kind.name(), file.name),
        None => format!("{} with a configuration by hone", job.kind.name()),
    };
    let mut told = format!("{begin} ({})", scene.versions.told());
    for change in config.changes().iter().filter(|_| job.config.is_some()) {
        let _ = write!(told, "; {change}");
    }
    for instead in saves::told(&said::Said { config, job, scene }, trigger.is_some()) {
        let _ = write!(told, "; {instead}");
    }
    if saves::weights_only(job) {
        told.push_str(
            "; checkpoints hold weights only: what resumes from one begins with a fresh optimizer",
        );
    }
    told
}

fn shown(command: &[String]) -> String {
    if command.is_empty() { "the image's own".to_owned() } else { command.join(" ") }
}

#[cfg(test)]
mod key_tests;
#[cfg(test)]
mod recipe_tests;
#[cfg(test)]
mod saves_tests;
#[cfg(test)]
mod tests;
