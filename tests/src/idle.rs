//! What processes cost while nothing happens, beside Prometheus's exporter of node metrics, which everybody knows. All
//! are measured over the same seconds.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use fake_nvml::{FakeGpu, FakeMemory, FakeNvml, Script};

use crate::cluster::process::{Process, binary, built};
use crate::cluster::{Cluster, PATIENCE, Setup, succeeded, wait_until};

/// The exporter, as Debian names package and program.
const EXPORTER: &str = "prometheus-node-exporter";

/// What is scraped, as Prometheus does it, on a connection that stays.
const SCRAPE: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: idle\r\n\r\n";

/// Between two scrapes, as between two samples of the agent.
const EVERY: Duration = Duration::from_secs(1);

/// One process at one time.
#[derive(Debug, Clone, Copy)]
struct Reading {
    /// Time on processors, of all its threads, in nanoseconds.
    cpu_ns: u64,
    resident: u64,
    /// Of these, memory of its own; the rest is files that it shares with whoever maps them.
    anonymous: u64,
    threads: u64,
    descriptors: u64,
}

impl Reading {
    fn of(pid: u32) -> Result<Self> {
        let root = PathBuf::from(format!("/proc/{pid}"));
        let status = fs::read_to_string(root.join("status"))?;
        let field = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let word = line.and_then(|line| line.split_whitespace().next());
            Ok(word.with_context(|| format!("{name} of {pid}"))?.parse()?)
        };
        let mut cpu_ns = 0;
        for task in fs::read_dir(root.join("task"))? {
            // A thread may end meanwhile; none of these programs ends threads that worked while it is idle.
            let times = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
            cpu_ns += times.split(' ').next().unwrap_or_default().parse().unwrap_or(0_u64);
        }
        Ok(Self {
            cpu_ns,
            resident: field("VmRSS")? << 10,
            anonymous: field("RssAnon")? << 10,
            threads: field("Threads")?,
            descriptors: u64::try_from(fs::read_dir(root.join("fd"))?.count())?,
        })
    }
}

/// What one process took.
#[derive(Debug, Clone)]
pub struct Cost {
    /// Which.
    pub name: &'static str,
    /// Highest resident memory that was seen, in bytes.
    pub resident: u64,
    /// Of the last reading, what is not shared files.
    pub anonymous: u64,
    /// Share of one core, in percent.
    pub cpu_percent: f64,
    /// Threads at the end.
    pub threads: u64,
    /// Open files at the end.
    pub descriptors: u64,
    /// Size of the program.
    pub program: u64,
}

struct Watched {
    name: &'static str,
    pid: u32,
    program: PathBuf,
    first: Reading,
    last: Reading,
    resident: u64,
}

impl Watched {
    fn new(name: &'static str, process: &Process, program: PathBuf) -> Result<Self> {
        let pid = process.id().with_context(|| format!("{name} runs"))?;
        let first = Reading::of(pid)?;
        Ok(Self { name, pid, program, first, last: first, resident: first.resident })
    }

    fn look(&mut self) -> Result<()> {
        self.last = Reading::of(self.pid).with_context(|| format!("{} ended", self.name))?;
        self.resident = self.resident.max(self.last.resident);
        Ok(())
    }

    fn cost(&self, over: Duration) -> Result<Cost> {
        let busy = Duration::from_nanos(self.last.cpu_ns.saturating_sub(self.first.cpu_ns));
        Ok(Cost {
            name: self.name,
            resident: self.resident,
            anonymous: self.last.anonymous,
            cpu_percent: busy.as_secs_f64() / over.as_secs_f64() * 100.0,
            threads: self.last.threads,
            descriptors: self.last.descriptors,
            program: fs::metadata(&self.program)?.len(),
        })
    }
}

