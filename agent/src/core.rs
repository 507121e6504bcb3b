//! The reconciler: one synchronous state machine. It compares what the controller wants with what it sees, and returns
//! the difference as effects. Start-up, adoption, retry and stop are all this one path: an effect that was lost is
//! simply asked for again, so each must be safe to repeat.
//!
//! One attempt:
//! ```text
//!              staged            launched             exited             drained, all uploaded
//!   staging ──────────► staged ──────────► running ──────────► draining ──────────► collecting ──► ended
//!      │ │                 │                  │ stop: control file, SIGTERM, grace, SIGKILL           │
//!      │ │ cannot          │ cannot           ▼                                                     │ absent from
//!      │ └─────────────────┴───────────► ended (outcome spooled) ◄────────────────────────────────────┘ the desired
//!      └ stop: ended at once                  └──────────────────────► removed ◄── set: killed, if it still runs
//! ```
//! Everything here survives a crash of the agent, except what is under way: those effects are emitted again.

pub mod input;
pub mod outcome;
pub mod state;

mod converge;
mod disk;
#[cfg(test)]
mod tests;
mod uploads;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hone_proto::assignment::{DesiredSet, Intent};
use hone_proto::event::{Payload, Phase};
use hone_proto::id::{AttemptId, BootId, Generation};
use hone_proto::quantity::Bytes;
use hone_proto::time::{BootNanos, Now};

pub use self::input::{Effect, Input, Seen, SeenState, Upload};
use self::state::{AgentState, AttemptRecord, Stage};

/// The time of the last heartbeat is kept whenever it has moved by this part of the shortest wait: often enough that a
/// restart costs little patience, seldom enough that an idle agent hardly writes.
const KEEP_HEARD: u32 = 10;

/// Bounds and periods of the reconciler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Tries of a step that may succeed later (an engine that is down, a link that is cut) before the attempt is given
    /// back to the controller, which may have a better node.
    pub tries: u32,
    /// First pause between tries; doubles up to `pause_cap`.
    pub pause: Duration,
    /// Longest pause between tries.
    pub pause_cap: Duration,
    /// From SIGKILL until it is sent again.
    pub kill_again: Duration,
    /// Free disk below which running attempts stop, whatever they were promised.
    pub least_free_disk: Bytes,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            tries: 8,
            pause: Duration::from_secs(1),
            pause_cap: Duration::from_secs(60),
            kill_again: Duration::from_secs(10),
            least_free_disk: Bytes::gib(1),
        }
    }
}

/// The reconciler's state.
#[derive(Debug, Clone, PartialEq)]
pub struct Agent {
    settings: Settings,
    state: AgentState,
    /// Effects that are under way. Not kept: after a crash they are started again.
    busy: BTreeSet<(AttemptId, Busy)>,
    /// Containers that are being removed although nothing is known of them.
    sweeping: BTreeSet<String>,
    /// Whether this life has seen the engine's list: before that, what is kept may be behind what runs.
    looked: bool,
    /// The node was revoked: all stops, and nothing begins. Not kept: whoever starts again is told again.
    dismissed: Option<String>,
    /// The value of `last_heard` that is kept.
    heard_kept: Option<BootNanos>,
    changed: bool,
    out: Vec<Effect>,
}

/// What is under way for an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Busy {
    Staging,
    Launching,
    /// The trainer was asked to stop in this life of the agent.
    Stopping,
    Draining,
    Uploading,
    Removing,
}

impl Agent {
    /// Goes on from what was kept, in this boot of the machine.
    #[must_use]
    pub fn new(settings: Settings, mut state: AgentState, boot: BootId) -> Self {
        let changed = state.begin_boot(boot);
        Self {
            settings,
            heard_kept: state.last_heard,
            state,
            busy: BTreeSet::new(),
            sweeping: BTreeSet::new(),
            looked: false,
            dismissed: None,
            changed,
            out: Vec::new(),
        }
    }

    /// What is kept.
    #[must_use]
    pub const fn state(&self) -> &AgentState {
        &self.state
    }

