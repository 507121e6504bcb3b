//! The engine's failures, sorted by what the caller does about them. The only place that reads its error texts.

use bollard::errors::Error;

use crate::runtime::{Refusal, RuntimeError};

/// How much of an engine's message is kept.
const MAX_MESSAGE_LEN: usize = 600;

/// Texts by which the engine says that a part of itself is away; it uses status 500 for everything.
const AWAY: [&str; 6] = [
    "transport is closing",
    "the client connection is closing",
    "code = Unavailable",
    "containerd.sock",
    "context deadline exceeded",
    "daemon is shutting down",
];

/// An engine's text, cut and without control characters.
pub(super) fn clean(message: &str) -> String {
    message
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_MESSAGE_LEN)
        .collect::<String>()
        .trim()
        .to_owned()
}

/// What kind of refusal a message is.
pub(super) fn refusal(message: &str) -> Refusal {
    let has = |needle: &str| message.contains(needle);
    if has("could not select device driver")
        || has("unresolvable CDI devices")
        || has("CDI device injection failed")
    {
        Refusal::NoGpuRuntime
    } else if has("no space left on device") {
        Refusal::DiskFull
    } else if has("executable file not found") || has("exec: ") && has("no such file or directory")
    {
        Refusal::NoSuchProgram
    } else if has("cannot remove a running container")
        || has("You cannot remove")
        || has("container is running")
    {
        Refusal::Running
    } else if has("manifest unknown")
        || has("pull access denied")
        || has("unauthorized")
        || has("no such host")
        || has("connection refused")
        || has("no basic auth credentials")
    {
        Refusal::Registry
    } else {
        Refusal::Other
    }
}

/// The status by which the engine refused, if it answered at all.
pub(super) fn status(error: &Error) -> Option<u16> {
    match error {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// A failed call as the agent sees it.
pub(super) fn classify(call: &'static str, error: &Error) -> RuntimeError {
    let (status, message) = match error {
        Error::DockerResponseServerError { status_code, message } => {
            (*status_code, message.as_str())
        }
        Error::DockerStreamError { error } => (500, error.as_str()),
        // No answer, or none that can be read: the engine went away in the middle, or is not one.
        other => return RuntimeError::Unavailable { call, why: clean(&chain(other)) },
    };
    if status == 503 || status == 502 || AWAY.iter().any(|text| message.contains(text)) {
        return RuntimeError::Unavailable { call, why: clean(message) };
    }
    RuntimeError::Refused { call, message: clean(message), refusal: refusal(message) }
}

/// An error and its causes on one line; the client library's outermost text says little.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status_code: u16, message: &str) -> RuntimeError {
        classify(
            "start",
            &Error::DockerResponseServerError { status_code, message: message.to_owned() },
        )
    }

    fn kind(error: RuntimeError) -> Refusal {
        match error {
            RuntimeError::Refused { refusal, .. } => refusal,
            other => panic!("not a refusal: {other:?}"),
        }
    }

    #[test]
    fn a_missing_gpu_runtime_is_named_with_a_hint() {
        let error =
            answered(500, "could not select device driver \"nvidia\" with capabilities: [[gpu]]");
        assert!(error.hint().is_some_and(|hint| hint.contains("nvidia-container-toolkit")));
        assert_eq!(kind(error), Refusal::NoGpuRuntime);
        let error =
            answered(500, "CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=x");
        assert_eq!(kind(error), Refusal::NoGpuRuntime);
    }

    #[test]
    fn an_engine_that_is_away_is_worth_another_try() {
        assert!(answered(503, "daemon is shutting down").is_retryable());
        assert!(
            answered(500, "rpc error: code = Unavailable desc = transport is closing")
                .is_retryable()
        );
        assert!(classify("list", &Error::RequestTimeoutError).is_retryable());
        assert!(classify("list", &Error::SocketNotFoundError("x".to_owned())).is_retryable());
        assert!(!answered(400, "invalid reference format").is_retryable());
    }

    #[test]
    fn refusals_tell_disk_program_and_registry_apart() {
        let cases = [
            ("write /x: no space left on device", Refusal::DiskFull),
            (
                "exec: \"pyhton\": executable file not found in $PATH: unknown",
                Refusal::NoSuchProgram,
            ),
            ("You cannot remove a running container", Refusal::Running),
            ("manifest unknown", Refusal::Registry),
            ("something new", Refusal::Other),
        ];
        for (message, refusal) in cases {
            assert_eq!(kind(answered(500, message)), refusal, "{message}");
        }
    }

    #[test]
    fn messages_are_cut_and_cleaned() {
        let RuntimeError::Refused { message, .. } =
            answered(500, &format!("a\u{1b}[31m\n{}", "é".repeat(5000)))
        else {
            panic!("not a refusal");
        };
        assert!(!message.contains('\u{1b}') && message.chars().count() <= MAX_MESSAGE_LEN);
    }
}
