//! How fast bulk data moves, beside a plain TCP copy of the same file.
//!
//! `cargo run --release -p hone-controller --example bulk_throughput -- [MIB] [ROUNDS]`
//!
//! Everything is the product's own: mutual TLS, the bulk port's HTTP/2 settings, the chunk store, the client. Client and
//! server share one process and one loopback. The rival, an unprotected TCP copy, reads the same file, sends it, writes
//! it beside the chunks and syncs it once: no encryption, no digests, no resuming. Each figure is the best of the rounds;
//! the file is in the page cache, the directory is the system's temporary one (`TMPDIR` chooses the disk).

use std::fs::{self, File};
use std::io::{self, Write as _, stdout};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use hone_controller::api::bulk::{CommitCall, Fleet, Limits, Service};
use hone_controller::chunks::ChunkStore;
use hone_controller::core::Subject;
use hone_controller::identity::Authority;
use hone_proto::bulk::source::{Source, Trust};
use hone_proto::bulk::{Client, Retry, Scope, Silent};
use hone_proto::error::Refusal;
use hone_proto::id::{Digest, ProjectName};
use hone_proto::identity::tls::Admission;
use hone_proto::identity::{
    AcceptLimits, ClientIdentity, Connector, ControllerAddress, Peer, Plane, incoming,
    server_builder,
};
use hone_proto::manifest::{Kind, Manifest};
use hone_proto::quantity::Bytes;
use hone_proto::time::WallNanos;

/// Says yes to everything: what the fleet would decide is not what is measured.
struct Willing;

impl Fleet for Willing {
    async fn authorise_scope(&self, _: &Peer, _: &Scope) -> Result<ProjectName, Refusal> {
        Ok(ProjectName::default_project())
    }
    async fn commit(&self, _: CommitCall) -> Result<(), Refusal> {
        Ok(())
    }
    async fn readable(
        &self,
        _: &Peer,
        _: &Scope,
        _: &ProjectName,
        _: Digest,
    ) -> Result<(), Refusal> {
        Ok(())
    }
}

/// What a step took: by the wall, and of all processors. Steps are compared by the first, machines by the second.
#[derive(Debug, Clone, Copy)]
struct Took {
    wall: Duration,
    cpu: Duration,
}

/// Measures from its making.
struct Watch {
    wall: Instant,
    cpu: Duration,
}

impl Watch {
    fn start() -> Self {
        Self { wall: Instant::now(), cpu: cpu_time() }
    }

    fn stop(self) -> Took {
        Took { wall: self.wall.elapsed(), cpu: cpu_time().saturating_sub(self.cpu) }
    }
}

/// Of the whole process: client and server together.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

impl Took {
    fn best(self, other: Self) -> Self {
        if self.wall <= other.wall { self } else { other }
    }
}

#[derive(Debug, Clone, Copy)]
struct Figures {
    survey: Took,
    upload: Took,
    again: Took,
    download: Took,
    plain: Took,
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let mib: u64 = args.next().map_or(Ok(512), |arg| arg.parse()).context("the size in MiB")?;
    let rounds: usize = args.next().map_or(Ok(3), |arg| arg.parse()).context("the rounds")?;
    let dir = tempfile::tempdir().context("a temporary directory")?;
    let source = dir.path().join("source");
    fs::create_dir(&source)?;
    write_noise(&source.join("weights"), mib)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let mut best: Option<Figures> = None;
    for round in 0..rounds.max(1) {
        let here = dir.path().join(format!("round-{round}"));
        fs::create_dir(&here)?;
        let plain = plain_copy(&source.join("weights"), &here.join("plain"))?;
        let figures = runtime.block_on(measure(&source, &here, plain))?;
        fs::remove_dir_all(&here)?;
        best = Some(best.map_or(figures, |best| best.best(figures)));
    }
    best.map_or(Ok(()), |best| best.print(mib))
}

impl Figures {
    fn best(self, other: Self) -> Self {
        Self {
            survey: self.survey.best(other.survey),
            upload: self.upload.best(other.upload),
            again: self.again.best(other.again),
            download: self.download.best(other.download),
            plain: self.plain.best(other.plain),
        }
    }

