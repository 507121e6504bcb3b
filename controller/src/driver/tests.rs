//! An input that no store would take is refused alone; everybody else goes on.

use std::time::Duration;

use hone_proto::event::{Event, Level, LogRecord, Payload};
use hone_proto::id::{Generation, NodeId, Seq};
use hone_proto::time::{Now, WallNanos};

use super::turn::Turn;
use super::*;
use crate::core::record::{Role, TokenPurpose};
use crate::core::{Caller, Command, Hello, Settings, Subject};
use crate::placement::Capacity;
use crate::store::{Batch, MemoryStore, Record};

/// A store that can be looked at from outside.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<MemoryStore>>);

impl Store for Shared {
    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        self.0.lock().expect("no panic").commit(batch)
    }
    fn scan(&self, prefix: &[u8]) -> Result<Vec<Record>, StoreError> {
        self.0.lock().expect("no panic").scan(prefix)
    }
}

struct Fixture {
    driver: Driver,
    handle: Handle,
    store: Shared,
    _dir: tempfile::TempDir,
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().expect("a folder");
    let store = Shared::default();
    let (fleet, founding) = Fleet::found(
        Settings::default(),
        "fleet".parse().expect("id"),
        "ada".parse().expect("name"),
        Now::read(),
    );
    let journal = Journal::open(dir.path(), []).expect("a journal");
    let started = Driver::start(fleet, founding, store.clone(), journal, |_| ());
    let (driver, handle) = started.expect("a thread");
    Fixture { driver, handle, store, _dir: dir }
}

impl Fixture {
    async fn token(&self, public_id: &str, hash: String) -> Result<Reply, Refusal> {
        let command = Command::MakeToken {
            public_id: public_id.to_owned(),
            hash,
            purpose: TokenPurpose::Node,
            role: None,
            expires: WallNanos::new(u64::MAX),
        };
        let caller = Caller { user: "ada".parse().expect("name"), role: Role::Admin };
        let request = format!("request-{public_id}").parse().expect("id");
        let command = Box::new(command);
        self.handle.call(move |ticket| Input::Request { ticket, caller, request, command }).await
    }

    async fn join(&self, id: &str) -> NodeId {
        self.token(id, "h".to_owned()).await.expect("a token");
        let (public_id, fresh_node): (String, NodeId) = (id.to_owned(), id.parse().expect("id"));
        let display_name = id.to_owned();
        let joined = self.handle.call(move |ticket| Input::Spend {
            ticket,
            public_id,
            fresh_node,
            display_name,
            for_node: true,
        });
        match joined.await {
            Ok(Reply::Spent(Subject::Node(node))) => node,
            other => panic!("join answered {other:?}"),
        }
    }

    async fn hello(&self, node: &NodeId, inventory: Vec<u8>) -> mpsc::Receiver<ToSession> {
        let (sender, session) = mpsc::channel(64);
        let number = self.handle.open_session(node.clone(), sender).await.expect("a session");
        let hello = Hello {
            node: node.clone(),
            session: number,
            boot: "boot-1".parse().expect("id"),
            said: None,
            spool: "spool-1".parse().expect("id"),
            attempts: vec![],
            highest_generation: Generation::new(0),
            capacity: Capacity::default(),
            inventory,
            hostname: "host".to_owned(),
            version: "test".to_owned(),
        };
        self.handle.tell(Input::Hello(Box::new(hello))).await.expect("it listens");
        session
    }

    /// What is in memory is what is on the disk.
    async fn agrees(&self) {
        let records = self.store.scan(b"").expect("records").into_iter();
        let records = records.map(|(key, value)| (String::from_utf8(key).expect("text"), value));
        let stored = Fleet::load(Settings::default(), records).expect("it loads");
        let same = self.handle.read(move |fleet| {
            fleet.tokens() == stored.tokens()
                && fleet.meta() == stored.meta()
                && fleet.history() == stored.history()
                && fleet.requests() == stored.requests()
                && fleet.nodes().keys().eq(stored.nodes().keys())
        });
        assert!(same.await.expect("an answer"), "memory is ahead of the disk");
    }
}

