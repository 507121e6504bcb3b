//! A process of the fleet that can be killed and started again.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};

/// Where a binary of the product lies: in `$HONE_BIN_DIR`, else beside the test's own.
///
/// # Errors
/// When it has not been built.
pub fn binary(name: &str) -> Result<PathBuf> {
    let dir = match std::env::var_os("HONE_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => built()?,
    };
    let path = dir.join(name);
    let absolute = path.canonicalize();
    absolute.with_context(|| format!("{} is not built: cargo build", path.display()))
}

/// `target/debug` or `target/release`.
pub(super) fn built() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let dir = test.parent().and_then(Path::parent).context("a test lies in deps/")?;
    Ok(dir.to_owned())
}

/// A program that is started and killed as often as a test likes. Its output is kept in `NAME.log`.
#[derive(Debug)]
pub struct Process {
    name: &'static str,
    dir: PathBuf,
    command: Command,
    child: Option<Child>,
}

impl Process {
    /// Not started yet.
    #[must_use]
    pub fn new(name: &'static str, dir: &Path, command: Command) -> Self {
        Self { name, dir: dir.to_owned(), command, child: None }
    }

    /// Starts it unless it runs.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&mut self) -> Result<()> {
        if let Some(child) = &mut self.child
            && child.try_wait()?.is_none()
        {
            return Ok(());
        }
        let path = self.dir.join(format!("{}.log", self.name));
        let log = File::options().create(true).append(true).open(&path)?;
        self.command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let child = self.command.spawn().with_context(|| format!("cannot start {}", self.name))?;
        std::fs::write(self.dir.join(format!("{}.pid", self.name)), child.id().to_string())?;
        self.child = Some(child);
        Ok(())
    }

    /// SIGKILL: it does not get to say or save anything.
    ///
    /// # Errors
    /// When it had ended by itself.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().with_context(|| format!("{} runs", self.name))?;
        if let Some(status) = child.try_wait()? {
            anyhow::bail!("{} had ended by itself: {status}", self.name);
        }
        child.kill()?;
        child.wait()?;
        Ok(())
    }
}
