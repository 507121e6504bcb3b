//! Every reader of foreign bytes over its seeds, every length of the short ones, and a fixed number of mutations: the
//! part of `tests/fuzz` that each run of the tests can afford. `HONE_MUTATIONS` asks for more.

use std::panic::catch_unwind;

use hone_readers::{TARGETS, Target, mutate};
use peak_alloc::PeakAlloc;

/// The readers are held to a bound on memory by what this counts.
#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Mutations of each target.
const USUAL: u64 = 1500;
/// Lengths of one seed that are tried; of a longer one as many, evenly apart.
const LENGTHS: usize = 400;

/// What is told of bytes that break a promise, besides the promise: how to get them again.
fn broken(target: &Target, bytes: &[u8], which: &str) -> Option<String> {
    catch_unwind(|| target.run(bytes)).err()?;
    let text: String = String::from_utf8_lossy(bytes).chars().take(2000).collect();
    Some(format!("{}, {which}: {} bytes that begin with {text:?}", target.name, bytes.len()))
}

/// The first bytes that break one of the target's promises.
fn first_broken(target: &Target, mutations: u64) -> Option<String> {
    let seeds = target.seeds();
    let cut = seeds.iter().zip(0..).find_map(|(seed, nth)| {
        let step = seed.len().div_ceil(LENGTHS).max(1);
        let lengths = (0..seed.len()).step_by(step).chain([seed.len()]);
        let told = |length| broken(target, &seed[..length], &format!("seed {nth} cut at {length}"));
        lengths.into_iter().find_map(told)
    });
    cut.or_else(|| {
        (0..mutations).find_map(|number| {
            let bytes = mutate::mutated(target, &seeds, number);
            broken(target, &bytes, &format!("mutation {number}"))
        })
    })
}

/// One after the other: memory is counted for the whole process.
#[test]
fn every_reader_keeps_its_promises() {
    assert!(MEMORY.current_usage() > 0, "nothing counts the memory");
    let asked = std::env::var("HONE_MUTATIONS").ok().and_then(|text| text.parse().ok());
    let broken: Vec<_> =
        TARGETS.iter().filter_map(|target| first_broken(target, asked.unwrap_or(USUAL))).collect();
    assert!(
        broken.is_empty(),
        "the promises are told above; by these bytes:\n{}",
        broken.join("\n")
    );
}
