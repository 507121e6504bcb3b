//! Processors: `/proc/stat` and `/proc/loadavg`.

use hone_proto::sample::CpuSample;

use super::file::KeptFile;
use super::text::{approximate, fields, lines, number, single};
use crate::host::HostRoots;

/// Most cores that are told apart: a record of each is sent every second.
const MAX_CORES: usize = 1024;

/// Reads processors; keeps what it read last, for the shares.
#[derive(Debug)]
pub(crate) struct CpuReader {
    stat: KeptFile,
    loadavg: KeptFile,
    before: CpuTimes,
    now: CpuTimes,
}

/// Time that processors spent since boot, in ticks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct CpuTimes {
    all: Option<CoreTimes>,
    cores: Vec<Option<CoreTimes>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct CoreTimes {
    total: u64,
    idle: u64,
    io_wait: u64,
    steal: u64,
}

/// Shares of the time between two readings, in percent.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Shares {
    busy: f32,
    steal: f32,
    io_wait: f32,
}

impl CpuReader {
    pub(crate) fn new(roots: &HostRoots) -> Self {
        Self {
            stat: KeptFile::new(roots.proc.join("stat")),
            loadavg: KeptFile::new(roots.proc.join("loadavg")),
            before: CpuTimes::default(),
            now: CpuTimes::default(),
        }
    }

    pub(crate) fn read(&mut self, buffer: &mut Vec<u8>) -> CpuSample {
        std::mem::swap(&mut self.before, &mut self.now);
        match self.stat.read(buffer) {
            Ok(text) => self.now.parse(text),
            Err(_) => self.now = CpuTimes::default(),
        }
        let all = shares(self.before.all, self.now.all);
        let mut sample = CpuSample {
            busy_percent: all.map(|shares| shares.busy),
            steal_percent: all.map(|shares| shares.steal),
            io_wait_percent: all.map(|shares| shares.io_wait),
            load: self.loadavg.read(buffer).ok().and_then(load),
            ..CpuSample::default()
        };
        if all.is_some() {
            let before = self.before.cores.iter().copied().chain(std::iter::repeat(None));
            let cores = self.now.cores.iter().zip(before);
            // A core that is offline has no share: NaN keeps the others at their numbers.
            sample.cores_busy_percent = cores
                .map(|(now, before)| shares(before, *now).map_or(f32::NAN, |shares| shares.busy))
                .collect();
        }
        sample
    }
}

impl CpuTimes {
    /// Takes over what `text` says. The lines of processors come first; the long rest is not looked at.
    fn parse(&mut self, text: &[u8]) {
        self.all = None;
        self.cores.clear();
        for line in lines(text) {
            let mut fields = fields(line);
            let Some(core) = fields.next().and_then(|name| name.strip_prefix(b"cpu")) else {
                return;
            };
            let times = core_times(fields);
            if core.is_empty() {
                self.all = times;
                continue;
            }
            let place = number(core).and_then(|core| usize::try_from(core).ok());
            if let Some(place) = place.filter(|place| *place < MAX_CORES) {
                if self.cores.len() <= place {
                    self.cores.resize(place + 1, None);
                }
                self.cores[place] = times;
            }
        }
    }
}

/// `user nice system idle iowait irq softirq steal …`. What follows (guests) is part of user and nice already.
fn core_times<'a>(fields: impl Iterator<Item = &'a [u8]>) -> Option<CoreTimes> {
    let mut ticks = [0_u64; 8];
    let mut found = 0;
    for (tick, field) in ticks.iter_mut().zip(fields) {
        *tick = number(field)?;
        found += 1;
    }
    let total = ticks.iter().fold(0_u64, |sum, tick| sum.saturating_add(*tick));
    (found >= 4).then_some(CoreTimes { total, idle: ticks[3], io_wait: ticks[4], steal: ticks[7] })
}

