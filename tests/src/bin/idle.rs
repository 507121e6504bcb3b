//! Measures an idle agent and controller beside `prometheus-node-exporter`. Build what is measured first:
//! `cargo build --release -p hone-agent -p hone-controller`.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use hone_tests::idle::{Cost, measure};

const USAGE: &str = "usage: idle [--seconds N] [--settle N]
Measures the binaries in $HONE_BIN_DIR, else those beside this one.";

/// Long enough that a tenth of a percent of a core is ten ticks of a coarse clock.
const SECONDS: u64 = 120;
/// Start-up is over, and allocators have found their size.
const SETTLE: u64 = 20;

fn args() -> Option<(Duration, Duration)> {
    let (mut seconds, mut settle) = (SECONDS, SETTLE);
    let mut rest = std::env::args().skip(1);
    while let Some(name) = rest.next() {
        let value = rest.next()?.parse().ok()?;
        match name.as_str() {
            "--seconds" => seconds = value,
            "--settle" => settle = value,
            _ => return None,
        }
    }
    (seconds > 0).then(|| (Duration::from_secs(settle), Duration::from_secs(seconds)))
}

fn main() -> anyhow::Result<ExitCode> {
    let Some((settle, over)) = args() else {
        writeln!(io::stderr(), "{USAGE}")?;
        return Ok(ExitCode::from(2));
    };
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let costs = measure(settle, over)?;
    let mut out = io::stdout().lock();
    let load = load.split(' ').next().unwrap_or_default();
    writeln!(out, "{} s, load before {load}", over.as_secs())?;
    writeln!(
        out,
        "{:<26}{:>10}{:>10}{:>10}{:>9}{:>7}{:>11}",
        "", "resident", "of it own", "CPU", "threads", "files", "program"
    )?;
    for cost in &costs {
        writeln!(
            out,
            "{:<26}{:>6.1} MiB{:>6.1} MiB{:>8.3} %{:>9}{:>7}{:>7.1} MiB",
            cost.name,
            mib(cost.resident),
            mib(cost.anonymous),
            cost.cpu_percent,
            cost.threads,
            cost.descriptors,
            mib(cost.program)
        )?;
    }
    let [agent, controller, exporter] = &costs;
    for one in [agent, controller] {
        let (memory, cpu, program) = ratios(one, exporter);
        writeln!(
            out,
            "{:<26}{memory:>8.2} x{:>20.2} x{:>25.2} x",
            format!("{} / exporter", one.name),
            cpu,
            program
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

fn ratios(one: &Cost, other: &Cost) -> (f64, f64, f64) {
    (
        mib(one.resident) / mib(other.resident),
        one.cpu_percent / other.cpu_percent,
        mib(one.program) / mib(other.program),
    )
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
