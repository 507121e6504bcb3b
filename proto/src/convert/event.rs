//! Events on the wire. The wire form is also what spools and segment files hold.

use prost::Message as _;

use super::WireError;
use super::bounds::{
    MAX_MESSAGE, MAX_NAME, MAX_RESULT, MAX_SAMPLE, MAX_TEXT, MAX_VALUES, MAX_WORD, clip, name,
    plain,
};
use crate::event::{
    Event, Level, LogRecord, Metrics, Outcome, OutcomeKind, Payload, Phase, Position, Stream,
    TrainerStart,
};
use crate::id::{AttemptId, Seq, Step};
use crate::time::Now;
use crate::wire;
use crate::wire::event::Payload as WirePayload;

impl From<Stream> for wire::EventStream {
    fn from(stream: Stream) -> Self {
        match stream {
            Stream::State => Self::State,
            Stream::Series => Self::Series,
            Stream::Logs => Self::Logs,
            Stream::Hardware => Self::Hardware,
        }
    }
}

/// The stream of a wire number.
pub fn stream(number: i32) -> Result<Stream, WireError> {
    match wire::EventStream::try_from(number) {
        Ok(wire::EventStream::State) => Ok(Stream::State),
        Ok(wire::EventStream::Series) => Ok(Stream::Series),
        Ok(wire::EventStream::Logs) => Ok(Stream::Logs),
        Ok(wire::EventStream::Hardware) => Ok(Stream::Hardware),
        Ok(wire::EventStream::Unspecified) | Err(_) => {
            Err(WireError::new("stream", format!("unknown: {number}")))
        }
    }
}

impl From<Position> for wire::EventAck {
    fn from(position: Position) -> Self {
        Self {
            spool_id: position.spool.into(),
            stream: wire::EventStream::from(position.stream).into(),
            seq: position.seq.get(),
        }
    }
}

impl TryFrom<wire::EventAck> for Position {
    type Error = WireError;
    fn try_from(wire: wire::EventAck) -> Result<Self, WireError> {
        Ok(Self {
            spool: wire.spool_id.parse().map_err(WireError::id("ack.spool_id"))?,
            stream: stream(wire.stream)?,
            seq: Seq::new(wire.seq),
        })
    }
}

impl From<Event> for wire::Event {
    fn from(event: Event) -> Self {
        Self {
            seq: event.seq.get(),
            at: Some(event.at.into()),
            boot_id: event.boot.into(),
            payload: Some(event.payload.into()),
        }
    }
}

/// An event as an agent reports it in this stream. What it says beyond the bounds is cut; what this release does not
/// know becomes a gap record, so that it is counted and acknowledged like everything else.
pub fn reported(stream: Stream, wire: wire::Event) -> Result<Event, WireError> {
    let payload = match wire.payload {
        Some(known) => payload(stream, known)?,
        None => unknown(stream, None, "an event of a kind".to_owned()),
    };
    Ok(Event {
        seq: Seq::new(wire.seq),
        at: Now::from(wire.at.ok_or_else(|| WireError::missing("event.at"))?),
        boot: wire.boot_id.parse().map_err(WireError::id("event.boot_id"))?,
        payload,
    })
}

/// Stands for a record that a newer agent sent.
fn unknown(stream: Stream, attempt: Option<AttemptId>, what: String) -> Payload {
    let reason = format!("{what} that this release does not know");
    Payload::Gap { attempt, what: stream.name().to_owned(), count: 1, reason }
}

