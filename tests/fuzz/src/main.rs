//! The engine's door to the targets of `hone-readers`: libFuzzer brings `main`, and asks for one input after the other.
//! `HONE_FUZZ_TARGET` names the target; before the engine reads its corpus, the seeds are put where
//! `HONE_FUZZ_SEEDS` says, and the format's words where `HONE_FUZZ_WORDS` does.
#![no_main]

use std::path::PathBuf;
use std::sync::OnceLock;

use hone_readers::{TARGETS, Target, named};
use libfuzzer_sys::fuzz_target;
use peak_alloc::PeakAlloc;

/// The readers are held to a bound on memory by what this counts.
#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

static TARGET: OnceLock<&'static Target> = OnceLock::new();

fuzz_target!(init: begin(), |bytes: &[u8]| {
    if let Some(target) = TARGET.get() {
        target.run(bytes);
    }
});

fn begin() {
    let name = std::env::var("HONE_FUZZ_TARGET").unwrap_or_default();
    let Some(target) = named(&name) else {
        let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        eprintln!("HONE_FUZZ_TARGET must be one of: {}", names.join(" "));
        std::process::exit(2);
    };
    TARGET.get_or_init(|| target);
    if let Some(folder) = place("HONE_FUZZ_SEEDS") {
        for (nth, seed) in target.seeds().iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{nth}")), seed).expect("a seed is written");
        }
    }
    if let Some(file) = place("HONE_FUZZ_WORDS") {
        let escaped = |word: &&str| -> String {
            let hex: String = word.bytes().map(|byte| format!("\\x{byte:02x}")).collect();
            format!("\"{hex}\"\n")
        };
        let words: String = target.words.iter().map(escaped).collect();
        std::fs::write(file, words).expect("the words are written");
    }
}

fn place(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from)
}
