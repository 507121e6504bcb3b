//! Promises of disk are kept: no file system quota stands behind them, so what attempts have written is measured now and
//! then. One that has written too much first loses saves that nobody needs, then is asked to save and stop, and is
//! killed when it goes on far beyond. A machine whose disk fills whatever the promises say stops its largest writer.

use std::collections::BTreeMap;

use hone_proto::event::Payload;
use hone_proto::id::{AttemptId, Step};
use hone_proto::quantity::Bytes;
use hone_proto::time::Now;

use super::input::{Effect, Written};
use super::state::{AttemptRecord, Stage, StopCause, Stopping};
use super::{Agent, Busy};

/// An attempt may go on to save only while it is below its promise and a half.
const FAR: u64 = 2;

/// What is left for the machine itself: below this part of the floor nothing may be written any more, not even a save.
const LAST: u64 = 4;

impl Agent {
    pub(super) fn on_disk(
        &mut self,
        now: Now,
        written: &BTreeMap<AttemptId, Written>,
        free: Option<Bytes>,
    ) {
        let floor = self.settings.least_free_disk;
        let low = free.is_some_and(|free| free < floor);
        let last = free.is_some_and(|free| free.get() < floor.get() / LAST);
        for (id, written) in written {
            let Some(record) = self.running(*id) else { continue };
            let promised = record.assignment.promise.disk;
            if written.whole && written.bytes <= promised {
                continue;
            }
            let most = promised.saturating_add(Bytes::new(promised.get() / FAR));
            let far = last || !written.whole || written.bytes > most;
            // What comes of it is seen by the next measurement.
            if !far && self.give_up_saves(*id, "the job wrote more than its disk") {
                continue;
            }
            let why = exceeded(*written, promised);
            self.stop_for_disk(now, *id, StopCause::Disk, why, far);
        }
        if low {
            self.protect_disk(now, written, free.unwrap_or_default(), last);
        }
    }

    /// Whoever fills the disk, the machine must stay usable: the largest writer stops, one at a time.
    fn protect_disk(
        &mut self,
        now: Now,
        written: &BTreeMap<AttemptId, Written>,
        free: Bytes,
        last: bool,
    ) {
        // Room that is on its way is waited for, as long as there is time.
        let leaving = |record: &AttemptRecord| {
            record.stopping.is_some() || matches!(record.stage, Stage::Draining | Stage::Collecting)
        };
        let waits = self.state.attempts.values().any(leaving);
        let running: Vec<_> =
            written.iter().filter(|(id, _)| self.running(**id).is_some()).collect();
        if waits && !last {
            return;
        }
        for (id, _) in &running {
            self.give_up_saves(**id, "the node's disk is nearly full");
        }
        let still = running.iter().filter(|(id, _)| {
            self.running(**id).is_some_and(|record| record.stopping.is_none() || last)
        });
        let Some((id, most)) = still.max_by_key(|(_, written)| written.bytes) else { return };
        let why = format!(
            "the node's disk is nearly full: {free} are free; it has written the most there, {}",
            most.bytes
        );
        self.stop_for_disk(now, **id, StopCause::NodeDisk, why, last);
    }

    fn running(&self, id: AttemptId) -> Option<&AttemptRecord> {
        self.state.attempts.get(&id).filter(|record| record.stage == Stage::Running)
    }

    /// Asks for a stop, or makes one that is under way immediate. The first reason stays.
    fn stop_for_disk(
        &mut self,
        now: Now,
        id: AttemptId,
        cause: StopCause,
        why: String,
        at_once: bool,
    ) {
        let Some(record) = self.state.attempts.get_mut(&id) else { return };
        match &mut record.stopping {
            None => {
                record.stopping =
                    Some(Stopping { since: now.boot, why, killed: None, cause, at_once });
                self.changed = true;
            }
            Some(stopping) if at_once && !stopping.at_once => {
                stopping.at_once = true;
                self.changed = true;
            }
            Some(_) => {}
        }
    }

    /// Deletes saves that wait for the controller and that later ones replace: while the link is cut they pile up, and
    /// that is no fault of the job. True when there were any.
    fn give_up_saves(&mut self, id: AttemptId, why: &str) -> bool {
        // The oldest may be on its way.
        let under_way = usize::from(self.busy.contains(&(id, Busy::Uploading)));
        let Some(record) = self.state.attempts.get_mut(&id) else { return false };
        let keep = usize::try_from(record.assignment.keep_checkpoints.max(1)).unwrap_or(1);
        let spare = record.found.len().saturating_sub(under_way + keep);
        let steps: Vec<Step> = record.found.keys().skip(under_way).take(spare).copied().collect();
        for step in &steps {
            let Some(path) = record.found.remove(step) else { continue };
            record.refused.insert(*step);
            self.out.push(Effect::Report(Payload::Notice {
                attempt: id,
                level: "warning".to_owned(),
                code: "checkpoint_given_up".to_owned(),
                message: format!(
                    "the checkpoint of step {step} was deleted before the controller had it: {why}"
                ),
            }));
            self.out.push(Effect::Discard { attempt: id, path });
        }
        self.changed |= !steps.is_empty();
        !steps.is_empty()
    }
}

fn exceeded(written: Written, promised: Bytes) -> String {
    let did = if written.whole {
        format!("it wrote {}", written.bytes)
    } else {
        "it wrote more files than can be counted".to_owned()
    };
    format!(
        "{did}, and {promised} of disk were promised; raise `resources.disk`, or keep fewer checkpoints"
    )
}
