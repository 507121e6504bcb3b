//! A small disk of a test's own, in memory, and somebody who fills it. Needs root.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::cluster::succeeded;

/// A disk that is there until this is dropped.
#[derive(Debug)]
pub struct Disk {
    at: PathBuf,
}

impl Disk {
    /// Mounts one of this size, such as `256m`, at a folder that is made if it is missing.
    ///
    /// # Errors
    /// When it cannot be mounted.
    pub fn mount(at: &Path, size: &str) -> Result<Self> {
        std::fs::create_dir_all(at)?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "hone-test"]).arg(at);
        succeeded(mount.output()?).context("a disk in memory")?;
        Ok(Self { at: at.to_owned() })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A disk that is still in use goes when it is not.
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

/// Fills the disk of a folder to its last byte, until it is dropped.
#[derive(Debug)]
pub struct Filler(PathBuf);

impl Filler {
    /// With a file in this folder.
    ///
    /// # Errors
    /// When that cannot be made.
    pub fn fill(folder: &Path) -> Result<Self> {
        let filler = Self(folder.join("somebody-elses-file"));
        filler.again()?;
        Ok(filler)
    }

    /// Takes what has become free since.
    ///
    /// # Errors
    /// When its file cannot be opened.
    pub fn again(&self) -> Result<()> {
        let mut file = std::fs::File::options().create(true).append(true).open(&self.0)?;
        let mut piece = vec![0; 1 << 20];
        while !piece.is_empty() {
            // The last bytes in ever smaller pieces.
            if file.write_all(&piece).is_err() {
                piece.truncate(piece.len() / 2);
            }
        }
        Ok(())
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        // The test's disk goes with it in any case.
        let _ = std::fs::remove_file(&self.0);
    }
}
