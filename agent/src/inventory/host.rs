//! Processors, memory and distribution.

use std::collections::BTreeSet;

use hone_proto::inventory::Cpu;
use hone_proto::sample::MemorySample;

use crate::host::HostRoots;
use crate::observe::MemoryReader;
use crate::observe::file::read_once;

/// Processors, from `/proc/cpuinfo`.
pub(super) fn cpu(roots: &HostRoots) -> Cpu {
    read_once(&roots.proc.join("cpuinfo")).map(|text| parse_cpu(&text)).unwrap_or_default()
}

/// Memory, as samples see it.
pub(super) fn memory(roots: &HostRoots) -> MemorySample {
    MemoryReader::new(roots).read(&mut Vec::new())
}

/// The distribution's own name for itself; empty when it has none.
pub(super) fn os(roots: &HostRoots) -> String {
    read_once(&roots.etc.join("os-release")).map(|text| parse_os(&text)).unwrap_or_default()
}

/// Blocks of `key : value` lines, one per logical core.
fn parse_cpu(text: &str) -> Cpu {
    let mut cpu = Cpu::default();
    let mut physical = BTreeSet::new();
    let mut package = None;
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else {
            continue;
        };
        let value = value.trim();
        match key.trim() {
            "processor" => cpu.logical_cores = cpu.logical_cores.saturating_add(1),
            // The last two are what other architectures write.
            "model name" | "Model" | "cpu model" if cpu.model.is_empty() => {
                value.clone_into(&mut cpu.model);
            }
            "physical id" => package = Some(value),
            "core id" => {
                physical.insert((package, value));
            }
            _ => {}
        }
    }
    cpu.physical_cores = u32::try_from(physical.len()).ok().filter(|cores| *cores > 0);
    cpu
}

/// Shell assignments; the value may be quoted.
fn parse_os(text: &str) -> String {
    let value = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    value.unwrap_or_default().trim().trim_matches(['"', '\'']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hyperthreads_are_not_physical_cores() {
        let core = |processor: u32, package: u32, core: u32| {
            format!(
                "processor\t: {processor}\nmodel name\t: Some CPU @ 3 GHz\nphysical id\t: {package}\n\
                 core id\t\t: {core}\nflags\t\t: fpu\n\n"
            )
        };
        let text = [core(0, 0, 0), core(1, 0, 0), core(2, 0, 1), core(3, 1, 0)].concat();
        let cpu = parse_cpu(&text);
        assert_eq!(cpu.model, "Some CPU @ 3 GHz");
        assert_eq!((cpu.logical_cores, cpu.physical_cores), (4, Some(3)));
    }

    #[test]
    fn a_machine_that_hides_its_cores_has_an_unknown_number_of_them() {
        let cpu = parse_cpu("processor : 0\nprocessor : 1\nModel : Board Rev 1.4\n");
        assert_eq!((cpu.logical_cores, cpu.physical_cores), (2, None));
        assert_eq!(cpu.model, "Board Rev 1.4");
    }

    #[test]
    fn the_distribution_is_named_with_and_without_quotes() {
        assert_eq!(
            parse_os("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"),
            "Debian GNU/Linux 12"
        );
        assert_eq!(parse_os("PRETTY_NAME=Alpine\n"), "Alpine");
        assert_eq!(parse_os("NAME=x\n"), "");
    }

    proptest! {
        #[test]
        fn no_text_panics(noise in ".*", lines in "((processor|core id|physical id) ?: ?[0-9]{0,3}\n){0,9}") {
            let _ = parse_cpu(&noise);
            let _ = parse_os(&noise);
            let cpu = parse_cpu(&lines);
            prop_assert!(cpu.physical_cores != Some(0));
        }
    }
}
