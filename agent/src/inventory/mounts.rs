//! Which file systems are mounted, and which of them are disks: `/proc/self/mountinfo`.

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::host::HostRoots;
use crate::observe::file::read_once;

/// Most disks that are told apart.
pub const MAX_DISKS: usize = 32;

/// The kernel's number of a block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DeviceNumber {
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// One line of mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// What the file system calls its device; major 0 for those without one of their own.
    pub(crate) number: DeviceNumber,
    /// Which folder of the file system is mounted here.
    pub(crate) root: String,
    /// Where.
    pub(crate) point: PathBuf,
    /// Type, such as `ext4`.
    pub(crate) file_system: String,
    /// What was mounted, such as `/dev/vda1`.
    pub(crate) source: String,
    /// Options of the file system itself: names the controllers of a v1 control group hierarchy.
    pub(crate) options: String,
}

/// A mounted file system that counts as a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountedDisk {
    pub(crate) mount: PathBuf,
    pub(crate) file_system: String,
    /// Its block device, when it has one.
    pub(crate) number: Option<DeviceNumber>,
    /// The device's name, or what was mounted.
    pub(crate) device: String,
    pub(crate) holds_state: bool,
    pub(crate) holds_engine: bool,
}

/// The folders whose disks matter in any case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// The agent's state.
    pub(crate) state: Option<PathBuf>,
    /// The engine's images and containers.
    pub(crate) engine: Option<PathBuf>,
}

/// All mounts as this process sees them; none when the kernel does not tell.
pub(crate) fn read(roots: &HostRoots) -> Vec<Mount> {
    read_once(&roots.proc.join("self/mountinfo")).map(|text| parse(&text)).unwrap_or_default()
}

/// Every disk once, whatever the number of its mounts; at most [`MAX_DISKS`], those that hold something first.
pub(crate) fn disks(roots: &HostRoots, mounts: &[Mount], held: &Held) -> Vec<MountedDisk> {
    let state = held.state.as_deref().and_then(|path| holder(mounts, path));
    let engine = held.engine.as_deref().and_then(|path| holder(mounts, path));
    let is = |place: Option<usize>, at: usize| place == Some(at);
    let mut found: BTreeMap<String, MountedDisk> = BTreeMap::new();
    for (at, mount) in mounts.iter().enumerate() {
        let number = block_device(mount);
        let (holds_state, holds_engine) = (is(state, at), is(engine, at));
        if number.is_none() && !holds_state && !holds_engine {
            continue;
        }
        let key = number.map_or_else(|| mount.number.to_string(), |number| number.to_string());
        let fresh = MountedDisk {
            mount: mount.point.clone(),
            file_system: mount.file_system.clone(),
            number,
            device: device_name(roots, number, &mount.source),
            holds_state: false,
            holds_engine: false,
        };
        let disk = found.entry(key).or_insert_with(|| fresh.clone());
        let length = |path: &Path| path.as_os_str().len();
        if length(&fresh.mount) < length(&disk.mount) {
            disk.mount = fresh.mount;
        }
        disk.holds_state |= holds_state;
        disk.holds_engine |= holds_engine;
    }
    let mut disks: Vec<_> = found.into_values().collect();
    disks.sort_by(|a, b| {
        let rank = |disk: &MountedDisk| (!disk.holds_state, !disk.holds_engine);
        rank(a).cmp(&rank(b)).then_with(|| a.mount.cmp(&b.mount))
    });
    disks.truncate(MAX_DISKS);
    disks
}

/// The mount in which `path` lies: the longest mount point above it; of several at one point the last, which hides the
/// others.
fn holder(mounts: &[Mount], path: &Path) -> Option<usize> {
    let mut existing = path.to_path_buf();
    let real = loop {
        match existing.canonicalize() {
            Ok(real) => break real,
            Err(_) if existing.pop() => {}
            Err(_) => return None,
        }
    };
    let above = mounts.iter().enumerate().filter(|(_, mount)| real.starts_with(&mount.point));
    above.max_by_key(|(at, mount)| (mount.point.as_os_str().len(), *at)).map(|(at, _)| at)
}

/// The block device behind a mount. Some file systems (btrfs) hide it behind a number of their own.
fn block_device(mount: &Mount) -> Option<DeviceNumber> {
    if mount.number.major != 0 {
        return Some(mount.number);
    }
    let source = Path::new(&mount.source);
    let metadata = source.starts_with("/dev").then(|| source.metadata().ok()).flatten()?;
    metadata.file_type().is_block_device().then(|| DeviceNumber {
        major: rustix::fs::major(metadata.rdev()),
        minor: rustix::fs::minor(metadata.rdev()),
    })
}

