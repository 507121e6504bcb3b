//! Network interfaces: `/proc/net/dev`, of the network namespace that the agent started in.

use std::time::Duration;

use hone_proto::quantity::Bytes;
use hone_proto::sample::NetworkSample;

use super::file::KeptFile;
use super::text::{fields, lines, number, per_second, whole, word};
use crate::host::HostRoots;

/// Most interfaces that are told apart.
const MAX_INTERFACES: usize = 32;

/// Loopback, and what engines make for containers: their traffic is seen on the outer interface too.
const LEFT_OUT: [&[u8]; 5] = [b"lo", b"veth", b"docker", b"br-", b"virbr"];

/// Reads interfaces; keeps what it read last, for the rates.
#[derive(Debug)]
pub(crate) struct NetworkReader {
    dev: KeptFile,
    before: Vec<Counters>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Counters {
    interface: String,
    received: u64,
    transmitted: u64,
}

impl NetworkReader {
    pub(crate) fn new(roots: &HostRoots) -> Self {
        Self { dev: KeptFile::new(roots.proc.join("net/dev")), before: Vec::new() }
    }

    pub(crate) fn read(&mut self, elapsed: Duration, buffer: &mut Vec<u8>) -> Vec<NetworkSample> {
        let now = self.dev.read(buffer).map(parse).unwrap_or_default();
        let rate =
            |before, now| per_second(before, now, elapsed).map(|rate| Bytes::new(whole(rate)));
        let samples = now.iter().map(|now| {
            let before = self.before.iter().find(|before| before.interface == now.interface);
            NetworkSample {
                interface: now.interface.clone(),
                receive_per_second: before.and_then(|old| rate(old.received, now.received)),
                transmit_per_second: before.and_then(|old| rate(old.transmitted, now.transmitted)),
            }
        });
        let samples = samples.collect();
        self.before = now;
        samples
    }
}

/// Two lines of headings, then `  eth0: bytes packets errs drop fifo frame compressed multicast bytes …`.
fn parse(text: &[u8]) -> Vec<Counters> {
    let interfaces = lines(text).filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = line[..colon].trim_ascii();
        let left_out =
            |start: &&[u8]| name.starts_with(start) && (**start != *b"lo" || name == b"lo");
        if name.is_empty() || LEFT_OUT.iter().any(left_out) {
            return None;
        }
        let mut counters = fields(&line[colon + 1..]);
        let received = counters.next().and_then(number)?;
        let transmitted = counters.nth(7).and_then(number)?;
        Some(Counters { interface: word(name), received, transmitted })
    });
    interfaces.take(MAX_INTERFACES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;

    const HEAD: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls
";

    fn dev(rest: &str) -> String {
        format!("{HEAD}{rest}")
    }

    #[test]
    fn rates_are_per_interface_and_need_two_readings() {
        let dir = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(dir.path().join("proc/net")).expect("made");
        let path = dir.path().join("proc/net/dev");
        let mut reader = NetworkReader::new(&HostRoots::below(dir.path()));
        let mut buffer = Vec::new();

        fs::write(
            &path,
            dev("    lo: 9 1 0 0 0 0 0 0 9 1 0 0\n  eth0: 1000 5 0 0 0 0 0 0 500 4 0 0 0 0 0 0\n"),
        )
        .expect("written");
        let first = reader.read(Duration::ZERO, &mut buffer);
        assert_eq!(first.len(), 1);
        assert_eq!((first[0].interface.as_str(), first[0].receive_per_second), ("eth0", None));

        let second = dev("  eth0:5000 9 0 0 0 0 0 0 2500 8 0 0\n   wg0: 7 1 0 0 0 0 0 0 8 1 0 0\n");
        fs::write(&path, second).expect("written");
        let second = reader.read(Duration::from_secs(2), &mut buffer);
        assert_eq!(second[0].receive_per_second, Some(Bytes::new(2000)));
        assert_eq!(second[0].transmit_per_second, Some(Bytes::new(1000)));
        assert_eq!((second[1].interface.as_str(), second[1].receive_per_second), ("wg0", None));
    }

    #[test]
    fn what_belongs_to_containers_is_left_out_and_the_number_is_bounded() {
        let rest = " 1 1 0 0 0 0 0 0 1 1 0 0\n";
        let names = ["lo", "veth1a2b", "docker0", "br-77", "lowpan0", "eth0"];
        let text: String = names.iter().map(|name| format!("{name}:{rest}")).collect();
        let found: Vec<_> = parse(text.as_bytes()).into_iter().map(|c| c.interface).collect();
        assert_eq!(found, ["lowpan0", "eth0"]);
        let many: String = (0..100).map(|n| format!("eth{n}:{rest}")).collect();
        assert_eq!(parse(many.as_bytes()).len(), MAX_INTERFACES);
    }

    proptest! {
        #[test]
        fn no_text_panics(noise in any::<Vec<u8>>(), lines in "( *[a-z0-9]{0,4}:( [0-9]{1,25}){0,17}\n){0,5}") {
            let _ = parse(&noise);
            let _ = parse(lines.as_bytes());
        }
    }
}
