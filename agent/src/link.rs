//! The link to the controller: one stream, opened by the agent, opened again whenever it breaks. Nothing is lost with
//! it: what happened is in the spool, what is wanted comes again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hone_proto::assignment::DesiredSet;
use hone_proto::error::{Reason, Refusal};
use hone_proto::event::Position;
use hone_proto::id::BootId;
use hone_proto::identity::{Connector, ControllerAddress, Plane, refused::refusal};
use hone_proto::inventory::{Allocatable, Inventory};
use hone_proto::time::{BootNanos, Now};
use hone_proto::wire;
use hone_proto::wire::agent_message::Message as ToController;
use hone_proto::wire::controller_message::Message as FromController;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::core::Input;
use crate::driver::{Gone, Handle};

/// Messages that wait for the stream. Event batches are at most 256 KiB each.
const OUTBOX: usize = 16;

/// Shortest and longest pause before the next try; drawn at random below a bound that doubles.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// Pause after the controller refused the certificate: trying faster helps nobody.
const REFUSED_PAUSE: Duration = Duration::from_secs(30);

/// A controller that does not answer Hello for so long is tried anew.
const WELCOME: Duration = Duration::from_secs(20);

/// A link on which nothing was heard for so long is opened anew, whatever the transport believes.
const SILENCE: Duration = Duration::from_secs(45);

/// Largest message from the controller: a desired set with its specs.
const MAX_MESSAGE: usize = 8 << 20;

/// What the link says about this machine, always current.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    /// What it has.
    pub inventory: Option<Inventory>,
    /// What may be promised of it.
    pub allocatable: Allocatable,
    /// The newest sample.
    pub sample: Option<wire::NodeSample>,
}

/// Shared with whoever measures.
pub type SharedMachine = Arc<Mutex<Machine>>;

/// What the link needs.
pub struct Link {
    /// The reconciler.
    pub driver: Handle,
    /// Makes connections.
    pub connector: Connector,
    /// To whom.
    pub controller: ControllerAddress,
    /// About this machine.
    pub machine: SharedMachine,
    /// The kernel's boot id.
    pub boot: BootId,
}

/// How the link ended for good.
#[derive(Debug)]
pub enum End {
    /// The agent shuts down.
    Shutdown,
    /// The controller will never talk to this node again.
    Revoked(Refusal),
}

/// Why a session ended.
enum Ended {
    /// The link broke; it is opened again.
    Broken(Refusal),
    /// The agent is shutting down.
    Shutdown,
}

impl From<Gone> for Ended {
    fn from(_: Gone) -> Self {
        Self::Shutdown
    }
}

impl From<tonic::Status> for Ended {
    fn from(status: tonic::Status) -> Self {
        Self::Broken(refusal(&status))
    }
}

