//! Submitting and pulling against a made-up controller: real uploads and downloads through the generated services.

use std::fs;
use std::path::Path;

use hone_proto::error::{Reason, Refusal};
use hone_proto::id::Digest;
use hone_proto::wire::series_update::Update;
use hone_proto::wire::{CheckpointView, JobView};

use super::fake::Fake;

const SPEC: &str = "\
name: tune
model: {path: ./model}
data:
  train: {path: ./rows.jsonl, format: text}
method: {type: full}
train: {max_steps: 3, seq_len: 16, batch: 1}
resources: {cpu: 1, memory: 1 GiB, disk: 1 GiB}
";

/// A folder with a spec, a model of several chunks and some rows.
fn workplace(spec: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(path, bytes).expect("a file");
    };
    write("job.yaml", spec.as_bytes());
    write("model/config.json", b"{}");
    let weights: Vec<u8> = (0..5_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    write("model/model.safetensors", &weights);
    write("rows.jsonl", b"{\"text\": \"hello\"}\n");
    folder
}

/// An image that nodes pull, so that no engine is needed.
fn image() -> String {
    format!("registry.example/hone-trainer@sha256:{}", "ab".repeat(32))
}

async fn submit(fake: &Fake, folder: &Path, more: &[&str]) -> super::fake::Ran {
    let (spec, image) = (folder.join("job.yaml"), image());
    let config = folder.join("config");
    let mut args = vec!["submit", spec.to_str().expect("UTF-8"), "--image", &image];
    args.extend(["--config-dir", config.to_str().expect("UTF-8")]);
    args.extend(more);
    fake.hone(&args).await
}

#[tokio::test]
async fn a_submit_uploads_what_is_missing_and_nothing_twice() {
    let (fake, folder) = (Fake::default(), workplace(SPEC));
    let ran = submit(&fake, folder.path(), &[]).await;
    assert_eq!((ran.exit, ran.out.as_str()), (0, "1\n"), "{}", ran.err);
    assert!(ran.err.contains("hone watch 1"), "{}", ran.err);
    let request = fake.world().submitted.take().expect("a submit");
    assert_eq!(request.spec_yaml, SPEC);
    assert_eq!(request.image_reference, image());
    assert!(request.image_manifest.is_empty(), "nodes pull it");
    let channels: Vec<_> = request.inputs.iter().map(|i| i.channel.as_str()).collect();
    assert_eq!(channels, ["model", "data/train"]);
    for input in &request.inputs {
        let digest = Digest::try_from(input.manifest.as_slice()).expect("a digest");
        assert!(fake.bulk.stored().manifests.contains_key(&digest), "it was committed before");
    }
    let talk: Vec<_> = ran.err.lines().filter(|line| line.starts_with("uploading")).collect();
    let said = ["model: 4.8 MiB", "model: done", "data/train: 18 B", "data/train: done"];
    assert_eq!(talk, said.map(|line| format!("uploading {line}")));
    let sent = fake.bulk.stored().uploads;
    let again = submit(&fake, folder.path(), &[]).await;
    assert_eq!(again.exit, 0, "{}", again.err);
    assert!(!again.err.contains("uploading"), "all of it is there: {}", again.err);
    assert_eq!(fake.bulk.stored().uploads, sent, "the second submit sent chunks");
}

#[tokio::test]
async fn a_typo_is_named_with_its_line_and_nothing_is_sent() {
    let (fake, folder) = (Fake::default(), workplace(&SPEC.replace("seq_len", "seq_length")));
    let ran = submit(&fake, folder.path(), &[]).await;
    assert_eq!(ran.exit, 4, "{}", ran.err);
    assert!(ran.err.contains("job.yaml:6:"), "{}", ran.err);
    assert!(ran.err.contains("seq_len"), "{}", ran.err);
    assert!(ran.err.contains("hint: "), "{}", ran.err);
    assert_eq!(fake.bulk.stored().uploads, 0);
    assert!(fake.world().submitted.is_none());
}

