//! A real fleet for tests: controller and agent as processes of their own, a link between them that can be cut and
//! slowed, a small model and a task, and the trainer's real image.
//!
//! The cases of one test binary share one fleet, one after another: the image is brought to it once. Whatever happens
//! to the test process, its [`janitor`] removes processes, containers and files.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use hone_proto::telemetry::OTLP_ENDPOINT;

pub mod janitor;
pub mod job;
pub mod material;
pub mod process;
pub mod proxy;
pub mod second;
mod view;

use janitor::Janitor;
use process::{Process, binary};
use proxy::Proxy;
use view::View;

use crate::disk::Disk;

/// How long anything may take that is over in seconds on a quiet machine.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// How long a whole job may take.
pub const JOB_PATIENCE: Duration = Duration::from_secs(300);
/// Where the agent keeps its state, below the fleet's folder.
const AGENT: &str = "agent";
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// Looks until there is something, or `patience` is over. A look that fails counts as nothing there yet.
///
/// # Errors
/// When time is over; the message holds the last failure.
pub fn wait_until<T>(
    what: &str,
    patience: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let started = Instant::now();
    let mut last = None;
    while started.elapsed() < patience {
        match look() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => {}
            Err(error) => last = Some(error),
        }
        std::thread::sleep(LOOK);
    }
    match last {
        Some(error) => Err(error.context(format!("{what}: not within {patience:?}"))),
        None => bail!("{what}: not within {patience:?}"),
    }
}

/// A controller, an agent on this machine, and an operator.
pub struct Cluster {
    /// The fleet's folder.
    pub dir: PathBuf,
    /// `hone serve`.
    pub controller: Process,
    /// `hone-agent run`.
    pub agent: Process,
    /// The agent's way to the controller.
    pub link: Proxy,
    /// The tag of the trainer's image.
    pub image: String,
    fleet: String,
    ports: u16,
    view: View,
    _disk: Option<Disk>,
    _janitor: Janitor,
}

/// The fleet of this test binary, for one test at a time. Its link is whole and both processes run.
///
/// # Errors
/// When it cannot be made.
pub fn cluster() -> Result<MutexGuard<'static, Cluster>> {
    static SHARED: OnceLock<Result<Mutex<Cluster>, String>> = OnceLock::new();
    let made = SHARED.get_or_init(|| {
        let made = Cluster::new(&Setup::default());
        made.map(Mutex::new).map_err(|error| format!("{error:#}"))
    });
    let shared = match made {
        Ok(shared) => shared,
        Err(error) => bail!("there is no fleet: {error}"),
    };
    // A test that failed leaves a fleet that the next one puts in order.
    let mut cluster = shared.lock().unwrap_or_else(PoisonError::into_inner);
    cluster.put_in_order()?;
    Ok(cluster)
}

/// How a fleet differs from the usual one.
#[derive(Debug, Default)]
pub struct Setup {
    /// Settings of the controller, as TOML.
    pub controller: String,
    /// Settings of the agent, as TOML.
    pub agent: String,
    /// The size of a disk of the agent's own, such as `512m`, which needs root; empty is the disk of the fleet.
    pub agent_disk: String,
    /// Nothing can be trained: there is no image, no model and no task.
    pub bare: bool,
}

