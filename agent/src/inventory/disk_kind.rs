//! What a disk is made of, as far as sysfs tells.

use std::path::Path;

use hone_proto::inventory::DiskKind;

use super::mounts::{DeviceNumber, sysfs_folder};
use crate::host::HostRoots;
use crate::observe::file::read_once;

/// How many layers of device mapper, RAID and partitions are looked through.
const MAX_LAYERS: u8 = 8;

/// Makers whose disks are a hypervisor's.
const HYPERVISORS: [&str; 7] = ["qemu", "vmware", "virtual", "msft", "google", "xen", "vbox"];

/// The kind of the device `number`.
pub(crate) fn disk_kind(roots: &HostRoots, number: Option<DeviceNumber>) -> DiskKind {
    number
        .and_then(|number| sysfs_folder(roots, number))
        .map_or(DiskKind::Unknown, |folder| kind_of(&folder, MAX_LAYERS))
}

fn kind_of(folder: &Path, layers: u8) -> DiskKind {
    let Some(layers) = layers.checked_sub(1) else {
        return DiskKind::Unknown;
    };
    if folder.join("partition").exists() {
        return folder.parent().map_or(DiskKind::Unknown, |whole| kind_of(whole, layers));
    }
    let below: Vec<_> = std::fs::read_dir(folder.join("slaves"))
        .map(|entries| entries.filter_map(|entry| entry.ok()?.path().canonicalize().ok()).collect())
        .unwrap_or_default();
    if let Some((first, rest)) = below.split_first() {
        let kind = kind_of(first, layers);
        let same = rest.iter().all(|other| kind_of(other, layers) == kind);
        return if same { kind } else { DiskKind::Unknown };
    }
    let name =
        folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let named = |starts: &[&str]| starts.iter().any(|start| name.starts_with(start));
    if named(&["nvme"]) {
        return DiskKind::Nvme;
    }
    if named(&["vd", "xvd"]) || made_by_hypervisor(folder) {
        return DiskKind::Virtual;
    }
    if named(&["loop", "ram", "zram"]) {
        return DiskKind::Unknown;
    }
    match read_once(&folder.join("queue/rotational")).map(|text| text.trim().to_owned()).as_deref()
    {
        Ok("0") => DiskKind::Ssd,
        Ok("1") => DiskKind::Hdd,
        _ => DiskKind::Unknown,
    }
}

fn made_by_hypervisor(folder: &Path) -> bool {
    ["device/vendor", "device/model"].iter().any(|file| {
        let told = read_once(&folder.join(file)).unwrap_or_default().to_ascii_lowercase();
        HYPERVISORS.iter().any(|maker| told.contains(maker))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    /// A device in a fixture sysfs, with its files.
    fn device(root: &Path, number: &str, path: &str, files: &[(&str, &str)]) {
        let folder = root.join("sys/devices").join(path);
        fs::create_dir_all(&folder).expect("made");
        for (file, text) in files {
            let file = folder.join(file);
            fs::create_dir_all(file.parent().expect("a folder")).expect("made");
            fs::write(file, text).expect("written");
        }
        let links = root.join("sys/dev/block");
        fs::create_dir_all(&links).expect("made");
        symlink(folder, links.join(number)).expect("linked");
    }

    #[test]
    fn each_kind_is_told_from_sysfs() {
        let dir = tempfile::tempdir().expect("a folder");
        let root = dir.path();
        device(root, "259:0", "nvme0n1", &[("queue/rotational", "0\n")]);
        device(root, "259:1", "nvme0n1/nvme0n1p1", &[("partition", "1\n")]);
        device(root, "8:0", "sda", &[("queue/rotational", "1\n"), ("device/vendor", "ATA\n")]);
        device(root, "8:16", "sdb", &[("queue/rotational", "0\n"), ("device/model", "Samsung\n")]);
        device(root, "8:32", "sdc", &[("queue/rotational", "1\n"), ("device/vendor", "QEMU\n")]);
        device(root, "254:0", "vda", &[("queue/rotational", "1\n")]);
        device(root, "7:0", "loop0", &[("queue/rotational", "0\n")]);
        device(root, "253:0", "dm-0", &[]);
        device(root, "253:1", "dm-1", &[]);
        let slave = |dm: &str, of: &str| {
            let slaves = root.join("sys/devices").join(dm).join("slaves");
            fs::create_dir_all(&slaves).expect("made");
            let name = of.rsplit('/').next().expect("a name");
            symlink(root.join("sys/devices").join(of), slaves.join(name)).expect("linked");
        };
        slave("dm-0", "nvme0n1/nvme0n1p1");
        slave("dm-1", "nvme0n1/nvme0n1p1");
        slave("dm-1", "sda");

        let roots = HostRoots::below(root);
        let kind = |major, minor| disk_kind(&roots, Some(DeviceNumber { major, minor }));
        assert_eq!(kind(259, 0), DiskKind::Nvme);
        assert_eq!(kind(259, 1), DiskKind::Nvme, "a partition is of its disk's kind");
        assert_eq!(kind(8, 0), DiskKind::Hdd);
        assert_eq!(kind(8, 16), DiskKind::Ssd);
        assert_eq!(kind(8, 32), DiskKind::Virtual, "a hypervisor's claim to turn is no evidence");
        assert_eq!(kind(254, 0), DiskKind::Virtual);
        assert_eq!(kind(7, 0), DiskKind::Unknown);
        assert_eq!(kind(253, 0), DiskKind::Nvme, "device mapper is of the kind below");
        assert_eq!(kind(253, 1), DiskKind::Unknown, "of two kinds it is neither");
        assert_eq!(kind(1, 1), DiskKind::Unknown);
        assert_eq!(disk_kind(&roots, None), DiskKind::Unknown);
    }
}
