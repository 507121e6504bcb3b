//! One container from creation to removal, and what is told on the way.

use std::path::Path;

use hone_agent::runtime::docker::Docker;
use hone_agent::runtime::{
    ContainerId, ContainerSpec, ContainerState, Refusal, Runtime, RuntimeError, Signal,
};
use hone_tests::docker::{TestNode, docker};

use super::{attempt, config, finished, run, spec, until};

#[tokio::test]
async fn a_life_is_seen_from_birth_to_removal_and_every_call_can_be_repeated() {
    let mut test = TestNode::new().expect("an engine");
    let image = test.import_guest(&[]).expect("an image");
    let engine = Docker::new(config(&test));
    let spec = spec(&test, &image, &["sleep"]);
    let id = engine.create(&spec).await.expect("created");
    assert_eq!(engine.create(&spec).await.expect("the same"), id);
    let listed = engine.list().await.expect("listed");
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].attempt, &listed[0].id), (Some(attempt(1)), &id));
    assert_eq!(listed[0].state, ContainerState::Created { start_error: None });
    assert_eq!(listed[0].image, Some(image.parse().expect("an id")));

    engine.start(&id).await.expect("started");
    engine.start(&id).await.expect("started already");
    let running =
        until(&engine, &id, |state| matches!(state, ContainerState::Running { .. })).await;
    let ContainerState::Running { pid, started } = running.state else { panic!("not running") };
    assert!(Path::new(&format!("/proc/{pid}/cgroup")).exists());
    assert!(started.is_some());
    assert!(running.log_path.is_some_and(|path| path.is_file()));
    assert!(matches!(engine.create(&spec).await, Err(RuntimeError::NameTaken { .. })));
    let refused = engine.remove(&id).await;
    assert!(
        matches!(refused, Err(RuntimeError::Refused { refusal: Refusal::Running, .. })),
        "{refused:?}"
    );

    assert!(engine.signal(&id, Signal::Term).await.expect("sent"));
    let ended = finished(&engine, &id).await;
    let ContainerState::Exited { code, oom_killed, finished } = ended.state else {
        panic!("not ended")
    };
    assert_eq!((code, oom_killed, finished.is_some()), (143, false, true));
    assert!(!engine.signal(&id, Signal::Kill).await.expect("nobody took it"));
    engine.remove(&id).await.expect("removed");
    engine.remove(&id).await.expect("removed already");
    assert_eq!(engine.observe(&id).await.expect("asked"), None);
    assert!(!engine.signal(&id, Signal::Kill).await.expect("nobody is there"));
    assert!(matches!(engine.start(&id).await, Err(RuntimeError::NoSuchContainer(_))));
    assert_eq!(engine.list().await.expect("listed"), []);
}

#[tokio::test]
async fn only_own_containers_are_seen_and_unreadable_ones_are_named() {
    let mut test = TestNode::new().expect("an engine");
    let image = test.import_guest(&[]).expect("an image");
    let engine = Docker::new(config(&test));
    let fleet = format!("hone.fleet={}", test.fleet);
    let make = |labels: &[&str]| {
        let mut args = vec!["create"];
        labels.iter().for_each(|label| args.extend(["--label", *label]));
        docker(&[&args[..], &[&image, "sleep"]].concat()).expect("created")
    };
    let broken = make(&[&fleet, "hone.node=n1", "hone.job=seven"]);
    let other_node =
        make(&[&fleet, "hone.node=n2", "hone.job=7", "hone.generation=1", "hone.attempt=1"]);
    make(&[&fleet]);
    let listed = engine.list().await.expect("listed");
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!((listed[0].id.as_str(), listed[0].attempt), (broken.as_str(), None));
    assert_eq!(engine.observe(&ContainerId::new(other_node)).await.expect("asked"), None);
}

#[tokio::test]
async fn running_out_of_memory_and_a_missing_program_are_told() {
    let mut test = TestNode::new().expect("an engine");
    let image = test.import_guest(&[]).expect("an image");
    let engine = Docker::new(config(&test));
    let id = run(&engine, &spec(&test, &image, &["eat", "256"])).await;
    let ended = finished(&engine, &id).await;
    assert!(
        matches!(ended.state, ContainerState::Exited { code: 137, oom_killed: true, .. }),
        "{ended:?}"
    );
    engine.remove(&id).await.expect("removed");

    let missing =
        ContainerSpec { entrypoint: Some(vec!["/no-such".to_owned()]), ..spec(&test, &image, &[]) };
    let id = engine.create(&missing).await.expect("created");
    match engine.start(&id).await {
        Err(RuntimeError::Refused { refusal: Refusal::NoSuchProgram, .. }) => {
            let seen = engine.observe(&id).await.expect("observed").expect("present");
            let ContainerState::Created { start_error } = seen.state else { panic!("{seen:?}") };
            assert!(start_error.is_some_and(|error| error.contains("no-such")));
        }
        // With an init process some engines start it, and the init says that there is no such program.
        Ok(()) => {
            let ended = finished(&engine, &id).await;
            assert!(matches!(ended.state, ContainerState::Exited { code: 127, .. }), "{ended:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_engine_describes_itself() {
    let test = TestNode::new().expect("an engine");
    let facts = Docker::new(config(&test)).facts().await.expect("facts");
    assert_eq!(
        facts.version,
        docker(&["version", "-f", "{{.Server.Version}}"]).expect("a version")
    );
    assert_eq!(facts.storage_driver, docker(&["info", "-f", "{{.Driver}}"]).expect("a driver"));
    assert!(facts.cgroup_version.is_some() && facts.seccomp && facts.cpus > 0);
    assert!(facts.root_dir.is_dir());
}
