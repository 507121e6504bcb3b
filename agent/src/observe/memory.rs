//! Memory: `/proc/meminfo`.

use hone_proto::quantity::Bytes;
use hone_proto::sample::MemorySample;

use super::file::KeptFile;
use super::text::{fields, lines, number};
use crate::host::HostRoots;

/// Reads memory.
#[derive(Debug)]
pub(crate) struct MemoryReader {
    meminfo: KeptFile,
}

impl MemoryReader {
    pub(crate) fn new(roots: &HostRoots) -> Self {
        Self { meminfo: KeptFile::new(roots.proc.join("meminfo")) }
    }

    pub(crate) fn read(&mut self, buffer: &mut Vec<u8>) -> MemorySample {
        self.meminfo.read(buffer).map(parse).unwrap_or_default()
    }
}

/// Lines like `MemTotal:       24656560 kB`; the few that are wanted.
fn parse(text: &[u8]) -> MemorySample {
    let mut sample = MemorySample::default();
    let mut swap_free = None;
    for line in lines(text) {
        let mut fields = fields(line);
        let place = match fields.next() {
            Some(b"MemTotal:") => &mut sample.total,
            Some(b"MemAvailable:") => &mut sample.available,
            Some(b"SwapTotal:") => &mut sample.swap_total,
            Some(b"SwapFree:") => &mut swap_free,
            _ => continue,
        };
        *place =
            fields.next().and_then(number).and_then(|kib| kib.checked_mul(1024)).map(Bytes::new);
    }
    sample.swap_used = sample.swap_total.zip(swap_free).map(|(all, free)| all.saturating_sub(free));
    sample
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_wanted_lines_are_found_in_any_order() {
        let text =
            b"SwapFree:        1024 kB\nMemTotal:       24656560 kB\nMemFree:         9000 kB\n\
            MemAvailable:   20000000 kB\nSwapTotal:       4096 kB\nHugePages_Total:       0\n";
        let sample = parse(text);
        assert_eq!(sample.total, Some(Bytes::new(24_656_560 << 10)));
        assert_eq!(sample.available, Some(Bytes::new(20_000_000 << 10)));
        assert_eq!(sample.swap_total, Some(Bytes::new(4096 << 10)));
        assert_eq!(sample.swap_used, Some(Bytes::new(3072 << 10)));
        assert_eq!(sample.used(), Some(Bytes::new(4_656_560 << 10)));
    }

    #[test]
    fn what_an_old_kernel_does_not_tell_is_not_known() {
        let sample = parse(b"MemTotal: 100 kB\n");
        assert_eq!((sample.available, sample.swap_used, sample.used()), (None, None, None));
    }

    proptest! {
        #[test]
        fn no_text_panics(
            noise in any::<Vec<u8>>(),
            lines in "((Mem|Swap)(Total|Free|Available):? {0,3}[0-9]{0,25}( kB)?\n){0,6}",
        ) {
            let _ = parse(&noise);
            let _ = parse(lines.as_bytes());
        }
    }
}