impl Cluster {
    /// A fleet of its own.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(setup: &Setup) -> Result<Self> {
        let dir = janitor::folder()?;
        let janitor = Janitor::new(&dir)?;
        let work = dir.join("work");
        let image = if setup.bare {
            std::fs::create_dir_all(&work)?;
            String::new()
        } else {
            material::prepare(&work)?
        };
        let ports = proxy::three_free_ports()?;
        std::fs::write(dir.join("controller.toml"), &setup.controller)?;
        std::fs::write(dir.join("agent.toml"), &setup.agent)?;
        let port = ports.to_string();
        let data = dir.join("controller");
        hone(&dir, &dir.join("config"))
            .args(["init", "--address", "127.0.0.1", "--name", "test", "--port", &port, "--dir"])
            .arg(&data)
            .output()
            .context("hone cannot be run")
            .and_then(succeeded)?;
        let mut controller = hone(&dir, &dir.join("config"));
        controller.args(["serve", "--listen", "127.0.0.1", "--config"]);
        controller.arg(dir.join("controller.toml")).arg("--dir").arg(&data);
        let mut controller = Process::new("controller", &dir, controller);
        controller.start()?;
        let view = View::new(&dir.join("config/contexts/test"))?;
        let link = Proxy::new(ports)?;
        let fleet = wait_until("the controller answers", PATIENCE, || view.fleet().map(Some))?;
        janitor.knows_fleet(&fleet)?;
        let disk = (!setup.agent_disk.is_empty())
            .then(|| Disk::mount(&dir.join(AGENT), &setup.agent_disk))
            .transpose()?;
        let agent = Process::new("agent", &dir, agent_command(&dir, AGENT)?);
        let mut made = Self {
            dir,
            controller,
            agent,
            link,
            image,
            fleet,
            ports,
            view,
            _disk: disk,
            _janitor: janitor,
        };
        made.join(AGENT, &made.link)?;
        made.agent.start()?;
        Ok(made)
    }

    fn token_reply(&self) -> Result<serde_json::Value> {
        let reply = self.run(&["node", "token", "-o", "json"])?;
        serde_json::from_str(&reply).context("a token as JSON")
    }

    /// A token that another node could join with.
    ///
    /// # Errors
    /// When it is refused.
    pub fn token(&self) -> Result<String> {
        Ok(self.token_reply()?["token"].as_str().context("the reply's token")?.to_owned())
    }

    /// Enrols an agent through a link that can be cut.
    fn join(&self, state: &str, link: &Proxy) -> Result<()> {
        let reply = self.token_reply()?;
        let word = |key: &str| reply[key].as_str().with_context(|| format!("the reply's {key}"));
        let controller = format!("127.0.0.1:{}", link.ports + 2);
        let mut joining = Command::new(binary("hone-agent")?)
            .arg("join")
            .arg("--state-dir")
            .arg(self.dir.join(state))
            .args(["--controller", &controller, "--fingerprint", word("root_fingerprint")?])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        joining.stdin.take().context("a pipe")?.write_all(word("token")?.as_bytes())?;
        succeeded(joining.wait_with_output()?).map(drop)
    }

    /// What every test may count on.
    fn put_in_order(&mut self) -> Result<()> {
        self.link.mend();
        self.link.at_full_speed();
        self.trace_to(None)?;
        self.link.release();
        self.controller.start()?;
        self.agent.start()?;
        let view = &self.view;
        wait_until("the node is ready and idle", PATIENCE, || {
            let nodes = view.nodes()?;
            Ok(nodes.iter().any(|node| node.state == "ready" && node.jobs.is_empty()).then_some(()))
        })
    }

    /// From now on controller and agent send their spans there, or nowhere. Both are started again for it: what they
    /// had to say until then has been sent.
    ///
    /// # Errors
    /// When they do not end or start.
    pub fn trace_to(&mut self, collector: Option<&str>) -> Result<()> {
        for process in [&mut self.agent, &mut self.controller] {
            if process.set_env(OTLP_ENDPOINT, collector) {
                process.terminate()?;
            }
        }
        self.controller.start()?;
        self.agent.start()
    }

    /// Where the agent keeps its state.
    #[must_use]
    pub fn agent_dir(&self) -> PathBuf {
        self.dir.join(AGENT)
    }

    /// The id of the node that takes jobs.
    ///
    /// # Errors
    /// When there is none.
    pub fn node(&self) -> Result<String> {
        let nodes = self.view.nodes()?;
        let first = nodes.iter().find(|node| node.state == "ready");
        Ok(first.context("a node that is ready")?.id.clone())
    }

    /// The fleet's id.
    #[must_use]
    pub fn fleet(&self) -> &str {
        &self.fleet
    }

    /// The `hone` command of the fleet's admin.
    #[must_use]
    pub fn hone(&self) -> Command {
        hone(&self.dir, &self.dir.join("config"))
    }

    /// The `hone` command of the same admin, whose way to the controller is `through`.
    ///
    /// # Errors
    /// When the context cannot be written.
    pub fn hone_through(&self, through: &Proxy) -> Result<Command> {
        let config = self.dir.join(format!("config-{}", through.ports));
        let (from, to) = (self.dir.join("config/contexts/test"), config.join("contexts/test"));
        std::fs::create_dir_all(&to)?;
        for file in std::fs::read_dir(&from)? {
            let file = file?;
            std::fs::copy(file.path(), to.join(file.file_name()))?;
        }
        let mut record = std::fs::read_to_string(to.join("identity.toml"))?;
        for plane in 0..3 {
            let (port, other) = (self.ports + plane, through.ports + plane);
            record = record.replace(&format!("port = {port}\n"), &format!("port = {other}\n"));
        }
        std::fs::write(to.join("identity.toml"), record)?;
        std::fs::copy(self.dir.join("config/current"), config.join("current"))?;
        // The image is known to be there; that is remembered by address.
        let known = std::fs::read_to_string(self.dir.join("config/images.json"));
        if let Ok(known) = known {
            let (here, there) = (format!(":{} ", self.ports), format!(":{} ", through.ports));
            std::fs::write(config.join("images.json"), known.replace(&here, &there))?;
        }
        Ok(hone(&self.dir, &config))
    }

    /// Another way to the controller that can be cut.
    ///
    /// # Errors
    /// When there are no ports.
    pub fn another_way(&self) -> Result<Proxy> {
        Proxy::new(self.ports)
    }

    /// Runs `hone` and returns its standard output.
    ///
    /// # Errors
    /// When it fails; the message holds what it said.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        let output = self.hone().args(args).output().context("hone cannot be run")?;
        succeeded(output).with_context(|| format!("hone {}", args.join(" ")))
    }
}

/// `hone-agent run` with the state in this folder of the fleet's.
fn agent_command(dir: &Path, state: &str) -> Result<Command> {
    let mut agent = Command::new(binary("hone-agent")?);
    agent.env_remove(OTLP_ENDPOINT);
    agent.args(["run", "--config"]).arg(dir.join("agent.toml"));
    agent.arg("--state-dir").arg(dir.join(state));
    Ok(agent)
}

/// A `hone` command that works in the fleet's folder with this configuration, and nothing of the tester's own.
pub(crate) fn hone(dir: &Path, config: &Path) -> Command {
    let mut command = Command::new(binary("hone").unwrap_or_else(|_| PathBuf::from("hone")));
    for variable in ["HONE_CONTEXT", "HONE_LOG", OTLP_ENDPOINT] {
        command.env_remove(variable);
    }
    command.env("HONE_CONFIG_DIR", config).current_dir(dir).stdin(Stdio::null());
    command
}

/// Standard output of a command that went well.
///
/// # Errors
/// When it did not; the message holds what it said.
pub fn succeeded(output: Output) -> Result<String> {
    let talk = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {}", output.status, talk.trim());
    Ok(String::from_utf8(output.stdout)?)
}