impl From<Payload> for WirePayload {
    fn from(payload: Payload) -> Self {
        match payload {
            Payload::Phase { attempt, phase, detail } => Self::Phase(wire::AttemptPhase {
                attempt: Some(attempt.into()),
                phase: wire::AgentPhase::from(phase).into(),
                detail,
            }),
            Payload::Outcome(outcome) => Self::Outcome(outcome.into()),
            Payload::Metrics(m) => Self::Metrics(wire::TrainerMetrics {
                attempt: Some(m.attempt.into()),
                step: m.step.get(),
                split: m.split,
                epoch: m.epoch,
                values: m
                    .values
                    .into_iter()
                    .map(|(name, value)| wire::NamedValue { name, value })
                    .collect(),
            }),
            Payload::Start(start) => Self::Start(wire::TrainerStart {
                attempt: Some(start.attempt.into()),
                max_steps: start.max_steps.map(Step::get),
                resumed_from_step: start.resumed_from.get(),
                trainable_params: start.trainable_params,
                total_params: start.total_params,
            }),
            Payload::TrainerPhase { attempt, name, begin } => {
                Self::TrainerPhase(wire::TrainerPhase {
                    attempt: Some(attempt.into()),
                    name,
                    begin,
                })
            }
            Payload::Notice { attempt, level, code, message } => {
                Self::Notice(wire::TrainerNotice {
                    attempt: Some(attempt.into()),
                    level,
                    code,
                    message,
                })
            }
            Payload::Log(log) => Self::Log(wire::LogRecord {
                attempt: Some(log.attempt.into()),
                output: log.output,
                level: log.level.name().to_owned(),
                text: log.text,
            }),
            Payload::Hardware(rollup) => {
                Self::Hardware(wire::HardwareRollup { rollup: Some(*rollup) })
            }
            Payload::Gap { attempt, what, count, reason } => {
                Self::Gap(wire::Gap { attempt: attempt.map(Into::into), what, count, reason })
            }
        }
    }
}

fn payload(stream: Stream, wire: WirePayload) -> Result<Payload, WireError> {
    Ok(match wire {
        WirePayload::Phase(w) => {
            let attempt = attempt(w.attempt)?;
            match phase(w.phase) {
                Some(phase) => {
                    Payload::Phase { attempt, phase, detail: plain(w.detail, MAX_MESSAGE) }
                }
                None => unknown(stream, Some(attempt), format!("phase {}", w.phase)),
            }
        }
        WirePayload::Outcome(w) => Payload::Outcome(outcome(w)?),
        WirePayload::Metrics(w) => Payload::Metrics(metrics(w)?),
        WirePayload::Start(w) => Payload::Start(TrainerStart {
            attempt: attempt(w.attempt)?,
            max_steps: w.max_steps.map(Step::new),
            resumed_from: Step::new(w.resumed_from_step),
            trainable_params: w.trainable_params,
            total_params: w.total_params,
        }),
        WirePayload::TrainerPhase(w) => Payload::TrainerPhase {
            attempt: attempt(w.attempt)?,
            name: name(w.name, MAX_WORD),
            begin: w.begin,
        },
        WirePayload::Notice(w) => Payload::Notice {
            attempt: attempt(w.attempt)?,
            level: name(w.level, MAX_WORD),
            code: name(w.code, MAX_NAME),
            message: clip(w.message, MAX_TEXT),
        },
        WirePayload::Log(w) => Payload::Log(LogRecord {
            attempt: attempt(w.attempt)?,
            output: name(w.output, MAX_WORD),
            // A report may carry a level that is newer than this release.
            level: Level::from_name(&w.level).unwrap_or(Level::Info),
            text: clip(w.text, MAX_TEXT),
        }),
        WirePayload::Hardware(w) => {
            let rollup = w.rollup.ok_or_else(|| WireError::missing("hardware.rollup"))?;
            if rollup.encoded_len() > MAX_SAMPLE {
                let reason = format!("a rollup of {} bytes", rollup.encoded_len());
                Payload::Gap { attempt: None, what: stream.name().to_owned(), count: 1, reason }
            } else {
                Payload::Hardware(Box::new(rollup))
            }
        }
        WirePayload::Gap(w) => Payload::Gap {
            attempt: w.attempt.map(Into::into),
            what: name(w.what, MAX_WORD),
            count: w.count,
            reason: plain(w.reason, MAX_MESSAGE),
        },
    })
}

