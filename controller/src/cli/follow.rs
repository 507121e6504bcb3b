//! Streams that outlive the controller's restarts: opened again, with growing pauses, saying so.

use std::collections::{HashSet, VecDeque};
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::time::Duration;

use hone_proto::error::Reason;
use tonic::Streaming;

use super::client::Client;
use super::error::CallError;
use super::output::Talker;

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

/// Reads streams until one ends by itself. When one breaks and `forever`, `open` is asked for another, which may send
/// again what `take` has seen.
pub(super) async fn follow<T, F>(
    client: &Client,
    talker: &Talker,
    forever: bool,
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
            Ok(mut stream) => loop {
                match stream.message().await {
                    Ok(Some(item)) => {
                        (met, pause) = (true, client.pace().reconnect);
                        if std::mem::take(&mut lost) {
                            talker.say("the controller is back");
                        }
                        take(item)?;
                    }
                    Ok(None) => return Ok(()),
                    Err(status) => break CallError::from(status).into(),
                }
            },
            Err(error) => error,
        };
        if !forever || !met || !worth_waiting(&error) {
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
