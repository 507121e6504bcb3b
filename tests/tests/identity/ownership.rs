//! A node speaks for its own attempts only. Another node's attempt in a message is refused, and changes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use hone_controller::core::Input;
use hone_controller::core::input::{Caller, Command};
use hone_controller::core::record::{OnDisconnect, Wish};
use hone_controller::placement::Demand;
use hone_proto::assignment::ImageRef;
use hone_proto::error::Reason;
use hone_proto::id::{AttemptId, NodeId, ProjectName};
use hone_proto::identity::{ClientIdentity, Credentials, Peer, Plane, Role};
use hone_proto::quantity::{Bytes, MilliCpu};
use hone_proto::wire;
use hone_proto::wire::bulk_client::BulkClient;
use hone_tests::controller::{ADMIN, InProcess, fresh_id};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::{soon, why};

/// An agent that says what the test tells it to.
pub(crate) struct Agent {
    pub(crate) say: mpsc::Sender<wire::AgentMessage>,
    pub(crate) link: Streaming<wire::ControllerMessage>,
}

impl Agent {
    /// Attaches with room for one job, and waits to be welcomed.
    pub(crate) async fn attach(controller: &InProcess, credentials: &Credentials) -> Self {
        let (say, hearing) = mpsc::channel(4);
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
            spool_id: "spool-1".to_owned(),
            inventory: Some(wire::Inventory::default()),
            allocatable: Some(allocatable),
            ..Default::default()
        };
        let hello = wire::agent_message::Message::Hello(hello);
        say.send(wire::AgentMessage { message: Some(hello) }).await.expect("a message");
        let mut client = controller.link(credentials).expect("a client");
        let attached = soon("a link", client.attach(ReceiverStream::new(hearing))).await;
        let mut link = attached.expect("a link").into_inner();
        soon("Welcome", link.message()).await.expect("the link is open").expect("Welcome");
        Self { say, link }
    }

    /// Waits for a message of this kind.
    async fn hear<T>(
        &mut self,
        what: &str,
        wanted: impl Fn(wire::controller_message::Message) -> Option<T>,
    ) -> T {
        soon(what, async {
            loop {
                let message = self.link.message().await.expect("the link is open").expect(what);
                if let Some(found) = message.message.and_then(&wanted) {
                    return found;
                }
            }
        })
        .await
    }
}

fn wish() -> Wish {
    Wish {
        name: "tune".parse().expect("a name"),
        project: ProjectName::default_project(),
        demand: Demand { cpu: MilliCpu::cores(2), ram: Bytes::gib(4), ..Demand::default() },
        image: ImageRef { reference: "sha256:ab".to_owned(), manifest: None },
        image_labels: BTreeMap::new(),
        command: Vec::new(),
        inputs: Vec::new(),
        trainer_spec: r#"{"version":1,"job":{"id":"0","name":"tune","attempt":0}}"#.to_owned(),
        relaxations: Vec::new(),
        keep_checkpoints: 2,
        grace: Duration::from_secs(60),
        on_disconnect: OnDisconnect::Auto,
        max_attempts: 3,
        max_time: None,
        exports: true,
        traceparent: String::new(),
    }
}

fn id_of(credentials: &Credentials) -> Option<NodeId> {
    match &credentials.certificate().id.peer {
        Peer::Node(id) => Some(id.clone()),
        Peer::User(_) | Peer::Controller => None,
    }
}

/// The first job's attempt, once it is placed, and the node that holds it.
async fn placed(controller: &InProcess) -> (AttemptId, NodeId) {
    let find = || {
        controller.fleet.read(|fleet| {
            let job = fleet.jobs().values().next()?;
            let attempt = job.record.attempts.last()?;
            Some((job.record.attempt(attempt.token), attempt.node.clone()))
        })
    };
    let mut turns = controller.fleet.turns();
    soon("a placement", async {
        loop {
            if let Some(placed) = find().await.expect("the fleet") {
                return placed;
            }
            controller.fleet.tell(Input::Tick).await.expect("the fleet");
            turns.changed().await.expect("the fleet");
        }
    })
    .await
}

