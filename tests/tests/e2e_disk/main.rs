//! A disk that gives little is named as what holds a job back, and rows that are read into memory first do without it.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use hone_tests::cluster::{Cluster, PATIENCE, cluster, wait_until};
use hone_tests::docker::docker;
use serde_json::Value;

/// Bytes that the disk gives a second. A row that is not in memory costs some 128 KiB of reading ahead.
const GIVES: u64 = 1 << 20;
/// Rows of about 1 KiB of tokens: too many for all to have been read by the time that the job is looked at.
const ROWS: usize = 40_000;

fn spec(name: &str, preload: &str) -> String {
    format!(
        "name: {name}
model: {{path: ./model, name: test-base}}
data: {{train: {{path: ./long.jsonl, format: text}}, preload: {preload}}}
method: {{type: lora, lora: {{r: 8, alpha: 16}}}}
train:
  max_steps: 5000
  seq_len: 256
  batch: {{effective: 2, micro: 2}}
  precision: fp32
  log_every: 1
checkpoint: {{every: {{steps: 5000}}}}
resources: {{cpu: 1, memory: 2 GiB, disk: 1 GiB}}
"
    )
}

fn rows() -> String {
    let row = |number: usize| {
        let words: Vec<_> =
            (0..160).map(|word| format!("{}", (number * 31 + word * 7) % 997)).collect();
        format!("{}\n", serde_json::json!({"text": words.join(" ")}))
    };
    (0..ROWS).map(row).collect()
}

/// The whole disk that holds a file, as `major:minor`: a part of one cannot be throttled.
fn disk_of(path: &Path) -> Result<String> {
    let device = std::fs::metadata(path)?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let known = std::fs::canonicalize(format!("/sys/dev/block/{major}:{minor}"))?;
    let whole = if known.join("partition").exists() { known.parent() } else { Some(&*known) };
    Ok(std::fs::read_to_string(whole.context("a disk")?.join("dev"))?.trim().to_owned())
}

/// Lets a container read no faster from a disk, as `docker run --device-read-bps` would.
fn throttle(container: &str, disk: &str) -> Result<()> {
    let pid = docker(&["inspect", "--format", "{{.State.Pid}}", container])?;
    let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", pid.trim()))?;
    let of = |controller: &str| {
        let line = groups.lines().find(|line| line.split(':').nth(1) == Some(controller))?;
        Some(line.splitn(3, ':').nth(2)?.trim_start_matches('/').to_owned())
    };
    let root = PathBuf::from("/sys/fs/cgroup");
    let (file, rule) = match of("blkio") {
        Some(group) => (
            root.join("blkio").join(group).join("blkio.throttle.read_bps_device"),
            format!("{disk} {GIVES}"),
        ),
        None => {
            let group = of("").context("its control group")?;
            (root.join(group).join("io.max"), format!("{disk} rbps={GIVES}"))
        }
    };
    std::fs::write(&file, rule).with_context(|| file.display().to_string())
}

/// What the engine and the file system have read is forgotten: rows come from the disk again.
fn forget_what_was_read() -> Result<()> {
    rustix::fs::sync();
    Ok(std::fs::write("/proc/sys/vm/drop_caches", "1")?)
}

/// Submits a job and takes the disk from it once it trains.
fn on_a_slow_disk(fleet: &Cluster, name: &str, preload: &str) -> Result<u64> {
    let path = fleet.write_spec(name, &spec(name, preload))?;
    let job: u64 = fleet.run(&["submit", &path, "--image", &fleet.image])?.trim().parse()?;
    fleet.reach(job, 1)?;
    throttle(&fleet.container(job)?.id, &disk_of(&fleet.agent_dir())?)?;
    forget_what_was_read()?;
    Ok(job)
}

fn bottleneck(fleet: &Cluster, job: u64) -> Result<Option<String>> {
    let shown: Value =
        serde_json::from_str(&fleet.run(&["show", &job.to_string(), "-o", "json"])?)?;
    Ok(shown["bottleneck"]["resource"].as_str().map(str::to_owned))
}

/// Part of the time that went into waiting for rows, over the newest steps.
fn waited(fleet: &Cluster, job: u64) -> Result<f64> {
    let points = fleet.training(job)?;
    let newest = points.iter().rev().take(20);
    let (mut waiting, mut all) = (0.0, 0.0);
    for point in newest {
        let part = |name: &str| point.values.get(name).copied().unwrap_or_default();
        waiting += part("data_wait_s");
        all += part("data_wait_s") + part("compute_s") + part("optimizer_s");
    }
    ensure!(all > 0.0, "no step says where its time went");
    Ok(waiting / all)
}

#[test]
fn a_slow_disk_is_named_and_preloading_does_without_it() -> Result<()> {
    let fleet = cluster()?;
    std::fs::write(fleet.dir.join("work/long.jsonl"), rows())?;

    let job = on_a_slow_disk(&fleet, "slow", "none")?;
    wait_until("the disk is named", PATIENCE, || {
        Ok((bottleneck(&fleet, job)?.as_deref() == Some("disk")).then_some(()))
    })?;
    let text = fleet.run(&["show", &job.to_string()])?;
    ensure!(text.contains("data.preload: memory"), "no remedy is named:\n{text}");
    ensure!(waited(&fleet, job)? > 0.2, "it did not wait for rows");
    fleet.run(&["cancel", &job.to_string()])?;

    let job = on_a_slow_disk(&fleet, "preloaded", "memory")?;
    fleet.reach(job, 60)?;
    let named = bottleneck(&fleet, job)?;
    ensure!(named.as_deref() != Some("disk"), "the disk is still named");
    let waits = waited(&fleet, job)?;
    ensure!(waits < 0.05, "{:.0} % of the time waits for rows that are in memory", waits * 100.0);
    fleet.run(&["cancel", &job.to_string()]).map(drop)
}
