//! Events on the wire. The wire form is also what spools and segment files hold.

use super::WireError;
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

impl TryFrom<wire::Event> for Event {
    type Error = WireError;
    fn try_from(wire: wire::Event) -> Result<Self, WireError> {
        Ok(Self {
            seq: Seq::new(wire.seq),
            at: Now::from(wire.at.ok_or_else(|| WireError::missing("event.at"))?),
            boot: wire.boot_id.parse().map_err(WireError::id("event.boot_id"))?,
            payload: wire.payload.ok_or_else(|| WireError::missing("event.payload"))?.try_into()?,
        })
    }
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

impl TryFrom<WirePayload> for Payload {
    type Error = WireError;
    fn try_from(wire: WirePayload) -> Result<Self, WireError> {
        Ok(match wire {
            WirePayload::Phase(w) => Self::Phase {
                attempt: attempt(w.attempt)?,
                phase: phase(w.phase)?,
                detail: w.detail,
            },
            WirePayload::Outcome(w) => Self::Outcome(w.try_into()?),
            WirePayload::Metrics(w) => Self::Metrics(Metrics {
                attempt: attempt(w.attempt)?,
                step: Step::new(w.step),
                split: w.split,
                epoch: w.epoch,
                values: w.values.into_iter().map(|v| (v.name, v.value)).collect(),
            }),
            WirePayload::Start(w) => Self::Start(TrainerStart {
                attempt: attempt(w.attempt)?,
                max_steps: w.max_steps.map(Step::new),
                resumed_from: Step::new(w.resumed_from_step),
                trainable_params: w.trainable_params,
                total_params: w.total_params,
            }),
            WirePayload::TrainerPhase(w) => {
                Self::TrainerPhase { attempt: attempt(w.attempt)?, name: w.name, begin: w.begin }
            }
            WirePayload::Notice(w) => Self::Notice {
                attempt: attempt(w.attempt)?,
                level: w.level,
                code: w.code,
                message: w.message,
            },
            WirePayload::Log(w) => Self::Log(LogRecord {
                attempt: attempt(w.attempt)?,
                output: w.output,
                // A report may carry a level that is newer than this release.
                level: Level::from_name(&w.level).unwrap_or(Level::Info),
                text: w.text,
            }),
            WirePayload::Hardware(w) => Self::Hardware(Box::new(
                w.rollup.ok_or_else(|| WireError::missing("hardware.rollup"))?,
            )),
            WirePayload::Gap(w) => Self::Gap {
                attempt: w.attempt.map(Into::into),
                what: w.what,
                count: w.count,
                reason: w.reason,
            },
        })
    }
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

fn phase(number: i32) -> Result<Phase, WireError> {
    match wire::AgentPhase::try_from(number) {
        Ok(wire::AgentPhase::Staging) => Ok(Phase::Staging),
        Ok(wire::AgentPhase::Starting) => Ok(Phase::Starting),
        Ok(wire::AgentPhase::Running) => Ok(Phase::Running),
        Ok(wire::AgentPhase::Stopping) => Ok(Phase::Stopping),
        Ok(wire::AgentPhase::Collecting) => Ok(Phase::Collecting),
        Ok(wire::AgentPhase::Unspecified) | Err(_) => {
            Err(WireError::new("phase", format!("unknown: {number}")))
        }
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

impl TryFrom<wire::AttemptOutcome> for Outcome {
    type Error = WireError;
    fn try_from(w: wire::AttemptOutcome) -> Result<Self, WireError> {
        let kind = match wire::OutcomeKind::try_from(w.kind) {
            Ok(wire::OutcomeKind::Completed) => OutcomeKind::Completed,
            Ok(wire::OutcomeKind::Interrupted) => OutcomeKind::Interrupted,
            Ok(wire::OutcomeKind::FailedRetryable) => OutcomeKind::FailedRetryable,
            Ok(wire::OutcomeKind::Failed) => OutcomeKind::Failed,
            Ok(wire::OutcomeKind::Unspecified) | Err(_) => {
                return Err(WireError::new("outcome.kind", format!("unknown: {}", w.kind)));
            }
        };
        Ok(Self {
            attempt: attempt(w.attempt)?,
            kind,
            exit_code: w.exit_code,
            cause: w.cause,
            message: w.message,
            step: w.step.map(Step::new),
            result_json: String::from_utf8_lossy(&w.result_json).into_owned(),
        })
    }
}
