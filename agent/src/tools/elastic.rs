//! torchelastic's `error.json`: what the process that failed first said of it. The launcher itself exits with 1, and
//! prints the tracebacks of all that it ended afterwards. It is there when the tool's entry is wrapped with `record`.

use serde::Deserialize;
use serde_json::Value;

use super::json;
use crate::logs::clean_text;
use crate::trainer::{Dir, FileError, RelPath};

use hone_proto::quantity::Bytes;

/// Name of the file, in the folder of the metrics.
pub const ERROR_NAME: &str = "torchelastic-error.json";
/// Largest file that is read: a message and one traceback.
const MAX_SIZE: Bytes = Bytes::mib(1);
/// How much of a message is kept.
const MAX_MESSAGE_LEN: usize = 400;
/// How much of a traceback is looked at, its end: there the exceptions stand.
const MAX_TRACE_LEN: usize = 16 * 1024;

/// What the first process that failed left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RankError {
    /// The exception with its message, in one line.
    pub message: String,
    /// The process's exit code, where the launcher added it; negative for a signal.
    pub exit: Option<i64>,
    /// Its traceback.
    pub trace: String,
}

/// As the file has it: the message is an object, or in older releases a text.
#[derive(Deserialize)]
struct Document {
    message: Message,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Message {
    Text(String),
    Record {
        message: String,
        #[serde(rename = "errorCode")]
        code: Option<Value>,
        #[serde(rename = "extraInfo")]
        extra: Option<Extra>,
    },
}

#[derive(Deserialize)]
struct Extra {
    #[serde(rename = "py_callstack")]
    callstack: Option<String>,
}

/// The error that a run left beneath `metrics`, if it left one.
///
/// # Errors
/// When what is there is no plain file, too large, or cannot be read.
pub fn rank_error(metrics: &Dir) -> Result<Option<RankError>, FileError> {
    let Some(file) = metrics.file(&RelPath::constant(ERROR_NAME))? else { return Ok(None) };
    Ok(parse(&file.read_all(MAX_SIZE)?))
}

/// Reads the file; nothing when it is not of this form.
#[must_use]
pub fn parse(bytes: &[u8]) -> Option<RankError> {
    let (message, code, extra) = match json::from_slice::<Document>(bytes).ok()?.message {
        Message::Text(text) => (text, None, None),
        Message::Record { message, code, extra } => (message, code, extra),
    };
    let exit = code.and_then(|code| match code {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    });
    let trace = extra.and_then(|extra| extra.callstack).unwrap_or_default();
    let from = trace.len().saturating_sub(MAX_TRACE_LEN);
    let from = (from..=trace.len()).find(|at| trace.is_char_boundary(*at)).unwrap_or(0);
    let first = message.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let message = clean_text(first, MAX_MESSAGE_LEN);
    if message.is_empty() {
        return None;
    }
    Some(RankError { message, exit, trace: clean_text(&trace[from..], MAX_TRACE_LEN) })
}

impl RankError {
    /// Its lines, for whoever looks for a cause in them.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.message.as_str()).chain(self.trace.lines())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_forms_are_read() {
        let record = json!({"message": {
            "message": "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
            "errorCode": -9,
            "extraInfo": {"py_callstack": "Traceback (most recent call last):\n  x\nValueError: y\n",
                          "timestamp": "1700000000"},
        }});
        let error = parse(record.to_string().as_bytes()).expect("an error");
        assert_eq!(
            error.message,
            "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"
        );
        assert_eq!((error.exit, error.lines().count()), (Some(-9), 4));
        let text = json!({"message": "\u{1b}[31mSignal 11 (SIGSEGV) received by PID 7\n"});
        let error = parse(text.to_string().as_bytes()).expect("an error");
        assert_eq!(
            (&error.message[..], error.exit),
            ("Signal 11 (SIGSEGV) received by PID 7", None)
        );
        let code = json!({"message": {"message": "x", "errorCode": "3"}});
        assert_eq!(parse(code.to_string().as_bytes()).and_then(|error| error.exit), Some(3));
    }

    #[test]
    fn what_is_not_of_this_form_is_nothing_and_what_is_long_is_cut() {
        let mut whole = json!({"message": {"message": "x", "extraInfo": {"py_callstack": "y"}}});
        let text = whole.to_string();
        for at in 0..text.len() {
            assert_eq!(parse(&text.as_bytes()[..at]), None, "cut at {at}");
        }
        for bad in ["[]", "{\"message\": 1}", "{\"message\": {}}", "{\"message\": \" \\n\"}", "\0"]
        {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
        whole["message"]["message"] = "é".repeat(10_000).into();
        whole["message"]["extraInfo"]["py_callstack"] =
            format!("{}\nthe end", "é".repeat(50_000)).into();
        let error = parse(whole.to_string().as_bytes()).expect("an error");
        assert!(error.message.len() <= MAX_MESSAGE_LEN && error.trace.len() <= MAX_TRACE_LEN);
        assert!(error.trace.ends_with("the end"));
    }

    #[test]
    fn a_file_that_is_too_large_or_a_link_is_refused() {
        let temp = tempfile::tempdir().expect("a folder");
        let dir = Dir::open(temp.path()).expect("opened");
        assert_eq!(rank_error(&dir).expect("read"), None);
        let path = temp.path().join(ERROR_NAME);
        std::fs::write(&path, br#"{"message": "x"}"#).expect("written");
        let error = rank_error(&dir).expect("read").expect("an error");
        assert_eq!(error.message, "x");
        std::fs::File::options()
            .write(true)
            .open(&path)
            .expect("opened")
            .set_len(1 << 30)
            .expect("long");
        assert!(rank_error(&dir).is_err());
        std::fs::remove_file(&path).expect("removed");
        std::os::unix::fs::symlink("/etc/hostname", &path).expect("linked");
        assert!(rank_error(&dir).is_err());
    }
}
