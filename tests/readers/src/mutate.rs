//! Mutations of seeds that depend on a number alone: what every run of the tests tries, where the search that is guided
//! by coverage takes longer than a run of the tests may.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use crate::{MAX_LEN, Target};

/// Most changes of one mutation.
const MAX_CHANGES: u32 = 6;

/// One of the target's seeds with a few changes: bytes flipped, cut out, repeated, moved between seeds, or replaced by
/// words of the format. The same for the same number.
#[must_use]
pub fn mutated(target: &Target, seeds: &[Vec<u8>], number: u64) -> Vec<u8> {
    let mut rng = StdRng::seed_from_u64(number);
    let mut bytes = seeds.choose(&mut rng).cloned().unwrap_or_default();
    for _ in 0..rng.random_range(1..=MAX_CHANGES) {
        change(target, seeds, &mut bytes, &mut rng);
        bytes.truncate(MAX_LEN);
    }
    bytes
}

fn change(target: &Target, seeds: &[Vec<u8>], bytes: &mut Vec<u8>, rng: &mut StdRng) {
    let at = rng.random_range(0..=bytes.len());
    // Most pieces are short: a byte, a number, a name.
    let longest = 1 << rng.random_range(0..10);
    let end = (at + rng.random_range(1..=longest)).min(bytes.len());
    match rng.random_range(0..7) {
        0 => bytes.truncate(at),
        1 => drop(bytes.drain(at..end)),
        2 => {
            let piece = bytes[at..end].repeat(rng.random_range(1..=16));
            bytes.splice(at..at, piece);
        }
        3 => {
            let word = target.words.choose(rng).copied().unwrap_or_default();
            let end = if rng.random() { end } else { at };
            bytes.splice(at..end, word.bytes());
        }
        4 => {
            let other = seeds.choose(rng).cloned().unwrap_or_default();
            let from = rng.random_range(0..=other.len());
            let piece = other[from..(from + longest).min(other.len())].to_vec();
            bytes.splice(at..end, piece);
        }
        5 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << rng.random_range(0..8);
            }
        }
        _ => {
            for byte in &mut bytes[at..end] {
                *byte = rng.random();
            }
        }
    }
}
