//! One line of the engine's file.

use hone_proto::time::WallNanos;
use serde::Deserialize;

use super::Output;

/// What the engine wrote for one piece of output. A piece without a newline at its end is a part of a line: the engine
/// cuts at 16 KiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EngineLine {
    pub(super) at: WallNanos,
    pub(super) output: Output,
    pub(super) text: String,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    log: String,
    stream: String,
    time: String,
}

impl EngineLine {
    /// Reads one line of the file, without its newline.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        // The engine replaces invalid UTF-8 itself; a damaged file must not stop the reader.
        let raw: Raw = serde_json::from_str(&String::from_utf8_lossy(line)).ok()?;
        let time: jiff::Timestamp = raw.time.parse().ok()?;
        Some(Self {
            at: WallNanos::new(u64::try_from(time.as_nanosecond()).ok()?),
            output: match raw.stream.as_str() {
                "stdout" => Output::Stdout,
                "stderr" => Output::Stderr,
                _ => return None,
            },
            text: raw.log,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_format_is_read_and_nothing_else() {
        let line =
            br#"{"log":"a\u0000b\n","stream":"stderr","time":"2024-05-01T10:00:00.000000001Z"}"#;
        let expected = EngineLine {
            at: WallNanos::new(1_714_557_600_000_000_001),
            output: Output::Stderr,
            text: "a\0b\n".to_owned(),
        };
        assert_eq!(EngineLine::parse(line), Some(expected));
        for bad in [
            "",
            "\0\0\0",
            "{}",
            r#"{"log":"x","stream":"stdin","time":"2024-05-01T10:00:00Z"}"#,
            r#"{"log":"x","stream":"stdout","time":"yesterday"}"#,
            r#"{"log":"x","stream":"stdout","time":"1824-05-01T10:00:00Z"}"#,
            r#"{"log":"x","stream":"stdout"#,
        ] {
            assert_eq!(EngineLine::parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