async fn bulk_refusals(
    mut client: BulkClient<Channel>,
    attempt: AttemptId,
) -> Vec<(&'static str, Reason)> {
    let scope = || {
        let scope = wire::scope::Scope::Attempt(attempt.into());
        Some(wire::Scope { scope: Some(scope) })
    };
    let digest = vec![7; 32];
    let missing = wire::MissingRequest { scope: scope(), digests: vec![digest.clone()] };
    let missing = why(client.missing(missing).await).reason;
    let frame = wire::UploadFrame {
        scope: scope(),
        digest: hone_proto::id::Digest::of(b"x").as_bytes().to_vec(),
        chunk_size: 1,
        data: bytes::Bytes::from_static(b"x"),
    };
    let upload = match client.upload(tokio_stream::once(frame)).await {
        Ok(answers) => why(answers.into_inner().message().await).reason,
        Err(status) => why::<()>(Err(status)).reason,
    };
    let commit = wire::CommitRequest { scope: scope(), manifest: vec![1], request_id: fresh_id() };
    let commit = why(client.commit(commit).await).reason;
    let get = wire::GetManifestRequest { scope: scope(), digest };
    let get = why(client.get_manifest(get).await).reason;
    vec![("missing", missing), ("upload", upload), ("commit", commit), ("get", get)]
}

#[tokio::test]
async fn another_nodes_attempt_in_a_message_is_refused_and_changes_nothing() {
    let controller = InProcess::start().await.expect("a controller");
    let first = controller.enrolled_node().await.expect("a node");
    let second = controller.enrolled_node().await.expect("a node");
    let mut agents = vec![
        (Agent::attach(&controller, &first).await, first),
        (Agent::attach(&controller, &second).await, second),
    ];
    let caller = Caller { user: ADMIN.parse().expect("a name"), role: Role::Admin };
    let request = fresh_id().parse().expect("an id");
    let command = Box::new(Command::Submit { wish: Box::new(wish()), spec_yaml: String::new() });
    let submit = move |ticket| Input::Request { ticket, caller, request, command };
    controller.fleet.call(submit).await.expect("the job is taken");
    let (attempt, holder) = placed(&controller).await;
    agents.retain(|(_, credentials)| id_of(credentials).as_ref() != Some(&holder));
    let (mut thief, credentials) = agents.pop().expect("the other node");

    let identity = ClientIdentity::new(&credentials).expect("an identity");
    let channel = controller.channel(identity, Plane::Bulk).expect("a channel");
    for (call, reason) in bulk_refusals(BulkClient::new(channel), attempt).await {
        assert_eq!(reason, Reason::NotOwner, "{call}");
    }

    let outcome = wire::AttemptOutcome {
        attempt: Some(attempt.into()),
        kind: wire::OutcomeKind::Failed.into(),
        cause: "stolen".to_owned(),
        ..Default::default()
    };
    let event = wire::Event {
        seq: 1,
        at: Some(wire::Times { wall_ns: 1, boot_ns: 1 }),
        boot_id: "boot-1".to_owned(),
        payload: Some(wire::event::Payload::Outcome(outcome)),
    };
    let batch = wire::EventBatch {
        spool_id: "spool-1".to_owned(),
        stream: wire::EventStream::State.into(),
        events: vec![event],
    };
    let batch = wire::agent_message::Message::Events(batch);
    thief.say.send(wire::AgentMessage { message: Some(batch) }).await.expect("it is sent");
    let acknowledged = thief.hear("an acknowledgement", |message| match message {
        wire::controller_message::Message::Ack(ack) => Some(ack.seq),
        _ => None,
    });
    assert_eq!(acknowledged.await, 1, "it is taken off the thief's spool all the same");
    let (now, still) = placed(&controller).await;
    assert_eq!((now, still), (attempt, holder), "the report counted");
    let mut admin = controller.operator(&controller.admin).expect("a client");
    let events = admin.events(wire::EventsRequest::default()).await.expect("events");
    let mut events = events.into_inner();
    let mut kinds = Vec::new();
    while let Some(event) = soon("events", events.message()).await.expect("an event") {
        kinds.push(event.kind);
    }
    assert!(kinds.iter().any(|kind| kind == "foreign_report"), "{kinds:?}");
}