fn shares(before: Option<CoreTimes>, now: Option<CoreTimes>) -> Option<Shares> {
    let (before, now) = (before?, now?);
    let total = now.total.checked_sub(before.total).filter(|ticks| *ticks > 0)?;
    // The kernel lets idle and iowait step back a little.
    let share = |before: u64, now: u64| {
        let percent = 100.0 * approximate(now.saturating_sub(before)) / approximate(total);
        single(percent.min(100.0))
    };
    let idle = share(before.idle, now.idle);
    let io_wait = share(before.io_wait, now.io_wait);
    let busy = (100.0 - idle - io_wait).clamp(0.0, 100.0);
    Some(Shares { busy, io_wait, steal: share(before.steal, now.steal) })
}

/// `0.52 0.58 0.59 1/467 12345`
fn load(text: &[u8]) -> Option<[f32; 3]> {
    let mut averages = fields(text).map(|field| std::str::from_utf8(field).ok()?.parse().ok());
    Some([averages.next()??, averages.next()??, averages.next()??])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;

    const FIRST: &str = "\
cpu  1000 0 500 8000 400 0 100 0 200 0
cpu0 500 0 250 4000 200 0 50 0 100 0
cpu1 500 0 250 4000 200 0 50 0 100 0
intr 1 2 3
ctxt 5
";
    const SECOND: &str = "\
cpu  1050 0 510 8120 410 0 105 5 210 0
cpu0 550 0 250 4040 205 0 50 5 110 0
cpu1 500 0 260 4080 205 0 55 0 100 0
";

    fn reader(dir: &std::path::Path) -> CpuReader {
        CpuReader::new(&HostRoots::below(dir))
    }

    #[test]
    fn shares_are_of_the_time_between_two_readings() {
        let dir = tempfile::tempdir().expect("a folder");
        fs::create_dir(dir.path().join("proc")).expect("made");
        let stat = dir.path().join("proc/stat");
        fs::write(dir.path().join("proc/loadavg"), "0.52 1.58 2.59 1/467 12345\n")
            .expect("written");
        let (mut reader, mut buffer) = (reader(dir.path()), Vec::new());

        fs::write(&stat, FIRST).expect("written");
        let first = reader.read(&mut buffer);
        assert_eq!(first.busy_percent, None);
        assert!(first.cores_busy_percent.is_empty());
        assert_eq!(first.load, Some([0.52, 1.58, 2.59]));

        fs::write(&stat, SECOND).expect("written");
        let second = reader.read(&mut buffer);
        // 200 ticks passed: 50 user, 10 system, 120 idle, 10 iowait, 5 softirq, 5 steal.
        assert_eq!(second.busy_percent, Some(35.0));
        assert_eq!(second.steal_percent, Some(2.5));
        assert_eq!(second.io_wait_percent, Some(5.0));
        assert_eq!(second.cores_busy_percent, [55.0, 15.0]);
    }

    #[test]
    fn a_core_that_is_offline_keeps_the_numbers_of_the_others() {
        let mut times = CpuTimes::default();
        times.parse(b"cpu 1 1 1 1\ncpu0 1 2 3 4\ncpu2 5 6 7 8\n");
        assert_eq!(times.cores.len(), 3);
        assert_eq!(times.cores[1], None);
        assert_eq!(times.cores[2].map(|core| core.total), Some(26));
    }

    #[test]
    fn absurd_core_numbers_take_no_memory() {
        let mut times = CpuTimes::default();
        times.parse(b"cpu99999999999 1 2 3 4\ncpu18446744073709551616 1 2 3 4\n");
        assert!(times.cores.is_empty());
    }

    proptest! {
        #[test]
        fn no_text_panics(before in any::<Vec<u8>>(), now in "(cpu[0-9]{0,3}( [0-9]{1,25}){0,11}\n){0,6}") {
            let (mut first, mut second) = (CpuTimes::default(), CpuTimes::default());
            first.parse(&before);
            second.parse(now.as_bytes());
            let _ = shares(first.all, second.all);
            let _ = shares(second.all, first.all);
            let _ = load(&before);
        }
    }
}
