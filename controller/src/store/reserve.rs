//! Room kept on the disk in a file of its own, and given back when the disk is full: the engine cannot even be opened
//! without room to write.

use std::fs::{self, File};
use std::path::Path;

use tracing::warn;

use super::generation::Layout;
use super::{StoreError, io_at};
use crate::durable;

/// A few commits of the largest size, and the engine's start.
const RESERVE_BYTES: u64 = 32 * 1024 * 1024;

/// Free bytes on the disk of the store.
pub(super) fn free(layout: &Layout) -> Result<u64, StoreError> {
    durable::free_bytes(layout.data()).map_err(io_at("measure", layout.data()))
}

/// Removes the reserve, if it is there.
pub(super) fn give_back(layout: &Layout) -> Result<(), StoreError> {
    let path = layout.reserve();
    if path.is_file() {
        warn!(path = %path.display(), "the disk is nearly full: the reserve is given back");
        fs::remove_file(&path).map_err(io_at("remove", &path))?;
    }
    Ok(())
}

/// Sets the reserve aside when there is ample room; says whether it is there. Without it the store works; it only loses
/// this margin.
pub(super) fn keep(layout: &Layout) -> bool {
    let path = layout.reserve();
    if path.is_file() {
        return true;
    }
    if durable::free_bytes(layout.data()).is_ok_and(|free| free <= 4 * RESERVE_BYTES) {
        return false;
    }
    if let Err(error) = allocate(&path) {
        warn!(%error, path = %path.display(), "no reserve could be set aside");
        // An empty one would be taken for one that holds something.
        let _ = fs::remove_file(&path);
        return false;
    }
    true
}

fn allocate(path: &Path) -> std::io::Result<()> {
    let file = File::create(path)?;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, RESERVE_BYTES)?;
    file.sync_all()
}
