//! A controller that says what a test tells it to, and an agent's link with what it needs.

use std::path::PathBuf;
use std::pin::Pin;

use hone_agent::core::state::AgentState;
use hone_agent::core::{Agent, Settings};
use hone_agent::driver::{Driver, Handle, Marks, Record, Room};
use hone_agent::layout::Layout;
use hone_agent::link::{End, Link, SharedMachine};
use hone_agent::spool::{Bounds, Spool};
use hone_agent::state::StateFile;
use hone_controller::identity::Lifetimes;
use hone_proto::error::Refusal;
use hone_proto::event::{Level, LogRecord, Payload, Stream};
use hone_proto::id::{Attempt, AttemptId, Generation, JobId, Revision, Token};
use hone_proto::identity::tls::Admission;
use hone_proto::identity::{
    AcceptLimits, ClientIdentity, Connector, ControllerAddress, Plane, incoming, server_builder,
};
use hone_proto::quantity::Bytes;
use hone_proto::time::Now;
use hone_proto::wire;
use hone_proto::wire::agent_message::Message as Said;
use hone_proto::wire::controller_message::Message as Answer;
use hone_proto::wire::link_server::{Link as Service, LinkServer};
use hone_tests::identities::{Identities, node};
use hone_tests::reach::PATIENCE;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Ends a test that hangs, with a line that says at what.
pub(crate) async fn soon<T>(what: &str, doing: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, doing).await.expect(what)
}

/// A log record of an attempt.
fn log(text: &str) -> Vec<(Now, Payload)> {
    let token = Token { generation: Generation::new(1), attempt: Attempt::new(1) };
    let record = LogRecord {
        attempt: AttemptId { job: JobId::new(1), token },
        output: "stdout".to_owned(),
        level: Level::Info,
        text: text.to_owned(),
    };
    vec![(Now::read(), Payload::Log(record))]
}

/// An agent's link, and the controller that it dials.
pub(crate) struct Bench {
    /// The agent's driver.
    pub(crate) driver: Handle,
    address: ControllerAddress,
    ids: Identities,
    denies: bool,
    sessions: mpsc::Receiver<Session>,
    script: Script,
    server: Option<Server>,
    spool: wire::EventAck,
    thread: Option<Driver>,
    scratch: tempfile::TempDir,
}

impl Bench {
    /// A controller that admits the node.
    pub(crate) async fn new() -> Self {
        Self::with(false).await
    }

    /// A controller whose acceptor has the node on its deny list.
    pub(crate) async fn denying() -> Self {
        Self::with(true).await
    }

    async fn with(denies: bool) -> Self {
        let scratch = tempfile::tempdir().expect("a folder");
        let bounds = Bounds { segment: Bytes::new(500), ..Bounds::default() };
        let spool = Spool::open(&scratch.path().join("spool"), bounds).expect("a spool");
        let position = wire::EventAck {
            spool_id: spool.id().to_string(),
            stream: wire::EventStream::from(Stream::Logs).into(),
            seq: 0,
        };
        let boot: hone_proto::id::BootId = "boot-1".parse().expect("an id");
        let agent = Agent::new(Settings::default(), AgentState::default(), boot.clone());
        let file = StateFile::new(scratch.path().join("state"));
        let marks = Marks { reserve: Bytes::ZERO, ..Marks::default() };
        let room = Room::on(&Layout::new(scratch.path().to_owned()), marks);
        let (thread, driver, _) = Driver::start(agent, spool, file, boot, room).expect("a driver");
        let (script, sessions) = Script::new();
        let mut bench = Self {
            driver,
            address: ControllerAddress::consecutive("127.0.0.1", 0),
            ids: Identities::new(Lifetimes::default()).expect("identities"),
            denies,
            sessions,
            script,
            server: None,
            spool: position,
            thread: Some(thread),
            scratch,
        };
        bench.listen().await;
        bench
    }

    /// Listens, at the port of before if there was one.
    pub(crate) async fn listen(&mut self) {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let port = self.address.port(Plane::Control);
        let denies = self.denies;
        let admission = Admission::denying(move |_| denies);
        let controller = self.ids.controller().expect("credentials");
        let tls = controller.server_config(admission).expect("a configuration");
        let service = LinkServer::new(self.script.clone());
        let begun = runtime.spawn(async move {
            let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("a port");
            let port = listener.local_addr().expect("an address").port();
            let (newest, tls) = watch::channel(tls);
            let connections = incoming(listener, tls, AcceptLimits::default());
            let server = server_builder(Plane::Control).add_service(service);
            tokio::spawn(async move {
                let _newest = newest;
                // It ends with its runtime.
                let _ = server.serve_with_incoming(connections).await;
            });
            port
        });
        self.server = Some(Server(Some(runtime)));
        let port = soon("a port", begun).await.expect("it listens");
        self.address = ControllerAddress::consecutive("127.0.0.1", port);
    }

    /// The controller's process dies, and its port is free again.
    pub(crate) async fn close(&mut self) {
        let runtime = self.server.take().and_then(|mut server| server.0.take());
        let ended = tokio::task::spawn_blocking(move || {
            runtime.expect("it runs").shutdown_timeout(PATIENCE);
        });
        ended.await.expect("it ends");
    }

    /// Starts the link.
    pub(crate) fn link(&self) -> JoinHandle<End> {
        let credentials = self.ids.good(&node("n1").expect("a name")).expect("credentials");
        let link = Link {
            driver: self.driver.clone(),
            connector: Connector::fixed(ClientIdentity::new(&credentials).expect("an identity")),
            controller: self.address.clone(),
            machine: SharedMachine::default(),
            boot: "boot-1".parse().expect("an id"),
        };
        tokio::spawn(link.run())
    }

