//! Hostile and honest manifests.

use proptest::prelude::*;
use prost::Message as _;

use super::*;

fn attempt() -> AttemptId {
    let token = Token { generation: Generation::new(1), attempt: Attempt::new(2) };
    AttemptId { job: JobId::new(7), token }
}

fn file(path: &str, content: &[u8]) -> ManifestFile {
    ManifestFile {
        path: path.parse().unwrap(),
        size: Bytes::new(content.len() as u64),
        digest: Digest::of(content),
        executable: false,
        chunks: content.chunks(usize::try_from(CHUNK_SIZE).unwrap()).map(Digest::of).collect(),
    }
}

fn manifest(files: Vec<ManifestFile>) -> Manifest {
    Manifest {
        kind: Kind::Checkpoint { attempt: attempt(), step: Step::new(40) },
        project: ProjectName::default_project(),
        spec: Some(Digest::of(b"spec")),
        base_model: None,
        files,
    }
}

fn honest() -> Manifest {
    manifest(vec![file("a/model.bin", &[3; 5_000_000]), file("b", b""), file("c.json", b"{}")])
}

/// The honest manifest's message, bent and encoded.
fn bent(change: impl FnOnce(&mut wire::Manifest)) -> Result<Sealed, ManifestError> {
    let mut wire = honest().to_wire();
    change(&mut wire);
    decode_and_validate(wire.encode_to_vec())
}

#[test]
fn a_sealed_manifest_reads_back_and_keeps_its_name() {
    let sealed = honest().seal().unwrap();
    let read = decode_and_validate(sealed.bytes().clone()).unwrap();
    assert_eq!(read, sealed);
    assert_eq!(read.manifest(), &honest());
    assert_eq!(read.digest(), Digest::of(sealed.bytes()));
    assert_eq!(read.manifest().total_size(), Bytes::new(5_000_002));
    assert_eq!(read.manifest().unique_chunks().len(), 3);
    let pieces: Vec<_> = honest().files[0].pieces().map(|c| (c.offset, c.len)).collect();
    assert_eq!(pieces, [(0, CHUNK_SIZE), (CHUNK_SIZE, 5_000_000 - CHUNK_SIZE)]);
}

#[test]
fn the_name_of_a_given_manifest_never_changes() {
    let sealed = manifest(vec![file("a", b"x")]).seal().unwrap();
    let name = "6c1e2718ca91f70aa2b9cea4120f0834f244da6641004ceac3069d36d8282d43";
    assert_eq!(sealed.digest().to_string(), name);
}

#[test]
fn fields_of_a_later_release_survive_since_nothing_is_encoded_again() {
    let mut bytes = honest().seal().unwrap().bytes().to_vec();
    bytes.extend_from_slice(&[0xfa, 0x07, 0x03, b'n', b'e', b'w']);
    let read = decode_and_validate(bytes.clone()).unwrap();
    assert_eq!(read.bytes().as_ref(), bytes);
    assert_eq!(read.digest(), Digest::of(&bytes));
}

#[test]
fn names_that_some_filesystem_confuses_are_refused() {
    let cases = [
        (["a", "a"], "dup"),
        (["b", "a"], "unsorted"),
        (["A", "a"], "case"),
        (["Dir/x", "dir/y"], "case of a directory"),
        (["É", "é"], "case outside of ASCII"),
        (["a", "a/b"], "file and directory"),
        (["A", "a/b"], "file and directory, by case"),
    ];
    for (paths, what) in cases {
        let files = paths.map(|path| file(path, b"x")).to_vec();
        let error = manifest(files).seal().unwrap_err();
        assert!(matches!(error, ManifestError::Clash { .. }), "{what}: {error}");
    }
    let fine = ["a", "a-b", "a.d/b", "a.d/c/b", "b"].map(|path| file(path, b"x")).to_vec();
    manifest(fine).seal().unwrap();
}

