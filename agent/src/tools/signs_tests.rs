//! Lines that tell of a failure, and lines that do not.

use super::*;
use crate::tools::fixtures;

#[test]
fn each_line_has_its_cause_and_code() {
    for (line, cause, code) in [
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
            Cause::GpuMemory,
            80,
        ),
        ("OSError: [Errno 28] No space left on device", Cause::DiskFull, 73),
        (
            "ERROR: Unexpected bus error encountered in worker. This might be caused by insufficient shared memory (shm).",
            Cause::SharedMemory,
            81,
        ),
        (
            "RuntimeError: [enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried",
            Cause::HostMemory,
            81,
        ),
        ("numpy.core._exceptions._ArrayMemoryError: x MemoryError", Cause::HostMemory, 81),
        ("RuntimeError: CUDA error: an illegal memory access was encountered", Cause::GpuFault, 83),
        ("NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off", Cause::GpuFault, 83),
        ("dmesg: Xid (PCI:0000:3b:00): 48, pid=7", Cause::GpuFault, 83),
        (
            "torch.distributed.DistBackendError: NCCL error in: x, unhandled system error",
            Cause::Communication,
            83,
        ),
        ("RuntimeError: CUDA error: device-side assert triggered", Cause::DeviceAssert, 70),
        ("huggingface_hub.errors.OfflineModeIsEnabled: Cannot reach x", Cause::Offline, 66),
        (
            "ValueError: The checkpoint you are trying to load has model type `x` but Transformers does not recognize this architecture.",
            Cause::UnknownModel,
            78,
        ),
        ("sft.py: error: unrecognized arguments: --warmup_ratio 0.1", Cause::UnknownOption, 78),
        (
            "ValueError: Some keys are not used by the HfArgumentParser: ['overwrite_output_dir']",
            Cause::UnknownOption,
            78,
        ),
        (
            "ValueError: Due to a serious vulnerability issue in `torch.load`, upgrade torch to at least v2.6",
            Cause::OldTorch,
            78,
        ),
        ("KeyError: 'messages'", Cause::DataShape, 65),
        (
            "ImportError: FlashAttention2 has been toggled on, but it cannot be used due to the following error: the package flash_attn seems to be not installed.",
            Cause::NoFlashAttention,
            78,
        ),
        (
            "RuntimeError: CUDA error: no kernel image is available for execution on the device",
            Cause::NoKernel,
            78,
        ),
    ] {
        let found = sign(line).unwrap_or_else(|| panic!("{line} says nothing"));
        assert_eq!((found.cause, found.cause.code()), (cause, code), "{line}");
        assert!(!found.cause.hint().is_empty() && !found.cause.what().is_empty());
    }
    for line in [
        "{'loss': 2.0}",
        "KeyError: 'other'",
        "Saving model checkpoint",
        "MyMemoryErrors",
        "Xidian",
        "[WARNING|2026-11-29 10:00:00] llamafactory.model:148 >> FlashAttention-2 is not installed.",
    ] {
        assert_eq!(sign(line), None, "{line}");
    }
}

#[test]
fn every_cause_is_in_the_table_once() {
    let mut causes: Vec<_> = WORDS.iter().map(|(cause, _)| *cause).collect();
    causes.sort();
    causes.dedup();
    assert_eq!(causes.len(), WORDS.len());
    assert_eq!(causes.last(), Some(&Cause::Launcher));
}

#[test]
fn the_root_explains_what_followed() {
    let lines = [
        "NCCL watchdog timeout",
        "torch.OutOfMemoryError: CUDA out of memory.",
        "torch.distributed.elastic.multiprocessing.errors.ChildFailedError:",
        "CUDA out of memory, again",
    ];
    let found = explain(lines).expect("a sign");
    assert_eq!((found.cause, found.line.as_str()), (Cause::GpuMemory, lines[1]));
    let broken = fixtures::text("stderr-resume-incomplete.txt");
    assert_eq!(explain(broken.lines()).map(|s| s.cause), Some(Cause::BrokenCheckpoint));
    assert_eq!(explain(fixtures::text("hf5-trl-lora/stderr-tqdm.txt").lines()), None);
}

#[test]
fn a_line_without_end_costs_no_more_than_its_beginning() {
    let line = format!("é{}CUDA out of memory", "é".repeat(1 << 20));
    assert_eq!(sign(&line), None);
    let line = format!("CUDA out of memory\u{1b}[31m{}", "é".repeat(1 << 20));
    assert!(sign(&line).expect("a sign").line.len() <= MAX_KEPT_LEN);
}