fn device_name(roots: &HostRoots, number: Option<DeviceNumber>, source: &str) -> String {
    number
        .and_then(|number| sysfs_folder(roots, number))
        .and_then(|folder| Some(folder.file_name()?.to_string_lossy().into_owned()))
        .unwrap_or_else(|| source.rsplit('/').next().unwrap_or(source).to_owned())
}

/// The folder in which sysfs describes a block device.
pub(crate) fn sysfs_folder(roots: &HostRoots, number: DeviceNumber) -> Option<PathBuf> {
    roots.sys.join("dev/block").join(number.to_string()).canonicalize().ok()
}

/// Lines like `36 35 98:0 /root /point rw,noatime master:1 - ext3 /dev/sda1 rw,errors=continue`.
pub(crate) fn parse(text: &str) -> Vec<Mount> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Mount> {
    let (place, kind) = line.split_once(" - ")?;
    let mut place = place.split(' ');
    let (major, minor) = place.nth(2)?.split_once(':')?;
    let (root, point) = (place.next()?, place.next()?);
    let mut kind = kind.split(' ');
    Some(Mount {
        number: DeviceNumber { major: major.parse().ok()?, minor: minor.parse().ok()? },
        root: unescape(root),
        point: unescape(point).into(),
        file_system: kind.next()?.to_owned(),
        source: unescape(kind.next()?),
        options: kind.next().unwrap_or_default().to_owned(),
    })
}

/// The kernel writes blanks and backslashes in paths as `\040`.
fn unescape(text: &str) -> String {
    let mut plain = Vec::with_capacity(text.len());
    let mut bytes = text.as_bytes();
    while let Some((first, rest)) = bytes.split_first() {
        let code = rest
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        plain.push(code.unwrap_or(*first));
        bytes = if code.is_some() { &rest[3..] } else { rest };
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "\
21 1 254:1 / / rw,relatime shared:1 - ext4 /dev/root rw,discard
22 21 0:21 / /proc rw,nosuid shared:2 - proc proc rw
23 21 0:22 / /sys rw shared:3 - sysfs sysfs rw
30 23 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
40 21 259:3 / /data rw - xfs /dev/nvme0n1p1 rw
41 21 259:3 /sub /srv/long/bind rw - xfs /dev/nvme0n1p1 rw
50 21 0:33 / /tank\\040one rw - zfs tank/one rw
60 40 0:40 / /data/over rw - overlay overlay rw
";

    #[test]
    fn each_disk_is_listed_once_by_its_shortest_mount() {
        let mounts = parse(TEXT);
        assert_eq!(mounts.len(), 8);
        assert_eq!(mounts[6].point, Path::new("/tank one"));
        assert_eq!(mounts[3].options, "rw,memory");
        let roots = HostRoots::below(Path::new("/nonexistent"));
        let disks = disks(&roots, &mounts, &Held::default());
        let found: Vec<_> = disks.iter().map(|d| (d.mount.to_str(), d.device.as_str())).collect();
        assert_eq!(found, [(Some("/"), "root"), (Some("/data"), "nvme0n1p1")]);
    }

    #[test]
    fn a_file_system_without_a_device_counts_when_it_holds_something() {
        let dir = tempfile::tempdir().expect("a folder");
        let real = dir.path().canonicalize().expect("it exists");
        let point = real.join("pool");
        std::fs::create_dir_all(point.join("state")).expect("made");
        let text = format!("{TEXT}70 21 0:77 / {} rw - zfs tank/two rw\n", point.display());
        let held = Held { state: Some(point.join("state/not/yet/made")), engine: None };
        let roots = HostRoots::below(Path::new("/nonexistent"));
        let disks = disks(&roots, &parse(&text), &held);
        assert_eq!(disks.len(), 3);
        assert_eq!(disks[0].mount, point, "what holds state comes first");
        assert!(disks[0].holds_state && !disks[0].holds_engine);
        assert_eq!(disks[0].number, None);
    }

    #[test]
    fn the_number_of_disks_is_bounded() {
        let text: String =
            (0..100).map(|n| format!("1 1 8:{n} / /m{n} rw - ext4 /dev/sd{n} rw\n")).collect();
        let roots = HostRoots::below(Path::new("/nonexistent"));
        assert_eq!(disks(&roots, &parse(&text), &Held::default()).len(), MAX_DISKS);
    }

    #[test]
    fn this_machine_tells_where_its_root_is() {
        let mounts = read(&HostRoots::default());
        assert!(holder(&mounts, Path::new("/")).is_some());
    }

    proptest! {
        #[test]
        fn no_text_panics(noise in ".*", line in "[0-9]{1,3} 1 [0-9:]{1,9} [/\\\\0-9]{0,9} /[\\\\0-7]{0,5} rw - [a-z]{0,3} .{0,5}") {
            let _ = parse(&noise);
            let _ = parse(&line);
            let _ = unescape(&noise);
        }
    }
}
