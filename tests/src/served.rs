//! A controller as people run it: `hone init`, then `hone serve` as a process on three ports. No agent and no engine.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hone_controller::identity::Lifetimes;
use hone_proto::identity::IdentityDir;
use hone_proto::wire;

use crate::cluster::janitor::{self, Janitor};
use crate::cluster::process::Process;
use crate::cluster::{PATIENCE, hone, proxy, succeeded, wait_until};
use crate::disk::Disk;
use crate::identities::Identities;
use crate::reach::{ADMIN, Reach};

/// A controller of its own, in a folder of its own. Ends when dropped.
pub struct Served {
    /// Where it is, and for whom.
    pub reach: Reach,
    /// Its data folder.
    pub data: PathBuf,
    /// `hone serve`.
    pub process: Process,
    dir: PathBuf,
    _disk: Option<Disk>,
    _janitor: Janitor,
}

impl Served {
    /// With these settings.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(settings: &str) -> Result<Self> {
        Self::set_up(settings, None)
    }

    /// With these settings, on a disk of this size, which needs root.
    ///
    /// # Errors
    /// When there is no such disk, or it does not come up.
    pub fn on_a_disk(settings: &str, size: &str) -> Result<Self> {
        Self::set_up(settings, Some(size))
    }

    fn set_up(settings: &str, disk: Option<&str>) -> Result<Self> {
        let dir = janitor::folder()?;
        let janitor = Janitor::new(&dir)?;
        let disk_at = dir.join("disk");
        std::fs::create_dir(&disk_at)?;
        let disk = disk.map(|size| Disk::mount(&disk_at, size)).transpose()?;
        let (data, config) = (disk_at.join("controller"), dir.join("config"));
        std::fs::write(dir.join("controller.toml"), settings)?;
        let port = proxy::three_free_ports()?.to_string();
        let mut init = hone(&dir, &config);
        init.args(["init", "--address", "127.0.0.1", "--name", "test", "--user", ADMIN]);
        init.args(["--port", &port, "--dir"]).arg(&data);
        succeeded(init.output()?)?;
        let mut serve = hone(&dir, &config);
        serve.args(["serve", "--listen", "127.0.0.1", "--config"]);
        serve.arg(dir.join("controller.toml")).arg("--dir").arg(&data);
        let (admin, record) = IdentityDir::new(config.join("contexts/test")).load()?;
        let identities = Identities::around(&data.join("authority"), Lifetimes::default())?;
        let mut made = Self {
            reach: Reach { identities, address: record.controller, admin },
            data,
            process: Process::new("controller", &dir, serve),
            _disk: disk,
            dir,
            _janitor: janitor,
        };
        made.start_again()?;
        Ok(made)
    }

    /// Starts it unless it runs, and waits until it answers.
    ///
    /// # Errors
    /// When it does not.
    pub fn start_again(&mut self) -> Result<()> {
        self.process.start()?;
        wait_until("the controller answers", PATIENCE, || {
            self.process.still_runs()?;
            let answer = self.hone(&["ps"])?;
            Ok(answer.status.success().then_some(()))
        })
    }

    /// Its folder, for files of the test's own.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Runs the admin's `hone`.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn hone(&self, args: &[&str]) -> Result<Output> {
        let mut command = hone(&self.dir, &self.dir.join("config"));
        command.args(args).output().context("hone cannot be run")
    }

    /// Runs the admin's `hone`, and returns its standard output.
    ///
    /// # Errors
    /// When it fails; the message holds what it said.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        succeeded(self.hone(args)?).with_context(|| format!("hone {}", args.join(" ")))
    }

    /// Runs the admin's `hone`, which must be refused with this exit code; returns what it said.
    ///
    /// # Errors
    /// When it succeeds, or is refused in another way.
    pub fn refused(&self, args: &[&str], code: i32) -> Result<String> {
        let output = self.hone(args)?;
        let talk = String::from_utf8_lossy(&output.stderr).into_owned();
        let what = args.join(" ");
        ensure!(output.status.code() == Some(code), "hone {what}: {}: {talk}", output.status);
        Ok(talk)
    }

    /// What it says of itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn who_am_i(&self) -> Result<wire::WhoAmIReply> {
        let mut admin = self.reach.operator(&self.reach.admin)?;
        let asking = admin.who_am_i(wire::WhoAmIRequest {});
        Ok(tokio::time::timeout(Duration::from_secs(30), asking).await??.into_inner())
    }

    /// Submits a job that nothing but its promise is real of: one small input, an image in a registry.
    ///
    /// # Errors
    /// When it is refused.
    pub fn submit(&self, name: &str) -> Result<u64> {
        Ok(self.run(&self.submission(name)?.each_ref().map(String::as_str))?.trim().parse()?)
    }

    /// The arguments of such a submit; what it names lies in the test's folder.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn submission(&self, name: &str) -> Result<[String; 4]> {
        let work = self.dir.join("work");
        std::fs::create_dir_all(work.join("model"))?;
        std::fs::write(work.join("model/config.json"), format!("{{\"model_type\": \"{name}\"}}"))?;
        std::fs::write(work.join("task.jsonl"), "{\"messages\": []}\n")?;
        let path = work.join(format!("{name}.yaml"));
        std::fs::write(&path, crate::cluster::job::spec(name, 1))?;
        let path = path.to_str().context("a path in UTF-8")?.to_owned();
        Ok(["submit".to_owned(), path, "--image".to_owned(), crate::jobs::image()])
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
    }
}