#[test]
fn sizes_digests_and_chunks_must_fit_together() {
    let refused = |change: fn(&mut wire::ManifestFile)| {
        let result = bent(|wire| change(&mut wire.files[0]));
        assert!(matches!(result, Err(ManifestError::BadFile { .. })), "{result:?}");
    };
    refused(|file| file.size = 4 * 1024 * 1024);
    refused(|file| file.size = u64::MAX);
    refused(|file| file.size = 0);
    refused(|file| file.chunks.truncate(32));
    refused(|file| file.chunks.truncate(40));
    refused(|file| file.digest.truncate(31));
    refused(|file| file.chunks.copy_within(32.., 0));
    let other = bent(|wire| wire.files[2].digest = vec![0; 32]);
    assert!(matches!(other, Err(ManifestError::BadFile { .. })));
    let empty = bent(|wire| wire.files[1].digest = vec![0; 32]);
    assert!(matches!(empty, Err(ManifestError::BadFile { .. })));
}

#[test]
fn what_stands_beside_the_files_is_checked() {
    let refused = |change: fn(&mut wire::Manifest)| {
        let result = bent(change);
        assert!(matches!(result, Err(ManifestError::BadField { .. })), "{result:?}");
    };
    refused(|wire| wire.version = 0);
    refused(|wire| wire.kind = 0);
    refused(|wire| wire.kind = 99);
    refused(|wire| wire.project = "../other".to_owned());
    refused(|wire| wire.job = 0);
    refused(|wire| wire.attempt = 0);
    refused(|wire| wire.step = None);
    refused(|wire| wire.spec = vec![1; 31]);
    refused(|wire| wire.files.clear());
    refused(|wire| wire.kind = wire::ManifestKind::Input.into());
    let newer = bent(|wire| wire.version = 2);
    assert!(matches!(newer, Err(ManifestError::TooNew { found: 2 })));
}

#[test]
fn an_image_is_one_file_and_belongs_to_no_attempt() {
    let of = |files| Manifest { kind: Kind::Image, spec: None, ..manifest(files) };
    of(vec![file("image.tar", b"x")]).seal().unwrap();
    let two = of(vec![file("a", b"x"), file("b", b"x")]).seal();
    assert!(matches!(two, Err(ManifestError::BadField { field: "files", .. })));
}

#[test]
fn a_bomb_of_empty_files_is_refused_before_it_is_decoded() {
    let bomb: Vec<u8> = [0x52, 0x00].repeat(MAX_MANIFEST / 2);
    assert!(matches!(decode_and_validate(bomb), Err(ManifestError::TooManyFiles)));
    let large = vec![0; MAX_MANIFEST + 1];
    assert!(matches!(decode_and_validate(large), Err(ManifestError::TooLarge { .. })));
}

#[test]
fn ten_thousand_files_are_allowed_and_no_more() {
    let files = |n: usize| (0..n).map(|i| file(&format!("{i:06}"), b"x")).collect::<Vec<_>>();
    manifest(files(MAX_FILES)).seal().unwrap();
    let error = manifest(files(MAX_FILES + 1)).seal().unwrap_err();
    assert!(matches!(error, ManifestError::TooManyFiles));
}

proptest! {
    #[test]
    fn any_bytes_give_a_valid_manifest_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode_and_validate(bytes);
    }

    #[test]
    fn a_bent_manifest_is_refused_or_still_keeps_every_rule(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = honest_bytes();
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(read) = decode_and_validate(bytes.clone()) {
            prop_assert_eq!(read.bytes().as_ref(), bytes.as_slice());
            prop_assert!(read.manifest().clone().seal().is_ok());
            for file in &read.manifest().files {
                let sum: u64 = file.pieces().map(|chunk| chunk.len).sum();
                prop_assert_eq!(sum, file.size.get());
                prop_assert!(file.pieces().all(|chunk| (1..=CHUNK_SIZE).contains(&chunk.len)));
            }
        }
    }
}

/// Small, so that flips hit what matters; made once, since its content is hashed.
fn honest_bytes() -> Vec<u8> {
    let files = vec![file("a/b", b"1"), file("a/c", b"22"), file("d", b"")];
    manifest(files).seal().unwrap().bytes().to_vec()
}