    /// Attempts that the agent holds: what `Hello` and heartbeats name.
    #[must_use]
    pub fn held(&self) -> Vec<AttemptId> {
        self.state.attempts.keys().copied().collect()
    }

    /// One turn: what is told, to what shall be done about it.
    ///
    /// When the state has changed the first effect is [`Effect::Keep`]; it and every [`Effect::Report`] must be durable
    /// before anything else is done.
    pub fn handle(&mut self, now: Now, input: Input) -> Vec<Effect> {
        match input {
            Input::Tick => {}
            Input::Heard { sent } => self.on_heard(sent),
            Input::Desired(set) => self.on_desired(set),
            Input::Dismissed { why } => self.dismissed = Some(why),
            Input::Observed { containers, asked } => self.on_observed(now, &containers, asked),
            Input::Staged { attempt, result } => {
                self.busy.remove(&(attempt, Busy::Staging));
                self.on_step(now, attempt, Stage::Staging, result, |record, ()| {
                    record.stage = Stage::Staged;
                });
            }
            Input::Launched { attempt, result } => {
                self.busy.remove(&(attempt, Busy::Launching));
                self.on_step(now, attempt, Stage::Staged, result, |record, container| {
                    record.container = Some(container);
                    record.launched = Some(now);
                    record.stage = Stage::Running;
                });
            }
            Input::Progress { attempt, step, checkpoints } => {
                self.on_progress(attempt, step, checkpoints);
            }
            Input::Disk { written, free } => self.on_disk(now, &written, free),
            Input::Drained { attempt, drained } => {
                self.busy.remove(&(attempt, Busy::Draining));
                self.on_drained(attempt, *drained);
            }
            Input::Uploaded { attempt, upload, took, result } => {
                self.busy.remove(&(attempt, Busy::Uploading));
                self.on_uploaded(now, attempt, &upload, took, result);
            }
            Input::Removed { attempt, done } => {
                self.busy.remove(&(attempt, Busy::Removing));
                self.on_removed(now, attempt, done);
            }
            Input::Swept { container } => {
                self.sweeping.remove(&container);
            }
        }
        self.converge(now);
        self.finish()
    }

    fn finish(&mut self) -> Vec<Effect> {
        let mut effects = std::mem::take(&mut self.out);
        if std::mem::take(&mut self.changed) {
            self.heard_kept = self.state.last_heard;
            effects.insert(0, Effect::Keep);
        }
        effects
    }

    fn on_heard(&mut self, sent: BootNanos) {
        self.state.last_heard = self.state.last_heard.max(Some(sent));
        // Kept now and then, so that an agent that starts again does not take an old value for a long silence.
        let waits = self.state.attempts.values().filter_map(|r| r.assignment.disconnect_wait);
        if let Some(shortest) = waits.min() {
            let kept = self.heard_kept.unwrap_or_default();
            self.changed |= sent.since(kept) > shortest / KEEP_HEARD;
        }
    }

    fn on_desired(&mut self, set: DesiredSet) {
        // A controller of an older life, or a set that was overtaken on the way, is not obeyed. The set that is worked
        // on already says nothing new; taking it again could bring back an attempt that was fenced and removed.
        let known = (self.state.generation, self.state.revision);
        if (set.generation, set.revision) <= known {
            return;
        }
        self.state.generation = set.generation;
        self.state.revision = set.revision;
        let wanted: BTreeMap<_, _> = set.assignments.into_iter().map(|a| (a.attempt, a)).collect();
        for (id, record) in &mut self.state.attempts {
            record.wanted = wanted.contains_key(id);
        }
        for (id, assignment) in wanted {
            match self.state.attempts.get_mut(&id) {
                Some(record) => record.assignment = assignment,
                None => {
                    self.state.next_uid = self.state.next_uid.wrapping_add(1);
                    let record = AttemptRecord::new(assignment, self.state.next_uid);
                    self.state.attempts.insert(id, record);
                }
            }
        }
        self.changed = true;
    }

