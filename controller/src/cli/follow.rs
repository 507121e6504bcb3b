//! Streams that outlive the controller's restarts: opened again, with growing pauses, saying so.

use std::collections::{HashSet, VecDeque};
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::time::Duration;

use hone_proto::error::Reason;
use hone_proto::wire::GetJobRequest;
use tonic::Streaming;

use super::client::Client;
use super::error::CallError;
use super::output::Talker;
use super::watch::model::ended;

/// A controller that is back is noticed within this time.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Records remembered to tell news from what is sent again. More than a minute of a talkative job.
const REMEMBERED: usize = 20_000;

/// True when the controller may come back: a refusal would be the same next time.
pub(super) fn worth_waiting(error: &anyhow::Error) -> bool {
    let call = error.chain().find_map(|cause| cause.downcast_ref::<CallError>());
    call.is_some_and(|call| matches!(call.reason(), Reason::Unavailable | Reason::Overloaded))
}

/// What a person is told while the controller is away.
pub(super) fn away(client: &Client, pause: Duration) -> String {
    let (address, seconds) = (client.address(), pause.as_secs_f32());
    format!("the controller at {address} is out of reach; trying again in {seconds} s")
}

/// A stream that ends before what it tells of does: the controller shuts down, or something between ended it.
pub(super) fn going_away() -> anyhow::Error {
    CallError::from(tonic::Status::unavailable("the controller ended the stream")).into()
}

/// How long a stream is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// It ends with what is known now.
    Now,
    /// For as long as this job goes on. A stream that ends sooner was cut.
    Ended(u64),
    /// For ever: every end is a cut.
    Forever,
}

impl Until {
    /// Whether nothing more will come, now that a stream has ended by itself.
    async fn is_over(self, client: &Client) -> anyhow::Result<bool> {
        let job = match self {
            Self::Now => return Ok(true),
            Self::Forever => return Ok(false),
            Self::Ended(job) => job,
        };
        let request = GetJobRequest { job };
        let job = client.call(request, |mut c, r| async move { c.get_job(r).await }).await?;
        Ok(ended(&job.state))
    }
}

/// Reads streams until there is nothing more to come. When one breaks before, `open` is asked for another, which may
/// send again what `take` has seen.
pub(super) async fn follow<T, F>(
    client: &Client,
    talker: &Talker,
    until: Until,
    mut open: impl FnMut() -> F,
    mut take: impl FnMut(T) -> anyhow::Result<()>,
) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<Streaming<T>>>,
{
    let (mut met, mut lost) = (false, false);
    let mut pause = client.pace().reconnect;
    loop {
        let error = match open().await {
            Ok(mut stream) => {
                // A stream that is open has met the controller, also when there is nothing to tell for hours.
                met = true;
                if std::mem::take(&mut lost) {
                    talker.say("the controller is back");
                }
                loop {
                    match stream.message().await {
                        Ok(Some(item)) => {
                            pause = client.pace().reconnect;
                            take(item)?;
                        }
                        Ok(None) => match until.is_over(client).await {
                            Ok(true) => return Ok(()),
                            Ok(false) => break going_away(),
                            Err(error) => break error,
                        },
                        Err(status) => break CallError::from(status).into(),
                    }
                }
            }
            Err(error) => error,
        };
        if until == Until::Now || !met || !worth_waiting(&error) {
            return Err(error);
        }
        lost = true;
        talker.say(&away(client, pause));
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Tells news from records that were seen: the newest [`REMEMBERED`] of them.
#[derive(Default)]
pub(super) struct Seen {
    order: VecDeque<u64>,
    known: HashSet<u64>,
}

impl Seen {
    /// True when the record is new.
    pub(super) fn is_news(&mut self, record: &impl Hash) -> bool {
        let mut hasher = DefaultHasher::new();
        record.hash(&mut hasher);
        let name = hasher.finish();
        if !self.known.insert(name) {
            return false;
        }
        self.order.push_back(name);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut seen = Seen::default();
        for n in 0..REMEMBERED + 10 {
            assert!(seen.is_news(&n));
        }
        assert!(!seen.is_news(&(REMEMBERED + 9)));
        assert!(seen.is_news(&0), "the oldest are forgotten");
        assert_eq!(seen.order.len(), REMEMBERED);
    }
}