fn metrics(w: wire::TrainerMetrics) -> Result<Metrics, WireError> {
    let values = w.values.into_iter().take(MAX_VALUES);
    Ok(Metrics {
        attempt: attempt(w.attempt)?,
        step: Step::new(w.step),
        split: plain(name(w.split, MAX_WORD), MAX_WORD),
        epoch: w.epoch,
        values: values.map(|v| (name(v.name, MAX_NAME), v.value)).collect(),
    })
}

fn attempt(wire: Option<wire::AttemptRef>) -> Result<AttemptId, WireError> {
    wire.map(AttemptId::from).ok_or_else(|| WireError::missing("event.attempt"))
}

impl From<Phase> for wire::AgentPhase {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Staging => Self::Staging,
            Phase::Starting => Self::Starting,
            Phase::Running => Self::Running,
            Phase::Stopping => Self::Stopping,
            Phase::Collecting => Self::Collecting,
        }
    }
}

fn phase(number: i32) -> Option<Phase> {
    match wire::AgentPhase::try_from(number) {
        Ok(wire::AgentPhase::Staging) => Some(Phase::Staging),
        Ok(wire::AgentPhase::Starting) => Some(Phase::Starting),
        Ok(wire::AgentPhase::Running) => Some(Phase::Running),
        Ok(wire::AgentPhase::Stopping) => Some(Phase::Stopping),
        Ok(wire::AgentPhase::Collecting) => Some(Phase::Collecting),
        Ok(wire::AgentPhase::Unspecified) | Err(_) => None,
    }
}

impl From<Outcome> for wire::AttemptOutcome {
    fn from(outcome: Outcome) -> Self {
        let kind = match outcome.kind {
            OutcomeKind::Completed => wire::OutcomeKind::Completed,
            OutcomeKind::Interrupted => wire::OutcomeKind::Interrupted,
            OutcomeKind::FailedRetryable => wire::OutcomeKind::FailedRetryable,
            OutcomeKind::Failed => wire::OutcomeKind::Failed,
        };
        Self {
            attempt: Some(outcome.attempt.into()),
            kind: kind.into(),
            exit_code: outcome.exit_code,
            cause: outcome.cause,
            message: outcome.message,
            step: outcome.step.map(Step::get),
            result_json: outcome.result_json.into_bytes(),
        }
    }
}

fn outcome(w: wire::AttemptOutcome) -> Result<Outcome, WireError> {
    let mut message = w.message;
    let kind = match wire::OutcomeKind::try_from(w.kind) {
        Ok(wire::OutcomeKind::Completed) => OutcomeKind::Completed,
        Ok(wire::OutcomeKind::Interrupted) => OutcomeKind::Interrupted,
        Ok(wire::OutcomeKind::FailedRetryable) => OutcomeKind::FailedRetryable,
        Ok(wire::OutcomeKind::Failed) => OutcomeKind::Failed,
        Ok(wire::OutcomeKind::Unspecified) | Err(_) => {
            // Whatever it means, the attempt is over; another one is the answer that loses nothing.
            message = format!("(outcome {}, which this release does not know) {message}", w.kind);
            OutcomeKind::FailedRetryable
        }
    };
    // Half a document would be none; what it says is in the metrics as well.
    let result = String::from_utf8_lossy(&w.result_json).into_owned();
    let result_json = if result.len() > MAX_RESULT { String::new() } else { result };
    Ok(Outcome {
        attempt: attempt(w.attempt)?,
        kind,
        exit_code: w.exit_code,
        cause: plain(name(w.cause, MAX_NAME), MAX_NAME),
        message: plain(message, MAX_MESSAGE),
        step: w.step.map(Step::new),
        result_json: plain(result_json, MAX_RESULT),
    })
}

#[cfg(test)]
mod tests;
