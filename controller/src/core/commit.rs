//! Commits: where the fencing token is checked. A checkpoint is visible only after this.

use hone_proto::error::{Reason, Refusal};
use hone_proto::id::{Digest, NodeId, ProjectName};
use hone_proto::time::Now;

use super::Fleet;
use super::input::{Commit, Reply};
use super::keys::Key;
use super::record::{Saved, SavedKind};

impl Fleet {
    pub(super) fn on_commit(
        &mut self,
        now: Now,
        node: &NodeId,
        commit: Commit,
    ) -> Result<Reply, Refusal> {
        self.owns(node, commit.attempt)?;
        let stale = || Self::stale(commit.attempt);
        let job = self.jobs.get_mut(&commit.attempt.job).ok_or_else(stale)?;
        let known = job
            .saved
            .values()
            .any(|saved| saved.manifest == commit.manifest && saved.token == commit.attempt.token);
        if known {
            return Ok(Reply::Done);
        }
        let current = job.current().is_some_and(|a| a.token == commit.attempt.token);
        if !current {
            return Err(stale());
        }
        let saved = Saved {
            manifest: commit.manifest,
            step: commit.step,
            token: commit.attempt.token,
            bytes: commit.bytes,
            files: commit.files,
            at: now.wall,
            kind: commit.kind,
        };
        match commit.kind {
            SavedKind::Checkpoint => {
                if let Some(latest) = &job.record.latest
                    && commit.step <= latest.step
                {
                    return Err(Refusal::new(
                        Reason::Conflict,
                        format!(
                            "step {} is not past step {}, which is committed already",
                            commit.step, latest.step
                        ),
                    ));
                }
                job.record.latest = Some(saved.clone());
            }
            SavedKind::Package => job.record.package = Some(saved.clone()),
        }
        let place = job.add_saved(saved);
        let retired = job.retire_oldest(self.settings.keep_saved);
        self.dirty.insert(Key::Saved(commit.attempt.job, place));
        let (kind, what) = match commit.kind {
            SavedKind::Checkpoint => ("checkpoint_committed", "checkpoint of step"),
            SavedKind::Package => ("package_committed", "package of step"),
        };
        self.note(now, kind, None, |line| {
            line.job = Some(commit.attempt.job);
            line.attempt = Some(commit.attempt.token.attempt);
            line.node = Some(node.clone());
            line.text = format!("{what} {}: {}", commit.step, commit.bytes);
        });
        if let Some((place, old)) = retired {
            self.dirty.insert(Key::Saved(commit.attempt.job, place));
            self.note(now, "checkpoint_retired", None, |line| {
                line.job = Some(commit.attempt.job);
                line.attempt = Some(old.token.attempt);
                line.text = format!("step {}: the oldest beyond what is kept", old.step);
            });
        }
        self.touch_job(commit.attempt.job);
        Ok(Reply::Done)
    }

    /// A node reaches only what belongs to attempts that were placed on it.
    pub fn owns(
        &self,
        node: &NodeId,
        attempt: hone_proto::id::AttemptId,
    ) -> Result<ProjectName, Refusal> {
        self.jobs
            .get(&attempt.job)
            .filter(|job| job.attempts.get(attempt.token).is_some_and(|known| known.node == *node))
            .map(|job| job.record.wish.project.clone())
            .ok_or_else(|| {
                Refusal::new(Reason::NotOwner, format!("{attempt} does not belong to this node"))
            })
    }

    /// The same for what costs room or shows data: only the attempt that holds the fencing token has business with it.
    /// A commit is decided by itself, since one that was acknowledged is acknowledged again.
    pub fn holds(
        &self,
        node: &NodeId,
        attempt: hone_proto::id::AttemptId,
    ) -> Result<ProjectName, Refusal> {
        let project = self.owns(node, attempt)?;
        let current = self.jobs.get(&attempt.job).and_then(|job| job.current());
        if current.is_some_and(|current| current.token == attempt.token) {
            Ok(project)
        } else {
            Err(Self::stale(attempt))
        }
    }

    fn stale(attempt: hone_proto::id::AttemptId) -> Refusal {
        let text = format!("{attempt} is not the current attempt of its job any more");
        Refusal::new(Reason::StaleAttempt, text)
    }

    /// Whether a node may read this manifest: the image, the inputs and the checkpoint of an attempt of its own.
    #[must_use]
    pub fn node_reads(&self, attempt: hone_proto::id::AttemptId, manifest: &Digest) -> bool {
        let Some(job) = self.jobs.get(&attempt.job) else { return false };
        let wish = &job.record.wish;
        let resume = job
            .attempts
            .get(attempt.token)
            .and_then(|known| known.resume.as_ref())
            .is_some_and(|saved| saved.manifest == *manifest);
        resume
            || wish.image.manifest == Some(*manifest)
            || wish.inputs.iter().any(|input| input.manifest == *manifest)
    }

    /// Whether a project has this manifest: as an input, an image, or what one of its jobs saved.
    #[must_use]
    pub fn project_has(&self, project: &ProjectName, manifest: &Digest) -> bool {
        self.objects.contains_key(&(project.clone(), *manifest))
            || self.jobs.values().any(|job| {
                job.record.wish.project == *project
                    && job.saved.values().any(|saved| saved.manifest == *manifest)
            })
    }
}
