//! Junk without end through each reader that follows what grows: it is consumed, a bounded piece at a time, and yields
//! no more than that piece can hold. `HONE_FLOOD_MIB=1024` makes each flood a gigabyte and watches the process's memory,
//! which needs the tests of this file alone: `cargo test -p hone-agent --lib flood -- --test-threads 1`.

use hone_proto::event::Level;
use hone_proto::time::WallNanos;

use super::at::ReadAt;
use super::printed::{Dialect, PrintedReader};
use super::{lines, tfevents};
use crate::logs::parser::{LogParser, Progress};
use crate::logs::{LogItem, LogLine, MAX_TEXT_LEN, Output};
use crate::trainer::FileError;

/// The usual length of a flood, in MiB.
const USUAL: u64 = 64;
/// Points of a mebibyte: none is written in fewer than 16 bytes.
const MOST_POINTS: usize = (1 << 20) / 16;
/// What a flood of a gigabyte may add to the process.
const MOST_GROWTH_KIB: u64 = 32 * 1024;

/// A file that has the same bytes again and again.
struct Again {
    block: Vec<u8>,
    size: u64,
}

impl Again {
    /// One of `parts` that make a flood together.
    fn of(block: impl Into<Vec<u8>>, parts: usize) -> Self {
        let block = block.into();
        let blocks = (mib() << 20) / parts as u64 / block.len() as u64;
        Self { size: blocks * block.len() as u64, block }
    }
}

impl ReadAt for Again {
    fn size(&self) -> u64 {
        self.size
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, FileError> {
        let wanted = self.size.saturating_sub(offset).min(buffer.len() as u64);
        let wanted = usize::try_from(wanted).expect("a buffer's length");
        let mut filled = 0;
        while filled < wanted {
            let from = usize::try_from((offset + filled as u64) % self.block.len() as u64);
            let from = from.expect("within a block");
            let piece = (self.block.len() - from).min(wanted - filled);
            buffer[filled..filled + piece].copy_from_slice(&self.block[from..from + piece]);
            filled += piece;
        }
        Ok(filled)
    }
}

fn mib() -> u64 {
    std::env::var("HONE_FLOOD_MIB").ok().and_then(|text| text.parse().ok()).unwrap_or(USUAL)
}

/// The most memory that the process has had.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("readable");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    peak.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Runs a flood; a long one must not show in the process's memory.
fn bounded(flood: impl FnOnce()) {
    let before = peak_kib();
    flood();
    let growth = peak_kib() - before;
    if mib() > USUAL {
        assert!(growth <= MOST_GROWTH_KIB, "{growth} KiB more for {} MiB of junk", mib());
    }
}

#[test]
fn json_lines() {
    let nested = format!("{{\"step\": 1, \"x\": {}}}\n", "[".repeat(1000));
    let blocks = [
        // A line without an end.
        "x".repeat(4096),
        "\n".repeat(4096),
        "{\"step\": 1}\n{\"loss\": 1}\nnull\n\0\0\n".repeat(100),
        nested,
        format!("{{\"step\": 9, \"{}\": 1.0}}\n", "n".repeat(100)),
    ];
    let parts = blocks.len();
    for block in blocks {
        bounded(|| {
            let file = Again::of(block, parts);
            let read = lines::flood(&file, |batch| assert!(batch.points.len() <= MOST_POINTS));
            assert_eq!(read, file.size());
        });
    }
}

#[test]
fn event_files() {
    let good = b"\x09\0\0\0\0\0\0\x24\x40\x10\x05\x2a\x0a\x0a\x08\x0a\x01x\x15\0\0\x80\x3f";
    // A summary of values of which each takes two bytes, and is empty.
    let values = [&b"\x2a\xc0\xb8\x02"[..], &b"\x0a\x00".repeat(20_000)].concat();
    let payloads = [vec![0xff; 50_000], vec![0; 300_000], values, good.to_vec(), Vec::new()];
    let parts = payloads.len();
    for payload in payloads {
        bounded(|| {
            let file = Again::of(tfevents::framed(&payload), parts);
            let mut told = 0;
            let read = tfevents::flood(&file, |batch| {
                assert!(batch.points.len() <= MOST_POINTS);
                told += batch.points.len();
            });
            assert_eq!(read, file.size());
            assert_eq!(told > 0, payload == good, "{told} of {} bytes", payload.len());
        });
    }
    // What is no record at all ends the file where it begins.
    assert_eq!(tfevents::flood(&Again::of(vec![7; 4096], 1), |batch| assert!(!batch.more)), 0);
}

#[test]
fn printed_lines() {
    let mut reader = PrintedReader::new(Dialect::Any);
    let texts = [
        "{".repeat(MAX_TEXT_LEN),
        format!("{{{}'epoch': 1}}", "'a': 1, ".repeat(900)),
        "step: 1 loss: ".repeat(MAX_TEXT_LEN / 14),
        "Epoch 1/9".to_owned(),
        "9/9 - ".repeat(1000),
        "é".repeat(MAX_TEXT_LEN / 2),
    ];
    bounded(|| {
        let (mut read, mut nth) = (0, 0);
        while read < mib() << 20 {
            let text = texts[nth % texts.len()].clone();
            read += text.len() as u64;
            nth += 1;
            let (at, bars) = (WallNanos::new(1), Vec::new());
            let line = LogLine { at, output: Output::Stdout, level: Level::Info, text, bars };
            assert_eq!(reader.line(&line), []);
        }
    });
}

#[test]
fn progress_bars() {
    let mut reader = PrintedReader::new(Dialect::Any);
    let time = "2026-11-29T10:00:00Z";
    let engine = |text: &str| {
        let line = serde_json::json!({"log": text, "stream": "stderr", "time": time});
        format!("{line}\n").into_bytes()
    };
    // Bars that were all drawn again, for logs that nobody printed; labels as long as they may be; and none.
    let texts = [
        "\r          \r  5%|#| 5/100 [x]".repeat(500),
        format!("\r{}: 5%|#| 5/100 [x]", "l".repeat(120)).repeat(100),
        "\r".repeat(16_000),
        "x".repeat(16_000),
    ];
    let pieces: Vec<_> = texts.iter().map(|text| engine(text)).collect();
    bounded(|| {
        let (mut parser, mut read) = (LogParser::new(Progress::default()), 0);
        let mut out = Vec::new();
        while read < mib() << 20 {
            for piece in &pieces {
                parser.push(piece, &mut out);
                read += piece.len() as u64;
            }
            for item in out.drain(..) {
                let LogItem::Line(line) = item else { continue };
                assert!(line.text.len() <= MAX_TEXT_LEN && line.bars.len() <= 8192);
                assert_eq!(reader.line(&line), []);
            }
        }
    });
}
