//! The second generation: one hierarchy for everything.

use std::path::Path;

use hone_proto::quantity::Bytes;

use super::super::file::KeptFile;
use super::super::text::{fields, number};
use super::{CgroupReader, CgroupReading, keyed, single, working_set};

/// Reads the group of one container.
#[derive(Debug)]
pub(super) struct Reader {
    cpu: KeptFile,
    current: KeptFile,
    stat: KeptFile,
    max: KeptFile,
    events: KeptFile,
    io: KeptFile,
}

impl Reader {
    pub(super) fn new(folder: &Path) -> Self {
        let file = |name| KeptFile::new(folder.join(name));
        Self {
            cpu: file("cpu.stat"),
            current: file("memory.current"),
            stat: file("memory.stat"),
            max: file("memory.max"),
            events: file("memory.events"),
            io: file("io.stat"),
        }
    }
}

impl CgroupReader for Reader {
    fn read(&mut self, buffer: &mut Vec<u8>) -> CgroupReading {
        let mut ask = |file: &mut KeptFile, parse: fn(&[u8]) -> Option<u64>| {
            file.read(buffer).ok().and_then(parse)
        };
        let cpu_us = ask(&mut self.cpu, |text| keyed(text, b"usage_usec"));
        let usage = ask(&mut self.current, single);
        let inactive = ask(&mut self.stat, |text| keyed(text, b"inactive_file"));
        CgroupReading {
            cpu_ns: cpu_us.and_then(|us| us.checked_mul(1000)),
            memory: working_set(usage, inactive),
            // Without a limit the file says "max".
            memory_limit: ask(&mut self.max, single).map(Bytes::new),
            oom_kills: ask(&mut self.events, |text| keyed(text, b"oom_kill")),
            read: ask(&mut self.io, |text| Some(transferred(text, b"rbytes="))).map(Bytes::new),
            written: ask(&mut self.io, |text| Some(transferred(text, b"wbytes="))).map(Bytes::new),
        }
    }
}

/// Lines like `254:0 rbytes=4096 wbytes=0 rios=1 …`. A group that never did I/O has an empty file: that is zero.
fn transferred(text: &[u8], key: &[u8]) -> u64 {
    let words = text.split(|byte| *byte == b'\n').flat_map(fields);
    let amounts = words.filter_map(|word| number(word.strip_prefix(key)?));
    amounts.fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_of_all_devices_are_added() {
        let text =
            b"254:0 rbytes=4096 wbytes=7 rios=1 wios=0 dbytes=9 dios=0\n8:0 rbytes=4 wbytes=1\n";
        assert_eq!(transferred(text, b"rbytes="), 4100);
        assert_eq!(transferred(text, b"wbytes="), 8);
        assert_eq!(transferred(b"", b"rbytes="), 0);
    }

    proptest! {
        #[test]
        fn no_text_panics(noise in any::<Vec<u8>>(), line in "([0-9:]{0,5} [rw]bytes=[0-9]{1,25}\n){0,4}") {
            let _ = transferred(&noise, b"rbytes=");
            let _ = transferred(line.as_bytes(), b"wbytes=");
            let _ = keyed(&noise, b"oom_kill");
            let _ = single(&noise);
        }
    }
}
