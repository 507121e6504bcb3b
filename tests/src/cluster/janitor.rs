//! Cleans up behind a test process, however it ends: a shell that waits for the end of a pipe which only the test holds.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};

use super::process::built;

/// Kills the fleet's processes (asking whether the number still belongs to one), then removes containers and files.
const SCRIPT: &str = r#"
cat >/dev/null
for file in "$1"/*.pid; do
    pid=$(cat "$file") || continue
    if tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF "$1"; then kill -9 "$pid"; fi
done
if fleet=$(cat "$1/fleet"); then
    docker ps -aq --filter "label=hone.fleet=$fleet" | xargs -r docker rm -f -v
    docker network ls -q --filter "label=hone.fleet=$fleet" | xargs -r docker network rm
fi
while read -r _ at _; do
    case $at in "$1"/*) umount -l "$at" ;; esac
done </proc/mounts
[ -n "$HONE_KEEP_FLEETS" ] || rm -rf "$1"
"#;

/// The shell, and the pipe that it waits on.
#[derive(Debug)]
pub struct Janitor {
    dir: PathBuf,
    shell: Child,
}

/// A new folder for a fleet, beside what cargo builds: a temporary folder may live in memory, and an image is large. What
/// lies below `/root` enters no container, so that a checkout there has its fleets elsewhere.
///
/// # Errors
/// When it cannot be made.
pub fn folder() -> Result<PathBuf> {
    let target = built()?.parent().context("it lies in target/")?.join("test-fleets");
    let target = match target.starts_with("/root") {
        true => PathBuf::from("/var/tmp/hone-test-fleets"),
        false => target,
    };
    std::fs::create_dir_all(&target)?;
    Ok(tempfile::Builder::new().prefix("fleet-").tempdir_in(target)?.keep())
}

impl Janitor {
    /// One for this folder.
    ///
    /// # Errors
    /// When there is no shell.
    pub fn new(dir: &Path) -> Result<Self> {
        use std::os::unix::process::CommandExt as _;
        let shell = Command::new("sh")
            .args(["-c", SCRIPT, "janitor"])
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("sh cannot be run")?;
        Ok(Self { dir: dir.to_owned(), shell })
    }

    /// From now on it also removes this fleet's containers.
    ///
    /// # Errors
    /// When that cannot be written down.
    pub fn knows_fleet(&self, fleet: &str) -> Result<()> {
        let mut file = std::fs::File::create(self.dir.join("fleet"))?;
        Ok(file.write_all(fleet.as_bytes())?)
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}
