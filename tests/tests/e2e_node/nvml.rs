//! A script of values through the fake NVML: each one is found unchanged at the controller, live, and ten seconds of
//! them as minimum, mean and maximum, which outlive the controller.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fake_nvml::FakeNvml;
use hone_tests::cluster::{Cluster, PATIENCE, Setup, wait_until};
use serde_json::Value;

use super::script::{STEPS, expected, script};

/// Figures of a rollup, and where a live sample holds them.
const FIGURES: [(&str, &str); 9] = [
    ("memory_used_bytes", "memory_used_bytes"),
    ("memory_free_bytes", "memory_free_bytes"),
    ("utilisation_percent", "utilisation_percent"),
    ("memory_utilisation_percent", "memory_utilisation_percent"),
    ("temperature_celsius", "temperature_celsius"),
    ("power_milliwatts", "power_mw"),
    ("power_limit_milliwatts", "power_limit_mw"),
    ("sm_clock_megahertz", "sm_clock_mhz"),
    ("memory_clock_megahertz", "memory_clock_mhz"),
];

/// `hone node samples -f`, and what it has printed.
struct Follower {
    child: Child,
    seen: Arc<Mutex<Vec<Value>>>,
}

impl Follower {
    fn start(fleet: &Cluster, node: &str) -> Result<Self> {
        let mut command = fleet.hone();
        command.args(["node", "samples", node, "--follow", "-o", "json"]);
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let out = BufReader::new(child.stdout.take().context("a pipe")?);
        let seen = Arc::<Mutex<Vec<Value>>>::default();
        let to = Arc::clone(&seen);
        std::thread::spawn(move || {
            let values = out.lines().map_while(Result::ok);
            for value in values.filter_map(|line| serde_json::from_str(&line).ok()) {
                to.lock().unwrap_or_else(PoisonError::into_inner).push(value);
            }
        });
        Ok(Self { child, seen })
    }

    fn all(&self, kind: &str) -> Vec<Value> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().filter_map(|update| update.get(kind)).cloned().collect()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A fleet of one node, whose GPUs are played and whose engine is absent. Its heartbeats are quicker than its samples,
/// so that none of these is overtaken.
fn fleet(nvml: &FakeNvml) -> Result<Cluster> {
    let library = nvml.library().display();
    Cluster::new(&Setup {
        controller: "[timing]\nheartbeat_ms = 200\n".to_owned(),
        agent: format!("[gpu]\nnvml = {:?}\n[engine]\nsocket = \"/absent\"\n", library.to_string()),
        bare: true,
        ..Setup::default()
    })
}

#[test]
fn every_value_of_the_driver_is_found_unchanged_at_the_controller() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let nvml = FakeNvml::install(dir.path(), &script(0))?;
    let mut fleet = fleet(&nvml)?;
    let node = wait_until("the node reports", PATIENCE, || fleet.node().map(Some))?;
    let follower = Follower::start(&fleet, &node)?;
    for step in 0..STEPS {
        nvml.play(&script(step))?;
        let wanted = expected(step)?;
        let met = wait_until(&format!("step {step} is seen"), PATIENCE, || {
            Ok(follower.all("sample").iter().any(|sample| sample["gpus"] == wanted).then_some(()))
        });
        let last = follower.all("sample").last().map(|sample| sample["gpus"].clone());
        met.with_context(|| format!("wanted {wanted:#}\nlast {:#}", last.unwrap_or_default()))?;
    }
    let shown: Value = serde_json::from_str(&fleet.run(&["node", "show", &node, "-o", "json"])?)?;
    ensure!(shown["sample"]["gpus"] == expected(STEPS - 1)?, "node show: {:#}", shown["sample"]);

    // A window of which every sample was seen live.
    let (rollup, samples) = wait_until("ten seconds are kept", PATIENCE, || {
        let samples = follower.all("sample");
        let whole = follower.all("rollup").into_iter().find_map(|rollup| {
            let within = within(&samples, &rollup);
            let complete = within.len() > 3 && rollup["samples"] == within.len();
            complete.then_some((rollup, within))
        });
        Ok(whole)
    })?;
    summarises(&rollup, &samples)?;

    drop(follower);
    kept(&fleet, &node, &rollup)?;
    fleet.controller.kill()?;
    fleet.controller.start()?;
    wait_until("the controller is back", Duration::from_secs(60), || fleet.node().map(Some))?;
    kept(&fleet, &node, &rollup)
}

/// The samples between the first and the last of a window.
fn within(samples: &[Value], rollup: &Value) -> Vec<Value> {
    let time = |value: &Value| value.as_u64().unwrap_or_default();
    let (from, to) = (time(&rollup["from_wall_ns"]), time(&rollup["to_wall_ns"]));
    let inside = |sample: &&Value| (from..=to).contains(&time(&sample["wall_ns"]));
    samples.iter().filter(inside).cloned().collect()
}

/// Minimum, mean and maximum of each figure of both GPUs are those of the samples; so are throttle reasons and trouble.
fn summarises(rollup: &Value, samples: &[Value]) -> Result<()> {
    for gpu in 0..2 {
        let of_gpu: Vec<&Value> = samples.iter().map(|sample| &sample["gpus"][gpu]).collect();
        let id = &of_gpu[0]["uuid"];
        let subjects = rollup["subjects"].as_array().context("subjects")?;
        let subject = subjects.iter().find(|s| s["kind"] == "gpu" && s["id"] == *id);
        let subject = subject.with_context(|| format!("nothing is kept of {id}"))?;
        for (kept, live) in FIGURES {
            let readings: Vec<f64> = of_gpu.iter().filter_map(|gpu| gpu[live].as_f64()).collect();
            let figure = &subject["figures"][kept];
            let number =
                |name: &str| figure[name].as_f64().with_context(|| format!("{kept}.{name}"));
            ensure!(figure["count"] == readings.len(), "{kept}: {figure} of {readings:?}");
            if readings.is_empty() {
                continue;
            }
            let least = readings.iter().copied().fold(f64::INFINITY, f64::min);
            let most = readings.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let count = u32::try_from(readings.len())?;
            let mean = readings.iter().sum::<f64>() / f64::from(count);
            ensure!(number("min")? == least, "{kept}: {figure} of {readings:?}");
            ensure!(number("max")? == most, "{kept}: {figure} of {readings:?}");
            let off = (number("mean")? - mean).abs();
            ensure!(off <= mean.abs() * 1e-12, "{kept}: {figure} of {readings:?}");
        }
        let bits = of_gpu.iter().filter_map(|gpu| gpu["throttle_bits"].as_u64());
        ensure!(subject["throttle_bits"] == bits.fold(0, |all, one| all | one), "{subject:#}");
        let mut troubles = of_gpu.iter().map(|gpu| &gpu["state"]).filter(|state| **state != "ok");
        let last = troubles.next_back().cloned().unwrap_or_default();
        ensure!(subject["trouble"] == last, "{subject:#}");
    }
    Ok(())
}

/// The window is read back from what the controller keeps, which holds windows only.
fn kept(fleet: &Cluster, node: &str, rollup: &Value) -> Result<()> {
    let text = fleet.run(&["node", "samples", node, "-o", "json"])?;
    let lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(lines.iter().any(|line| line["rollup"] == *rollup), "{rollup:#}\nis not among {text}");
    ensure!(lines.iter().all(|line| line.get("sample").is_none()), "a live sample was kept");
    Ok(())
}
