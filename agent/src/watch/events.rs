//! From what a trainer wrote to what the controller is told. Pure, but for the clock that stamps a gap.

use hone_proto::event::{LogRecord, Metrics, Payload, Stream, TrainerStart};
use hone_proto::id::AttemptId;
use hone_proto::time::{Now, WallNanos};

use crate::adapters::keep::Notice;
use crate::logs::LogItem;
use crate::trainer::{RecordBody, TrainerRecord};

/// What a record of the trainer says, when it is for the controller.
pub(super) fn of_record(attempt: AttemptId, record: &TrainerRecord) -> Option<(Now, Payload)> {
    let payload = match &record.body {
        RecordBody::Start { max_steps, resumed_from, trainable_params, total_params, .. } => {
            Payload::Start(TrainerStart {
                attempt,
                max_steps: *max_steps,
                resumed_from: resumed_from.unwrap_or_default(),
                trainable_params: *trainable_params,
                total_params: *total_params,
            })
        }
        RecordBody::Phase { name, begin } => {
            Payload::TrainerPhase { attempt, name: name.clone(), begin: *begin }
        }
        RecordBody::Metrics { split, epoch, values } => Payload::Metrics(Metrics {
            attempt,
            step: record.step,
            split: split.clone(),
            epoch: *epoch,
            values: values.iter().map(|(name, value)| (name.clone(), *value)).collect(),
        }),
        RecordBody::Notice { level, code, message } => Payload::Notice {
            attempt,
            level: level.name().to_owned(),
            code: code.clone(),
            message: message.clone(),
        },
        RecordBody::Sample { prompt, text } => Payload::Notice {
            attempt,
            level: "info".to_owned(),
            code: "sample".to_owned(),
            message: format!("{prompt}: {text}"),
        },
        // Checkpoints are found where they lie; the end is in the result.
        RecordBody::Checkpoint { .. } | RecordBody::End { .. } => return None,
    };
    Some((at(record.at), payload))
}

/// The trainer's own time; its boot clock is not known.
fn at(wall: WallNanos) -> Now {
    Now { wall, boot: Now::read().boot }
}

/// What the owner of a job should know of its checkpoints.
pub(super) fn of_notice(attempt: AttemptId, notice: Notice) -> (Now, Payload) {
    let Notice { code, message } = notice;
    let (level, code) = ("warning".to_owned(), code.to_owned());
    (Now::read(), Payload::Notice { attempt, level, code, message })
}

/// What the engine kept of a log, or lost.
pub(super) fn of_log(attempt: AttemptId, item: LogItem) -> (Now, Payload) {
    match item {
        LogItem::Line(line) => {
            let record = LogRecord {
                attempt,
                output: line.output.name().to_owned(),
                level: line.level,
                text: line.text,
            };
            (at(line.at), Payload::Log(record))
        }
        LogItem::Gap(gap) => {
            let gap = Payload::Gap {
                attempt: Some(attempt),
                what: Stream::Logs.name().to_owned(),
                count: gap.lines.unwrap_or(1),
                reason: "the engine rotated its log before it was read".to_owned(),
            };
            (Now::read(), gap)
        }
    }
}
