//! Which processes of a container hold the work, so that a request to stop reaches them and not their launcher: `trl`
//! and `accelerate launch` die of SIGTERM at once, and the container with them, before the trainer below has saved.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::host::HostRoots;
use crate::observe::cgroup::Process;

/// Processes that are looked at: far more than a container may have.
const MAX_PROCESSES: usize = 8192;
/// Longest part of a command line that is compared.
const MAX_COMMAND: usize = 4096;

/// One process of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its id, as the host sees it.
    pub pid: u32,
    /// Its parent's.
    pub parent: u32,
    /// Its command line; arguments end in a zero byte.
    pub command: Vec<u8>,
    /// Whether it has a GPU open.
    pub gpu: bool,
}

/// Helpers that libraries start beside the work, whatever they have open.
const HELPERS: [&[u8]; 2] = [b"resource_tracker", b"compile_worker"];

/// How Python starts a process that is no fork: a data loader's, or with a GPU one of those that train
/// (`torch.multiprocessing.spawn`).
const SPAWNED: [&[u8]; 2] = [b"spawn_main", b"forkserver"];

impl Seen {
    fn is_python(&self) -> bool {
        let program = self.command.split(|byte| *byte == 0).next().unwrap_or_default();
        let name = program.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        name.starts_with(b"python") || name.starts_with(b"pt_main_thread")
    }

    fn is_helper(&self) -> bool {
        self.names_one_of(&HELPERS) || !self.gpu && self.names_one_of(&SPAWNED)
    }

    fn names_one_of(&self, words: &[&[u8]]) -> bool {
        words.iter().any(|word| self.command.windows(word.len()).any(|part| part == *word))
    }
}

/// The processes that do the work among those of one container, whose first is `init`.
///
/// These are the ones that hold a GPU. Where none does, they are the Python programs that no other Python program was
/// started by: launchers wait for children with command lines of their own, while data loaders are forks of the worker
/// and share its command line, and what it has open. Where there is no Python, they are the last programs that were started.
#[must_use]
pub fn workers(init: u32, all: &[Seen]) -> Vec<u32> {
    let own = |seen: &&Seen| seen.pid != init && !seen.is_helper();
    let parent = |seen: &Seen| all.iter().find(|other| other.pid == seen.parent);
    let forked = |seen: &Seen| {
        parent(seen).is_some_and(|from| from.command == seen.command && (from.gpu || !seen.gpu))
    };
    let programs: Vec<&Seen> = all.iter().filter(own).filter(|seen| !forked(seen)).collect();
    let holders: Vec<&Seen> = programs.iter().copied().filter(|seen| seen.gpu).collect();
    let pythons: Vec<&Seen> = programs.iter().copied().filter(|seen| seen.is_python()).collect();
    let among = [holders, pythons, programs].into_iter().find(|some| !some.is_empty());
    let among = among.unwrap_or_default();
    let parents: BTreeSet<u32> = among.iter().map(|seen| seen.parent).collect();
    among.iter().map(|seen| seen.pid).filter(|pid| !parents.contains(pid)).collect()
}

/// The processes below a container's first one, with it.
fn below(roots: &HostRoots, init: Process) -> Vec<Seen> {
    let Ok(entries) = fs::read_dir(&roots.proc) else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let all: Vec<Seen> =
        pids.take(MAX_PROCESSES).filter_map(|pid| look(&roots.proc, pid)).collect();
    let mut found: BTreeSet<u32> = [init.pid].into();
    loop {
        let before = found.len();
        found.extend(
            all.iter()
                .filter(|seen| found.contains(&seen.parent))
                .map(|seen| seen.pid)
                .collect::<Vec<_>>(),
        );
        if found.len() == before {
            return all.into_iter().filter(|seen| found.contains(&seen.pid)).collect();
        }
    }
}

