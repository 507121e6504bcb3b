//! Cuts the power under the controller's durable files and looks at what is left.
//!
//! `cargo run -p hone-controller --example power_cut -- rig 20` (as root, with loop devices and `mkfs.ext4`)
//!
//! For each cut a writer runs on a fresh filesystem in an image file and acknowledges each turn in a file outside. It is
//! stopped, the image is copied, and the copy is mounted elsewhere and checked: the copy holds only what the filesystem
//! had really handed to the disk. Two controls run beside it. `append` syncs a plain file and must lose nothing, which
//! shows that the rig invents no losses; `careless` never syncs and must lose something, which shows that it finds them.

use std::fs::{self, File, OpenOptions};
use std::io::{Write as _, stderr, stdout};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use hone_controller::chunks::ChunkStore;
use hone_controller::series::{JobFiles, Lengths};
use hone_controller::store::{Batch, SledStore, Store as _};
use hone_proto::id::{Digest, ProjectName};
use hone_proto::quantity::Bytes;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

/// Size of the filesystem under test.
const IMAGE_BYTES: u64 = 512 << 20;

fn main() -> Result<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["rig", cuts] => rig(cuts.parse().context("the number of cuts")?),
        ["write", kind, dir] => match *kind {
            "store" => write_state(Path::new(dir), false),
            "controller" => write_state(Path::new(dir), true),
            kind => write_plain(Path::new(dir), kind == "append"),
        },
        ["check", kind, dir, acknowledged] => {
            let (dir, acknowledged) = (Path::new(dir), acknowledged.parse()?);
            match *kind {
                "store" => check_state(dir, acknowledged, false)?,
                "controller" => check_state(dir, acknowledged, true)?,
                _ => check_plain(dir, acknowledged)?,
            }
            Ok(ExitCode::SUCCESS)
        }
        _ => bail!("usage: power_cut rig CUTS"),
    }
}

/// Tells the rig that turn `n` is durable.
fn acknowledge(n: u64) -> Result<()> {
    writeln!(stdout(), "{n}").context("acknowledge")
}

// ---- the controller's files ----

/// Keys of each turn; all hold the turn's number, so a batch that is there in part is seen.
const WIDTH: u64 = 8;

/// Records of earlier turns that stay.
const KEPT: u64 = 5_000;

fn project() -> ProjectName {
    ProjectName::default_project()
}

/// The value of one record of one turn: most small, some in several parts.
fn value(turn: u64, record: u64) -> Vec<u8> {
    let len = match (record, turn % 16) {
        (0, 0) => 60_000,
        (1, _) => 9_000,
        (2, _) => 3_985,
        _ => 60 + record * 40,
    };
    let mut value = turn.to_le_bytes().to_vec();
    value.resize(usize::try_from(len).unwrap_or(60), record.to_le_bytes()[0]);
    value
}

fn chunk(turn: u64) -> Vec<u8> {
    turn.to_le_bytes().repeat(2_000)
}

