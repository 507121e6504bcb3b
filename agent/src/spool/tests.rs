//! The spool against a model: what was appended and synced survives every crash, in order, with nothing twice.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;

use hone_proto::event::Stream;
use hone_proto::id::Seq;
use hone_proto::quantity::Bytes;
use hone_proto::wire;
use hone_proto::wire::event::Payload;
use proptest::prelude::*;

use super::{Appended, Bounds, Spool};

fn event(text: u64) -> wire::Event {
    wire::Event {
        payload: Some(Payload::Log(wire::LogRecord {
            text: text.to_string(),
            ..Default::default()
        })),
        ..Default::default()
    }
}

fn text(event: &wire::Event) -> String {
    match &event.payload {
        Some(Payload::Log(log)) => log.text.clone(),
        Some(Payload::Gap(gap)) => format!("gap of {}", gap.count),
        _ => "?".to_owned(),
    }
}

fn small() -> Bounds {
    Bounds {
        segment: Bytes::new(200),
        logs: Bytes::new(2_000),
        series: Bytes::new(600),
        ..Bounds::default()
    }
}

fn one(key: &str, at: u64) -> BTreeMap<String, Vec<u8>> {
    BTreeMap::from([(key.to_owned(), at.to_string().into_bytes())])
}

#[test]
fn events_and_the_position_they_came_from_come_back_together() {
    let scratch = tempfile::tempdir().expect("a folder");
    let mut spool = Spool::open(scratch.path(), small()).expect("a spool");
    let id = spool.id().clone();
    for n in 1..=50 {
        let taken = spool.append(Stream::Logs, vec![event(n)], one("a/log", n)).expect("appended");
        assert_eq!(taken, Appended::Accepted);
    }
    drop(spool);
    let mut spool = Spool::open(scratch.path(), small()).expect("it opens again");
    assert_eq!(spool.id(), &id);
    assert_eq!(spool.cursor(Stream::Logs, "a/log"), Some(&b"50"[..]));
    let read = spool.read(Stream::Logs, Seq::new(10), usize::MAX).expect("read");
    let seqs: Vec<_> = read.iter().map(|event| event.seq).collect();
    assert_eq!(seqs, (11..=50).collect::<Vec<_>>());
    assert_eq!(text(&read[0]), "11");
    spool.ack(Stream::Logs, Seq::new(50)).expect("acknowledged");
    drop(spool);
    let spool = Spool::open(scratch.path(), small()).expect("it opens again");
    assert_eq!(spool.last(Stream::Logs), Seq::new(50), "numbers go on after what went");
    assert_eq!(spool.cursor(Stream::Logs, "a/log"), Some(&b"50"[..]), "positions outlive segments");
}

#[test]
fn a_full_lane_drops_logs_with_a_gap_record_and_never_metrics() {
    let scratch = tempfile::tempdir().expect("a folder");
    let mut spool = Spool::open(scratch.path(), small()).expect("a spool");
    for n in 1..=300 {
        spool.append(Stream::Logs, vec![event(n)], BTreeMap::new()).expect("appended");
    }
    spool.sync(Stream::Logs).expect("synced");
    let read = spool.read(Stream::Logs, Seq::new(0), usize::MAX).expect("read");
    let first = &read[0];
    let Some(Payload::Gap(gap)) = &first.payload else { panic!("{first:?} is no gap") };
    assert_eq!(gap.count, first.seq, "it stands for everything up to its own number");
    assert_eq!(read[1].seq, first.seq + 1);
    assert_eq!(read.last().expect("events").seq, 300);
    let mut taken = 0;
    while spool.append(Stream::Series, vec![event(taken)], BTreeMap::new()).expect("appended")
        == Appended::Accepted
    {
        taken += 1;
    }
    spool.sync(Stream::Series).expect("synced");
    let kept = spool.read(Stream::Series, Seq::new(0), usize::MAX).expect("read");
    assert_eq!(u64::try_from(kept.len()).expect("a count"), taken);
    spool.ack(Stream::Series, Seq::new(taken)).expect("acknowledged");
    let more = spool.append(Stream::Series, vec![event(taken)], BTreeMap::new()).expect("appended");
    assert_eq!(more, Appended::Accepted);
}

