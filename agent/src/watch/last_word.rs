//! The trainer's last word, as it goes into the outcome; and what its owner is told when not all of it does.

use std::path::Path;

use hone_proto::event::Payload;
use hone_proto::id::AttemptId;
use hone_proto::quantity::Bytes;

use crate::core::input::TrainerWord;
use crate::trainer::{Dir, RESULT_NAME, RelPath, ResultStatus, TrainerResult, read_result};

/// Most of a result that is passed on: it is stored in one record with all that is known of its job, and the controller
/// takes no more.
const MAX_RESULT: usize = 8 << 10;

/// What was found.
#[derive(Debug, Default, PartialEq)]
pub(super) struct LastWord {
    /// What it says of how it ended.
    pub(super) word: Option<TrainerWord>,
    /// For the job's owner.
    pub(super) notices: Vec<Payload>,
}

/// Reads the last word of an attempt that ended.
pub(super) fn last_word(metrics: &Path, attempt: AttemptId) -> LastWord {
    let notice = |code: &str, message: String| Payload::Notice {
        attempt,
        level: "warning".to_owned(),
        code: code.to_owned(),
        message,
    };
    let unusable = |why: String| LastWord {
        word: None,
        notices: vec![notice(
            "result_unusable",
            format!("{RESULT_NAME} is not used, and how the trainer ended is not known: {why}"),
        )],
    };
    // Without the folder the container was never made.
    let Ok(dir) = Dir::open(metrics) else { return LastWord::default() };
    let result = match read_result(&dir, attempt.token.attempt) {
        Ok(Some(result)) => result,
        Ok(None) => {
            return match dir.file(&RelPath::constant(RESULT_NAME)) {
                Ok(Some(_)) => unusable("it is of another attempt, or not as specified".to_owned()),
                Ok(None) | Err(_) => LastWord::default(),
            };
        }
        Err(error) => return unusable(error.to_string()),
    };
    let (json, parts) = result.kept(MAX_RESULT);
    let mut notices = Vec::new();
    if !parts.is_empty() {
        let size = |length: usize| Bytes::new(u64::try_from(length).unwrap_or(u64::MAX));
        let (all, max) = (size(result.json.len()), size(MAX_RESULT));
        let parts = parts.join(", ");
        let message = format!(
            "{RESULT_NAME} has {all}, and {max} of it are kept; shortened or left out: {parts}"
        );
        notices.push(notice("result_cut", message));
    }
    LastWord { word: Some(word(result, json)), notices }
}

fn word(result: TrainerResult, json: String) -> TrainerWord {
    let status = match result.status {
        ResultStatus::Completed => "completed",
        ResultStatus::Interrupted => "interrupted",
        ResultStatus::Failed => "failed",
    };
    let message = match (&result.error, &result.reason) {
        (Some(error), _) => format!("{}: {}", error.kind, error.message),
        (None, Some(reason)) => reason.clone(),
        (None, None) => status.to_owned(),
    };
    TrainerWord {
        status: status.to_owned(),
        code: i32::try_from(result.code).unwrap_or(1),
        message,
        step: result.step,
        json,
    }
}

#[cfg(test)]
mod tests {
    use hone_proto::id::{Attempt, Generation, JobId, Token};
    use serde_json::json;

    use super::*;

    fn read(content: &[u8]) -> (Option<TrainerWord>, Vec<(String, String)>) {
        let metrics = tempfile::tempdir().expect("a folder");
        std::fs::write(metrics.path().join(RESULT_NAME), content).expect("written");
        let token = Token { generation: Generation::new(1), attempt: Attempt::new(3) };
        let found = last_word(metrics.path(), AttemptId { job: JobId::new(1), token });
        let told = found.notices.into_iter().map(|notice| match notice {
            Payload::Notice { code, message, .. } => (code, message),
            other => panic!("{other:?} is no notice"),
        });
        (found.word, told.collect())
    }

    #[test]
    fn a_long_result_is_cut_and_its_owner_is_told() {
        let result = json!({
            "attempt": 3, "status": "failed", "code": 82, "step": 7,
            "error": {"type": "ValueError", "message": "bad", "trace": "frame\n".repeat(9_000)},
        });
        let (word, told) = read(result.to_string().as_bytes());
        let word = word.expect("it counts");
        assert_eq!((word.status.as_str(), word.code), ("failed", 82));
        assert!(word.json.contains("ValueError") && word.json.len() <= MAX_RESULT);
        assert!(word.json.len() > 2_000, "next to nothing is kept: {}", word.json);
        let [(code, message)] = &told[..] else { panic!("one notice was expected: {told:?}") };
        assert_eq!(code, "result_cut");
        assert!(message.contains("8.0 KiB") && message.contains("error.trace"), "{message}");
    }

    #[test]
    fn a_result_that_does_not_count_is_never_passed_over_in_silence() {
        let huge = vec![b' '; 1 << 20];
        for content in [&huge[..], b"{", br#"{"attempt":2,"status":"completed","code":0}"#] {
            let (word, told) = read(content);
            assert_eq!(word, None);
            assert_eq!(told.len(), 1, "{told:?}");
            assert_eq!(told[0].0, "result_unusable");
        }
        let (word, told) = read(br#"{"attempt":3,"status":"completed","code":0}"#);
        assert_eq!(word.expect("it counts").json, r#"{"attempt":3,"status":"completed","code":0}"#);
        assert!(told.is_empty(), "{told:?}");
        let empty = tempfile::tempdir().expect("a folder");
        let token = Token { generation: Generation::new(1), attempt: Attempt::new(1) };
        let attempt = AttemptId { job: JobId::new(1), token };
        assert_eq!(last_word(empty.path(), attempt), LastWord::default());
    }
}
