//! What transformers from 5.4 on posts over HTTP: its newest figures and how far it is.
//!
//! The body repeats the figures of *earlier* logs, of training and evaluation together, beside the step of *now*:
//! `current_step` is not the step of `loss`. So a reader remembers the body before: figures that did not change are no
//! news. The step of those that did follows from the log's exact `epoch` where that leaves one answer only; else the
//! point has none, and TensorBoard's files or the trainer's state tell it later.

use std::collections::BTreeMap;

use hone_proto::id::Step;
use hone_proto::time::WallNanos;
use serde::Deserialize;

use super::json;
use super::names::{self, Meaning};
use super::point::{Gather, Point, Progress, Source, Split, whole_step};

/// Most figures of a body that are looked at.
const MAX_FIGURES: usize = 512;
/// `current_epoch` is rounded to two decimals.
const EPOCH_ROUNDING: f64 = 0.005;
/// Most numbers of steps per epoch that are tried.
const MAX_CANDIDATES: u32 = 4096;

/// What one body says.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Pushed {
    /// What is new in it.
    pub points: Vec<Point>,
    /// How far training is now.
    pub progress: Progress,
    /// How far in percent, as the tool says; 100 is said at any end of training and proves nothing.
    pub percent: Option<u8>,
}

/// Reads the bodies that one process pushes, in order.
#[derive(Debug, Clone, Default)]
pub struct PushReader {
    before: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    trainer_status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    last_updated_time: Option<String>,
    progress_percentage: Option<json::Real>,
    estimated_remaining_seconds: Option<json::Real>,
    #[serde(default)]
    metrics: Vec<Figure>,
}

#[derive(Deserialize)]
struct Figure {
    name: String,
    value: serde_json::Value,
}

impl PushReader {
    /// Reads one body; nothing when it is not what the tool sends.
    #[must_use]
    pub fn read(&mut self, body: &[u8]) -> Option<Pushed> {
        let Body { trainer_status: status } = json::from_slice(body).ok()?;
        let figures: BTreeMap<String, f64> = status
            .metrics
            .into_iter()
            .take(MAX_FIGURES)
            .filter_map(|figure| Some((figure.name, number(&figure.value)?)))
            .collect();
        let get = |name: &str| figures.get(name).copied();
        let whole = |real: Option<json::Real>| real.map(|r| crate::observe::text::whole(r.0));
        let progress = Progress {
            step: get("current_step").and_then(whole_step),
            total: get("total_steps").and_then(whole_step),
            epoch: get("current_epoch").filter(|epoch| epoch.is_finite()),
            remaining_s: whole(status.estimated_remaining_seconds),
        };
        let at = status.last_updated_time.as_deref().and_then(time);
        let points = self.news(&figures, progress, at);
        self.before = figures;
        let percent = whole(status.progress_percentage);
        Some(Pushed { points, progress, percent: percent.and_then(|n| u8::try_from(n).ok()) })
    }

    fn news(
        &self,
        now: &BTreeMap<String, f64>,
        progress: Progress,
        at: Option<WallNanos>,
    ) -> Vec<Point> {
        let epoch = now.get("epoch").copied().filter(|epoch| epoch.is_finite());
        let logged = |name: &str| {
            self.before.get(name).map(|v| v.to_bits()) != now.get(name).map(|v| v.to_bits())
        };
        let told: Vec<_> =
            now.iter().filter_map(|(name, value)| Some((name, *value, split(name)?))).collect();
        // Both kinds of logs count tokens: that alone does not say which of them is new.
        let decides = |name: &str| name != "num_input_tokens_seen";
        let fresh: Vec<Split> = [Split::Train, Split::Eval, Split::Test]
            .into_iter()
            .filter(|kind| {
                told.iter().any(|(name, _, of)| of == kind && decides(name) && logged(name))
            })
            .collect();
        // `epoch` is that of the last log. With two kinds of news it is not known of which.
        let place = match fresh.as_slice() {
            [_] => epoch.map(|epoch| (logged_step(epoch, progress), epoch)),
            _ => None,
        };
        let mut gather = Gather::new(Source::Push);
        gather.at = at;
        gather.progress.step = place.and_then(|(step, _)| step);
        gather.progress.epoch = place.map(|(_, epoch)| epoch);
        for (name, value, of) in told {
            if fresh.contains(&of) {
                gather.put(name, value);
            }
        }
        gather.finish().collect()
    }
}

/// What a figure was measured on; nothing for those that only tell the place.
fn split(name: &str) -> Option<Split> {
    match names::meaning(name) {
        Meaning::Known { split, .. } | Meaning::Other { split, .. } => {
            (name != "current_epoch").then_some(split)
        }
        Meaning::Step | Meaning::Total | Meaning::Epoch => None,
    }
}

/// The step at which `epoch` was logged: where every number of steps per epoch that is possible by what is told of now,
/// and by which the log's exact `epoch` falls on a step, gives the same one.
fn logged_step(epoch: f64, now: Progress) -> Option<Step> {
    let (step, current) = (now.step?, now.epoch?);
    let done = crate::observe::text::approximate(step.get());
    let fewest = (done / (current + EPOCH_ROUNDING)).ceil();
    let most = (done / (current - EPOCH_ROUNDING)).floor();
    if !(current > EPOCH_ROUNDING && epoch > 0.0 && most - fewest < f64::from(MAX_CANDIDATES)) {
        return None;
    }
    let mut found = None;
    let mut per_epoch = fewest;
    while per_epoch <= most {
        let logged = epoch * per_epoch;
        let nearest = logged.round();
        let falls_on_a_step = (logged - nearest).abs() <= 1e-9 * nearest.max(1.0);
        if falls_on_a_step && (1.0..=done).contains(&nearest) {
            let step = whole_step(nearest)?;
            if found.is_some_and(|other| other != step) {
                return None;
            }
            found = Some(step);
        }
        per_epoch += 1.0;
    }
    found
}

/// A figure, in text or not. One that is too large to be held is none: nobody wrote that it is infinite.
fn number(value: &serde_json::Value) -> Option<f64> {
    match value {
        serde_json::Value::String(text) => {
            let text = text.trim();
            let named = !text.contains(|c: char| c.is_ascii_digit());
            text.parse().ok().filter(|number: &f64| named || number.is_finite())
        }
        other => crate::trainer::record::real(other),
    }
}

fn time(text: &str) -> Option<WallNanos> {
    let time: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(time.as_nanosecond()).ok().map(WallNanos::new)
}

#[cfg(test)]
#[path = "push_tests.rs"]
mod tests;
