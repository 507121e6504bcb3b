//! A process of the fleet that can be killed and started again.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};

use super::{PATIENCE, wait_until};

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
pub(crate) fn built() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let dir = program.parent().context("a program lies in a folder")?;
    // A test lies in deps/, a program of this package above it.
    let dir = if dir.ends_with("deps") { dir.parent().context("deps/ lies in one")? } else { dir };
    Ok(dir.to_owned())
}

/// A program that is started and killed as often as a test likes, and ends with its value. Its output is kept in
/// `NAME.log`.
#[derive(Debug)]
pub struct Process {
    name: &'static str,
    dir: PathBuf,
    command: Command,
    child: Option<Child>,
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself, and nobody asks any more.
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
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

    /// Makes sure that it has not ended.
    ///
    /// # Errors
    /// When it has; the message holds what it said last.
    pub fn still_runs(&mut self) -> Result<()> {
        let child = self.child.as_mut().with_context(|| format!("{} was started", self.name))?;
        if let Some(status) = child.try_wait()? {
            anyhow::bail!("{} ended: {status}: {}", self.name, self.said()?);
        }
        Ok(())
    }

    /// Everything that it said so far.
    ///
    /// # Errors
    /// When that cannot be read.
    pub fn said(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.dir.join(format!("{}.log", self.name)))?)
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

    /// SIGTERM, and waits for its end: it says and saves what it has to.
    ///
    /// # Errors
    /// When it does not end by itself, or not well.
    pub fn terminate(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let ended = wait_until(&format!("{} ends", self.name), PATIENCE, || Ok(child.try_wait()?));
        if ended.is_err() {
            child.kill()?;
        }
        let status = ended?;
        anyhow::ensure!(status.success(), "{} ended with {status}", self.name);
        Ok(())
    }

    /// Sets or removes a variable for the next start. True when it was otherwise.
    pub fn set_env(&mut self, name: &str, value: Option<&str>) -> bool {
        let set = self.command.get_envs().find(|(known, _)| *known == name);
        let before = set.and_then(|(_, value)| value);
        if before == value.map(OsStr::new) {
            return false;
        }
        match value {
            Some(value) => self.command.env(name, value),
            None => self.command.env_remove(name),
        };
        true
    }

    /// Its number while it runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Names of its threads.
    ///
    /// # Errors
    /// When it does not run.
    pub fn threads(&self) -> Result<Vec<String>> {
        let id = self.id().with_context(|| format!("{} runs", self.name))?;
        let mut names = Vec::new();
        for task in std::fs::read_dir(format!("/proc/{id}/task"))? {
            // One may end meanwhile.
            let name = std::fs::read_to_string(task?.path().join("comm")).unwrap_or_default();
            names.push(name.trim_end().to_owned());
        }
        Ok(names)
    }
}
