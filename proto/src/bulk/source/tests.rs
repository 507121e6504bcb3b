//! Honest folders, changing ones and hostile ones.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;
use crate::id::ProjectName;
use crate::manifest::{Kind, Manifest, decode_and_validate};

fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    root
}

fn survey(root: &Path, trust: Trust) -> Result<Vec<ManifestFile>, SourceError> {
    Source::open(root, trust)?.survey(|_| true, |_| ())
}

fn why_refused(root: &Path, trust: Trust) -> &'static str {
    match survey(root, trust) {
        Err(SourceError::NotPlain { why, .. }) => why,
        other => panic!("not refused as it should: {other:?}"),
    }
}

#[test]
fn a_folder_becomes_a_manifest_whose_chunks_read_back() {
    let big: Vec<u8> = (0..9_000_000_u32).map(|i| (i % 251).to_le_bytes()[0]).collect();
    let root =
        folder(&[("b/model.bin", &big), ("a.json", b"{}"), ("b/c/empty", b""), ("b-x", b"1")]);
    let script = root.path().join("run.sh");
    fs::write(&script, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();

    let source = Source::open(root.path(), Trust::Container).unwrap();
    let mut read = 0;
    let files = source.survey(|_| true, |bytes| read += bytes).unwrap();
    let paths: Vec<_> = files.iter().map(|f| f.path.as_str()).collect();
    assert_eq!(paths, ["a.json", "b-x", "b/c/empty", "b/model.bin", "run.sh"]);
    assert_eq!(
        files.iter().map(|f| f.executable).collect::<Vec<_>>(),
        [false, false, false, false, true]
    );
    assert_eq!(read, 9_000_000 + 2 + 1 + 10);

    let model = &files[3];
    assert_eq!(model.digest, Digest::of(&big));
    let again: Vec<u8> =
        model.pieces().flat_map(|chunk| source.chunk(&model.path, chunk).unwrap()).collect();
    assert!(again == big);
    let (kind, project) = (Kind::Input, ProjectName::default_project());
    let sealed = Manifest { kind, project, spec: None, base_model: None, files }.seal().unwrap();
    assert!(decode_and_validate(sealed.bytes().clone()).is_ok());
}

#[test]
fn a_single_file_is_a_source_too_and_nothing_beside_it() {
    let root = folder(&[("train.jsonl", b"{}"), ("secret", b"x")]);
    let files = survey(&root.path().join("train.jsonl"), Trust::Owner).unwrap();
    assert_eq!(files.len(), 1);
    assert_eq!(files[0].path.as_str(), "train.jsonl");
}

#[test]
fn what_is_not_wanted_is_not_read() {
    let root = folder(&[("keep", b"1"), ("drop", b"2")]);
    let source = Source::open(root.path(), Trust::Owner).unwrap();
    let files = source.survey(|path| path.as_str() == "keep", |_| ()).unwrap();
    assert_eq!(files.len(), 1);
}

#[test]
fn links_pipes_and_second_names_are_refused() {
    let secret = folder(&[("shadow", b"secret"), ("deep/file", b"secret")]);
    let root = folder(&[("a", b"1")]);
    let odd = root.path().join("odd");

    symlink(secret.path().join("shadow"), &odd).unwrap();
    assert_eq!(why_refused(root.path(), Trust::Owner), "it is a symbolic link");
    fs::remove_file(&odd).unwrap();
    symlink(secret.path().join("deep"), &odd).unwrap();
    assert_eq!(why_refused(root.path(), Trust::Container), "it is a symbolic link");
    assert!(matches!(survey(&odd, Trust::Container), Err(SourceError::NotPlain { .. })));
    assert_eq!(survey(&odd, Trust::Owner).unwrap().len(), 1);
    fs::remove_file(&odd).unwrap();

    rustix::fs::mknodat(rustix::fs::CWD, &odd, FileType::Fifo, Mode::RWXU, 0).unwrap();
    assert_eq!(why_refused(root.path(), Trust::Container), "it is a pipe");
    fs::remove_file(&odd).unwrap();

    fs::hard_link(root.path().join("a"), &odd).unwrap();
    assert_eq!(why_refused(root.path(), Trust::Container), "the file has more than one name");
    assert_eq!(survey(root.path(), Trust::Owner).unwrap().len(), 2);
}

#[test]
fn a_path_swapped_for_a_link_after_the_survey_does_not_lead_outside() {
    let secret = folder(&[("dir/file", b"secret")]);
    let root = folder(&[("dir/file", b"mine!!")]);
    let source = Source::open(root.path(), Trust::Container).unwrap();
    let files = source.survey(|_| true, |_| ()).unwrap();
    fs::rename(root.path().join("dir"), root.path().join("gone")).unwrap();
    symlink(secret.path().join("dir"), root.path().join("dir")).unwrap();
    let chunk = files[0].pieces().next().unwrap();
    assert!(matches!(source.chunk(&files[0].path, chunk), Err(SourceError::NotPlain { .. })));
    assert!(source.beneath(&"dir".parse().unwrap()).is_err());
    assert_eq!(
        source.beneath(&"gone".parse().unwrap()).unwrap().survey(|_| true, |_| ()).unwrap().len(),
        1
    );
}

#[test]
fn another_filesystem_is_not_entered() {
    let source = Source::open(Path::new("/"), Trust::Owner).unwrap();
    let error = source.open_file(&"proc/version".parse().unwrap()).unwrap_err();
    assert!(matches!(error, SourceError::NotPlain { why: "it lies on another filesystem", .. }));
}

#[test]
fn a_file_that_changes_while_it_is_read_is_not_described() {
    let content = vec![1_u8; CHUNK_LEN + 5];
    let changes: [fn(&Path); 4] = [
        |path| fs::write(path, vec![2_u8; CHUNK_LEN + 5]).unwrap(),
        |path| fs::write(path, b"shorter").unwrap(),
        |path| fs::write(path, vec![1_u8; CHUNK_LEN * 2]).unwrap(),
        |path| {
            let other = path.with_extension("other");
            fs::write(&other, vec![1_u8; CHUNK_LEN + 5]).unwrap();
            fs::rename(other, path).unwrap();
        },
    ];
    for change in changes {
        let root = folder(&[("file", &content)]);
        let source = Source::open(root.path(), Trust::Container).unwrap();
        let mut pending = Some(change);
        let path = root.path().join("file");
        let result = source.survey(
            |_| true,
            |_| {
                if let Some(change) = pending.take() {
                    change(&path);
                }
            },
        );
        assert!(matches!(result, Err(SourceError::Changed { .. })), "{result:?}");
    }
}

#[test]
fn a_chunk_that_is_no_longer_what_it_was_is_not_sent() {
    let root = folder(&[("file", b"before")]);
    let source = Source::open(root.path(), Trust::Owner).unwrap();
    let files = source.survey(|_| true, |_| ()).unwrap();
    let chunk = files[0].pieces().next().unwrap();
    fs::write(root.path().join("file"), b"after!").unwrap();
    assert!(matches!(source.chunk(&files[0].path, chunk), Err(SourceError::Changed { .. })));
    fs::write(root.path().join("file"), b"").unwrap();
    assert!(matches!(source.chunk(&files[0].path, chunk), Err(SourceError::Changed { .. })));
}

#[test]
fn names_that_no_manifest_may_hold_are_refused() {
    let root = folder(&[("bad\nname", b"1")]);
    assert!(matches!(survey(root.path(), Trust::Owner), Err(SourceError::BadName { .. })));
    let root = folder(&[("1/2/3/4/5/6/7/8/9", b"1")]);
    assert!(matches!(survey(root.path(), Trust::Owner), Err(SourceError::BadName { .. })));
}
