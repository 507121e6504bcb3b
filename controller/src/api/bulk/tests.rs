//! Both sides of the bulk plane against each other: what is cut off goes on, what is false is refused.

mod downloads;
mod refusals;
mod uploads;
mod world;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use hone_proto::bulk::source::{Source, Trust};
use hone_proto::bulk::{CHUNK, Client, Silent};
use hone_proto::id::{Digest, Step};
use hone_proto::manifest::{Kind, Manifest, ManifestFile, Sealed};

use world::{World, attempt, project};

/// Bytes that repeat nowhere within a chunk's reach, another sequence for each seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A folder with a bit of everything: six distinct chunks, nine pieces.
fn write_tree(root: &Path) {
    fs::create_dir_all(root.join("deep/er")).unwrap();
    fs::write(root.join("weights"), noise(1, 3 * CHUNK + 5)).unwrap();
    fs::write(root.join("deep/copy"), noise(1, 2 * CHUNK)).unwrap();
    fs::write(root.join("deep/er/small"), noise(2, 100)).unwrap();
    fs::write(root.join("deep/er/run.sh"), "#!/bin/sh\n").unwrap();
    fs::write(root.join("deep/same"), noise(2, 100)).unwrap();
    fs::write(root.join("empty"), "").unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    let executable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(root.join("deep/er/run.sh"), executable).unwrap();
}

const TREE_CHUNKS: usize = 6;

fn survey(root: &Path, kind: Kind) -> (Sealed, Arc<Source>) {
    let source = Source::open(root, Trust::Owner).unwrap();
    let files = source.survey(|_| true, |_| ()).unwrap();
    (seal(kind, files), Arc::new(source))
}

fn seal(kind: Kind, files: Vec<ManifestFile>) -> Sealed {
    let project = project("a");
    Manifest { kind, project, spec: None, base_model: None, files }.seal().unwrap()
}

const fn checkpoint(step: u64) -> Kind {
    Kind::Checkpoint { attempt: attempt(), step: Step::new(step) }
}

/// The tree in the world's folder, uploaded as an input by `ada`.
async fn uploaded_tree(world: &World, client: &Client) -> Digest {
    let root = world.dir.path().join("tree");
    write_tree(&root);
    let (manifest, source) = survey(&root, Kind::Input);
    client.upload(&manifest, &source, &Silent).await.unwrap()
}

/// Paths, contents and executable bits beneath a folder.
fn contents(root: &Path) -> Vec<(String, bool, Vec<u8>)> {
    let source = Source::open(root, Trust::Container).unwrap();
    let files = source.survey(|_| true, |_| ()).unwrap();
    let read = |file: ManifestFile| {
        let path = file.path.to_string();
        let bytes = fs::read(root.join(&path)).unwrap();
        (path, file.executable, bytes)
    };
    files.into_iter().map(read).collect()
}