    fn print(self, mib: u64) -> Result<()> {
        let rows = [
            ("plain TCP copy, synced", self.plain),
            ("survey (read, hash)", self.survey),
            ("upload", self.upload),
            ("upload again, nothing missing", self.again),
            ("download, verified, synced", self.download),
        ];
        let mut out = stdout().lock();
        let title = format!("{mib} MiB");
        writeln!(out, "{title:30}  seconds     MiB/s  of plain   CPU s")?;
        for (what, took) in rows {
            let (seconds, cpu) = (took.wall.as_secs_f64(), took.cpu.as_secs_f64());
            let rate = f64::from(u32::try_from(mib)?) / seconds;
            let ratio = self.plain.wall.as_secs_f64() / seconds;
            writeln!(out, "{what:30} {seconds:8.3} {rate:9.0} {ratio:9.2} {cpu:7.2}")?;
        }
        Ok(())
    }
}

/// A file that no disk compresses and no two chunks of which are alike.
fn write_noise(path: &Path, mib: u64) -> Result<()> {
    let mut file = File::create(path)?;
    let mut noise = blake3::Hasher::new().finalize_xof();
    let mut buffer = vec![0; 1 << 20];
    for _ in 0..mib {
        noise.fill(&mut buffer);
        file.write_all(&buffer)?;
    }
    Ok(file.sync_all()?)
}

fn plain_copy(from: &Path, to: &Path) -> Result<Took> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let (from, to) = (from.to_owned(), to.to_owned());
    let watch = Watch::start();
    let sending = std::thread::spawn(move || -> io::Result<()> {
        let mut file = File::open(from)?;
        copy(&mut file, &mut TcpStream::connect(address)?)
    });
    let mut file = File::create(to)?;
    copy(&mut listener.accept()?.0, &mut file)?;
    file.sync_all()?;
    sending.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
    Ok(watch.stop())
}

/// With a buffer as large as a frame. `io::copy` would let the kernel splice, which no encrypted path can.
fn copy(from: &mut impl io::Read, to: &mut impl io::Write) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            len => to.write_all(&buffer[..len])?,
        }
    }
}

async fn measure(source: &Path, here: &Path, plain: Took) -> Result<Figures> {
    let client = serve(here).await?;
    let watch = Watch::start();
    let opened = Arc::new(Source::open(source, Trust::Owner)?);
    let surveyed = Arc::clone(&opened);
    let files = tokio::task::spawn_blocking(move || surveyed.survey(|_| true, |_| ())).await??;
    let survey = watch.stop();
    let project = ProjectName::default_project();
    let manifest = Manifest { kind: Kind::Input, project, spec: None, base_model: None, files };
    let manifest = manifest.seal()?;
    let watch = Watch::start();
    let digest = client.upload(&manifest, &opened, &Silent).await?;
    let upload = watch.stop();
    let watch = Watch::start();
    client.upload(&manifest, &opened, &Silent).await?;
    let again = watch.stop();
    let watch = Watch::start();
    client.download(digest, &here.join("back"), &Silent).await?;
    let download = watch.stop();
    Ok(Figures { survey, upload, again, download, plain })
}

/// A fleet of one user, served as `hone serve` does.
async fn serve(here: &Path) -> Result<Client> {
    let now = WallNanos::new(u64::try_from(
        std::time::UNIX_EPOCH.elapsed().context("the clock")?.as_nanos(),
    )?);
    let day = Duration::from_secs(86_400);
    let authority = Authority::create(&here.join("ca"), "bench".parse()?, now)?;
    let tls = authority.controller_credentials(day, now)?.server_config(Admission::later())?;
    let user = Subject::User("ada".parse()?);
    let identity = ClientIdentity::new(&authority.local_credentials(&user, day, now)?)?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let store: PathBuf = here.join("chunks");
    let chunks = Arc::new(ChunkStore::open(&store, Bytes::ZERO)?);
    let service = Service::new(chunks, Arc::new(Willing), Limits::default()).into_server();
    let tls = tokio::sync::watch::channel(tls).1;
    let serving = server_builder(Plane::Bulk).add_service(service).serve_with_incoming(incoming(
        listener,
        tls,
        AcceptLimits::default(),
    ));
    tokio::spawn(serving);
    let mut address = ControllerAddress::consecutive("127.0.0.1", port);
    address.bulk_port = port;
    let channel = Connector::fixed(identity).channel(&address, Plane::Bulk)?;
    let scope = Scope::Project(ProjectName::default_project());
    Ok(Client::new(channel, scope, Retry::tries(3)))
}
