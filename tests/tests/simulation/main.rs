//! Whole simulated fleets: the production cores of both sides under every fault that the model knows, checked from
//! outside after every turn (`hone_tests::sim`). Any number of seeds more: `simulate`, see `CONTRIBUTING.md`.

use std::collections::BTreeSet;
use std::process::Command;

use hone_tests::sim::{FAULTS, Sabotage, SimConfig, Totals, run, run_all};

/// Seeds of this test: what a build without optimisation runs in seconds. `tests/run` runs thousands with another, and
/// breaks each guard.
const SEEDS: u64 = 24;

#[test]
fn nothing_happens_that_must_not_whatever_breaks() {
    match run_all(0..SEEDS, &SimConfig::default()) {
        Err(violation) => panic!("{violation}\nreplay: {}", violation.replay()),
        Ok(totals) => assert_eq!(totals.seeds, SEEDS),
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    let runs = || (0..4).map(|seed| run(seed, &SimConfig::default())).collect::<Vec<_>>();
    let (first, second) = (runs(), runs());
    assert_eq!(first, second);
    let hashes: BTreeSet<_> = first.iter().flatten().map(|report| report.hash).collect();
    assert_eq!(hashes.len(), 4, "and another seed is another run");
}

#[test]
fn every_invariant_that_the_cores_can_see_has_a_guard_to_break() {
    let broken: BTreeSet<_> = Sabotage::ALL.iter().map(|guard| guard.invariant()).collect();
    assert_eq!(broken.into_iter().collect::<Vec<_>>(), [2, 3, 4, 5, 6, 7, 8, 10, 12]);
}

/// Runs the command, and gives its exit code and everything that it said.
fn simulate(args: &[&str]) -> (Option<i32>, String) {
    let done = Command::new(env!("CARGO_BIN_EXE_simulate")).args(args).output().expect("it runs");
    let said = [done.stdout, done.stderr].concat();
    (done.status.code(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn a_fault_that_never_happened_is_a_failure_and_named() {
    assert_eq!(Totals::default().never(), FAULTS);
    let (code, said) = simulate(&["--seeds", "0", "--every-fault"]);
    assert_eq!(code, Some(1), "{said}");
    for fault in FAULTS {
        assert!(said.contains(fault), "{fault}: {said}");
    }
    let (code, said) = simulate(&["--seeds", "1"]);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn a_guard_that_is_broken_in_vain_is_a_failure_and_named() {
    let (code, said) = simulate(&["--seeds", "0", "--break-guards"]);
    assert_eq!(code, Some(1), "{said}");
    for guard in Sabotage::ALL {
        assert!(said.contains(&format!("{guard:?} (")), "{guard:?}: {said}");
    }
}

#[test]
fn a_seed_is_run_again_and_told() {
    let (code, said) = simulate(&["--from", "7", "--seeds", "1", "--trace"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("controller < hello n0") && said.contains("faults are over"), "{said}");
    assert_eq!(simulate(&["--seeds"]).0, Some(2), "an option without its value");
}
