//! What the trainer saved: sent in order, kept until it is committed, removed past retention.

use std::time::Duration;

use hone_proto::event::Payload;
use hone_proto::id::{AttemptId, Step};
use hone_proto::time::Now;

use super::input::{Drained, Effect, Found, Upload, UploadError};
use super::state::Stage;
use super::{Agent, Busy, outcome};

impl Agent {
    pub(super) fn on_progress(
        &mut self,
        id: AttemptId,
        step: Option<Step>,
        checkpoints: Vec<Found>,
    ) {
        let Some(record) = self.state.attempts.get_mut(&id) else { return };
        if step > record.step {
            record.step = step;
            self.changed = true;
        }
        let (any, useless) = record.add_found(checkpoints);
        self.changed |= any;
        self.discard(id, useless);
    }

    fn discard(&mut self, attempt: AttemptId, useless: Vec<Found>) {
        for found in useless {
            self.out.push(Effect::Discard { attempt, path: found.path });
        }
    }

    pub(super) fn on_drained(&mut self, id: AttemptId, drained: Drained) {
        let Some(record) = self.state.attempts.get_mut(&id) else { return };
        if record.stage != Stage::Draining {
            return;
        }
        record.step = record.step.max(drained.step);
        let (_, useless) = record.add_found(drained.checkpoints.clone());
        record.drained = Some(drained);
        record.stage = Stage::Collecting;
        record.tries = 0;
        record.not_before = None;
        self.changed = true;
        self.discard(id, useless);
    }

    /// Starts the next upload, oldest first: a controller that was out of reach gets them in order.
    pub(super) fn next_upload(&mut self, now: Now, id: AttemptId) -> bool {
        let Some(record) = self.state.attempts.get(&id) else { return false };
        let Some((step, path)) = record.found.first_key_value() else { return false };
        let found = Found { step: *step, path: path.clone() };
        // A pause delays an upload; it does not end the wait for it.
        if !self.waits(now, id) {
            self.upload(id, Upload::Checkpoint(found));
        }
        true
    }

    fn upload(&mut self, attempt: AttemptId, upload: Upload) {
        self.once(attempt, Busy::Uploading, |record| Effect::Upload {
            attempt,
            upload,
            traceparent: record.assignment.traceparent.clone(),
        });
    }

    pub(super) fn converge_collecting(&mut self, now: Now, id: AttemptId) {
        if self.next_upload(now, id) || self.busy.contains(&(id, Busy::Uploading)) {
            return;
        }
        let Some(record) = self.state.attempts.get(&id) else { return };
        let Some(drained) = &record.drained else { return };
        let completed = drained.result.as_ref().is_some_and(|word| word.status == "completed");
        if completed
            && !record.packaged
            && let Some(path) = &drained.package
        {
            let step = record.step.unwrap_or_default();
            let found = Found { step, path: path.clone() };
            if !self.waits(now, id) {
                self.upload(id, Upload::Package(found));
            }
            return;
        }
        let outcome = outcome::of_exit(id, record);
        self.conclude(id, outcome);
    }

    pub(super) fn on_uploaded(
        &mut self,
        now: Now,
        id: AttemptId,
        upload: &Upload,
        took: Duration,
        result: Result<(), UploadError>,
    ) {
        let (pause, cap) = (self.settings.pause, self.settings.pause_cap);
        let Some(record) = self.state.attempts.get_mut(&id) else { return };
        self.changed = true;
        match result {
            Ok(()) => {
                record.last_save = took;
                self.on_taken(id, upload);
            }
            Err(UploadError::Overtaken) => self.on_taken(id, upload),
            Err(UploadError::Fenced) => record.fenced = true,
            Err(UploadError::Later(_)) => {
                // For ever: what was saved is never given up because a link is cut.
                record.tries = record.tries.saturating_add(1);
                let pause = pause.saturating_mul(1 << record.tries.min(10)).min(cap);
                record.not_before = Some(now.boot.plus(pause));
            }
            Err(UploadError::Never(message)) => self.on_refused(id, upload, &message),
        }
    }

    /// The controller has it, or a later one.
    fn on_taken(&mut self, id: AttemptId, upload: &Upload) {
        let Some(record) = self.state.attempts.get_mut(&id) else { return };
        record.tries = 0;
        record.not_before = None;
        match upload {
            Upload::Checkpoint(found) => {
                record.found.remove(&found.step);
                record.committed.insert(found.step, found.path.clone());
                self.retain(id);
            }
            Upload::Package(_) => record.packaged = true,
        }
    }

    /// The controller will never take it. Such a checkpoint is no checkpoint; the one before it stays the latest.
    fn on_refused(&mut self, id: AttemptId, upload: &Upload, message: &str) {
        let Some(record) = self.state.attempts.get_mut(&id) else { return };
        self.out.push(Effect::Report(Payload::Notice {
            attempt: id,
            level: "error".to_owned(),
            code: "upload_refused".to_owned(),
            message: format!("what the trainer saved cannot be taken: {message}"),
        }));
        match upload {
            Upload::Checkpoint(found) => {
                record.found.remove(&found.step);
                record.refused.insert(found.step);
            }
            Upload::Package(_) => {
                if let Some(drained) = &mut record.drained {
                    drained.package = None;
                }
            }
        }
    }

    /// Deletes committed checkpoints past retention, oldest first.
    fn retain(&mut self, id: AttemptId) {
        let Some(record) = self.state.attempts.get_mut(&id) else { return };
        let keep = usize::try_from(record.assignment.keep_checkpoints.max(1)).unwrap_or(1);
        while record.committed.len() > keep {
            let Some((_, path)) = record.committed.pop_first() else { return };
            self.out.push(Effect::Discard { attempt: id, path });
        }
    }
}
