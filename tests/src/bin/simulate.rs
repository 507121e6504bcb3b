//! Runs simulated fleets, any number of them, or one again.

use std::io::{self, Write as _};
use std::ops::Range;
use std::process::ExitCode;
use std::time::Instant;

use hone_tests::sim::{SimConfig, break_guards, run_all};

const USAGE: &str = "usage: simulate [--seeds N] [--from K] [--trace] [--every-fault] [--break-guards]

--every-fault   it is a failure if a fault of the model never happened
--break-guards  breaks each guard of the cores in turn: it is a failure if the checker does not notice within N seeds";

struct Args {
    seeds: u64,
    from: u64,
    trace: bool,
    every_fault: bool,
    break_guards: bool,
}

fn args() -> Option<Args> {
    let mut found =
        Args { seeds: 1000, from: 0, trace: false, every_fault: false, break_guards: false };
    let mut rest = std::env::args().skip(1);
    while let Some(name) = rest.next() {
        match name.as_str() {
            "--seeds" => found.seeds = rest.next()?.parse().ok()?,
            "--from" => found.from = rest.next()?.parse().ok()?,
            "--trace" => found.trace = true,
            "--break-guards" => found.break_guards = true,
            "--every-fault" => found.every_fault = true,
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
    let seeds = args.from..args.from.saturating_add(args.seeds);
    if args.break_guards {
        return guards(&seeds, &mut out);
    }
    let config = SimConfig { trace: args.trace, ..SimConfig::default() };
    let begun = Instant::now();
    let totals = match run_all(seeds, &config) {
        Ok(totals) => totals,
        Err(violation) => {
            for line in &violation.trace {
                writeln!(out, "{line}")?;
            }
            writeln!(talk, "{violation}")?;
            writeln!(talk, "hint: {}", violation.replay())?;
            return Ok(ExitCode::FAILURE);
        }
    };
    for line in &totals.trace {
        writeln!(out, "{line}")?;
    }
    for (what, count) in &totals.counts {
        writeln!(out, "{count:>10} {what}")?;
    }
    let (seeds, seconds) = (totals.seeds, begun.elapsed());
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = seeds as f64 / seconds.as_secs_f64();
    writeln!(
        talk,
        "{seeds} seeds in {seconds:.1?} ({rate:.0} a second): nothing happened that must not"
    )?;
    let never = totals.never();
    if args.every_fault && !never.is_empty() {
        writeln!(talk, "the model is too kind: it never happened that {}", never.join(", "))?;
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn guards(seeds: &Range<u64>, out: &mut impl io::Write) -> io::Result<ExitCode> {
    let mut missed = 0;
    for (guard, noticed) in break_guards(seeds) {
        let invariant = guard.invariant();
        match noticed {
            Some(violation) => writeln!(out, "{guard:?} (invariant {invariant}): {violation}")?,
            None => {
                missed += 1;
                writeln!(out, "{guard:?} (invariant {invariant}): broken in vain")?;
            }
        }
    }
    let within = seeds.end - seeds.start;
    writeln!(out, "{missed} guards were broken in vain, within {within} seeds each")?;
    Ok(if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
