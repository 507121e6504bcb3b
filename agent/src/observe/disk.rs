//! Disks: `/proc/diskstats` for what they do, `statvfs` for what is free.

use std::time::Duration;

use hone_proto::quantity::Bytes;
use hone_proto::sample::DiskSample;

use super::file::KeptFile;
use super::text::{approximate, fields, lines, number, per_second, single, whole};
use crate::host::HostRoots;
use crate::inventory::mounts::{self, DeviceNumber, Held, MountedDisk};

/// The kernel's unit here, whatever the disk's own is.
const SECTOR: u64 = 512;

/// Readings after which the mounts are looked up again: once a minute at one reading per second.
const REFRESH_AFTER: u32 = 60;

/// Reads disks; keeps what it read last, for the rates.
#[derive(Debug)]
pub(crate) struct DiskReader {
    roots: HostRoots,
    held: Held,
    diskstats: KeptFile,
    disks: Vec<(MountedDisk, Option<Counters>)>,
    readings: u32,
}

/// What a disk did since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Counters {
    reads: u64,
    read_sectors: u64,
    read_ms: u64,
    writes: u64,
    written_sectors: u64,
    write_ms: u64,
    busy_ms: u64,
}

impl DiskReader {
    pub(crate) fn new(roots: &HostRoots, held: Held) -> Self {
        Self {
            roots: roots.clone(),
            held,
            diskstats: KeptFile::new(roots.proc.join("diskstats")),
            disks: Vec::new(),
            readings: 0,
        }
    }

    pub(crate) fn read(&mut self, elapsed: Duration, buffer: &mut Vec<u8>) -> Vec<DiskSample> {
        if self.readings.is_multiple_of(REFRESH_AFTER) {
            self.refresh();
        }
        self.readings = self.readings.wrapping_add(1);
        let mut samples: Vec<_> = self.disks.iter().map(|(disk, _)| space(disk)).collect();
        let text = self.diskstats.read(buffer).unwrap_or_default();
        for (number, now) in lines(text).filter_map(parse_line) {
            let known = self.disks.iter_mut().zip(&mut samples);
            for ((disk, before), sample) in known {
                if disk.number == Some(number) {
                    if let Some(before) = before {
                        rates(before, &now, elapsed, sample);
                    }
                    *before = Some(now);
                }
            }
        }
        samples
    }

    fn refresh(&mut self) {
        let mounts = mounts::read(&self.roots);
        let fresh = mounts::disks(&self.roots, &mounts, &self.held).into_iter().map(|disk| {
            let known = self.disks.iter().find(|(known, _)| known.number == disk.number);
            let counters = known.and_then(|(_, counters)| *counters);
            (disk, counters)
        });
        self.disks = fresh.collect();
    }
}

/// A disk of which only its space is known.
fn space(disk: &MountedDisk) -> DiskSample {
    let space = Space::of(&disk.mount);
    DiskSample {
        mount: disk.mount.to_string_lossy().into_owned(),
        device: disk.device.clone(),
        total: space.map(|space| space.total),
        free: space.map(|space| space.free),
        ..DiskSample::default()
    }
}

/// Space of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Space {
    pub(crate) total: Bytes,
    /// For ordinary users: what the file system keeps for root is not counted.
    pub(crate) free: Bytes,
}

impl Space {
    pub(crate) fn of(path: &std::path::Path) -> Option<Self> {
        let told = rustix::fs::statvfs(path).ok()?;
        let bytes = |blocks: u64| Bytes::new(blocks.saturating_mul(told.f_frsize));
        Some(Self { total: bytes(told.f_blocks), free: bytes(told.f_bavail) })
    }
}

/// `254 0 vda reads merged sectors ms writes merged sectors ms in_flight busy_ms …`
fn parse_line(line: &[u8]) -> Option<(DeviceNumber, Counters)> {
    let mut fields = fields(line);
    let mut id = || number(fields.next()?).and_then(|n| u32::try_from(n).ok());
    let device = DeviceNumber { major: id()?, minor: id()? };
    fields.next()?;
    let mut figures = [0; 10];
    for figure in &mut figures {
        *figure = number(fields.next()?)?;
    }
    let [reads, _, read_sectors, read_ms, writes, _, written_sectors, write_ms, _, busy_ms] =
        figures;
    let counters =
        Counters { reads, read_sectors, read_ms, writes, written_sectors, write_ms, busy_ms };
    Some((device, counters))
}