    /// The next session that the agent opens.
    pub(crate) async fn session(&mut self) -> Session {
        let mut session = soon("a session", self.sessions.recv()).await.expect("a session");
        session.position = self.spool.clone();
        session
    }

    /// Puts log records into the spool, one by one, and syncs it.
    pub(crate) async fn record(&self, texts: &[&str]) {
        let (driver, texts) = (self.driver.clone(), texts.iter().map(|text| log(text)));
        let records: Vec<_> = texts.collect();
        let recorded = tokio::task::spawn_blocking(move || {
            for events in records {
                driver.record_blocking(Record { events, ..Record::default() }).expect("recorded");
            }
        });
        recorded.await.expect("no panic");
        let drained = hone_agent::core::Input::Drained {
            attempt: AttemptId {
                job: JobId::new(9),
                token: Token { generation: Generation::new(1), attempt: Attempt::new(1) },
            },
            drained: Box::default(),
        };
        self.driver.tell(drained).await.expect("it listens");
    }

    /// Waits until the agent works on this revision.
    pub(crate) async fn revision(&self, revision: Revision) {
        let mut view = self.driver.view();
        let seen = view.wait_for(|view| view.revision == revision);
        drop(soon("the desired set", seen).await.expect("the driver runs"));
    }

    /// Segment files of the log stream.
    pub(crate) fn segments(&self) -> usize {
        let lane: PathBuf = self.scratch.path().join("spool").join(Stream::Logs.name());
        std::fs::read_dir(lane).expect("a lane").count()
    }

    /// Stops the driver.
    pub(crate) async fn stop(&mut self) {
        let driver = self.thread.take().expect("it runs");
        soon("the driver", driver.stop()).await.expect("it stops in order");
    }
}

/// What a controller's process would be: everything that it runs ends with it.
struct Server(Option<Runtime>);

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Hands each session to the test.
#[derive(Clone)]
struct Script {
    sessions: mpsc::Sender<Session>,
}

impl Script {
    fn new() -> (Self, mpsc::Receiver<Session>) {
        let (sessions, opened) = mpsc::channel(8);
        (Self { sessions }, opened)
    }
}

type Outgoing = Pin<
    Box<dyn tokio_stream::Stream<Item = Result<wire::ControllerMessage, Status>> + Send + 'static>,
>;

#[tonic::async_trait]
impl Service for Script {
    type AttachStream = Outgoing;

    async fn attach(
        &self,
        request: Request<Streaming<wire::AgentMessage>>,
    ) -> Result<Response<Outgoing>, Status> {
        let (answer, answers) = mpsc::channel(8);
        let session =
            Session { incoming: request.into_inner(), answer, position: wire::EventAck::default() };
        self.sessions.send(session).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn renew(
        &self,
        _: Request<wire::SigningRequest>,
    ) -> Result<Response<wire::IssuedCertificate>, Status> {
        Err(Status::unimplemented("no test asks for it"))
    }
}

/// One session, as the controller sees it.
pub(crate) struct Session {
    incoming: Streaming<wire::AgentMessage>,
    answer: mpsc::Sender<Result<wire::ControllerMessage, Status>>,
    position: wire::EventAck,
}

impl Session {
    /// What the agent says next.
    pub(crate) async fn said(&mut self) -> Said {
        let message = soon("a message", self.incoming.message()).await.expect("no error");
        message.and_then(|message| message.message).expect("the session is open")
    }

    /// Hello, which must come first.
    pub(crate) async fn hello(&mut self) {
        assert!(matches!(self.said().await, Said::Hello(_)), "Hello comes first");
    }

    /// The numbers of the next events; heartbeats are passed over.
    pub(crate) async fn events(&mut self) -> Vec<u64> {
        loop {
            match self.said().await {
                Said::Events(batch) => {
                    assert_eq!(batch.spool_id, self.position.spool_id);
                    return batch.events.iter().map(|event| event.seq).collect();
                }
                Said::Heartbeat(_) => {}
                Said::Hello(_) => unreachable!("a second Hello"),
            }
        }
    }

    /// Says something.
    pub(crate) async fn say(&mut self, message: Answer) {
        let message = wire::ControllerMessage { message: Some(message) };
        self.answer.send(Ok(message)).await.expect("the session is open");
    }

    /// Welcome, with this much of the logs durable.
    pub(crate) async fn welcome(&mut self, seq: u64) {
        let welcome = wire::Welcome {
            protocol: 1,
            generation: 1,
            lease_ms: 30_000,
            heartbeat_ms: 50,
            positions: vec![wire::EventAck { seq, ..self.position.clone() }],
        };
        self.say(Answer::Welcome(welcome)).await;
    }

    /// This much of the logs is durable.
    pub(crate) async fn ack(&mut self, seq: u64) {
        self.say(Answer::Ack(wire::EventAck { seq, ..self.position.clone() })).await;
    }

    /// An acknowledgement for an agent that may be gone already.
    pub(crate) async fn ack_perhaps(&mut self, seq: u64) {
        let ack = Answer::Ack(wire::EventAck { seq, ..self.position.clone() });
        let _ = self.answer.send(Ok(wire::ControllerMessage { message: Some(ack) })).await;
    }

    /// Nothing is wanted, as of this revision.
    pub(crate) async fn desired(&mut self, revision: u64) {
        let set = wire::DesiredSet { revision, generation: 1, assignments: Vec::new() };
        self.say(Answer::Desired(set)).await;
    }

    /// Ends the session with a reason.
    pub(crate) async fn refuse(self, why: Refusal) {
        self.answer.send(Err(why.into())).await.expect("the session is open");
    }
}
