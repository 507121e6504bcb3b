//! Finished, unfinished and forged checkpoints.

use std::path::Path;

use proptest::prelude::*;

use super::*;

/// The digest of nothing in particular: the search compares sizes, not contents.
const DIGEST: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn manifest(step: u64, files: &[(&str, u64)]) -> String {
    let files: Vec<String> = files
        .iter()
        .map(|(path, size)| format!(r#"{{"path":"{path}","size":{size},"sha256":"{DIGEST}"}}"#))
        .collect();
    format!(
        r#"{{"version":1,"step":{step},"kind":"adapter","world_size":1,"files":[{}]}}"#,
        files.join(",")
    )
}

fn checkpoint(output: &Path, name: &str, manifest: Option<&str>) {
    let dir = output.join(name);
    std::fs::create_dir_all(dir.join("sub")).expect("a directory");
    std::fs::write(dir.join("weights"), "12345").expect("written");
    std::fs::write(dir.join("sub/state"), "123").expect("written");
    if let Some(text) = manifest {
        std::fs::write(dir.join(MANIFEST_NAME), text).expect("written");
    }
}

fn find(output: &Path) -> Vec<FoundCheckpoint> {
    let dir = Dir::open(output).expect("opened");
    find_checkpoints(&dir, CompletenessRule::NativeManifest).expect("readable")
}

#[test]
fn only_a_folder_that_agrees_with_its_manifest_is_complete() {
    let temp = tempfile::tempdir().expect("a directory");
    let good = manifest(20, &[("weights", 5), ("sub/state", 3)]);
    checkpoint(temp.path(), "checkpoint-20", Some(&good));
    checkpoint(temp.path(), "checkpoint-9", Some(&manifest(9, &[("weights", 6)])));
    checkpoint(temp.path(), "checkpoint-30", None);
    checkpoint(temp.path(), "checkpoint-40", Some(&manifest(41, &[("weights", 5)])));
    checkpoint(temp.path(), "checkpoint-50", Some(&manifest(50, &[("absent", 5)])));
    checkpoint(temp.path(), "checkpoint-60", Some(&good[..good.len() - 4]));
    for other in ["checkpoint-70.tmp-1", "checkpoint-", "checkpoint-007", "checkpoint-x", "runs"] {
        checkpoint(temp.path(), other, Some(&good));
    }
    let found = find(temp.path());
    let steps: Vec<u64> = found.iter().map(|checkpoint| checkpoint.step.get()).collect();
    assert_eq!(steps, [9, 20, 30, 40, 50, 60]);
    let complete: Vec<u64> =
        found.iter().filter(|c| c.manifest().is_some()).map(|c| c.step.get()).collect();
    assert_eq!(complete, [20]);
    let manifest = found[1].manifest().expect("complete");
    assert_eq!((manifest.size(), manifest.kind.as_str()), (Bytes::new(8), "adapter"));
    let paths: Vec<&str> = manifest.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths, ["sub/state", "weights"]);
    assert_eq!(manifest.files[0].sha256.to_string(), DIGEST);
}

#[test]
fn a_package_is_judged_like_a_checkpoint() {
    let temp = tempfile::tempdir().expect("a directory");
    let find = || {
        let dir = Dir::open(temp.path()).expect("opened");
        find_package(&dir, CompletenessRule::NativeManifest)
    };
    assert_eq!(find().expect("fine"), None);
    checkpoint(temp.path(), PACKAGE_NAME, None);
    assert!(matches!(find().expect("readable"), Some(Completeness::Incomplete { .. })));
    checkpoint(temp.path(), PACKAGE_NAME, Some(&manifest(60, &[("weights", 5)])));
    let Some(Completeness::Complete(claim)) = find().expect("readable") else {
        panic!("not complete")
    };
    assert_eq!(claim.step, Step::new(60));
    std::fs::rename(temp.path().join(PACKAGE_NAME), temp.path().join("elsewhere")).expect("moved");
    std::os::unix::fs::symlink("elsewhere", temp.path().join(PACKAGE_NAME)).expect("linked");
    assert!(find().is_err());
}

#[test]
fn links_make_a_checkpoint_incomplete() {
    let temp = tempfile::tempdir().expect("a directory");
    checkpoint(temp.path(), "checkpoint-1", Some(&manifest(1, &[("weights", 5)])));
    std::fs::remove_file(temp.path().join("checkpoint-1/weights")).expect("removed");
    std::os::unix::fs::symlink("sub/state", temp.path().join("checkpoint-1/weights"))
        .expect("linked");
    checkpoint(temp.path(), "real", Some(&manifest(2, &[("weights", 5)])));
    std::os::unix::fs::symlink("real", temp.path().join("checkpoint-2")).expect("linked");
    let found = find(temp.path());
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        matches!(&found[0].completeness, Completeness::Incomplete { why } if why.contains("link"))
    );
}

#[test]
fn a_manifest_may_not_point_elsewhere_or_say_a_thing_twice() {
    for files in [
        &[("../x", 1)][..],
        &[("/etc/passwd", 1)],
        &[("a", 1), ("a", 1)],
        &[("a", 1), ("A", 1)],
        &[(MANIFEST_NAME, 1)],
        &[],
    ] {
        assert!(
            NativeManifest::parse(manifest(1, files).as_bytes()).is_err(),
            "{files:?} was accepted"
        );
    }
    let future = manifest(1, &[("a", 1)]).replace("\"version\":1", "\"version\":2");
    assert!(NativeManifest::parse(future.as_bytes()).is_err());
    let short = manifest(1, &[("a", 1)]).replace(DIGEST, "abc");
    assert!(NativeManifest::parse(short.as_bytes()).is_err());
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = NativeManifest::parse(&bytes);
    }
}
