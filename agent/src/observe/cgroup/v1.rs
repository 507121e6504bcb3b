//! The first generation: one hierarchy per controller.

use std::path::PathBuf;

use hone_proto::quantity::Bytes;

use super::super::file::KeptFile;
use super::super::text::{fields, lines, number};
use super::{CgroupReader, CgroupReading, keyed, single, working_set};

/// The kernel writes "no limit" as the largest page-aligned number: nothing at or above this is a limit.
const NO_LIMIT: u64 = 1 << 62;

/// Reads the groups of one container.
#[derive(Debug)]
pub(super) struct Reader {
    cpu: Option<KeptFile>,
    usage: Option<KeptFile>,
    stat: Option<KeptFile>,
    limit: Option<KeptFile>,
    oom: Option<KeptFile>,
    /// Counts what lies below the group too; older kernels have only the second.
    io: [Option<KeptFile>; 2],
}

impl Reader {
    /// `folder` tells where the container's group of a controller is.
    pub(super) fn new(folder: impl Fn(&str) -> Option<PathBuf>) -> Self {
        let file = |controller, name| Some(KeptFile::new(folder(controller)?.join(name)));
        Self {
            cpu: file("cpuacct", "cpuacct.usage"),
            usage: file("memory", "memory.usage_in_bytes"),
            stat: file("memory", "memory.stat"),
            limit: file("memory", "memory.limit_in_bytes"),
            oom: file("memory", "memory.oom_control"),
            io: [
                file("blkio", "blkio.throttle.io_service_bytes_recursive"),
                file("blkio", "blkio.throttle.io_service_bytes"),
            ],
        }
    }
}

impl CgroupReader for Reader {
    fn read(&mut self, buffer: &mut Vec<u8>) -> CgroupReading {
        let mut ask = |file: &mut Option<KeptFile>, parse: fn(&[u8]) -> Option<u64>| {
            file.as_mut().and_then(|file| file.read(buffer).ok().and_then(parse))
        };
        let cpu_ns = ask(&mut self.cpu, single);
        let usage = ask(&mut self.usage, single);
        let inactive = ask(&mut self.stat, |text| keyed(text, b"total_inactive_file"));
        let limit = ask(&mut self.limit, single).filter(|limit| *limit < NO_LIMIT);
        let oom_kills = ask(&mut self.oom, |text| keyed(text, b"oom_kill"));
        let mut moved = |way: fn(&[u8]) -> Option<u64>| {
            self.io.iter_mut().find_map(|file| ask(file, way)).map(Bytes::new)
        };
        CgroupReading {
            cpu_ns,
            memory: working_set(usage, inactive),
            memory_limit: limit.map(Bytes::new),
            oom_kills,
            read: moved(|text| Some(transferred(text, b"Read"))),
            written: moved(|text| Some(transferred(text, b"Write"))),
        }
    }
}

/// Lines like `254:0 Read 4096` and one `Total 4096`. A group that never did I/O has no line: that is zero.
fn transferred(text: &[u8], way: &[u8]) -> u64 {
    let amounts = lines(text).filter_map(|line| {
        let mut fields = fields(line).skip(1);
        (fields.next() == Some(way)).then(|| fields.next().and_then(number)).flatten()
    });
    amounts.fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_of_all_devices_are_added_and_the_total_is_not() {
        let text = b"254:0 Read 4096\n254:0 Write 100\n254:0 Sync 1\n8:0 Read 4\nTotal 4201\n";
        assert_eq!(transferred(text, b"Read"), 4100);
        assert_eq!(transferred(text, b"Write"), 100);
        assert_eq!(transferred(b"Total 0\n", b"Read"), 0);
    }

    proptest! {
        #[test]
        fn no_text_panics(noise in any::<Vec<u8>>(), line in "([0-9:]{0,5} (Read|Write) [0-9]{1,25}\n){0,4}") {
            let _ = transferred(&noise, b"Read");
            let _ = transferred(line.as_bytes(), b"Write");
        }
    }
}
