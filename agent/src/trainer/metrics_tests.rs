//! The reader against torn tails, rubbish, restarts and every way of cutting its input.

use std::fs::OpenOptions;
use std::io::Write;

use proptest::prelude::*;

use super::*;

const ATTEMPT: Attempt = Attempt::new(2);

fn line(seq: u64) -> String {
    format!(
        "{{\"v\":1,\"type\":\"metrics\",\"ts\":{seq}.5,\"attempt\":2,\"step\":{seq},\"seq\":{seq},\"split\":\"train\",\
         \"values\":{{\"loss\":{seq}.25}}}}\n"
    )
}

fn seqs(batch: &MetricsBatch) -> Vec<u64> {
    batch.records.iter().map(|record| record.seq).collect()
}

struct Bench {
    temp: tempfile::TempDir,
    reader: MetricsReader,
}

impl Bench {
    fn new() -> Self {
        let temp = tempfile::tempdir().expect("a directory");
        let reader = MetricsReader::new(Dir::open(temp.path()).expect("opened"), ATTEMPT);
        Self { temp, reader }
    }
    fn append(&self, bytes: &[u8]) {
        let path = self.temp.path().join(METRICS_NAME);
        let mut file = OpenOptions::new().create(true).append(true).open(path).expect("opened");
        file.write_all(bytes).expect("written");
    }
    fn poll(&self, cursor: &mut MetricsCursor) -> MetricsBatch {
        self.reader.poll(cursor).expect("read")
    }
}

#[test]
fn a_torn_tail_waits_for_its_end() {
    let bench = Bench::new();
    let mut cursor = MetricsCursor::default();
    assert!(bench.poll(&mut cursor).is_empty());
    let second = line(2);
    bench.append(format!("{}{}", line(1), &second[..20]).as_bytes());
    assert_eq!(seqs(&bench.poll(&mut cursor)), [1]);
    assert!(bench.poll(&mut cursor).is_empty());
    bench.append(&second.as_bytes()[20..]);
    assert_eq!(seqs(&bench.poll(&mut cursor)), [2]);
}

#[test]
fn rubbish_is_counted_and_the_rest_survives() {
    let bench = Bench::new();
    let mut cursor = MetricsCursor::default();
    let foreign = line(2).replace("\"attempt\":2", "\"attempt\":1");
    let newer = line(3).replace("\"metrics\"", "\"hologram\"");
    bench.append(
        format!("{}nonsense\n{foreign}{newer}\n{}{}", line(1), line(1), line(4)).as_bytes(),
    );
    let batch = bench.poll(&mut cursor);
    assert_eq!(seqs(&batch), [1, 4]);
    assert_eq!((batch.malformed, batch.unknown, batch.repeated), (1, 1, 2));
}

#[test]
fn a_line_that_is_too_long_costs_itself_only() {
    let bench = Bench::new();
    let mut cursor = MetricsCursor::default();
    bench.append(line(1).as_bytes());
    for _ in 0..3 {
        bench.append(&vec![b'x'; MAX_READ_LEN]);
    }
    let mut malformed = 0;
    let mut found = Vec::new();
    for _ in 0..8 {
        let batch = bench.poll(&mut cursor);
        malformed += batch.malformed;
        found.extend(seqs(&batch));
    }
    assert_eq!((malformed, cursor.skipping), (1, true));
    bench.append(format!("\n{}", line(2)).as_bytes());
    let batch = bench.poll(&mut cursor);
    found.extend(seqs(&batch));
    assert_eq!((found, batch.malformed), (vec![1, 2], 0));
}

#[test]
fn an_emptied_file_is_noticed_and_nothing_comes_twice() {
    let bench = Bench::new();
    let mut cursor = MetricsCursor::default();
    bench.append(format!("{}{}{}", line(1), line(2), line(3)).as_bytes());
    assert_eq!(seqs(&bench.poll(&mut cursor)), [1, 2, 3]);
    std::fs::write(bench.temp.path().join(METRICS_NAME), format!("{}{}", line(3), line(4)))
        .expect("written");
    let batch = bench.poll(&mut cursor);
    assert_eq!((seqs(&batch), batch.restarts, batch.repeated), (vec![4], 1, 1));
}

#[test]
fn a_link_in_its_place_is_refused() {
    let bench = Bench::new();
    std::os::unix::fs::symlink("/etc/passwd", bench.temp.path().join(METRICS_NAME))
        .expect("linked");
    let mut cursor = MetricsCursor::default();
    assert!(matches!(bench.reader.poll(&mut cursor), Err(FileError::NotPlain { .. })));
}

/// Reads `input` as pieces that end at `cuts`, restoring the cursor from its text before each.
fn in_pieces(input: &[u8], cuts: &[usize]) -> MetricsBatch {
    let mut total = MetricsBatch::default();
    let mut cursor = MetricsCursor::default();
    for end in
        cuts.iter().map(|cut| cut % (input.len() + 1)).collect::<std::collections::BTreeSet<_>>()
    {
        cursor = restored(cursor);
        let from = usize::try_from(cursor.offset).expect("small");
        if end > from {
            total.take(ATTEMPT, &mut cursor, &input[from..end]);
        }
    }
    let from = usize::try_from(cursor.offset).expect("small");
    total.take(ATTEMPT, &mut cursor, &input[from..]);
    total
}

fn restored(cursor: MetricsCursor) -> MetricsCursor {
    let text = serde_json::to_string(&cursor).expect("text");
    serde_json::from_str(&text).expect("a cursor")
}

fn some_line() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => (1_u64..40).prop_map(|seq| line(seq).into_bytes()),
        2 => proptest::collection::vec(any::<u8>(), 0..80),
        1 => (MAX_LINE_LEN - 2..MAX_LINE_LEN + 3).prop_map(|len| vec![b'y'; len]),
        1 => Just(b"\n".to_vec()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn pieces_and_restarts_change_nothing(
        lines in proptest::collection::vec(some_line(), 0..12),
        cuts in proptest::collection::vec(any::<usize>(), 0..20),
    ) {
        let input = lines.concat();
        prop_assert_eq!(in_pieces(&input, &cuts), in_pieces(&input, &[]));
    }

    #[test]
    fn records_come_in_order_and_once(lines in proptest::collection::vec(some_line(), 0..20)) {
        let found = seqs(&in_pieces(&lines.concat(), &[]));
        prop_assert!(found.is_sorted_by(|a, b| a < b));
    }
}
