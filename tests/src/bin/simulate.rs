//! Runs simulated fleets, any number of them, or one again.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Instant;

use hone_tests::sim::{SimConfig, run};

const USAGE: &str = "usage: simulate [--seeds N] [--from K] [--trace]";

struct Args {
    seeds: u64,
    from: u64,
    trace: bool,
}

fn args() -> Option<Args> {
    let mut found = Args { seeds: 1000, from: 0, trace: false };
    let mut rest = std::env::args().skip(1);
    while let Some(name) = rest.next() {
        match name.as_str() {
            "--seeds" => found.seeds = rest.next()?.parse().ok()?,
            "--from" => found.from = rest.next()?.parse().ok()?,
            "--trace" => found.trace = true,
            _ => return None,
        }
    }
    Some(found)
}

fn main() -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    let mut talk = io::stderr().lock();
    let Some(args) = args() else {
        writeln!(talk, "{USAGE}")?;
        return Ok(ExitCode::from(2));
    };
    let config = SimConfig { trace: args.trace, ..SimConfig::default() };
    let begun = Instant::now();
    let mut counts = std::collections::BTreeMap::new();
    for seed in args.from..args.from.saturating_add(args.seeds) {
        match run(seed, &config) {
            Ok(report) => {
                for (what, count) in report.counts {
                    *counts.entry(what).or_insert(0_u64) += count;
                }
                for line in report.trace {
                    writeln!(out, "{line}")?;
                }
            }
            Err(violation) => {
                for line in &violation.trace {
                    writeln!(out, "{line}")?;
                }
                writeln!(talk, "{violation}")?;
                writeln!(talk, "hint: simulate --from {seed} --seeds 1 --trace")?;
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    for (what, count) in counts {
        writeln!(out, "{count:>10} {what}")?;
    }
    writeln!(talk, "{} seeds in {seconds:.1} s: nothing happened that must not", args.seeds)?;
    Ok(ExitCode::SUCCESS)
}
