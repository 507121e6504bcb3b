//! What every reader of figures promises, and cuts at places that depend on nothing but the bytes.

use hone_agent::tools::point::{Point, Source, Split};
use hone_proto::id::Step;

/// Most figures of one point, and the longest name of one.
const MAX_VALUES: usize = 256;
const MAX_NAME_LEN: usize = 128;

/// A place to cut `bytes` at: any, but always the same one for the same bytes.
pub(crate) fn cut(bytes: &[u8]) -> usize {
    usize::try_from(crc32c::crc32c(bytes)).unwrap_or(0) % (bytes.len() + 1)
}

/// The promises of [`Point`].
pub(crate) fn points(points: &[Point], source: Source) {
    for point in points {
        assert_eq!(point.source, source);
        assert!((1..=MAX_VALUES).contains(&point.values.len()), "{} figures", point.values.len());
        assert!(point.epoch.is_none_or(f64::is_finite), "at no epoch: {point:?}");
        for name in point.values.keys() {
            let plain =
                (1..=MAX_NAME_LEN).contains(&name.len()) && !name.contains(char::is_control);
            assert!(plain, "a figure is called {name:?}");
        }
    }
}

/// That what is no number was written so: no reader makes one of a number that is too large.
pub(crate) fn odd_values_were_written(points: &[Point], bytes: &[u8]) {
    let odd = |p: &Point| p.values.values().any(|value| !value.is_finite());
    if points.iter().any(odd) {
        let says =
            |word: &[u8]| bytes.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word));
        // An escape in JSON may hide the word.
        let written = says(b"nan") || says(b"inf") || bytes.contains(&b'\\');
        assert!(written, "a figure is no number, and nobody said so: {points:?}");
    }
}

/// A figure with its place; the value as its bits, so that NaN is itself.
pub(crate) type Figure = (Option<u64>, Option<u64>, Split, String, u64);

/// Every figure with its place, sorted.
pub(crate) fn figures(points: &[Point]) -> Vec<Figure> {
    let mut all: Vec<_> = points
        .iter()
        .flat_map(|p| p.values.iter().map(move |(name, value)| (p, name, value)))
        .map(|(p, name, value)| {
            let place = (p.step.map(Step::get), p.epoch.map(f64::to_bits));
            (place.0, place.1, p.split, name.clone(), value.to_bits())
        })
        .collect();
    all.sort_unstable();
    all
}

/// That no beginning of a JSON document is one: a file that is being written is never taken for a whole one.
pub(crate) fn no_beginning_is_whole(bytes: &[u8], is_whole: impl Fn(&[u8]) -> bool) {
    let (begin, rest) = bytes.split_at(cut(bytes));
    if is_whole(bytes) && !rest.trim_ascii().is_empty() {
        assert!(!is_whole(begin), "its first {} bytes are taken for all of it", begin.len());
    }
}