/// Commits for ever; with `files` also what the driver writes and syncs before each commit. Alone the store must be safe
/// without their syncs, which on some filesystems push its own file out as well.
fn write_state(dir: &Path, files: bool) -> Result<ExitCode> {
    let mut store = SledStore::open(&dir.join("data"))?;
    let mut other = if files { Some(Files::open(dir)?) } else { None };
    for turn in 1.. {
        let mut batch = Batch::new();
        for record in 0..WIDTH {
            batch.put(format!("turn/{record}"), value(turn, record));
        }
        batch.put(format!("kept/{:06}", turn % KEPT), turn.to_le_bytes());
        if let Some(files) = &mut other {
            let lengths = files.turn(turn)?;
            let lengths = [lengths.series.to_le_bytes(), lengths.logs.to_le_bytes()].concat();
            batch.put("lengths", lengths);
        }
        store.commit(&batch)?;
        acknowledge(turn)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What the controller writes beside the store.
struct Files {
    job: JobFiles,
    chunks: ChunkStore,
}

impl Files {
    fn open(dir: &Path) -> Result<Self> {
        let job = JobFiles::open(&dir.join("job"), Lengths::default())?;
        Ok(Self { job, chunks: ChunkStore::open(&dir.join("chunks"), Bytes::ZERO)? })
    }

    fn turn(&mut self, turn: u64) -> Result<Lengths> {
        let object = chunk(turn);
        self.chunks.put(&project(), Digest::of(&object), &object)?;
        self.job.series.append(turn.to_string().as_bytes())?;
        self.job.logs.append(&vec![b'x'; usize::try_from(turn % 700)?])?;
        Ok(self.job.sync()?)
    }
}

fn check_state(dir: &Path, acknowledged: u64, files: bool) -> Result<()> {
    if acknowledged == 0 && !dir.join("data/instance").exists() {
        return Ok(());
    }
    let store = SledStore::open(&dir.join("data"))?;
    ensure!(store.stats().unsynced_files == 0, "the engine keeps files that it never syncs");
    let records = store.scan(b"turn/")?;
    let turn = records.first().map_or(Ok(0), |(_, value)| number(value))?;
    ensure!(turn >= acknowledged, "turn {acknowledged} was acknowledged, the state ends at {turn}");
    if turn == 0 {
        return Ok(());
    }
    for (record, (_, found)) in (0..).zip(&records) {
        ensure!(*found == value(turn, record), "record {record} is not of turn {turn}");
    }
    ensure!(records.len() as u64 == WIDTH, "turn {turn} is there in part");
    let kept = store.scan(b"kept/")?.len() as u64;
    ensure!(kept == turn.min(KEPT), "a record of an earlier turn is gone");
    if files { check_files(dir, &store, turn) } else { Ok(()) }
}

fn check_files(dir: &Path, store: &SledStore, turn: u64) -> Result<()> {
    let lengths = store.scan(b"lengths")?.pop().context("the lengths are missing")?.1;
    let (series, logs) = lengths.split_at(8);
    let lengths = Lengths { series: number(series)?, logs: number(logs)? };
    let job = dir.join("job");
    JobFiles::open(&job, lengths)?;
    let mut last = 0;
    for (expected, entry) in (1_u64..).zip(JobFiles::series_in(&job).read(0, lengths.series)?) {
        let payload = entry?.payload;
        ensure!(payload == expected.to_string().as_bytes(), "series differ at {expected}");
        last = expected;
    }
    ensure!(last == turn, "the series end at {last} of {turn}");
    let chunks = ChunkStore::open(&dir.join("chunks"), Bytes::ZERO)?;
    for turn in 1..=turn {
        chunks.get(&project(), Digest::of(&chunk(turn)))?;
    }
    Ok(())
}

fn number(bytes: &[u8]) -> Result<u64> {
    let bytes = bytes.first_chunk().context("a number is cut short")?;
    Ok(u64::from_le_bytes(*bytes))
}

// ---- the controls ----

fn write_plain(dir: &Path, synced: bool) -> Result<ExitCode> {
    let mut file = OpenOptions::new().create(true).append(true).open(dir.join("plain"))?;
    File::open(dir)?.sync_all()?;
    for turn in 1_u64.. {
        file.write_all(&turn.to_le_bytes())?;
        if synced {
            file.sync_data()?;
        }
        acknowledge(turn)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn check_plain(dir: &Path, acknowledged: u64) -> Result<()> {
    let bytes = fs::read(dir.join("plain"))?;
    let (numbers, _) = bytes.as_chunks::<8>();
    let whole = (1_u64..).zip(numbers).take_while(|(n, found)| n.to_le_bytes() == **found).count();
    ensure!(whole as u64 >= acknowledged, "{acknowledged} were acknowledged, {whole} are here");
    Ok(())
}

// ---- the rig ----

fn rig(cuts: u32) -> Result<ExitCode> {
    let scratch = tempfile::tempdir()?;
    let mut good = true;
    let kinds = [("append", false), ("careless", true), ("store", false), ("controller", false)];
    for (kind, must_lose) in kinds {
        let mut lost = 0;
        for cut in 0..cuts {
            // Spread over creation, first commits, and steady writing with the engine's own flushes in between.
            let after = Duration::from_millis(u64::from(40 + (cut % 7) * 431 + cut * 17));
            let (acknowledged, verdict) = one_cut(scratch.path(), kind, after)?;
            let verdict = verdict.unwrap_or_else(|| "whole".to_owned());
            lost += u32::from(verdict != "whole");
            let ms = after.as_millis();
            writeln!(
                stderr(),
                "{kind} {cut}: cut at {ms} ms, {acknowledged} acknowledged: {verdict}"
            )?;
        }
        good &= if must_lose { lost > 0 } else { lost == 0 };
        writeln!(stdout(), "{kind}: {lost} of {cuts} cuts lost something that was acknowledged")?;
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One cut: how many turns were acknowledged, and what was wrong afterwards.
fn one_cut(scratch: &Path, kind: &str, after: Duration) -> Result<(u64, Option<String>)> {
    let (image, copy) = (scratch.join("image"), scratch.join("copy"));
    File::create(&image)?.set_len(IMAGE_BYTES)?;
    run("mkfs.ext4", &["-q", "-F", text(&image)?])?;
    let mounted = Mount::new(&image, &scratch.join("disk"))?;
    let acks = scratch.join("acks");
    let writer = Writer(
        this()?.args(["write", kind, text(&mounted.0)?]).stdout(File::create(&acks)?).spawn()?,
    );
    std::thread::sleep(after);
    writer.stop()?;
    run("cp", &["--sparse=always", text(&image)?, text(&copy)?])?;
    let acknowledged = fs::read_to_string(&acks)?;
    let acknowledged =
        acknowledged.rsplit_terminator('\n').next().unwrap_or("0").parse().unwrap_or(0);
    drop(writer);
    drop(mounted);
    let mounted = Mount::new(&copy, &scratch.join("disk"))?;
    let check = this()?
        .args(["check", kind, text(&mounted.0)?, &acknowledged.to_string()])
        .env("RUST_BACKTRACE", "0")
        .stderr(Stdio::piped())
        .output()?;
    let why = String::from_utf8_lossy(&check.stderr).trim().to_owned();
    Ok((acknowledged, (!check.status.success()).then_some(why)))
}

/// A running writer, killed when dropped.
struct Writer(Child);

impl Writer {
    /// Stops it and waits until it stands still.
    fn stop(&self) -> Result<()> {
        let pid = Pid::from_child(&self.0);
        kill_process(pid, Signal::STOP)?;
        let (_, status) = waitpid(Some(pid), WaitOptions::UNTRACED)?.context("no such child")?;
        ensure!(status.stopped(), "the writer ended by itself");
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A mounted image, unmounted when dropped.
struct Mount(PathBuf);

impl Mount {
    fn new(image: &Path, at: &Path) -> Result<Self> {
        fs::create_dir_all(at)?;
        run("mount", &["-o", "loop", text(image)?, text(at)?])?;
        Ok(Self(at.to_owned()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

fn this() -> Result<Command> {
    Ok(Command::new(std::env::current_exe()?))
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path is not UTF-8")
}

fn run(program: &str, args: &[&str]) -> Result<()> {
    let status =
        Command::new(program).args(args).status().with_context(|| format!("run {program}"))?;
    ensure!(status.success(), "{program} failed");
    Ok(())
}
