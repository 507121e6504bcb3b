//! The collector on fixture folders and on this machine.

use std::fs;
use std::path::Path;

use hone_proto::inventory::{DiskKind, Nvml};
use hone_proto::quantity::Bytes;

use super::*;
use crate::observe::gpu::GpuSettings;

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    fs::write(path, text).expect("written");
}

fn no_gpus(dir: &Path) -> Gpus {
    Gpus::start(GpuSettings {
        library: Some(dir.join("no-such-library.so")),
        ..GpuSettings::default()
    })
}

#[test]
fn what_the_kernel_and_the_engine_tell_is_put_together() {
    let dir = tempfile::tempdir().expect("a folder");
    let root = dir.path();
    let state = root.join("state");
    fs::create_dir(&state).expect("made");
    write(&root.join("etc/os-release"), "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n");
    write(&root.join("proc/cpuinfo"), "processor : 0\nmodel name : Some CPU\ncore id : 0\n");
    write(&root.join("proc/meminfo"), "MemTotal: 1024 kB\nSwapTotal: 512 kB\n");
    let boot = "3f0f7a2e-1111-2222-3333-444455556666";
    write(&root.join("proc/sys/kernel/random/boot_id"), &format!("{boot}\n"));
    let mountinfo = format!("21 1 254:1 / {} rw - ext4 /dev/vda1 rw\n", root.display());
    write(&root.join("proc/self/mountinfo"), &mountinfo);
    let engine = EngineFacts {
        name: "docker".to_owned(),
        root_dir: root.join("docker"),
        ..EngineFacts::default()
    };

    let collector = Collector::new(HostRoots::below(root), state, no_gpus(root));
    let inventory = collector.collect(&engine);
    assert_eq!(inventory.os, "Debian GNU/Linux 12 (bookworm)");
    assert_eq!((inventory.cpu.model.as_str(), inventory.cpu.logical_cores), ("Some CPU", 1));
    assert_eq!((inventory.ram, inventory.swap), (Bytes::new(1 << 20), Bytes::new(512 << 10)));
    assert_eq!(inventory.boot.as_ref().map(BootId::as_str), Some(boot));
    assert_eq!(inventory.engine, engine);
    assert!(matches!(inventory.nvml, Nvml::Absent { .. }));
    let [disk] = &inventory.disks[..] else { panic!("one disk: {:?}", inventory.disks) };
    assert!(disk.holds_state && disk.holds_engine && disk.total > disk.free);
    assert_eq!((disk.device.as_str(), disk.kind), ("vda1", DiskKind::Unknown));
    assert!(disk.measured.is_some());
}

#[test]
fn this_machine_has_an_inventory() {
    let dir = tempfile::tempdir().expect("a folder");
    let collector =
        Collector::new(HostRoots::default(), dir.path().to_owned(), no_gpus(dir.path()));
    let inventory = collector.collect(&EngineFacts::default());
    assert!(!inventory.hostname.is_empty() && !inventory.kernel.is_empty());
    assert!(inventory.boot.is_some() && inventory.cpu.logical_cores > 0);
    assert!(inventory.ram > Bytes::ZERO);
    assert_eq!(inventory.disks.iter().filter(|disk| disk.holds_state).count(), 1);
    assert!(inventory.disks.iter().all(|disk| !disk.holds_engine), "no engine was named");
}
