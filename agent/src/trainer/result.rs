//! `result.json`, the trainer's last word: launchers flatten exit codes and engines forget them, this file does not.

use std::collections::BTreeMap;

use hone_proto::id::{Attempt, Step};
use hone_proto::quantity::Bytes;
use serde_json::{Map, Value};

use super::beneath::{Dir, FileError, RelPath};
use super::record::{Fields, figures, real};

/// Name of the file in the metrics directory.
pub const RESULT_NAME: &str = "result.json";
/// Largest result that is read: a long traceback and some hundred figures fit many times.
const MAX_RESULT_SIZE: Bytes = Bytes::new(256 * 1024);

/// How the trainer says it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResultStatus {
    /// It did what the spec asks.
    Completed,
    /// It was stopped, with or without a checkpoint.
    Interrupted,
    /// It could not go on.
    Failed,
}

/// What went wrong, in the trainer's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrainerFailure {
    /// The type of the error.
    pub kind: String,
    /// Its message.
    pub message: String,
    /// The traceback, when there is one.
    pub trace: Option<String>,
}

/// The trainer's last word about one attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainerResult {
    /// How it ended.
    pub status: ResultStatus,
    /// The exit code that it meant, whatever a launcher made of it.
    pub code: i64,
    /// Why.
    pub reason: Option<String>,
    /// Steps completed.
    pub step: Option<Step>,
    /// Steps asked for.
    pub max_steps: Option<Step>,
    /// Passes over the data completed.
    pub epoch: Option<f64>,
    /// The newest checkpoint, as the trainer names it.
    pub last_checkpoint: Option<String>,
    /// The best checkpoint, as the trainer names it.
    pub best_checkpoint: Option<String>,
    /// The figure by which it is the best.
    pub best_metric: Option<f64>,
    /// The package of a completed run, as the trainer names it.
    pub package: Option<String>,
    /// Final figures.
    pub metrics: BTreeMap<String, f64>,
    /// Tokens trained on.
    pub tokens_seen: Option<u64>,
    /// How long it ran, in seconds.
    pub wall_s: Option<f64>,
    /// What went wrong.
    pub error: Option<TrainerFailure>,
    /// Whether another attempt may help, in the trainer's opinion.
    pub retryable: Option<bool>,
    /// The file as it was written.
    pub json: String,
}

impl TrainerResult {
    /// The file as it is kept with the outcome: whole up to `max` bytes, else without some of its optional parts, which
    /// are named.
    #[must_use]
    pub fn kept(&self, max: usize) -> (String, Vec<String>) {
        if self.json.len() <= max {
            return (self.json.clone(), Vec::new());
        }
        // It was parsed before.
        let map: Map<String, Value> = serde_json::from_str(&self.json).unwrap_or_default();
        super::cut::cut(&map, max)
    }
}

/// Reads the result of `attempt`. Nothing when there is none, when it is of another attempt, or when it cannot be
/// understood: each of these means that the trainer did not say how it ended.
///
/// # Errors
/// When the file is not a plain file, is too large, or cannot be read.
pub fn read_result(
    metrics_dir: &Dir,
    attempt: Attempt,
) -> Result<Option<TrainerResult>, FileError> {
    let Some(file) = metrics_dir.file(&RelPath::constant(RESULT_NAME))? else { return Ok(None) };
    Ok(parse(&file.read_all(MAX_RESULT_SIZE)?, attempt))
}

