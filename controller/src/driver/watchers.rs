//! Who follows which job: a follower is woken by what happens to its own job, and by nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hone_proto::id::JobId;
use tokio::sync::watch;

type Senders = BTreeMap<JobId, watch::Sender<u64>>;

/// The followers of all jobs.
#[derive(Debug, Clone, Default)]
pub(super) struct Watchers(Arc<Mutex<Senders>>);

impl Watchers {
    fn senders(&self) -> MutexGuard<'_, Senders> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes whenever this job does; ends with the fleet's thread.
    pub(super) fn of(&self, job: JobId) -> watch::Receiver<u64> {
        let mut senders = self.senders();
        // As many as there are followers, whatever was followed before.
        senders.retain(|_, sender| sender.receiver_count() > 0);
        senders.entry(job).or_insert_with(|| watch::channel(0).0).subscribe()
    }

    /// These have changed.
    pub(super) fn wake(&self, jobs: BTreeSet<JobId>) {
        let senders = self.senders();
        for sender in jobs.iter().filter_map(|job| senders.get(job)) {
            sender.send_modify(|turn| *turn += 1);
        }
    }
}

/// Ends what everybody follows once the fleet's thread does, however it ends.
#[derive(Debug)]
pub(super) struct Waker(pub(super) Watchers);

impl Drop for Waker {
    fn drop(&mut self) {
        self.0.senders().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_follower_is_woken_by_its_own_job_and_forgotten_when_it_leaves() {
        let watchers = Watchers::default();
        let (seven, eight) = (JobId::new(7), JobId::new(8));
        let (mut mine, other) = (watchers.of(seven), watchers.of(eight));
        watchers.wake([eight].into());
        assert_eq!((mine.has_changed().ok(), other.has_changed().ok()), (Some(false), Some(true)));
        watchers.wake([seven].into());
        assert_eq!(mine.has_changed().ok(), Some(true));
        mine.mark_unchanged();
        drop(other);
        drop(watchers.of(seven));
        assert_eq!(watchers.senders().len(), 1);
        drop(Waker(watchers));
        assert!(mine.has_changed().is_err(), "the fleet's thread has ended");
    }
}