#[tokio::test]
async fn an_input_whose_record_is_too_large_is_refused_alone() {
    let fixture = fixture();
    let node = fixture.join("n1").await;
    let mut session = fixture.hello(&node, vec![1]).await;
    let refused = fixture.token("large", "h".repeat(70 * 1024)).await.expect_err("too large");
    assert_eq!(refused.reason, Reason::BadRequest);
    fixture.agrees().await;
    // Nodes are told to connect again, since what they had said was in memory only.
    loop {
        match session.recv().await.expect("it is told") {
            ToSession::Say(_) => {}
            ToSession::End(why) => {
                assert_eq!(why.reason, Reason::Unavailable);
                break;
            }
        }
    }
    fixture.token("small", "h".to_owned()).await.expect("everybody else goes on");
    fixture.agrees().await;
    fixture.driver.stop().await.expect("it never failed");
}

#[tokio::test]
async fn a_node_with_an_input_that_is_too_large_does_not_end_the_controller() {
    let fixture = fixture();
    let node = fixture.join("n1").await;
    let _session = fixture.hello(&node, vec![0; 70 * 1024]).await;
    fixture.agrees().await;
    fixture.token("next", "h".to_owned()).await.expect("it goes on");
    fixture.driver.stop().await.expect("it never failed");
}

#[test]
fn a_turn_knows_when_one_commit_cannot_take_more() {
    let record = |n: usize| Effect::Put(format!("event/{n}"), vec![0; 60 * 1024]);
    let small = Turn::of((0..100).map(record).collect()).expect("six MiB");
    let mut turn = Turn::of((0..200).map(record).collect()).expect("twelve MiB");
    assert!(!turn.has_room_for(&small));
    assert!(Turn::of((0..300).map(record).collect()).is_err(), "no commit takes eighteen");
    turn.extend(Turn::of(vec![record(1)]).expect("one"));
    assert!(turn.size() > 12 * 1000 * 1000);
}

#[test]
fn an_event_that_is_too_large_leaves_its_place_and_the_file_usable() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut journal = Journal::open(dir.path(), []).expect("a journal");
    let file = FileId::Node("n1".parse().expect("id"));
    let attempt = hone_proto::id::AttemptId {
        job: JobId::new(1),
        token: hone_proto::id::Token {
            generation: Generation::new(1),
            attempt: hone_proto::id::Attempt::new(1),
        },
    };
    let log = |seq, len| Event {
        seq: Seq::new(seq),
        at: Now::default(),
        boot: "boot-1".parse().expect("id"),
        payload: Payload::Log(LogRecord {
            attempt,
            output: "stdout".to_owned(),
            level: Level::Info,
            text: "x".repeat(len),
        }),
    };
    journal.append(file.clone(), &log(1, 300 * 1024)).expect("it is acknowledged like others");
    journal.append(file.clone(), &log(2, 10)).expect("the file goes on");
    let lengths = journal.sync().expect("synced");
    let (records, _) =
        Journal::read(dir.path(), &file, 0, lengths[0].1, u64::MAX).expect("it reads back");
    let events: Vec<wire::Event> = records
        .iter()
        .map(|bytes| prost::Message::decode(bytes.as_slice()).expect("an event"))
        .collect();
    let gap = matches!(&events[0].payload, Some(wire::event::Payload::Gap(gap)) if gap.count == 1);
    assert!(gap, "{:?}", events[0]);
    assert_eq!((events[0].seq, events[1].seq), (1, 2));
}

#[tokio::test]
async fn a_session_that_is_ended_tells_why() {
    let fixture = fixture();
    let node = fixture.join("n1").await;
    let (sender, mut session) = mpsc::channel(4);
    let number = fixture.handle.open_session(node.clone(), sender).await.expect("a session");
    let why = Refusal::new(Reason::BadRequest, "malformed");
    fixture.handle.end_session(node, number, why.clone()).await.expect("it listens");
    let told = tokio::time::timeout(Duration::from_secs(60), session.recv()).await;
    assert!(matches!(told, Ok(Some(ToSession::End(told))) if told == why));
    fixture.driver.stop().await.expect("it never failed");
}