/// Starts a controller, an agent with a GPU that is played and the machine's engine, and the exporter; waits until they
/// have settled, and measures: agent, controller, exporter.
///
/// # Errors
/// When one of them cannot be started or ends.
pub fn measure(settle: Duration, over: Duration) -> Result<[Cost; 3]> {
    let dir = tempfile::tempdir()?;
    let nvml = FakeNvml::install(dir.path(), &gpu())?;
    let library = nvml.library().display().to_string();
    let fleet = Cluster::new(&Setup {
        agent: format!("[gpu]\nnvml = {library:?}\n"),
        bare: true,
        ..Setup::default()
    })?;
    wait_until("the node reports", PATIENCE, || fleet.node().map(Some))?;
    let program = exporter()?;
    let at = free_address()?;
    let mut command = Command::new(&program);
    command.arg(format!("--web.listen-address={at}"));
    let mut exporter = Process::new("exporter", &fleet.dir, command);
    exporter.start()?;
    let scraped = Scraper::start(at)?;
    pass(settle)?;
    let mut watched = [
        Watched::new("hone-agent", &fleet.agent, binary("hone-agent")?)?,
        Watched::new("hone serve", &fleet.controller, binary("hone")?)?,
        Watched::new(EXPORTER, &exporter, program)?,
    ];
    let (begun, before) = (Instant::now(), scraped.count());
    while begun.elapsed() < over {
        pass(EVERY)?;
        for one in &mut watched {
            one.look()?;
        }
    }
    let took = begun.elapsed();
    let scrapes = scraped.count() - before;
    ensure!(scrapes > 0, "the exporter was not scraped");
    let [agent, controller, other] = watched.each_ref().map(|one| one.cost(took));
    Ok([agent?, controller?, other?])
}

/// Lets time pass: what is measured here happens by itself.
fn pass(span: Duration) -> Result<()> {
    let until = Instant::now() + span;
    wait_until("time passes", span + PATIENCE, || Ok((Instant::now() >= until).then_some(())))
}

fn gpu() -> Script {
    let gpu = FakeGpu {
        uuid: Some("GPU-1d1e0000-0000-0000-0000-000000000000".to_owned()),
        name: Some("NVIDIA Test".to_owned()),
        memory: Some(FakeMemory { total: 80 << 30, reserved: 0, used: 0, free: 80 << 30 }),
        utilisation: Some((0, 0)),
        temperature: Some(30),
        power: Some(50_000),
        compute_processes: Some(Vec::new()),
        ..FakeGpu::default()
    };
    Script { driver: Some("580.65.06".to_owned()), gpus: vec![gpu], ..Script::default() }
}

/// The program: installed, or unpacked from Debian's package beside what cargo builds. It is not installed, since its
/// package would start it for good.
fn exporter() -> Result<PathBuf> {
    let installed = PathBuf::from("/usr/bin").join(EXPORTER);
    if installed.exists() {
        return Ok(installed);
    }
    let dir = built()?.parent().context("it lies in target/")?.join("exporter");
    let program = dir.join("usr/bin").join(EXPORTER);
    if program.exists() {
        return Ok(program);
    }
    fs::create_dir_all(&dir)?;
    let run = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).current_dir(&dir).output();
        output
            .context("it cannot be run")
            .and_then(succeeded)
            .context(format!("{program} {args:?}"))
    };
    run("apt-get", &["-o", "APT::Sandbox::User=root", "download", EXPORTER])?;
    let package = package(&dir)?;
    run("dpkg-deb", &["--extract", package.to_str().context("a path in UTF-8")?, "."])?;
    Ok(program)
}

fn package(dir: &Path) -> Result<PathBuf> {
    for file in fs::read_dir(dir)? {
        let path = file?.path();
        if path.extension().is_some_and(|kind| kind == "deb") {
            return Ok(path);
        }
    }
    anyhow::bail!("apt-get downloaded no package into {}", dir.display())
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// Asks the exporter for its metrics each second, until the end of the process.
struct Scraper(Arc<AtomicU64>);

impl Scraper {
    fn start(at: SocketAddr) -> Result<Self> {
        let mut connection =
            wait_until("the exporter listens", PATIENCE, || Ok(Some(TcpStream::connect(at)?)))?;
        connection.set_read_timeout(Some(PATIENCE))?;
        let count = Arc::<AtomicU64>::default();
        let counted = Arc::clone(&count);
        std::thread::spawn(move || {
            while scrape(&mut connection).is_ok() {
                counted.fetch_add(1, Ordering::Relaxed);
                std::thread::park_timeout(EVERY);
            }
        });
        Ok(Self(count))
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One answer: the exporter sends it in chunks, of which the last is empty.
fn scrape(connection: &mut TcpStream) -> Result<()> {
    connection.write_all(SCRAPE)?;
    let mut answer = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    while !answer.ends_with(b"\r\n0\r\n\r\n") {
        let read = connection.read(&mut buffer)?;
        ensure!(read > 0, "the exporter hung up");
        answer.extend_from_slice(&buffer[..read]);
    }
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "the exporter refuses");
    Ok(())
}
