//! The rules that bind a whole manifest, beyond what single fields can say.

use std::collections::{HashMap, HashSet};

use prost::encoding::{DecodeContext, WireType, decode_key, skip_field};

use super::path::shown;
use super::{
    CHUNK_SIZE, Kind, MAX_FILES, Manifest, ManifestError, ManifestFile, bad_field, chunk_count,
};
use crate::id::Digest;

/// Field number of `Manifest.files`.
const FILES_TAG: u32 = 10;

/// Counts the files before anything is decoded: sixteen megabytes of empty files would decode into gigabytes.
pub(super) fn count_files(mut bytes: &[u8]) -> Result<(), ManifestError> {
    let mut files = 0_usize;
    while !bytes.is_empty() {
        let (tag, wire_type) = decode_key(&mut bytes).map_err(ManifestError::Undecodable)?;
        if tag == FILES_TAG && wire_type == WireType::LengthDelimited {
            files += 1;
        }
        if files > MAX_FILES {
            return Err(ManifestError::TooManyFiles);
        }
        skip_field(wire_type, tag, &mut bytes, DecodeContext::default())
            .map_err(ManifestError::Undecodable)?;
    }
    Ok(())
}

/// All rules on a decoded manifest.
pub(super) fn check(manifest: &Manifest) -> Result<(), ManifestError> {
    check_kind(manifest)?;
    if manifest.files.len() > MAX_FILES {
        return Err(ManifestError::TooManyFiles);
    }
    check_order(&manifest.files)?;
    check_names(&manifest.files)?;
    manifest.files.iter().try_for_each(check_content)?;
    check_lengths(&manifest.files)
}

fn check_kind(manifest: &Manifest) -> Result<(), ManifestError> {
    if manifest.kind.attempt().is_some_and(|a| a.job.get() == 0 || a.token.attempt.get() == 0) {
        return Err(bad_field("attempt", "it must name a job and an attempt"));
    }
    if manifest.files.is_empty() {
        return Err(bad_field("files", "there are none"));
    }
    if manifest.kind == Kind::Image && manifest.files.len() != 1 {
        return Err(bad_field("files", "an image is exactly one file"));
    }
    Ok(())
}

fn check_order(files: &[ManifestFile]) -> Result<(), ManifestError> {
    for pair in files.windows(2) {
        if pair[0].path >= pair[1].path {
            return Err(clash(
                pair[0].path.as_str(),
                pair[1].path.as_str(),
                "paths must be sorted and differ",
            ));
        }
    }
    Ok(())
}

/// No two names that some filesystem takes for one, and no file where another needs a directory.
fn check_names(files: &[ManifestFile]) -> Result<(), ManifestError> {
    let mut folded_files: HashMap<String, &str> = HashMap::with_capacity(files.len());
    let mut folded_directories: HashMap<String, &str> = HashMap::new();
    let mut known: HashSet<&str> = HashSet::new();
    let twins = "they differ only in case";
    for file in files {
        let path = file.path.as_str();
        if let Some(other) = folded_files.insert(path.to_lowercase(), path) {
            return Err(clash(other, path, twins));
        }
        for directory in file.path.directories().filter(|d| known.insert(d)) {
            if let Some(other) = folded_directories.insert(directory.to_lowercase(), directory) {
                return Err(clash(other, directory, twins));
            }
        }
    }
    for (folded, directory) in folded_directories {
        if let Some(file) = folded_files.get(&folded) {
            return Err(clash(file, directory, "one is a file and one a directory"));
        }
    }
    Ok(())
}

/// Size, digest and chunks of a file fit together as far as can be told without its content.
fn check_content(file: &ManifestFile) -> Result<(), ManifestError> {
    let bad = |why| ManifestError::BadFile { path: shown(file.path.as_str()), why };
    let size = file.size.get();
    if chunk_count(size) != file.chunks.len() as u64 {
        return Err(bad("its number of chunks does not follow from its size"));
    }
    match file.chunks.as_slice() {
        [] if file.digest != Digest::of(b"") => Err(bad("it is empty, and its digest is not")),
        [only] if *only != file.digest => Err(bad("its only chunk is not its content")),
        _ => Ok(()),
    }
}

/// One chunk has one length. Only last chunks can be shorter, so only they are looked at.
fn check_lengths(files: &[ManifestFile]) -> Result<(), ManifestError> {
    let mut short: HashMap<Digest, u64> = HashMap::new();
    let clashing = |file: &ManifestFile| ManifestError::BadFile {
        path: shown(file.path.as_str()),
        why: "one of its chunks has another length elsewhere",
    };
    for file in files {
        if let Some(last) = file.pieces().last().filter(|last| last.len < CHUNK_SIZE)
            && short.insert(last.digest, last.len).is_some_and(|len| len != last.len)
        {
            return Err(clashing(file));
        }
    }
    let full = |file: &ManifestFile| {
        file.pieces().any(|c| c.len == CHUNK_SIZE && short.contains_key(&c.digest))
    };
    files.iter().find(|file| full(file)).map_or(Ok(()), |file| Err(clashing(file)))
}

fn clash(path: &str, other: &str, why: &'static str) -> ManifestError {
    ManifestError::Clash { path: shown(path), other: shown(other), why }
}
