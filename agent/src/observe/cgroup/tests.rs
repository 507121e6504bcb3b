//! Both generations against fixture folders, and the first against whatever this machine runs.

use super::*;
use proptest::prelude::*;
use std::fs;

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    fs::write(path, text).expect("written");
}

/// What the kernel tells of a process that started so many ticks after boot.
fn stat(start: u64) -> String {
    format!("42 (a) name) S 1 42 42 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 {start} 4096 9 0 0\n")
}

fn init(roots: &HostRoots, pid: u32) -> Place {
    Place::Init(Process::of(roots, pid).expect("it runs"))
}

/// A process 42 in a container's groups of the first generation.
fn v1_fixture(dir: &Path) -> HostRoots {
    let mount = |number: u32, controller: &str| {
        format!(
            "{number} 1 0:{number} / {}/{controller} rw - cgroup cgroup rw,{controller}\n",
            dir.display()
        )
    };
    let mountinfo: String =
        [(30, "memory"), (31, "cpuacct"), (32, "blkio")].map(|(n, c)| mount(n, c)).concat();
    write(&dir.join("proc/self/mountinfo"), &mountinfo);
    write(&dir.join("proc/42/stat"), &stat(100));
    write(
        &dir.join("proc/42/cgroup"),
        "9:name=systemd:/docker/ab\n4:cpu,cpuacct:/docker/ab\n3:memory:/docker/ab\n2:blkio:/docker/ab\n0::/\n",
    );
    let group = |file: &str, text: &str| write(&dir.join(file), text);
    group("cpuacct/docker/ab/cpuacct.usage", "123456789\n");
    group("memory/docker/ab/memory.usage_in_bytes", "1000000\n");
    group("memory/docker/ab/memory.stat", "inactive_file 1\ntotal_inactive_file 200000\n");
    group("memory/docker/ab/memory.limit_in_bytes", "9223372036854771712\n");
    group("memory/docker/ab/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n");
    group("blkio/docker/ab/blkio.throttle.io_service_bytes", "254:0 Read 4096\n254:0 Write 8192\n");
    HostRoots::below(dir)
}

/// The same of the second generation.
fn v2_fixture(dir: &Path) -> HostRoots {
    let mountinfo = format!("30 1 0:30 / {}/unified rw - cgroup2 cgroup2 rw\n", dir.display());
    write(&dir.join("proc/self/mountinfo"), &mountinfo);
    write(&dir.join("proc/42/stat"), &stat(100));
    write(&dir.join("proc/42/cgroup"), "0::/system.slice/docker-ab.scope\n");
    let group = |file: &str, text: &str| {
        write(&dir.join("unified/system.slice/docker-ab.scope").join(file), text);
    };
    group("cpu.stat", "usage_usec 5000\nuser_usec 4000\nsystem_usec 1000\n");
    group("memory.current", "1000000\n");
    group("memory.stat", "anon 5\ninactive_file 300000\nactive_file 7\n");
    group("memory.max", "2000000\n");
    group("memory.events", "low 0\nhigh 0\nmax 4\noom 2\noom_kill 1\n");
    group("io.stat", "254:0 rbytes=10 wbytes=20 rios=1 wios=1 dbytes=0 dios=0\n");
    HostRoots::below(dir)
}

#[test]
fn the_first_generation_is_read() {
    let dir = tempfile::tempdir().expect("a folder");
    let roots = v1_fixture(dir.path());
    let expected = CgroupReading {
        cpu_ns: Some(123_456_789),
        memory: Some(Bytes::new(800_000)),
        memory_limit: None,
        oom_kills: Some(3),
        read: Some(Bytes::new(4096)),
        written: Some(Bytes::new(8192)),
    };
    for place in [init(&roots, 42), Place::Path("/docker/ab".to_owned())] {
        assert_eq!(read_once(&roots, Some(CgroupVersion::V1), &place), Some(expected));
    }
    assert_eq!(
        read_once(&roots, None, &init(&roots, 42)),
        Some(expected),
        "guessed from the mounts"
    );
    assert_eq!(Process::of(&roots, 43), None);
}

