//! Readers of files that grow: in two pieces, with a new life of the agent between them, the same figures as in one.

use hone_agent::tools::fuzzing::{self, EventsFile, LinesFile};
use hone_agent::tools::lines::LinesBatch;
use hone_agent::tools::point::Source;
use hone_agent::tools::tfevents::EventsBatch;

use crate::check;

/// Most looks at one file that no longer grows.
const MAX_LOOKS: usize = 8;

/// A file of JSON lines.
pub(crate) fn lines(bytes: &[u8]) {
    let whole = LinesFile::default().look(bytes);
    check::points(&whole.points, Source::JsonLines);
    check::odd_values_were_written(&whole.points, bytes);
    assert!(whole.points.iter().all(|point| point.step.is_some()), "a figure without its step");
    assert_eq!((whole.restarts, whole.more), (0, false));
    let mut file = LinesFile::default();
    let mut told = file.look(&bytes[..check::cut(bytes)]);
    let mut file = file.restarted();
    add_lines(&mut told, file.look(bytes));
    assert_eq!(told.points.len(), whole.points.len());
    assert_eq!(check::figures(&told.points), check::figures(&whole.points));
    assert_eq!((told.malformed, told.restarts), (whole.malformed, 0));
    assert_eq!(told.progress, whole.progress);
    assert_eq!(file.look(bytes), LinesBatch::default(), "it is told once");
}

fn add_lines(told: &mut LinesBatch, more: LinesBatch) {
    told.points.extend(more.points);
    told.malformed += more.malformed;
    told.restarts += more.restarts;
    told.progress.renew(more.progress);
}

/// A TensorBoard file as it is. Its checksums keep most mutations from going far: see [`records`].
pub(crate) fn events(bytes: &[u8]) {
    for path in ["events", "run/validation/events"] {
        events_at(path, bytes);
    }
}

fn events_at(path: &str, bytes: &[u8]) {
    let mut file = EventsFile::default();
    let whole = settled(&mut file, path, bytes);
    check::points(&whole.points, Source::TensorBoard);
    assert_eq!(settled(&mut file, path, bytes).points, [], "it is told once");
    let mut file = EventsFile::default();
    let mut told = file.look(path, &bytes[..check::cut(bytes)]);
    let mut file = file.restarted();
    add_events(&mut told, settled(&mut file, path, bytes));
    assert_eq!(check::figures(&told.points), check::figures(&whole.points));
    assert_eq!(
        (told.corrupt, told.malformed, told.passed),
        (whole.corrupt, whole.malformed, whole.passed)
    );
    assert_eq!(told.passes, whole.passes);
}

/// All that there is to read in a file that no longer grows.
fn settled(file: &mut EventsFile, path: &str, bytes: &[u8]) -> EventsBatch {
    let mut all = EventsBatch::default();
    for _ in 0..MAX_LOOKS + bytes.len() / 100_000 {
        let batch = file.look(path, bytes);
        let goes_on = batch.more || batch.held;
        add_events(&mut all, batch);
        if !goes_on {
            return all;
        }
    }
    panic!("reading a file that does not grow comes to no end")
}

fn add_events(told: &mut EventsBatch, more: EventsBatch) {
    told.points.extend(more.points);
    told.passes.extend(more.passes);
    told.corrupt += more.corrupt;
    told.malformed += more.malformed;
    told.passed += more.passed;
}

/// Payloads, each after its length in two bytes, put into a TensorBoard file with the right checksums.
pub(crate) fn records(bytes: &[u8]) {
    let (mut file, mut rest) = (Vec::new(), bytes);
    while let Some((length, after)) = rest.split_at_checked(2) {
        let length = usize::from(length[0]) | usize::from(length[1]) << 8;
        let (payload, after) = after.split_at(length.min(after.len()));
        file.extend(fuzzing::framed(payload));
        rest = after;
    }
    events(&file);
}

/// The payloads of a TensorBoard file that is whole, in the form of [`records`].
pub(crate) fn payloads(file: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), file);
    while let Some((head, after)) = rest.split_at_checked(12) {
        let length = usize::from(head[0]) | usize::from(head[1]) << 8;
        out.extend([head[0], head[1]]);
        out.extend(&after[..length]);
        rest = &after[length + 4..];
    }
    out
}
