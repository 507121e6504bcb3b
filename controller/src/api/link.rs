//! The agent's link: one stream each way. What a node says is stamped with the id in its certificate; no message names
//! it.

use std::pin::Pin;

use hone_proto::convert::bounds::{MAX_INVENTORY, sample_fits};
use hone_proto::convert::{self, WireError};
use hone_proto::error::{Reason, Refusal};
use hone_proto::id::{AttemptId, Generation, NodeId, Revision};
use hone_proto::time::BootNanos;
use hone_proto::wire;
use hone_proto::wire::agent_message::Message as FromAgent;
use hone_proto::wire::controller_message::Message as ToWire;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use crate::core::{Heartbeat, Hello, Input, Session, Subject, ToAgent};
use crate::driver::{Handle, ToSession};
use crate::identity::Renewed;
use crate::placement::{Capacity, Gpu};
use crate::renewal::Renewals;

/// What a node may be behind in reading. 64: a desired set, an acknowledgement per stream and heartbeat, several times.
const OUTBOX: usize = 64;

/// Events of one batch at most; an honest agent sends far fewer.
const MAX_EVENTS: usize = 4096;

/// Bytes of one batch at most. Agents send 256 KiB; what a turn writes about a batch stays far below what one commit of
/// the store takes.
const MAX_BATCH: usize = 1024 * 1024;

/// Attempts that a node may name.
const MAX_ATTEMPTS: usize = 4096;

/// The service.
pub struct LinkService {
    fleet: Handle,
    renewals: Renewals,
    heartbeat_ms: u64,
}

impl LinkService {
    /// Serves the fleet behind this handle.
    #[must_use]
    pub const fn new(fleet: Handle, renewals: Renewals, heartbeat_ms: u64) -> Self {
        Self { fleet, renewals, heartbeat_ms }
    }
}

type Outgoing = Pin<Box<dyn Stream<Item = Result<wire::ControllerMessage, Status>> + Send>>;

#[tonic::async_trait]
impl wire::link_server::Link for LinkService {
    type AttachStream = Outgoing;

    async fn attach(
        &self,
        request: Request<Streaming<wire::AgentMessage>>,
    ) -> Result<Response<Outgoing>, Status> {
        let node = super::node(&request)?;
        let mut incoming = request.into_inner();
        let first = incoming.message().await?.and_then(|message| message.message);
        let Some(FromAgent::Hello(hello)) = first else {
            return Err(bad("the first message must be Hello").into());
        };
        let protocol = agree(hello.protocol_min, hello.protocol_max)?;
        let (sender, outgoing) = mpsc::channel(OUTBOX);
        // Before the session opens: it replaces the one before it.
        let mut hello = introduce(node.clone(), hello).map_err(Refusal::from)?;
        let session = self.fleet.open_session(node.clone(), sender).await?;
        hello.session = session;
        self.fleet.tell(Input::Hello(Box::new(hello))).await?;
        let fleet = self.fleet.clone();
        tokio::spawn(async move {
            let why = match listen(&fleet, &node, session, incoming).await {
                Ok(()) => Refusal::new(Reason::Unavailable, "the node's stream ended"),
                Err(refusal) => {
                    tracing::warn!(%node, reason = %refusal.reason, "link ended: {refusal}");
                    refusal
                }
            };
            // The other direction ends with it, or the node would wait for answers. The fleet may be gone already.
            let _ = fleet.end_session(node.clone(), session, why).await;
            let _ = fleet.tell(Input::Closed { node, session }).await;
        });
        let lease_ms =
            self.fleet.read(|fleet| fleet.settings().lease.as_millis()).await?.try_into();
        let lease_ms = lease_ms.unwrap_or(u64::MAX);
        let heartbeat_ms = self.heartbeat_ms;
        let outgoing = ReceiverStream::new(outgoing).map(move |message| match message {
            ToSession::Say(message) => Ok(to_wire(message, protocol, lease_ms, heartbeat_ms)),
            ToSession::End(refusal) => Err(refusal.into()),
        });
        Ok(Response::new(Box::pin(outgoing)))
    }

    async fn renew(
        &self,
        request: Request<wire::SigningRequest>,
    ) -> Result<Response<wire::IssuedCertificate>, Status> {
        let subject = match super::peer(&request)? {
            hone_proto::identity::Peer::Node(id) => Subject::Node(id),
            hone_proto::identity::Peer::User(name) => Subject::User(name),
            hone_proto::identity::Peer::Controller => {
                return Err(bad("the controller renews by itself").into());
            }
        };
        let with = super::key(&request);
        let issued = self.renewals.issue(subject, &request.get_ref().csr_der, with).await?;
        let mut answer = Response::new(issued.answer);
        // The access layer reads it: what the caller has open outlives the old certificate.
        answer.extensions_mut().insert(Renewed(issued.facts));
        Ok(answer)
    }
}

fn bad(why: &str) -> Refusal {
    Refusal::new(Reason::BadRequest, why)
}