#[test]
fn a_damaged_segment_in_the_middle_is_a_gap_and_no_more() {
    let scratch = tempfile::tempdir().expect("a folder");
    let mut spool = Spool::open(scratch.path(), small()).expect("a spool");
    for n in 1..=60 {
        spool.append(Stream::State, vec![event(n)], BTreeMap::new()).expect("appended");
    }
    drop(spool);
    let mut files: Vec<_> = std::fs::read_dir(scratch.path().join("state"))
        .expect("a lane")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    let middle = &files[files.len() / 2];
    let mut bytes = std::fs::read(middle).expect("bytes");
    let at = bytes.len() / 2;
    bytes[at] ^= 0x40;
    std::fs::write(middle, bytes).expect("damaged");
    let mut spool = Spool::open(scratch.path(), small()).expect("it opens all the same");
    let read = spool.read(Stream::State, Seq::new(0), usize::MAX).expect("read");
    let gaps: Vec<_> = read.iter().filter(|e| matches!(e.payload, Some(Payload::Gap(_)))).collect();
    assert_eq!(gaps.len(), 1);
    let mut last = 0;
    for event in &read {
        match &event.payload {
            Some(Payload::Gap(gap)) => assert_eq!(event.seq - gap.count, last),
            _ => assert_eq!(event.seq, last + 1),
        }
        last = event.seq;
    }
    assert_eq!(last, 60);
}

#[test]
fn what_is_not_synced_is_not_told_and_what_the_controller_knows_is_never_numbered_again() {
    let scratch = tempfile::tempdir().expect("a folder");
    let mut spool = Spool::open(scratch.path(), small()).expect("a spool");
    spool.append(Stream::Series, vec![event(1)], one("a/metrics", 1)).expect("appended");
    assert!(spool.read(Stream::Series, Seq::new(0), usize::MAX).expect("read").is_empty());
    spool.sync(Stream::Series).expect("synced");
    assert_eq!(spool.read(Stream::Series, Seq::new(0), usize::MAX).expect("read").len(), 1);
    // A disk that was rolled back meets a controller that knows more.
    spool.resume(Stream::Series, Seq::new(40)).expect("resumed");
    spool.append(Stream::Series, vec![event(2)], BTreeMap::new()).expect("appended");
    spool.sync(Stream::Series).expect("synced");
    let read = spool.read(Stream::Series, Seq::new(40), usize::MAX).expect("read");
    assert_eq!(read.iter().map(|event| event.seq).collect::<Vec<_>>(), [41]);
    drop(spool);
    let spool = Spool::open(scratch.path(), small()).expect("it opens again");
    assert_eq!(spool.last(Stream::Series), Seq::new(41));
    assert_eq!(spool.cursor(Stream::Series, "a/metrics"), Some(&b"1"[..]));
}

#[test]
fn a_new_segment_never_begins_with_a_position_whose_events_are_not_written() {
    let scratch = tempfile::tempdir().expect("a folder");
    let mut spool = Spool::open(scratch.path(), small()).expect("a spool");
    for n in 1..=40 {
        spool.append(Stream::State, vec![event(n)], one("r", n)).expect("appended");
        // A crash right behind the first frame of the newest segment: nothing of the last append is left.
        let folder = scratch.path().join("state");
        let newest = std::fs::read_dir(&folder).expect("a lane");
        let newest = newest.map(|entry| entry.expect("an entry").path()).max().expect("a segment");
        let copy = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(copy.path().join("state")).expect("a lane");
        let whole = std::fs::read(&newest).expect("bytes");
        let first = 8 + u32::from_le_bytes([whole[0], whole[1], whole[2], whole[3]]) as usize;
        std::fs::write(
            copy.path().join("state").join(newest.file_name().expect("a name")),
            &whole[..first],
        )
        .expect("cut");
        let cut = Spool::open(copy.path(), small()).expect("it opens");
        let at = cut.cursor(Stream::State, "r").map(<[u8]>::to_vec);
        let last = cut.last(Stream::State).get();
        assert_eq!(at, (last > 0).then(|| last.to_string().into_bytes()), "after {n}");
    }
}

