//! Submitting a job: whether it could be taken, which changes nothing, and taking it.

use hone_proto::error::{Reason, Refusal};
use hone_proto::id::{Digest, UserName};
use hone_proto::quantity::Bytes;
use hone_proto::time::{Now, WallNanos};

use super::Fleet;
use super::input::{Caller, Reply};
use super::keys::Key;
use super::record::{JobRecord, JobState, NodeAdmin, Wish};
use crate::placement;

/// Longest spec that is kept; the same that is read.
const MAX_SPEC: usize = crate::spec::MAX_TEXT;

/// Longest stored form of a job when it is submitted. Half of what a record may have: the rest is for what becomes of it.
const MAX_JOB: usize = 32 * 1024;

/// Length of a W3C trace context.
const TRACEPARENT: usize = 55;

impl Fleet {
    /// Refuses what a submit by this person would be refused for even with all of its inputs there: asked before anything
    /// large is uploaded.
    ///
    /// # Errors
    /// The reason of that refusal.
    pub fn could_take(&self, by: &UserName, wish: &Wish, spec_yaml: &str) -> Result<(), Refusal> {
        check_spec(spec_yaml)?;
        self.could_ever_fit(wish)?;
        // What is not known yet is taken at its longest: whatever passes here has room then.
        let mut wish = wish.clone();
        wish.demand.disk = Bytes::new(u64::MAX);
        wish.image.manifest.get_or_insert_with(|| Digest::of(b""));
        wish.traceparent = "0".repeat(TRACEPARENT);
        let now = Now { wall: WallNanos::new(u64::MAX), ..Now::default() };
        self.as_kept(now, by.clone(), wish).map(drop)
    }

    /// The record of a job as it begins, if it leaves room for what becomes of the job.
    fn as_kept(&self, now: Now, owner: UserName, wish: Wish) -> Result<JobRecord, Refusal> {
        let record = JobRecord {
            id: self.meta.last_job.next(),
            wish,
            owner,
            submitted_at: now.wall,
            state: JobState::Queued { reason: String::new(), not_before: None },
            latest: None,
            package: None,
            cancelled_by: None,
            tries_dropped: 0,
        };
        let stored = super::keys::stored_len(&record);
        if stored > MAX_JOB {
            let text = format!(
                "what is kept of the job (its command, settings and labels) takes {stored} bytes: at most {MAX_JOB} \
                 can be kept"
            );
            return Err(Refusal::new(Reason::BadSpec, text));
        }
        Ok(record)
    }

    pub(super) fn submit(
        &mut self,
        now: Now,
        caller: &Caller,
        mut wish: Wish,
        spec_yaml: String,
    ) -> Result<Reply, Refusal> {
        check_spec(&spec_yaml)?;
        self.count_fetched(&mut wish)?;
        self.could_ever_fit(&wish)?;
        let record = self.as_kept(now, caller.user.clone(), wish)?;
        let (id, name) = (record.id, record.wish.name.clone());
        self.meta.last_job = id;
        self.dirty.insert(Key::Meta);
        self.add_job(record);
        if let Some(job) = self.jobs.get_mut(&id) {
            job.spec_yaml = spec_yaml;
        }
        self.dirty.insert(Key::Spec(id));
        self.dirty.insert(Key::Progress(id));
        self.note(now, "job_submitted", Some(caller.user.clone()), |line| {
            line.job = Some(id);
            line.text = name.to_string();
        });
        self.touch_job(id);
        self.schedule(now);
        Ok(Reply::Job { job: id, repeated: false })
    }

    /// What has to be fetched needs room beside what the job itself needs. Its size is that of what was committed, not
    /// what a client says.
    fn count_fetched(&self, wish: &mut Wish) -> Result<(), Refusal> {
        let inputs = wish.inputs.iter().map(|input| input.manifest);
        for manifest in inputs.chain(wish.image.manifest) {
            let Some(object) = self.objects.get(&(wish.project.clone(), manifest)) else {
                return Err(Refusal::new(
                    Reason::MissingChunks,
                    format!("input {} has not been uploaded", manifest.short()),
                ));
            };
            wish.demand.disk = wish.demand.disk.saturating_add(object.bytes);
        }
        Ok(())
    }

    /// Refuses what no node of the fleet could hold even if it were empty. A fleet without nodes accepts: they may join.
    fn could_ever_fit(&self, wish: &Wish) -> Result<(), Refusal> {
        let offers: Vec<_> = self
            .nodes
            .values()
            .filter(|node| node.record.admin != NodeAdmin::Revoked)
            .filter_map(|node| Some((&node.record.id, node.most.as_ref()?)))
            .collect();
        let lacks: Vec<_> = offers
            .iter()
            .map(|(id, offer)| (*id, placement::shortfalls(&wish.demand, offer)))
            .collect();
        let nearest = lacks.iter().min_by_key(|(_, lacks)| lacks.len());
        match nearest {
            Some((node, lacks)) if !lacks.is_empty() => {
                let lacks: Vec<_> = lacks.iter().map(ToString::to_string).collect();
                Err(Refusal::new(
                    Reason::FitsNowhere,
                    format!(
                        "none of {} nodes could ever hold this job; the nearest, {}, {}",
                        offers.len(),
                        self.name_of(node),
                        lacks.join(", ")
                    ),
                ))
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// Refuses a text that is too long to be kept.
fn check_spec(spec_yaml: &str) -> Result<(), Refusal> {
    if spec_yaml.len() > MAX_SPEC {
        let text = format!("the spec is longer than {} KiB", MAX_SPEC / 1024);
        return Err(Refusal::new(Reason::BadSpec, text));
    }
    Ok(())
}
