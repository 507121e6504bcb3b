//! Images carried as a stream and pulled by digest; wrong ones do not stay.

use std::path::Path;

use bytes::Bytes as Buf;
use futures_util::StreamExt;
use futures_util::stream;
use hone_agent::runtime::docker::Docker;
use hone_agent::runtime::{
    ContainerState, ImageId, ImageName, Refusal, Runtime, RuntimeError, Transfer,
};
use hone_proto::quantity::Bytes;
use hone_tests::docker::{TestNode, docker, guest};
use hone_tests::registry::Registry;
use tokio::sync::watch;

use super::{config, finished, run, spec};

#[tokio::test]
async fn an_image_travels_as_its_saved_stream_and_a_wrong_one_does_not_stay() {
    let mut test = TestNode::new().expect("an engine");
    let image = test.import_guest(&[]).expect("an image");
    let other = test.import_guest(&["ENV OTHER=1"]).expect("an image");
    let engine = Docker::new(config(&test));
    let file = test.temp.path().join("image.tar");
    let wrong = test.temp.path().join("other.tar");
    docker(&["save", "-o", &file.display().to_string(), &image]).expect("saved");
    docker(&["save", "-o", &wrong.display().to_string(), &other]).expect("saved");
    docker(&["rmi", &image, &other]).expect("removed");
    let wanted: ImageId = image.parse().expect("an id");
    let name = ImageName::Id(wanted.clone());
    assert_eq!(engine.has_image(&name).await.expect("asked"), None);
    assert!(matches!(
        engine.create(&spec(&test, &image, &["sleep"])).await,
        Err(RuntimeError::NoSuchImage(_))
    ));

    let pieces = |path: &Path| {
        let bytes = std::fs::read(path).expect("read");
        let pieces: Vec<_> =
            bytes.chunks(64 * 1024).map(|piece| Ok(Buf::copy_from_slice(piece))).collect();
        stream::iter(pieces).boxed()
    };
    let mismatch = engine.load_image(&wanted, pieces(&wrong)).await;
    assert!(matches!(&mismatch, Err(RuntimeError::ImageMismatch { .. })), "{mismatch:?}");
    assert!(docker(&["image", "inspect", &other]).is_err(), "the wrong image stayed");

    let broken = stream::iter(vec![
        Ok(Buf::from(std::fs::read(&file).expect("read")[..100_000].to_vec())),
        Err(std::io::Error::other("the link broke")),
    ]);
    let failed = engine.load_image(&wanted, broken.boxed()).await;
    assert!(matches!(failed, Err(RuntimeError::Source(_))), "{failed:?}");
    let garbage = engine
        .load_image(&wanted, stream::iter(vec![Ok(Buf::from_static(&[7; 9000]))]).boxed())
        .await;
    assert!(garbage.is_err_and(|error| !error.is_retryable()));
    assert_eq!(engine.has_image(&name).await.expect("asked"), None);

    engine.load_image(&wanted, pieces(&file)).await.expect("loaded");
    assert_eq!(engine.has_image(&name).await.expect("asked"), Some(wanted.clone()));
    engine.load_image(&wanted, pieces(&file)).await.expect("loaded again");
    assert_eq!(engine.has_image(&name).await.expect("asked"), Some(wanted));
}

#[tokio::test]
async fn an_image_is_pulled_by_digest_and_a_forged_one_is_refused() {
    let mut test = TestNode::new().expect("an engine");
    let engine = Docker::new(config(&test));
    let forged = Registry::serve(guest().expect("a guest"), true).expect("a registry");
    let registry = Registry::serve(guest().expect("a guest"), false).expect("a registry");
    let name = |registry: &Registry| -> ImageName {
        format!("{}@{}", registry.repository, registry.digest).parse().expect("a name")
    };
    let (progress, seen) = watch::channel(Transfer::default());
    let failed = engine.pull(&name(&forged), &progress).await;
    assert!(matches!(failed, Err(RuntimeError::Refused { .. })), "{failed:?}");
    assert_eq!(engine.has_image(&name(&forged)).await.expect("asked"), None);

    assert_eq!(engine.has_image(&name(&registry)).await.expect("asked"), None);
    test.will_remove(&registry.image_id);
    let id = engine.pull(&name(&registry), &progress).await.expect("pulled");
    assert_eq!(id.as_str(), registry.image_id);
    assert_eq!(engine.has_image(&name(&registry)).await.expect("asked"), Some(id));
    let seen = *seen.borrow();
    assert!(seen.done == seen.total && seen.total > Bytes::ZERO, "{seen:?}");
    let spec = spec(&test, &name(&registry).to_string(), &["exit", "5"]);
    let container = run(&engine, &spec).await;
    let ended = finished(&engine, &container).await;
    assert!(matches!(ended.state, ContainerState::Exited { code: 5, .. }), "{ended:?}");
}

#[tokio::test]
async fn a_pull_that_cannot_work_says_so() {
    let test = TestNode::new().expect("an engine");
    let engine = Docker::new(config(&test));
    let (progress, _) = watch::channel(Transfer::default());
    let digest = format!("sha256:{}", "0".repeat(64));
    // Nothing listens on port 1.
    let name: ImageName = format!("127.0.0.1:1/team/trainer@{digest}").parse().expect("a name");
    let failed = engine.pull(&name, &progress).await;
    assert!(
        matches!(failed, Err(RuntimeError::Refused { refusal: Refusal::Registry, .. })),
        "{failed:?}"
    );
    let by_id: ImageName = digest.parse().expect("a name");
    assert!(matches!(engine.pull(&by_id, &progress).await, Err(RuntimeError::BadReference { .. })));
}