#[derive(Debug, Clone)]
enum Act {
    Append(u8),
    Crash { torn: u8 },
    Ack(u8),
    Read(u8),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (1..5_u8).prop_map(Act::Append),
        1 => any::<u8>().prop_map(|torn| Act::Crash { torn }),
        1 => any::<u8>().prop_map(Act::Ack),
        2 => any::<u8>().prop_map(Act::Read),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn nothing_is_lost_or_doubled_by_crashes(acts in prop::collection::vec(act(), 1..60)) {
        let scratch = tempfile::tempdir().expect("a folder");
        let bounds = Bounds { segment: Bytes::new(120), ..Bounds::default() };
        let mut spool = Spool::open(scratch.path(), bounds.clone()).expect("a spool");
        let (mut appended, mut acked) = (0_u64, 0_u64);
        for act in acts {
            match act {
                Act::Append(count) => {
                    let events = (1..=u64::from(count)).map(|n| event(appended + n)).collect();
                    appended += u64::from(count);
                    spool.append(Stream::State, events, one("r", appended)).expect("appended");
                }
                Act::Crash { torn } => {
                    drop(spool);
                    // A power cut in the middle of the next append.
                    let newest = std::fs::read_dir(scratch.path().join("state")).expect("a lane")
                        .map(|entry| entry.expect("an entry").path()).max().expect("a segment");
                    OpenOptions::new().append(true).open(newest).expect("open")
                        .write_all(&vec![torn; usize::from(torn)]).expect("torn");
                    spool = Spool::open(scratch.path(), bounds.clone()).expect("it opens again");
                    prop_assert_eq!(spool.last(Stream::State), Seq::new(appended));
                    let at = spool.cursor(Stream::State, "r").map(<[u8]>::to_vec);
                    prop_assert_eq!(at, (appended > 0).then(|| appended.to_string().into_bytes()));
                }
                Act::Ack(part) => {
                    acked = acked.max(appended * u64::from(part) / 255);
                    spool.ack(Stream::State, Seq::new(acked)).expect("acknowledged");
                }
                Act::Read(part) => {
                    spool.sync(Stream::State).expect("synced");
                    let after = acked + (appended - acked) * u64::from(part) / 255;
                    let read = spool.read(Stream::State, Seq::new(after), usize::MAX).expect("read");
                    let texts: Vec<_> = read.iter().map(text).collect();
                    let expected: Vec<_> = (after + 1..=appended).map(|n| n.to_string()).collect();
                    prop_assert_eq!(texts, expected);
                }
            }
        }
    }
}

/// Bounds by which only the whole is ever full.
fn total(bytes: u64) -> Bounds {
    let most = Bytes::gib(1);
    Bounds {
        total: Bytes::new(bytes),
        segment: Bytes::new(200),
        series: most,
        logs: most,
        hardware: most,
    }
}

/// Appends events until the spool takes `bytes`, at most.
fn fill(spool: &mut Spool, stream: Stream, bytes: u64) -> u64 {
    let mut count = 0;
    while spool.bytes() + 100 < bytes {
        count += 1;
        let taken = spool.append(stream, vec![event(count)], BTreeMap::new()).expect("appended");
        assert_eq!(taken, Appended::Accepted);
    }
    count
}

/// What the controller would get: the numbers of events, and how many each gap stands for.
fn told(spool: &mut Spool, stream: Stream) -> (Vec<u64>, u64) {
    spool.sync(stream).expect("synced");
    let (mut numbers, mut lost, mut last) = (Vec::new(), 0, 0);
    for event in spool.read(stream, Seq::new(0), usize::MAX).expect("read") {
        match &event.payload {
            Some(Payload::Gap(gap)) => {
                assert_eq!(event.seq - gap.count, last, "a gap stands for exactly what is missing");
                lost += gap.count;
            }
            _ => numbers.push(event.seq),
        }
        last = event.seq;
    }
    (numbers, lost)
}