fn look(proc: &Path, pid: u32) -> Option<Seen> {
    let dir = proc.join(pid.to_string());
    let stat = fs::read_to_string(dir.join("stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let parent = fields.split_ascii_whitespace().nth(1)?.parse().ok()?;
    let mut command = fs::read(dir.join("cmdline")).ok()?;
    command.truncate(MAX_COMMAND);
    let open = fs::read_dir(dir.join("fd")).into_iter().flatten().flatten();
    let gpu = open.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|to| is_gpu(&to));
    Some(Seen { pid, parent, command, gpu })
}

/// `/dev/nvidia0` and its like; not the control devices, which launchers open too.
fn is_gpu(path: &Path) -> bool {
    let number = path.to_str().and_then(|path| path.strip_prefix("/dev/nvidia"));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

/// Sends a signal to the processes that do the work of the container whose first process is `init`. Returns how many
/// took it.
#[must_use]
pub fn signal(roots: &HostRoots, init: Process, signal: Signal) -> usize {
    let all = below(roots, init);
    if Process::of(roots, init.pid) != Some(init) {
        return 0;
    }
    let sent = workers(init.pid, &all).into_iter().filter(|pid| {
        let Some(before) = Process::of(roots, *pid) else { return false };
        let Some(id) = i32::try_from(*pid).ok().and_then(Pid::from_raw) else { return false };
        let Ok(held) = pidfd_open(id, PidfdFlags::empty()) else { return false };
        // Held now: whoever has the id is who was looked at, or nobody is signalled.
        Process::of(roots, *pid) == Some(before) && pidfd_send_signal(held, signal).is_ok()
    });
    sent.count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(pid: u32, parent: u32, command: &str) -> Seen {
        Seen { pid, parent, command: command.replace(' ', "\0").into_bytes(), gpu: false }
    }

    #[test]
    fn a_launcher_is_passed_over_and_so_are_its_workers_own_children() {
        let trl = [
            seen(10, 1, "/sbin/docker-init -- trl sft"),
            seen(11, 10, "/usr/bin/python3 /usr/bin/trl sft --config x"),
            seen(12, 11, "/usr/bin/python3 /x/accelerate launch sft.py"),
            seen(13, 12, "/usr/bin/python3 sft.py --config x"),
            seen(14, 13, "/usr/bin/python3 sft.py --config x"),
            seen(15, 13, "/usr/bin/python3 -c from multiprocessing.resource_tracker import main"),
            seen(16, 13, "/usr/bin/gcc -c kernel.c"),
        ];
        assert_eq!(workers(10, &trl), [13]);
        let torchrun = [
            seen(10, 1, "init"),
            seen(11, 10, "python torchrun --nproc-per-node 2 train.py"),
            seen(12, 11, "python -u train.py"),
            seen(13, 11, "python -u train.py"),
        ];
        assert_eq!(workers(10, &torchrun), [12, 13]);
        let shell =
            [seen(10, 1, "init"), seen(11, 10, "bash -c train"), seen(12, 11, "python train.py")];
        assert_eq!(workers(10, &shell), [12]);
    }

    #[test]
    fn who_holds_a_gpu_comes_first_and_programs_without_python_are_found() {
        let mut all = vec![
            seen(10, 1, "init"),
            seen(11, 10, "python server.py"),
            seen(12, 10, "trainer --gpu"),
            seen(13, 12, "trainer --gpu"),
        ];
        assert_eq!(workers(10, &all), [11]);
        all[2].gpu = true;
        all[3].gpu = true;
        assert_eq!(workers(10, &all), [12], "a fork holds what its parent opened");
        let plain = [seen(10, 1, "init"), seen(11, 10, "sh run.sh"), seen(12, 11, "train")];
        assert_eq!(workers(10, &plain), [12]);
        assert_eq!(workers(10, &plain[..1]), [] as [u32; 0]);
        let gpu = |path: &str| is_gpu(Path::new(path));
        assert!(gpu("/dev/nvidia0") && gpu("/dev/nvidia12"));
        assert!(!gpu("/dev/nvidiactl") && !gpu("/dev/nvidia") && !gpu("/dev/nvidia-uvm"));
    }

    #[test]
    fn spawned_processes_that_hold_a_gpu_are_the_work_and_others_are_helpers() {
        let spawned = "python3 -c from multiprocessing.spawn import spawn_main; spawn_main()";
        let server = "python3 -c from multiprocessing.forkserver import main; main()";
        let of = |started: &str, at: u32, gpu: bool, main: bool| {
            let mut all = [
                seen(10, 1, "init"),
                seen(11, 10, "python3 train.py"),
                seen(12, 11, server),
                seen(13, at, started),
                seen(14, at, started),
                seen(15, 11, "python3 -c from multiprocessing.resource_tracker import main"),
            ];
            all[1].gpu = main;
            all[3].gpu = gpu;
            all[4].gpu = gpu;
            all[5].gpu = main;
            workers(10, &all)
        };
        for (started, at) in [(spawned, 11), (server, 12)] {
            assert_eq!(of(started, at, true, false), [13, 14], "{started}");
            assert_eq!(of(started, at, false, true), [11], "data loaders");
            assert_eq!(of(started, at, false, false), [11], "data loaders without a GPU");
        }
        // Whoever started them counted the GPUs, and opened them.
        assert_eq!(of(spawned, 11, true, true), [13, 14]);
    }

    #[test]
    fn a_real_worker_below_a_real_launcher_takes_the_signal() {
        use std::io::{BufRead as _, BufReader, Write as _};
        use std::os::unix::process::ExitStatusExt as _;
        use std::process::{Command, Stdio};
        // The shell is the container's first process here, and waits for its child.
        let script = "exec 3<&0; cat <&3 & wait $!; exit 9";
        let mut init = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let (mut stdin, stdout) = (init.stdin.take(), init.stdout.take().expect("a pipe"));
        // What comes back shows that the child is the program, and no more the shell that was forked for it.
        stdin.as_mut().expect("a pipe").write_all(b"there\n").expect("written");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).expect("its echo");
        assert_eq!(line, "there\n");
        let roots = HostRoots::default();
        let process = Process::of(&roots, init.id()).expect("it runs");
        assert_eq!(signal(&roots, process, Signal::TERM), 1);
        let ended = init.wait().expect("it ends");
        assert_eq!((ended.code(), ended.signal()), (Some(9), None), "the shell was left alone");
        assert_eq!(signal(&roots, process, Signal::TERM), 0, "whoever has the id now");
    }
}
