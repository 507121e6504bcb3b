//! An agent that says what a test tells it to: the real link and the real bulk client, and nothing behind them.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use hone_proto::bulk::source::{Source, Trust};
use hone_proto::bulk::{self, Retry, Scope, Silent};
use hone_proto::id::{AttemptId, Digest, ProjectName, Step};
use hone_proto::identity::{ClientIdentity, Credentials, Plane};
use hone_proto::manifest::{Kind, Manifest};
use hone_proto::wire;
use hone_proto::wire::agent_message::Message as Say;
use hone_proto::wire::controller_message::Message as Heard;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::reach::{PATIENCE, Reach};

/// The spool of every such agent.
pub const SPOOL: &str = "spool-1";

/// An agent.
pub struct Agent {
    /// To the controller.
    pub say: mpsc::Sender<wire::AgentMessage>,
    /// From the controller.
    pub link: Streaming<wire::ControllerMessage>,
    /// What it was welcomed with.
    pub welcome: wire::Welcome,
}

impl Agent {
    /// Attaches with room for one job, and waits to be welcomed.
    pub async fn attach(reach: &Reach, credentials: &Credentials) -> Result<Self> {
        Self::attach_holding(reach, credentials, &[]).await
    }

    /// As [`Agent::attach`], with containers of these attempts.
    pub async fn attach_holding(
        reach: &Reach,
        credentials: &Credentials,
        attempts: &[AttemptId],
    ) -> Result<Self> {
        let (say, hearing) = mpsc::channel(64);
        let allocatable = wire::Allocatable {
            milli_cpu: 4000,
            ram_bytes: 8 << 30,
            disk_bytes: 100 << 30,
            ..Default::default()
        };
        let hello = wire::Hello {
            protocol_min: 1,
            protocol_max: 1,
            boot_id: "boot-1".to_owned(),
            spool_id: SPOOL.to_owned(),
            attempts: attempts.iter().copied().map(Into::into).collect(),
            inventory: Some(wire::Inventory::default()),
            allocatable: Some(allocatable),
            ..Default::default()
        };
        say.send(wire::AgentMessage { message: Some(Say::Hello(hello)) }).await?;
        let mut client = reach.link(credentials)?;
        let attaching = client.attach(ReceiverStream::new(hearing));
        let mut link = tokio::time::timeout(PATIENCE, attaching).await??.into_inner();
        let first = tokio::time::timeout(PATIENCE, link.message()).await??;
        let Some(Heard::Welcome(welcome)) = first.and_then(|first| first.message) else {
            bail!("no Welcome");
        };
        Ok(Self { say, link, welcome })
    }

    /// Says something.
    pub async fn tell(&self, message: Say) -> Result<()> {
        Ok(self.say.send(wire::AgentMessage { message: Some(message) }).await?)
    }

    /// Waits for a message of this kind.
    pub async fn hear<T>(&mut self, what: &str, wanted: impl Fn(Heard) -> Option<T>) -> Result<T> {
        let hearing = async {
            loop {
                let message = self.link.message().await?.context("the link ended")?;
                if let Some(found) = message.message.and_then(&wanted) {
                    return Ok(found);
                }
            }
        };
        tokio::time::timeout(PATIENCE, hearing).await.with_context(|| what.to_owned())?
    }

    /// The attempt that it is to carry, once there is one.
    pub async fn assigned(&mut self) -> Result<AttemptId> {
        let first = self.hear("an assignment", |message| match message {
            Heard::Desired(set) => set.assignments.into_iter().next()?.attempt,
            _ => None,
        });
        Ok(first.await?.into())
    }

    /// Sends one batch of events of a stream; the first has this number.
    pub async fn report(
        &self,
        stream: wire::EventStream,
        first: u64,
        payloads: Vec<wire::event::Payload>,
    ) -> Result<()> {
        let events = payloads.into_iter().zip(first..).map(|(payload, seq)| wire::Event {
            seq,
            at: Some(wire::Times { wall_ns: seq, boot_ns: seq }),
            boot_id: "boot-1".to_owned(),
            payload: Some(payload),
        });
        let events = events.collect();
        let batch = wire::EventBatch { spool_id: SPOOL.to_owned(), stream: stream.into(), events };
        self.tell(Say::Events(batch)).await
    }

    /// Says that it is alive, and waits until that is acknowledged; returns the acknowledgements of events that came
    /// before it.
    pub async fn beats(&mut self, number: u64) -> Result<Vec<wire::EventAck>> {
        self.tell(Say::Heartbeat(wire::Heartbeat { number, ..Default::default() })).await?;
        let acks = std::cell::RefCell::new(Vec::new());
        self.hear("an answer to a heartbeat", |message| match message {
            Heard::HeartbeatAck(ack) => (ack.number == number).then_some(()),
            Heard::Ack(ack) => {
                acks.borrow_mut().push(ack);
                None
            }
            _ => None,
        })
        .await?;
        Ok(acks.into_inner())
    }

    /// Waits until it is told to stop this attempt.
    pub async fn stopped(&mut self, attempt: AttemptId) -> Result<()> {
        let attempt = wire::AttemptRef::from(attempt);
        self.hear("an order to stop", |message| match message {
            Heard::Desired(set) => set.assignments.into_iter().find_map(|wanted| {
                (wanted.attempt == Some(attempt) && !wanted.stop_reason.is_empty()).then_some(())
            }),
            _ => None,
        })
        .await
    }

    /// How far a stream was durable when it was welcomed.
    #[must_use]
    pub fn known(&self, stream: wire::EventStream) -> u64 {
        let positions = self.welcome.positions.iter();
        positions.filter(|p| p.stream == i32::from(stream)).map(|p| p.seq).sum()
    }

    /// Waits until the controller ends the link, and returns why.
    pub async fn ended(&mut self) -> Result<tonic::Status> {
        let ending = async {
            loop {
                match self.link.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => bail!("the link ended well"),
                    Err(status) => return Ok(status),
                }
            }
        };
        tokio::time::timeout(PATIENCE, ending).await.context("the link goes on")?
    }

    /// Waits until the events of a stream up to this number are acknowledged.
    pub async fn acknowledged(&mut self, stream: wire::EventStream, seq: u64) -> Result<()> {
        self.hear("an acknowledgement", |message| match message {
            Heard::Ack(ack) => (ack.stream == i32::from(stream) && ack.seq == seq).then_some(()),
            _ => None,
        })
        .await
    }
}

/// Bulk data of one attempt, as the node that holds these credentials. Gives up at once.
pub fn bulk_of(
    reach: &Reach,
    credentials: &Credentials,
    attempt: AttemptId,
) -> Result<bulk::Client> {
    let channel = reach.channel(ClientIdentity::new(credentials)?, Plane::Bulk)?;
    Ok(bulk::Client::new(channel, Scope::Attempt(attempt), Retry::tries(1)))
}

/// Uploads and commits what lies in `from` as the attempt's checkpoint of this step.
pub async fn checkpoint(
    bulk: &bulk::Client,
    attempt: AttemptId,
    step: u64,
    from: &Path,
) -> Result<Digest> {
    let source = Source::open(from, Trust::Owner)?;
    let files = source.survey(|_| true, |_| {})?;
    let kind = Kind::Checkpoint { attempt, step: Step::new(step) };
    let project = ProjectName::default_project();
    let manifest = Manifest { kind, project, spec: None, base_model: None, files }.seal()?;
    Ok(bulk.upload(&manifest, &Arc::new(source), &Silent).await?)
}