    fn on_observed(&mut self, now: Now, seen: &[Seen], asked: BootNanos) {
        self.looked = true;
        for (id, record) in &mut self.state.attempts {
            let mut its = seen.iter().filter(|c| c.attempt == Some(*id));
            let container = match &record.container {
                Some(known) => its.find(|c| c.id == *known),
                None => its.find(|c| c.state != SeenState::Created),
            };
            match (record.stage, container) {
                // The launch may have happened although its answer was lost: adopt it.
                (Stage::Staged, Some(Seen { id: container, .. })) => {
                    record.container = Some(container.clone());
                    record.launched = Some(now);
                    record.stage = Stage::Running;
                    self.changed = true;
                }
                (Stage::Running, Some(Seen { state: SeenState::Exited { code, oom }, .. })) => {
                    record.exit = Some((*code, *oom));
                    record.stage = Stage::Draining;
                    self.changed = true;
                }
                // Gone without a trace. A list that was asked for before the launch proves nothing.
                (Stage::Running, None)
                    if record.launched.is_none_or(|at| at.boot < asked || at.boot > now.boot) =>
                {
                    record.exit = None;
                    record.stage = Stage::Draining;
                    self.changed = true;
                }
                _ => {}
            }
        }
        self.sweep(seen);
    }

    /// The result of a step that may be tried again. It counts only where the attempt still waits for it: a launch
    /// whose answer came late may have been adopted, and what was stopped stays stopped.
    fn on_step<T>(
        &mut self,
        now: Now,
        attempt: AttemptId,
        at: Stage,
        result: Result<T, input::StepError>,
        done: impl FnOnce(&mut AttemptRecord, T),
    ) {
        let settings = self.settings.clone();
        let Some(record) = self.state.attempts.get_mut(&attempt) else { return };
        if record.stage != at {
            return;
        }
        self.changed = true;
        match result {
            Ok(value) => {
                record.tries = 0;
                record.not_before = None;
                done(record, value);
            }
            Err(error) => {
                record.tries += 1;
                let pause = settings.pause.saturating_mul(1 << record.tries.min(10));
                record.not_before = Some(now.boot.plus(pause.min(settings.pause_cap)));
                if !error.retryable || record.tries >= settings.tries {
                    let outcome = outcome::of_failed_step(attempt, &error);
                    self.conclude(attempt, outcome);
                }
            }
        }
    }

    fn on_removed(&mut self, now: Now, attempt: AttemptId, done: bool) {
        if done {
            self.busy.retain(|(id, _)| *id != attempt);
            self.changed |= self.state.attempts.remove(&attempt).is_some();
        } else if let Some(record) = self.state.attempts.get_mut(&attempt) {
            // An engine that is down would otherwise be asked again at once, for ever.
            record.tries = record.tries.saturating_add(1);
            let pause = self.settings.pause.saturating_mul(1 << record.tries.min(10));
            record.not_before = Some(now.boot.plus(pause.min(self.settings.pause_cap)));
            self.changed = true;
        }
    }

    /// The attempt ended: its outcome is spooled, and it waits to be forgotten by the controller.
    fn conclude(&mut self, attempt: AttemptId, outcome: hone_proto::event::Outcome) {
        let Some(record) = self.state.attempts.get_mut(&attempt) else { return };
        if record.stage == Stage::Ended {
            return;
        }
        record.stage = Stage::Ended;
        self.changed = true;
        self.out.push(Effect::Report(Payload::Outcome(outcome)));
    }

    fn report_phase(&mut self, attempt: AttemptId, phase: Phase, detail: String) {
        let Some(record) = self.state.attempts.get_mut(&attempt) else { return };
        let open = record.stage != Stage::Ended;
        if open && record.reported != Some(phase) {
            record.reported = Some(phase);
            self.changed = true;
            self.out.push(Effect::Report(Payload::Phase { attempt, phase, detail }));
        }
    }

    /// Whether a stop is asked for, and why.
    fn stop_wish<'a>(&'a self, record: &'a AttemptRecord) -> Option<&'a str> {
        match &record.assignment.intent {
            Intent::Run => self.dismissed.as_deref(),
            Intent::Stop { reason } => Some(reason),
        }
    }

    /// Highest generation ever seen.
    #[must_use]
    pub const fn generation(&self) -> Generation {
        self.state.generation
    }
}