/// The highest version that both sides speak.
fn agree(lowest: u32, highest: u32) -> Result<u32, Refusal> {
    let ours = wire::PROTOCOL;
    let best = highest.min(*ours.end());
    if best < lowest.max(*ours.start()) {
        return Err(Refusal::new(
            Reason::Protocol,
            format!(
                "the agent speaks protocol {lowest} to {highest}, the controller {} to {}",
                ours.start(),
                ours.end()
            ),
        ));
    }
    Ok(best)
}

async fn listen(
    fleet: &Handle,
    node: &NodeId,
    session: Session,
    mut incoming: Streaming<wire::AgentMessage>,
) -> Result<(), Refusal> {
    loop {
        let message = match incoming.message().await {
            Ok(Some(message)) => message.message,
            Ok(None) => return Ok(()),
            // A broken stream is how links usually end.
            Err(status) => {
                tracing::debug!(%node, %status, "the node's stream broke");
                return Ok(());
            }
        };
        match message {
            Some(FromAgent::Heartbeat(beat)) => {
                if let Some(sample) = beat.sample.clone().filter(sample_fits) {
                    fleet.keep_sample(node.clone(), sample);
                }
                fleet.tell(Input::Heartbeat(heartbeat(node, session, beat)?)).await?;
            }
            Some(FromAgent::Events(batch)) => {
                fleet.tell(events(node, batch)?).await?;
            }
            Some(FromAgent::Hello(_)) => return Err(bad("a second Hello on one stream")),
            None => return Err(bad("a message of a kind that this release does not know")),
        }
    }
}

fn attempts(refs: Vec<wire::AttemptRef>) -> Result<Vec<AttemptId>, WireError> {
    if refs.len() > MAX_ATTEMPTS {
        return Err(convert::malformed("attempts", "too many"));
    }
    Ok(refs.into_iter().map(AttemptId::from).collect())
}

fn introduce(node: NodeId, hello: wire::Hello) -> Result<Hello, WireError> {
    let inventory = hello.inventory.unwrap_or_default().encode_to_vec();
    if inventory.len() > MAX_INVENTORY {
        let text = format!("{} bytes: at most {MAX_INVENTORY} are taken", inventory.len());
        return Err(convert::malformed("hello.inventory", text));
    }
    Ok(Hello {
        node,
        session: Session::default(),
        boot: hello.boot_id.parse().map_err(|e| convert::malformed("hello.boot_id", e))?,
        said: hello.at.map(|at| BootNanos::new(at.boot_ns)),
        spool: hello.spool_id.parse().map_err(|e| convert::malformed("hello.spool_id", e))?,
        attempts: attempts(hello.attempts)?,
        highest_generation: Generation::new(hello.highest_generation),
        capacity: capacity(&hello.allocatable.unwrap_or_default())?,
        inventory,
        hostname: hello.hostname.chars().filter(|c| !c.is_control()).take(64).collect(),
        version: hello.agent_version.chars().filter(|c| !c.is_control()).take(64).collect(),
    })
}

fn heartbeat(
    node: &NodeId,
    session: Session,
    beat: wire::Heartbeat,
) -> Result<Heartbeat, WireError> {
    Ok(Heartbeat {
        node: node.clone(),
        session,
        number: beat.number,
        revision: Revision::new(beat.revision),
        attempts: attempts(beat.attempts)?,
        capacity: beat.allocatable.map(|a| capacity(&a)).transpose()?,
    })
}

fn events(node: &NodeId, batch: wire::EventBatch) -> Result<Input, WireError> {
    if batch.events.len() > MAX_EVENTS || batch.encoded_len() > MAX_BATCH {
        return Err(convert::malformed("events", "too many in one batch"));
    }
    let stream = convert::event::stream(batch.stream)?;
    let reported = |event| convert::event::reported(stream, event);
    Ok(Input::Events {
        node: node.clone(),
        spool: batch.spool_id.parse().map_err(|e| convert::malformed("events.spool_id", e))?,
        stream,
        events: batch.events.into_iter().map(reported).collect::<Result<_, _>>()?,
    })
}

/// What placement counts of a node's offer.
fn capacity(wire: &wire::Allocatable) -> Result<Capacity, WireError> {
    let offer = hone_proto::inventory::Allocatable::try_from(wire.clone())?;
    Ok(Capacity {
        gpus: offer
            .gpus
            .iter()
            .map(|gpu| Gpu { uuid: gpu.id.to_string(), vram: gpu.vram })
            .collect(),
        cpu: offer.cpu,
        ram: offer.ram,
        disk: offer.disk,
    })
}

fn to_wire(
    message: ToAgent,
    protocol: u32,
    lease_ms: u64,
    heartbeat_ms: u64,
) -> wire::ControllerMessage {
    let message = match message {
        ToAgent::Welcome { generation, positions } => ToWire::Welcome(wire::Welcome {
            protocol,
            generation: generation.get(),
            lease_ms,
            heartbeat_ms,
            positions: positions.into_iter().map(Into::into).collect(),
        }),
        ToAgent::Desired(set) => ToWire::Desired(set.into()),
        ToAgent::Ack(position) => ToWire::Ack(position.into()),
        ToAgent::HeartbeatAck(number) => ToWire::HeartbeatAck(wire::HeartbeatAck { number }),
    };
    wire::ControllerMessage { message: Some(message) }
}

#[cfg(test)]
mod tests;