fn parse(content: &[u8], attempt: Attempt) -> Option<TrainerResult> {
    let json = std::str::from_utf8(content).ok()?;
    let map: Map<String, Value> = serde_json::from_str(json).ok()?;
    let fields = Fields(&map);
    if fields.whole("attempt") != Some(u64::from(attempt.get())) {
        return None;
    }
    Some(TrainerResult {
        status: match fields.raw_text("status")? {
            "completed" => ResultStatus::Completed,
            "interrupted" => ResultStatus::Interrupted,
            "failed" => ResultStatus::Failed,
            _ => return None,
        },
        code: map.get("code")?.as_i64()?,
        reason: fields.text("reason"),
        step: fields.step("step"),
        max_steps: fields.step("max_steps"),
        epoch: fields.real("epoch"),
        last_checkpoint: fields.text("last_checkpoint"),
        best_checkpoint: fields.text("best_checkpoint"),
        best_metric: map.get("best_metric").and_then(best_metric),
        package: fields.text("package"),
        metrics: lenient_figures(map.get("metrics")),
        tokens_seen: fields.whole("tokens_seen"),
        wall_s: fields.real("wall_s"),
        error: map.get("error").and_then(Value::as_object).map(failure),
        retryable: map.get("retryable").and_then(Value::as_bool),
        json: json.to_owned(),
    })
}

/// The figure by which a checkpoint is the best: plain, or beside the step where it was reached.
fn best_metric(value: &Value) -> Option<f64> {
    let beside = || {
        value
            .as_object()?
            .iter()
            .filter(|(name, _)| *name != "step")
            .find_map(|(_, value)| real(value))
    };
    real(value).or_else(beside)
}

/// The figures among the final metrics. What else is there must not cost the outcome of a job.
fn lenient_figures(value: Option<&Value>) -> BTreeMap<String, f64> {
    let Some(map) = value.and_then(Value::as_object) else { return BTreeMap::new() };
    let numbers: Map<String, Value> = map
        .iter()
        .filter(|(_, value)| real(value).is_some())
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    figures(&numbers).unwrap_or_default()
}

fn failure(map: &Map<String, Value>) -> TrainerFailure {
    let fields = Fields(map);
    TrainerFailure {
        kind: fields.text("type").unwrap_or_default(),
        message: fields.text("message").unwrap_or_default(),
        trace: fields.text("trace"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ATTEMPT: Attempt = Attempt::new(3);

    fn read(content: &str) -> Option<TrainerResult> {
        let temp = tempfile::tempdir().expect("a directory");
        std::fs::write(temp.path().join(RESULT_NAME), content).expect("written");
        read_result(&Dir::open(temp.path()).expect("opened"), ATTEMPT).expect("readable")
    }

    #[test]
    fn a_failure_keeps_its_story() {
        let result = read(
            r#"{"v":1,"attempt":3,"status":"failed","code":70,"reason":"error","step":12,"max_steps":60,
                "metrics":{"loss":"nan","note":"text","eval_loss":1.5},"tokens_seen":1e3,"retryable":true,
                "best_metric":{"step":10,"eval_loss":1.25},"package":null,
                "error":{"type":"ValueError","message":"bad","trace":"Traceback…\n  File\u001b[0m"}}"#,
        )
        .expect("a result");
        assert_eq!(
            (result.status, result.code, result.step),
            (ResultStatus::Failed, 70, Some(Step::new(12)))
        );
        assert_eq!((result.tokens_seen, result.best_metric), (Some(1000), Some(1.25)));
        assert!(result.metrics["loss"].is_nan() && result.metrics.len() == 2);
        let error = result.error.expect("an error");
        assert_eq!(
            (error.kind.as_str(), error.trace.as_deref()),
            ("ValueError", Some("Traceback…\n  File"))
        );
    }

    #[test]
    fn a_stale_torn_or_foreign_result_is_no_result() {
        for content in [
            "",
            "{",
            "[]",
            r#"{"attempt":2,"status":"completed","code":0}"#,
            r#"{"status":"completed","code":0}"#,
            r#"{"attempt":3,"status":"splendid","code":0}"#,
            r#"{"attempt":3,"status":"completed"}"#,
        ] {
            assert_eq!(read(content), None, "{content} was accepted");
        }
        let temp = tempfile::tempdir().expect("a directory");
        let dir = Dir::open(temp.path()).expect("opened");
        assert_eq!(read_result(&dir, ATTEMPT).expect("fine"), None);
        std::fs::write(temp.path().join(RESULT_NAME), vec![b' '; 2 << 20]).expect("written");
        assert!(matches!(read_result(&dir, ATTEMPT), Err(FileError::TooLarge { .. })));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes, ATTEMPT);
        }
    }
}
