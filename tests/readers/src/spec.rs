//! The controller's reader of specs, and of the configuration files that specs bring along.

use std::sync::OnceLock;

use hone_agent::adapters::job::ToolJob;
use hone_controller::spec::{
    JobSpec, MAX_PROBLEMS, SpecError, TrainerKind, check_config, parse, parse_bytes, resolve,
};
use hone_proto::id::{Attempt, JobId};

/// What a spec means is a spec that means the same; what is wrong with one is said with its place.
pub(crate) fn spec(bytes: &[u8]) {
    match parse_bytes(bytes, "job.yaml") {
        Ok(spec) => {
            let canonical = spec.canonical();
            let again = parse(&canonical, "job.yaml")
                .unwrap_or_else(|error| panic!("what it means is no spec: {error}\n{canonical}"));
            assert_eq!(again.canonical(), canonical);
            assert_eq!(again.digest(), spec.digest());
            assert!(spec.warnings().iter().all(|warning| is_clean(warning)));
            assert!(spec.max_attempts() > 0 && !spec.image().is_empty());
            let _ = tool(&spec, None);
        }
        Err(error) => refused(&error, bytes),
    }
}

fn refused(error: &SpecError, bytes: &[u8]) {
    let problems = error.problems();
    assert!((1..=MAX_PROBLEMS).contains(&problems.len()), "{} problems", problems.len());
    // Whatever ends a line: a carriage return before a line feed counts twice here.
    let lines = bytes.split(|byte| matches!(byte, b'\n' | b'\r')).count();
    for problem in problems {
        let line = usize::try_from(problem.line).expect("small");
        assert!((1..=lines + 1).contains(&line) && problem.column > 0, "{problem:?}");
        assert!(!problem.what.is_empty());
        for text in [&problem.what, &problem.hint, &problem.excerpt, &problem.path] {
            assert!(is_clean(text), "{text:?} is not for a terminal");
            assert!(text.len() <= 4096, "{} bytes of {text:?}", text.len());
        }
    }
}

fn is_clean(text: &str) -> bool {
    !text.contains(char::is_control)
}

/// A configuration file that is taken can be put into what the agent is given.
pub(crate) fn config(bytes: &[u8]) {
    static SPECS: OnceLock<Vec<JobSpec>> = OnceLock::new();
    let specs = SPECS.get_or_init(|| {
        [("axolotl", "a.yml"), ("llamafactory", "a.json"), ("custom", "a.txt")]
            .map(|(kind, file)| with_config(kind, file))
            .into()
    });
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for spec in specs {
        match check_config(spec, text) {
            Ok(()) => {
                let config = tool(spec, Some(text)).and_then(|tool| tool.config);
                assert_eq!(config.map(|config| config.text).as_deref(), Some(text));
            }
            Err(error) => refused(&error, bytes),
        }
    }
}

/// What the agent reads of the spec as the controller hands it on: a tool, unless hone's own trainer runs.
fn tool(spec: &JobSpec, config: Option<&str>) -> Option<ToolJob> {
    let told = resolve(spec, JobId::new(1), Attempt::new(1), None, config).to_json();
    let tool = ToolJob::of_spec(&told)
        .unwrap_or_else(|error| panic!("the agent cannot read it: {error:?}\n{told}"));
    assert_eq!(tool.is_some(), spec.trainer() != TrainerKind::Hone, "{told}");
    tool
}

/// A job with a tool that has a configuration file.
fn with_config(kind: &str, file: &str) -> JobSpec {
    let rest =
        if kind == "custom" { "train: {max_steps: 1}" } else { "model: ./m\ndata: ./d.jsonl" };
    let text = format!(
        "{rest}\ntrainer: {{kind: {kind}, image: \"x:1\", command: [c], config: ./{file}}}\nresources: {{cpu: 1, memory: 1 GiB, disk: 1 GB}}\n"
    );
    parse(&text, "job.yaml").unwrap_or_else(|error| panic!("{error}"))
}