#[test]
fn the_second_generation_is_read() {
    let dir = tempfile::tempdir().expect("a folder");
    let roots = v2_fixture(dir.path());
    let expected = CgroupReading {
        cpu_ns: Some(5_000_000),
        memory: Some(Bytes::new(700_000)),
        memory_limit: Some(Bytes::new(2_000_000)),
        oom_kills: Some(1),
        read: Some(Bytes::new(10)),
        written: Some(Bytes::new(20)),
    };
    for version in [Some(CgroupVersion::V2), None] {
        assert_eq!(read_once(&roots, version, &init(&roots, 42)), Some(expected));
    }
    let max = dir.path().join("unified/system.slice/docker-ab.scope/memory.max");
    write(&max, "max\n");
    let unlimited = read_once(&roots, None, &init(&roots, 42)).expect("a reading");
    assert_eq!(unlimited.memory_limit, None);
}

#[test]
fn a_group_that_vanishes_tells_nothing_more() {
    let dir = tempfile::tempdir().expect("a folder");
    let roots = v2_fixture(dir.path());
    let mut group = Hierarchies::find(&roots, None).group(&init(&roots, 42)).expect("a group");
    fs::remove_dir_all(dir.path().join("unified")).expect("removed");
    assert_eq!(group.read(&mut Vec::new()), CgroupReading::default());
}

#[test]
fn a_process_that_gets_the_id_of_one_that_ended_is_somebody_else() {
    let dir = tempfile::tempdir().expect("a folder");
    let roots = v2_fixture(dir.path());
    let place = init(&roots, 42);
    assert!(read_once(&roots, None, &place).is_some());
    write(&dir.path().join("proc/42/stat"), &stat(101));
    assert_eq!(read_once(&roots, None, &place), None, "its groups were taken for the container's");
    assert!(read_once(&roots, None, &init(&roots, 42)).is_some());
}

#[test]
fn only_processes_in_or_below_the_group_belong_to_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let roots = v2_fixture(dir.path());
    let hierarchies = Hierarchies::find(&roots, None);
    write(&dir.path().join("proc/50/cgroup"), "0::/system.slice/docker-ab.scope/inner\n");
    write(&dir.path().join("proc/51/cgroup"), "0::/system.slice/docker-ab.scope2\n");
    let path = "/system.slice/docker-ab.scope";
    assert!(hierarchies.holds(path, 42));
    assert!(hierarchies.holds(path, 50));
    assert!(!hierarchies.holds(path, 51), "a longer name is another group");
    assert!(!hierarchies.holds(path, 52), "a process that is gone belongs to nobody");
    assert!(!hierarchies.holds("/", 42), "the root group is no container");
}

#[test]
fn a_mount_that_shows_a_part_of_its_hierarchy_is_followed() {
    let dir = tempfile::tempdir().expect("a folder");
    let roots = v2_fixture(dir.path());
    let mountinfo =
        format!("30 1 0:30 /system.slice {}/part rw - cgroup2 cgroup2 rw\n", dir.path().display());
    write(&dir.path().join("proc/self/mountinfo"), &mountinfo);
    write(&dir.path().join("part/docker-ab.scope/memory.current"), "77\n");
    let reading = read_once(&roots, None, &init(&roots, 42)).expect("a reading");
    assert_eq!(reading.memory, Some(Bytes::new(77)));
}

#[test]
fn this_very_process_has_groups_that_count_its_time() {
    let roots = HostRoots::default();
    let place = init(&roots, std::process::id());
    let reading = read_once(&roots, None, &place).expect("this kernel has control groups");
    assert!(reading.cpu_ns.is_some_and(|ns| ns > 0) || reading.memory.is_some(), "{reading:?}");
    assert!(host_oom_kills(&roots).is_some());
}

proptest! {
    #[test]
    fn no_membership_panics(noise in ".*", lines in "([0-9]{0,2}:[a-z,=]{0,9}:/[a-z:/]{0,9}\n){0,5}") {
        let _ = Membership::parse(&noise);
        let _ = Membership::parse(&lines).path_of("memory");
    }
}
