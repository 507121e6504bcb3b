//! An attempt's launch at the real engine: it is safe to repeat, and the machine owner's word counts there too.

use std::path::Path;
use std::sync::Arc;

use hone_agent::adapters::push::Pushes;
use hone_agent::config::Policy;
use hone_agent::core::state::AgentState;
use hone_agent::core::{Agent, Effect, Input, Settings};
use hone_agent::driver::{Driver, Handle, Marks, Room};
use hone_agent::layout::Layout;
use hone_agent::perform::{InputCache, Performer};
use hone_agent::runtime::Runtime;
use hone_agent::runtime::docker::Docker;
use hone_agent::spool::{Bounds, Spool};
use hone_agent::state::StateFile;
use hone_agent::watch::Watcher;
use hone_controller::identity::Lifetimes;
use hone_proto::assignment::{Assignment, DesiredSet, ImageRef, Promise, Relaxation};
use hone_proto::event::Stream;
use hone_proto::id::{Generation, Revision, Seq};
use hone_proto::identity::{ClientIdentity, Connector, ControllerAddress};
use hone_proto::quantity::{Bytes, MilliCpu};
use hone_proto::wire;
use hone_proto::wire::event::Payload;
use hone_tests::docker::TestNode;
use hone_tests::identities::{Identities, node};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{PATIENCE, attempt, config};

/// Specs that differ.
const ONE: &str = r#"{"version": 1, "job": {"name": "one"}}"#;
const TWO: &str = r#"{"version": 1, "job": {"name": "two"}}"#;

fn assignment(image: &str, spec: &str) -> Assignment {
    Assignment {
        image: ImageRef { reference: image.to_owned(), manifest: None },
        command: vec!["/guest".to_owned(), "sleep".to_owned()],
        trainer_spec: spec.to_owned(),
        promise: Promise { ram: Bytes::mib(64), cpu: MilliCpu::new(500), ..Promise::default() },
        ..hone_tests::jobs::assignment(attempt(1)).expect("one")
    }
}

/// An agent without a link, whose attempt is staged: the next thing that it does is the launch.
async fn staged(state: &Path, assignment: &Assignment) -> (Driver, Handle, mpsc::Receiver<Effect>) {
    let layout = Layout::new(state.to_owned());
    let boot: hone_proto::id::BootId = "boot-1".parse().expect("an id");
    let (driver, handle, mut effects) = Driver::start(
        Agent::new(Settings::default(), AgentState::default(), boot.clone()),
        Spool::open(&layout.spool(), Bounds::default()).expect("a spool"),
        StateFile::new(layout.state()),
        boot,
        Room::on(&layout, Marks { reserve: Bytes::ZERO, ..Marks::default() }),
    )
    .expect("it starts");
    let set = DesiredSet {
        revision: Revision::new(1),
        generation: Generation::new(1),
        assignments: vec![assignment.clone()],
    };
    handle.tell(Input::Desired(set)).await.expect("it listens");
    assert!(matches!(effects.recv().await, Some(Effect::Stage(..))));
    let staged = Input::Staged { attempt: assignment.attempt, result: Ok(()) };
    handle.tell(staged).await.expect("it listens");
    (driver, handle, effects)
}

fn performer(test: &TestNode, state: &Path, driver: &Handle) -> Arc<Performer> {
    let layout = Layout::new(state.to_owned());
    let ids = Identities::new(Lifetimes::default()).expect("identities");
    let credentials = ids.good(&node("n1").expect("a name")).expect("credentials");
    Arc::new(Performer {
        runtime: Docker::new(config(test)),
        layout: layout.clone(),
        policy: Policy::default(),
        driver: driver.clone(),
        watcher: Watcher::start(layout.clone(), driver.clone(), Pushes::new(layout.clone()), || ())
            .expect("a watcher"),
        connector: Connector::fixed(ClientIdentity::new(&credentials).expect("an identity")),
        controller: ControllerAddress::consecutive("127.0.0.1", 1),
        cache: InputCache::new(layout, Bytes::ZERO, Bytes::ZERO),
        prefix: test.fleet.clone(),
        versions: Default::default(),
    })
}

/// A life of the agent in which it launches an attempt, until its end is told or it runs.
async fn life(test: &TestNode, state: &Path, assignment: &Assignment) -> Arc<Performer> {
    let (driver, handle, effects) = staged(state, assignment).await;
    let performer = performer(test, state, &handle);
    let local = tokio::task::LocalSet::new();
    local.spawn_local(Arc::clone(&performer).run(effects));
    let mut view = handle.view();
    let done = view.wait_for(|view| !view.running.is_empty() || view.wanted.is_empty());
    drop(local.run_until(timeout(PATIENCE, done)).await.expect("in time").expect("it goes on"));
    driver.stop().await.expect("it stops");
    performer
}

#[tokio::test]
async fn a_launch_whose_answer_got_lost_touches_nothing_of_what_runs() {
    let mut test = TestNode::new().expect("an engine");
    let image = test.import_guest(&[]).expect("an image");
    let state = test.shared_dir("state").expect("a folder");
    life(&test, &state, &assignment(&image, ONE)).await;
    let performer = life(&test, &state, &assignment(&image, TWO)).await;
    let spec = Layout::new(state).attempt(attempt(1)).spec();
    assert_eq!(std::fs::read_to_string(spec).expect("a spec"), ONE);
    assert_eq!(performer.runtime.list().await.expect("listed").len(), 1);
}

#[tokio::test]
async fn the_owners_word_counts_at_the_launch_too() {
    let mut test = TestNode::new().expect("an engine");
    let image = test.import_guest(&[]).expect("an image");
    let state = test.shared_dir("state").expect("a folder");
    let own_image = Relaxation::UserImage;
    let wants = Assignment { relaxations: vec![own_image], ..assignment(&image, ONE) };
    let performer = life(&test, &state, &wants).await;
    assert!(performer.runtime.list().await.expect("listed").is_empty());
    let layout = Layout::new(state);
    let mut spool = Spool::open(&layout.spool(), Bounds::default()).expect("a spool");
    let told = spool.read(Stream::State, Seq::new(0), usize::MAX).expect("read");
    let cause = |event: wire::Event| match event.payload {
        Some(Payload::Outcome(outcome)) => Some(outcome.cause),
        _ => None,
    };
    assert_eq!(told.into_iter().find_map(cause).as_deref(), Some("policy_refused"));
}