#[test]
fn a_full_spool_drops_hardware_samples_before_anything_else() {
    let scratch = tempfile::tempdir().expect("a folder");
    let mut spool = Spool::open(scratch.path(), total(20_000)).expect("a spool");
    let hardware = fill(&mut spool, Stream::Hardware, 6_000);
    let logs = fill(&mut spool, Stream::Logs, 13_000);
    let series = fill(&mut spool, Stream::Series, 20_000);
    for n in 1..=20 {
        let taken = spool.append(Stream::Series, vec![event(n)], BTreeMap::new()).expect("taken");
        assert_eq!(taken, Appended::Accepted);
        assert!(spool.bytes() <= 20_000 + 100, "{} bytes", spool.bytes());
    }
    spool.append(Stream::Hardware, vec![event(0)], BTreeMap::new()).expect("appended");
    let (kept, lost) = told(&mut spool, Stream::Hardware);
    assert!(lost > 0 && kept.len() > 1, "the oldest segments went, and not all: {lost} lost");
    assert_eq!(u64::try_from(kept.len()).expect("a count") + lost, hardware + 1);
    let all = |count: u64| ((1..=count).collect::<Vec<_>>(), 0);
    assert_eq!(told(&mut spool, Stream::Logs), all(logs));
    assert_eq!(told(&mut spool, Stream::Series), all(series + 20));
}

#[test]
fn without_hardware_samples_a_full_spool_drops_logs() {
    let scratch = tempfile::tempdir().expect("a folder");
    let mut spool = Spool::open(scratch.path(), total(20_000)).expect("a spool");
    let logs = fill(&mut spool, Stream::Logs, 10_000);
    let series = fill(&mut spool, Stream::Series, 20_000);
    for stream in [Stream::Series, Stream::State, Stream::Logs] {
        for n in 1..=10 {
            let taken = spool.append(stream, vec![event(n)], one("r", n)).expect("taken");
            assert_eq!(taken, Appended::Accepted, "{}", stream.name());
            assert!(spool.bytes() <= 20_000 + 200, "{} bytes", spool.bytes());
        }
    }
    let (kept, lost) = told(&mut spool, Stream::Logs);
    assert!(lost > 0 && kept.len() > 10, "the oldest segments went, and not all: {lost} lost");
    assert_eq!(u64::try_from(kept.len()).expect("a count") + lost, logs + 10);
    assert_eq!(told(&mut spool, Stream::Series), ((1..=series + 10).collect(), 0));
    assert_eq!(told(&mut spool, Stream::State), ((1..=10).collect(), 0));
    drop(spool);
    let spool = Spool::open(scratch.path(), total(20_000)).expect("it opens again");
    assert_eq!(spool.cursor(Stream::Logs, "r"), Some(&b"10"[..]), "positions outlive segments");
}

#[test]
fn when_metrics_alone_fill_the_spool_readers_wait_and_nothing_protected_is_lost() {
    let scratch = tempfile::tempdir().expect("a folder");
    let mut spool = Spool::open(scratch.path(), total(20_000)).expect("a spool");
    fill(&mut spool, Stream::Logs, 3_000);
    let mut series = 0;
    while spool.append(Stream::Series, vec![event(series)], one("m", series)).expect("appended")
        == Appended::Accepted
    {
        series += 1;
        assert!(series < 10_000, "it is never full");
    }
    let position = spool.cursor(Stream::Series, "m").map(<[u8]>::to_vec);
    assert_eq!(position, Some((series - 1).to_string().into_bytes()), "what waits is not read");
    let log = spool.append(Stream::Logs, vec![event(1)], one("l", 1)).expect("no error");
    assert_eq!(log, Appended::Full, "the engine's file keeps log lines meanwhile");
    for n in 1..=50 {
        let state = spool.append(Stream::State, vec![event(n)], BTreeMap::new()).expect("appended");
        assert_eq!(state, Appended::Accepted, "a state is always taken");
        let sample = vec![event(n)];
        let sample = spool.append(Stream::Hardware, sample, BTreeMap::new()).expect("appended");
        assert_eq!(sample, Appended::Accepted);
    }
    assert_eq!(told(&mut spool, Stream::Hardware), (vec![50], 49), "the newest and a gap");
    assert_eq!(told(&mut spool, Stream::Series), ((1..=series).collect(), 0));
    assert_eq!(told(&mut spool, Stream::State), ((1..=50).collect(), 0));
    spool.ack(Stream::Series, Seq::new(series)).expect("acknowledged");
    for (stream, key) in [(Stream::Series, "m"), (Stream::Logs, "l")] {
        let taken = spool.append(stream, vec![event(1)], one(key, 7)).expect("appended");
        assert_eq!(taken, Appended::Accepted, "{} goes on", stream.name());
    }
    let (kept, lost) = told(&mut spool, Stream::Logs);
    assert_eq!((kept.len(), lost > 0), (1, true), "the gap says how many are missing");
}