fn rates(before: &Counters, now: &Counters, elapsed: Duration, sample: &mut DiskSample) {
    let bytes = |before: u64, now: u64| {
        per_second(before, now, elapsed)
            .map(|sectors| Bytes::new(whole(sectors).saturating_mul(SECTOR)))
    };
    let operations = |before, now| per_second(before, now, elapsed).map(single);
    let latency = |ms: (u64, u64), operations: (u64, u64)| {
        let done = operations.1.checked_sub(operations.0).filter(|done| *done > 0)?;
        Some(single(approximate(ms.1.checked_sub(ms.0)?) / approximate(done)))
    };
    sample.read_per_second = bytes(before.read_sectors, now.read_sectors);
    sample.write_per_second = bytes(before.written_sectors, now.written_sectors);
    sample.reads_per_second = operations(before.reads, now.reads);
    sample.writes_per_second = operations(before.writes, now.writes);
    sample.read_latency_ms = latency((before.read_ms, now.read_ms), (before.reads, now.reads));
    sample.write_latency_ms = latency((before.write_ms, now.write_ms), (before.writes, now.writes));
    let busy = per_second(before.busy_ms, now.busy_ms, elapsed);
    sample.busy_percent = busy.map(|ms| single((ms / 10.0).min(100.0)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;
    use std::path::Path;

    fn fixture(dir: &Path, diskstats: &str) {
        fs::create_dir_all(dir.join("proc/self")).expect("made");
        let mountinfo = format!("21 1 254:1 / {} rw - ext4 /dev/vda1 rw\n", dir.display());
        fs::write(dir.join("proc/self/mountinfo"), mountinfo).expect("written");
        fs::write(dir.join("proc/diskstats"), diskstats).expect("written");
    }

    #[test]
    fn rates_and_latencies_are_of_the_time_between_two_readings() {
        let dir = tempfile::tempdir().expect("a folder");
        let vda = " 254 0 vda 9 9 9 9 9 9 9 9 9 9 9\n";
        fixture(dir.path(), &format!("{vda} 254 1 vda1 100 5 2000 300 50 7 4000 100 0 200 400\n"));
        let mut reader = DiskReader::new(&HostRoots::below(dir.path()), Held::default());
        let mut buffer = Vec::new();
        let first = reader.read(Duration::ZERO, &mut buffer);
        assert_eq!((first.len(), first[0].read_per_second), (1, None));
        assert_eq!(first[0].device, "vda1");
        assert!(first[0].free.is_some_and(|free| free <= first[0].total.unwrap_or_default()));

        fixture(
            dir.path(),
            &format!("{vda} 254 1 vda1 120 5 2400 340 50 7 4000 100 0 1200 1500\n"),
        );
        let second = &reader.read(Duration::from_secs(2), &mut buffer)[0];
        assert_eq!(second.read_per_second, Some(Bytes::new(200 * 512)));
        assert_eq!(second.reads_per_second, Some(10.0));
        assert_eq!(second.read_latency_ms, Some(2.0));
        assert_eq!(second.write_per_second, Some(Bytes::ZERO));
        assert_eq!(second.writes_per_second, Some(0.0));
        assert_eq!(second.write_latency_ms, None, "without writes there is no latency");
        assert_eq!(second.busy_percent, Some(50.0));
    }

    #[test]
    fn a_disk_whose_counters_vanish_keeps_its_space() {
        let dir = tempfile::tempdir().expect("a folder");
        fixture(dir.path(), "");
        let mut reader = DiskReader::new(&HostRoots::below(dir.path()), Held::default());
        let samples = reader.read(Duration::ZERO, &mut Vec::new());
        assert!(samples[0].total.is_some());
        assert_eq!(samples[0].reads_per_second, None);
    }

    proptest! {
        #[test]
        fn no_text_panics(
            noise in any::<Vec<u8>>(),
            line in "[0-9]{1,12} [0-9]{1,12} [a-z]{0,3}( [0-9]{1,25}){0,14}",
            before in any::<[u64; 7]>(), now in any::<[u64; 7]>(), ns in any::<u64>(),
        ) {
            let _ = parse_line(&noise);
            let _ = parse_line(line.as_bytes());
            let counters = |f: [u64; 7]| Counters {
                reads: f[0], read_sectors: f[1], read_ms: f[2], writes: f[3],
                written_sectors: f[4], write_ms: f[5], busy_ms: f[6],
            };
            let mut sample = DiskSample::default();
            rates(&counters(before), &counters(now), Duration::from_nanos(ns), &mut sample);
            prop_assert!(sample.busy_percent.is_none_or(|busy| (0.0..=100.0).contains(&busy)));
        }
    }
}