#[tokio::test]
async fn a_missing_file_is_named_and_nothing_is_sent() {
    let (fake, folder) = (Fake::default(), workplace(SPEC));
    fs::remove_file(folder.path().join("rows.jsonl")).expect("it is removed");
    let ran = submit(&fake, folder.path(), &[]).await;
    assert_eq!(ran.exit, 4, "{}", ran.err);
    assert!(ran.err.contains("rows.jsonl"), "{}", ran.err);
    assert_eq!(fake.bulk.stored().uploads, 0);
    let ran = fake.hone(&["submit", "/nowhere/job.yaml"]).await;
    assert_eq!(ran.exit, 4, "{}", ran.err);
}

#[tokio::test]
async fn a_followed_job_that_fails_is_exit_code_9() {
    let (fake, folder) = (Fake::default(), workplace(SPEC));
    let failed = JobView { job: 1, state: "failed".to_owned(), ..Default::default() };
    fake.world().series = [vec![Ok(Update::Job(failed))]].into();
    assert_eq!(submit(&fake, folder.path(), &["--follow"]).await.exit, 9);
}

#[tokio::test]
async fn what_fits_nowhere_uploads_nothing() {
    let (fake, folder) = (Fake::default(), workplace(SPEC));
    let refusal = Refusal::new(Reason::FitsNowhere, "none of 2 nodes could ever hold this job");
    fake.world().check_refused = Some(refusal.into());
    let ran = submit(&fake, folder.path(), &[]).await;
    assert_eq!(ran.exit, 3, "{}", ran.err);
    let checked = fake.world().checked.take().expect("it was asked");
    let sizes: Vec<_> = checked.inputs.iter().map(|input| input.bytes).collect();
    assert_eq!(sizes, [5_000_002, 18], "what would be fetched counts");
    assert!(checked.inputs.iter().all(|input| input.manifest.is_empty()));
    let stored = fake.bulk.stored();
    assert_eq!((stored.uploads, stored.chunks.len(), stored.manifests.len()), (0, 0, 0));
    assert!(fake.world().submitted.is_none());
}

#[tokio::test]
async fn what_was_uploaded_is_pulled_byte_for_byte_and_overwrites_nothing() {
    let (fake, folder) = (Fake::default(), workplace(SPEC));
    assert_eq!(submit(&fake, folder.path(), &[]).await.exit, 0);
    let model = fake.world().submitted.take().expect("a submit").inputs.remove(0);
    let job = JobView { job: 1, project: "default".to_owned(), ..Default::default() };
    fake.world().jobs = vec![job];
    // The made-up controller does not care that a model is no package.
    fake.world().checkpoints = vec![CheckpointView {
        kind: "package".to_owned(),
        step: 3,
        manifest: model.manifest,
        ..Default::default()
    }];
    let to = folder.path().join("pulled");
    let to_text = to.to_str().expect("UTF-8");
    let ran = fake.hone(&["pull", "1", "-o", to_text]).await;
    assert_eq!((ran.exit, ran.out.trim_end()), (0, to_text), "{}", ran.err);
    assert!(ran.err.contains("verified"), "{}", ran.err);
    for name in ["config.json", "model.safetensors"] {
        let pulled = fs::read(to.join(name)).expect("it was pulled");
        assert_eq!(pulled, fs::read(folder.path().join("model").join(name)).expect("a file"));
    }
    let ran = fake.hone(&["pull", "1", "-o", to_text]).await;
    assert_eq!(ran.exit, 8, "{}", ran.err);
    assert!(ran.err.contains("exists already"), "{}", ran.err);
}

#[tokio::test]
async fn a_damaged_chunk_is_never_pulled() {
    let (fake, folder) = (Fake::default(), workplace(SPEC));
    assert_eq!(submit(&fake, folder.path(), &[]).await.exit, 0);
    let model = fake.world().submitted.take().expect("a submit").inputs.remove(0);
    fake.world().jobs =
        vec![JobView { job: 1, project: "default".to_owned(), ..Default::default() }];
    let manifest = model.manifest;
    fake.world().checkpoints =
        vec![CheckpointView { kind: "package".to_owned(), manifest, ..Default::default() }];
    for chunk in fake.bulk.stored().chunks.values_mut() {
        let mut bytes = chunk.to_vec();
        bytes[0] ^= 1;
        *chunk = bytes.into();
    }
    let to = folder.path().join("pulled");
    let ran = fake.hone(&["pull", "1", "-o", to.to_str().expect("UTF-8")]).await;
    assert_eq!(ran.exit, 1, "{}", ran.err);
    assert!(!to.exists(), "a damaged package stands where a good one should");
}