impl Link {
    /// Keeps the link up until the agent shuts down, or the node is revoked.
    pub async fn run(self) -> End {
        let mut failures = 0_u32;
        loop {
            let begun = Now::read().boot;
            match self.session().await {
                Err(Ended::Shutdown) | Ok(()) => return End::Shutdown,
                Err(Ended::Broken(why)) if why.reason == Reason::Revoked => {
                    return End::Revoked(why);
                }
                Err(Ended::Broken(why)) => {
                    let lasted = Now::read().boot.since(begun);
                    failures = if lasted > PAUSE.1 { 0 } else { failures.saturating_add(1) };
                    let pause = pause(failures, why.reason);
                    tracing::warn!(reason = %why.reason, ?pause, "the link is down: {why}");
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    fn machine(&self) -> Machine {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn session(&self) -> Result<(), Ended> {
        let unreachable = |error: &dyn std::error::Error| {
            Ended::Broken(Refusal::new(Reason::Unavailable, error.to_string()))
        };
        let channel = self
            .connector
            .channel(&self.controller, Plane::Control)
            .map_err(|error| unreachable(&error))?;
        let mut client = wire::link_client::LinkClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let (sender, outgoing) = mpsc::channel(OUTBOX);
        let hello = wire::AgentMessage { message: Some(ToController::Hello(self.hello())) };
        sender.send(hello).await.map_err(|error| unreachable(&error))?;
        let late = |_| Ended::Broken(Refusal::new(Reason::Unavailable, "no answer to Hello"));
        let attached = tokio::time::timeout(WELCOME, client.attach(ReceiverStream::new(outgoing)));
        let mut incoming = attached.await.map_err(late)??.into_inner();
        let first = tokio::time::timeout(WELCOME, incoming.message()).await.map_err(late)??;
        let Some(FromController::Welcome(welcome)) = first.and_then(|m| m.message) else {
            let text = "the controller did not answer Hello with Welcome";
            return Err(Ended::Broken(Refusal::new(Reason::Protocol, text)));
        };
        tracing::info!(generation = welcome.generation, "the link is up");
        let positions = welcome
            .positions
            .into_iter()
            .map(Position::try_from)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| Ended::Broken(error.into()))?;
        self.driver.attach(sender.clone(), positions).await?;
        let every = Duration::from_millis(welcome.heartbeat_ms.clamp(50, 60_000));
        self.talk(&sender, &mut incoming, every).await
    }

    fn hello(&self) -> wire::Hello {
        // What is said is at least as new as this.
        let now = Now::read();
        let machine = self.machine();
        let view = self.driver.view().borrow().clone();
        wire::Hello {
            protocol_min: *wire::PROTOCOL.start(),
            protocol_max: *wire::PROTOCOL.end(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            boot_id: self.boot.to_string(),
            spool_id: view.spool.to_string(),
            attempts: view.held.into_iter().map(Into::into).collect(),
            highest_generation: view.generation.get(),
            hostname: machine.inventory.as_ref().map(|i| i.hostname.clone()).unwrap_or_default(),
            inventory: machine.inventory.map(Into::into),
            allocatable: Some(machine.allocatable.into()),
            at: Some(now.into()),
        }
    }

    /// Heartbeats one way, wishes and acknowledgements the other.
    async fn talk(
        &self,
        sender: &mpsc::Sender<wire::AgentMessage>,
        incoming: &mut Streaming<wire::ControllerMessage>,
        every: Duration,
    ) -> Result<(), Ended> {
        let first = tokio::time::Instant::now() + until_beat(Now::read().boot, every);
        let mut clock = tokio::time::interval_at(first, every);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut number = 0;
        let mut sent: BTreeMap<u64, BootNanos> = BTreeMap::new();
        let mut told = self.machine().allocatable;
        let mut heard = Now::read().boot;
        loop {
            tokio::select! {
                message = incoming.message() => {
                    heard = Now::read().boot;
                    let closed = || Refusal::new(Reason::Unavailable, "the controller closed the link");
                    let message = message?.ok_or_else(|| Ended::Broken(closed()))?;
                    self.take(message, &mut sent).await?;
                }
                _ = clock.tick() => {
                    let now = Now::read();
                    if now.boot.since(heard) > SILENCE {
                        let text = "nothing was heard on the link";
                        return Err(Ended::Broken(Refusal::new(Reason::Unavailable, text)));
                    }
                    number += 1;
                    let (beat, offer) = self.heartbeat(now, number, &told);
                    let message = wire::AgentMessage { message: Some(ToController::Heartbeat(beat)) };
                    // A stream that is full of events takes the next heartbeat.
                    if sender.try_send(message).is_ok() {
                        sent.insert(number, now.boot);
                        told = offer;
                    }
                }
            }
        }
    }

    /// A heartbeat, and the offer that the controller knows once it is sent.
    fn heartbeat(
        &self,
        now: Now,
        number: u64,
        told: &Allocatable,
    ) -> (wire::Heartbeat, Allocatable) {
        let machine = self.machine();
        let changed = machine.allocatable != *told;
        let offer = machine.allocatable;
        let view = self.driver.view();
        let view = view.borrow();
        let beat = wire::Heartbeat {
            number,
            at: Some(now.into()),
            revision: view.revision.get(),
            sample: machine.sample,
            allocatable: changed.then(|| offer.clone().into()),
            attempts: view.held.iter().copied().map(Into::into).collect(),
        };
        (beat, offer)
    }

    async fn take(
        &self,
        message: wire::ControllerMessage,
        sent: &mut BTreeMap<u64, BootNanos>,
    ) -> Result<(), Ended> {
        let malformed = |error: hone_proto::convert::WireError| Ended::Broken(error.into());
        match message.message {
            Some(FromController::Desired(set)) => match DesiredSet::try_from(set) {
                Ok(set) => self.driver.tell(Input::Desired(set)).await?,
                // Refused whole; a link that broke for it would only be sent the same again.
                Err(error) => tracing::error!("a desired set is not understood: {error}"),
            },
            Some(FromController::Ack(ack)) => {
                self.driver.acked(Position::try_from(ack).map_err(malformed)?).await?;
            }
            Some(FromController::HeartbeatAck(ack)) => {
                let newer = sent.split_off(&(ack.number + 1));
                let acked = std::mem::replace(sent, newer);
                if let Some(at) = acked.get(&ack.number) {
                    self.driver.tell(Input::Heard { sent: *at }).await?;
                }
            }
            Some(FromController::Welcome(_)) | None => {
                tracing::debug!("a message of a kind that this release does not expect");
            }
        }
        Ok(())
    }
}

/// Samples are taken at whole seconds: heartbeats leave half a second later, so that each carries a new one and none is
/// left out, also when either is a little late.
fn until_beat(now: BootNanos, every: Duration) -> Duration {
    const SECOND: u64 = 1_000_000_000;
    let left = (SECOND + SECOND / 2 - now.get() % SECOND) % SECOND;
    let every = u64::try_from(every.as_nanos()).unwrap_or(u64::MAX).max(1);
    Duration::from_nanos(left % every)
}

fn pause(failures: u32, reason: Reason) -> Duration {
    // The certificate may be renewed meanwhile, and a node that a restored controller does not know may come back.
    if matches!(reason, Reason::Unauthenticated | Reason::NotPermitted | Reason::NotFound) {
        return REFUSED_PAUSE;
    }
    let bound = PAUSE.0.saturating_mul(1 << failures.min(10)).min(PAUSE.1);
    bound.mul_f64(rand::random::<f64>()).max(PAUSE.0 / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_network_is_tried_soon_and_ever_less_often() {
        let longest = |failures| {
            let pauses = (0..2_000).map(|_| pause(failures, Reason::Unavailable));
            pauses.max().expect("a pause")
        };
        for failures in 0..40 {
            let bound = PAUSE.0.saturating_mul(1 << failures.min(20)).min(PAUSE.1);
            let longest = longest(failures);
            assert!(longest <= bound, "{failures}: {longest:?} is over {bound:?}");
            assert!(longest > bound / 2, "{failures}: {longest:?} never comes near {bound:?}");
        }
        let shortest = (0..2_000).map(|_| pause(0, Reason::Unavailable)).min();
        assert!(shortest >= Some(PAUSE.0 / 4), "never at once: {shortest:?}");
    }

    #[test]
    fn heartbeats_leave_between_two_samples() {
        let second = Duration::from_secs(1);
        for ms in [0, 1, 250, 499, 500, 501, 999, 1_234, 86_400_777] {
            let now = BootNanos::new(ms * 1_000_000);
            let first = now.plus(until_beat(now, second));
            assert_eq!(first.get() % 1_000_000_000, 500_000_000, "{ms} ms");
            assert!(first.since(now) < second);
            let quick = Duration::from_millis(50);
            let first = now.plus(until_beat(now, quick));
            assert!(first.since(now) < quick && first.get().is_multiple_of(50_000_000), "{ms} ms");
        }
    }

    #[test]
    fn a_refused_node_waits_long_from_the_first_time_on() {
        for reason in [Reason::Unauthenticated, Reason::NotPermitted, Reason::NotFound] {
            assert_eq!(pause(0, reason), REFUSED_PAUSE, "{reason}");
        }
    }
}
