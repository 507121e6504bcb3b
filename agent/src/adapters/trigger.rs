//! Saves on request, for tools that look for a file after each step and save where they are when it is there. With it an
//! interval may be minutes, or what a save costs, and a tool that knows no signal saves before it is stopped.

use std::time::{Duration, Instant};

use hone_proto::id::{AttemptId, Step};

use super::job::ToolJob;
use super::steering::Steering;
use crate::layout::AttemptDirs;
use crate::trainer::leave_request;

/// The file of Axolotl, below its output; it takes it away before it saves.
pub const AXOLOTL: &str = "axolotl_checkpoint.save";

/// With `auto`, saves take at most this part of the time…
const OVERHEAD: f64 = 0.02;
/// … unless they would lie further apart than this: more is lost at once than a save costs.
const LONGEST: Duration = Duration::from_secs(30 * 60);
/// Mean time between two losses of a node: rented machines go without notice.
const BETWEEN_FAILURES: Duration = Duration::from_secs(6 * 3600);
/// From outside a save is seen to the second: a shorter one counts as this.
const SHORTEST: Duration = Duration::from_secs(1);
/// Nothing is known before the first save: it comes after this time, and is measured.
const FIRST: Duration = Duration::from_secs(60);

/// Asks the attempt's tool for a save, if it can be asked.
pub fn ask(attempt: AttemptId, dirs: &AttemptDirs, steering: &Steering) {
    if let Some(name) = &steering.trigger
        && let Err(error) = leave_request(&dirs.output(), name)
    {
        tracing::warn!(%attempt, %error, "the tool could not be asked for a checkpoint");
    }
}

/// Training between two saves, when one takes so long: the same as that of hone's own trainer (`intervals.py`).
///
/// Young's first-order optimum (J. W. Young, 1974): with a save of C seconds and a failure every M, the interval
/// sqrt(2 C M) loses least in all. It is lengthened where saves would take more than a fiftieth of the time.
#[must_use]
pub fn auto(save: Option<Duration>) -> Duration {
    let Some(save) = save else { return FIRST };
    let save = save.max(SHORTEST).as_secs_f64();
    let best = (2.0 * save * BETWEEN_FAILURES.as_secs_f64()).sqrt();
    let wanted = best.max(save / OVERHEAD).min(LONGEST.as_secs_f64());
    Duration::from_secs_f64(wanted)
}

/// When an attempt's tool is to be asked, by the spec's word.
#[derive(Debug)]
pub struct Intervals {
    every: Option<Duration>,
    auto: bool,
    /// The newest checkpoint that was seen, and when; once the tool trains, also without one.
    saved: Option<(Option<Step>, Instant)>,
    /// It was asked since.
    asked: bool,
}

impl Intervals {
    /// Of a job; none where steps and epochs are all that is asked for.
    #[must_use]
    pub fn of(job: &ToolJob) -> Option<Self> {
        let minutes = job.number("/checkpoint/every_minutes").filter(|minutes| *minutes > 0.0);
        let every = minutes.and_then(|minutes| Duration::try_from_secs_f64(60.0 * minutes).ok());
        let auto = job.flag("/checkpoint/auto").unwrap_or(false);
        (every.is_some() || auto).then_some(Self { every, auto, saved: None, asked: false })
    }

    /// Whether to ask now; to be looked at often. `newest` is the newest checkpoint that is complete, and `save` what
    /// the last one took.
    pub fn due(
        &mut self,
        now: Instant,
        trains: bool,
        newest: Option<Step>,
        save: Option<Duration>,
    ) -> bool {
        match self.saved {
            Some((known, _)) if known == newest => {}
            None if !trains && newest.is_none() => return false,
            _ => {
                self.saved = Some((newest, now));
                self.asked = false;
            }
        }
        let Some((_, at)) = self.saved else { return false };
        let passed = now.saturating_duration_since(at);
        let by_cost = self.auto.then(|| auto(save));
        let due = [self.every, by_cost].into_iter().flatten().min();
        if self.asked || due.is_none_or(|due| passed < due) {
            return false;
        }
        self.asked = true;
        true
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn intervals(checkpoint: serde_json::Value) -> Option<Intervals> {
        let spec = json!({"checkpoint": checkpoint, "trainer": {"kind": "axolotl"}});
        Intervals::of(&ToolJob::of_spec(&spec.to_string()).expect("a spec").expect("a tool"))
    }

    #[test]
    fn it_is_asked_once_when_the_time_has_passed_since_the_last_save() {
        let mut intervals = intervals(json!({"every_minutes": 2.0})).expect("by time");
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let step = |step| Some(Step::new(step));
        assert!(!intervals.due(at(0), false, None, None));
        assert!(!intervals.due(at(500), false, None, None), "it loads its model");
        assert!(!intervals.due(at(501), true, None, None));
        assert!(!intervals.due(at(620), true, None, None));
        assert!(intervals.due(at(621), true, None, None));
        assert!(!intervals.due(at(700), true, None, None), "it was asked");
        assert!(!intervals.due(at(702), true, step(30), None));
        assert!(!intervals.due(at(821), true, step(30), None));
        assert!(!intervals.due(at(821), true, step(40), None), "it saved by itself");
        assert!(!intervals.due(at(940), true, step(40), None));
        assert!(intervals.due(at(941), true, step(40), None));
    }

    #[test]
    fn what_a_save_costs_decides_unless_minutes_come_first() {
        let second = Duration::from_secs(1);
        assert_eq!(auto(None), FIRST);
        assert_eq!(auto(Some(second)).as_secs(), 207, "sqrt(2 x 1 s x 6 h)");
        assert_eq!(auto(Some(Duration::ZERO)), auto(Some(second)), "between two looks");
        assert_eq!(auto(Some(20 * second)).as_secs(), 1000, "2 % of the time");
        assert_eq!(auto(Some(600 * second)), LONGEST);
        let start = Instant::now();
        for (checkpoint, expected) in [
            (json!({"auto": true}), 207),
            (json!({"auto": true, "every_minutes": 1.0}), 60),
            (json!({"auto": true, "every_minutes": 30.0}), 207),
        ] {
            let mut intervals = intervals(checkpoint).expect("by time");
            let mut due = |at| intervals.due(start + at * second, true, None, Some(second));
            assert!(!due(0) && !due(expected - 1) && due(expected + 1));
        }
        assert!(intervals(json!({"every_steps": 5})).is_none());
    }
}
