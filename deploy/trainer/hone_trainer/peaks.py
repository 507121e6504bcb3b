"""The highest use of memory: of this process, by the kernel's own mark, and on the GPU."""

import resource
import time
from pathlib import Path

import torch


class Peak:
    """Measures what is taken at most while something is done.

    The kernel's high-water mark is set back before; where that is forbidden, what was added is told by the difference
    to the mark before, and that is a lower bound.
    """

    # The highest marks that were set back: the process's own peak must not be forgotten with them.
    earlier_host = 0
    earlier_gpu = 0

    def __init__(self) -> None:
        self.seconds = 0.0
        # What the process had before, and took at its highest beyond that.
        self.before_bytes = self.added_bytes = 0
        self.highest: dict[str, int] = {}

    def __enter__(self) -> "Peak":
        self._started = time.monotonic()
        Peak.earlier_host = max(Peak.earlier_host, _high_water())
        try:
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")
        except OSError:
            pass
        self.before_bytes = _high_water()
        if torch.cuda.is_available():
            Peak.earlier_gpu = max(Peak.earlier_gpu, torch.cuda.max_memory_allocated())
            torch.cuda.reset_peak_memory_stats()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.seconds = time.monotonic() - self._started
        mark = _high_water()
        self.added_bytes = max(0, mark - self.before_bytes)
        self.highest = _named(mark, torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None)


def host_peak() -> int:
    """The highest memory of this process so far, in bytes."""
    return max(Peak.earlier_host, _high_water())


def so_far() -> dict[str, int]:
    """The highest use so far, under the names that records have for it: here, and on the GPU if there is one."""
    gpu = max(Peak.earlier_gpu, torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else None
    return _named(host_peak(), gpu)


def _named(host: int, gpu: int | None) -> dict[str, int]:
    return {"host_mem_peak_bytes": host} | ({} if gpu is None else {"gpu_mem_peak_bytes": gpu})


def _high_water() -> int:
    try:
        # Of this program alone: getrusage also counts the one that this process was before it was started anew.
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
    except (OSError, StopIteration, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
