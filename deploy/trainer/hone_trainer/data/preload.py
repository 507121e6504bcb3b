"""Tokens in memory where there is room for them: a slow disk then costs nothing after the start."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hone_trainer.data.store import Store
from hone_trainer.errors import SpecError
from hone_trainer.peaks import host_peak

# Left free whatever happens: an allocator's slack, and what a measurement a moment ago did not see.
MARGIN_BYTES, MARGIN_PART = 64 * 2**20, 0.05
# cgroup v1 says that there is no limit by a number near the largest of 64 bits.
UNLIMITED = 2**60
MB = 1e6


@dataclass(frozen=True)
class Room:
    """Memory that this process could still take, and whose it is."""

    free: int
    total: int
    whose: str


def room(root: Path = Path("/")) -> Room:
    """What is left in the container or, if that is less, on the machine. Cached files count as free."""
    found = [found for found in (_machine(root), _cgroup_v2(root), _cgroup_v1(root)) if found is not None]
    return min(found, key=lambda one: one.free, default=Room(0, 0, "memory that nothing is known of"))


def _machine(root: Path) -> Room | None:
    values = _table(root / "proc/meminfo")
    if "MemAvailable:" not in values:
        return None
    return Room(values["MemAvailable:"] * 1024, values.get("MemTotal:", 0) * 1024, "the machine's memory")


def _cgroup_v2(root: Path) -> Room | None:
    folder = root / "sys/fs/cgroup"
    return _cgroup(folder / "memory.max", folder / "memory.current", _table(folder / "memory.stat"), "")


def _cgroup_v1(root: Path) -> Room | None:
    folder = root / "sys/fs/cgroup/memory"
    limit, used = folder / "memory.limit_in_bytes", folder / "memory.usage_in_bytes"
    return _cgroup(limit, used, _table(folder / "memory.stat"), "total_")


def _cgroup(limit: Path, used: Path, stat: dict[str, int], prefix: str) -> Room | None:
    try:
        total, taken = int(limit.read_text()), int(used.read_text())
    except (OSError, ValueError):  # not there, or the word `max`
        return None
    if total >= UNLIMITED:
        return None
    cached = stat.get(f"{prefix}inactive_file", 0) + stat.get(f"{prefix}active_file", 0)
    return Room(max(0, total - max(0, taken - cached)), total, "the container's memory")


def _table(path: Path) -> dict[str, int]:
    try:
        lines = (line.split() for line in path.read_text().splitlines())
        return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}
    except OSError:
        return {}


def to_come(model) -> int:
    """Bytes that training will take of this process's memory beyond what it has now; seen best after the probe."""
    mine = (p for p in model.parameters() if p.requires_grad and p.device.type == "cpu")
    # Gradients, and what optimizers keep: two numbers for each weight, all in fp32 at most.
    state = sum(12 * parameter.numel() for parameter in mine)
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return state + max(0, host_peak() - resident)


@contextmanager
def preloaded(
    stores: list[Store], choice: str, reserve: int, notice: Callable[..., None], room: Callable[[], Room] = room
) -> Iterator[bool]:
    """Tokens in memory as long as this lasts, if `data.preload` wants them there; SpecError where that cannot be.

    `reserve` is what has to stay free for training.
    """
    stores = list({id(store): store for store in stores}.values())
    wanted = sum(store.bytes() for store in stores)
    if choice == "none":
        yield False
        return
    found = room()
    spare = found.free - reserve - MARGIN_BYTES - int(MARGIN_PART * found.total)
    facts = {"bytes": wanted, "free_bytes": found.free, "reserve_bytes": reserve}
    left = f"{max(0, spare) / MB:.0f} MB of {found.whose} are left beside training"
    if wanted > spare:
        if choice == "memory":
            advice = "raise resources.memory, or set data.preload to auto"
            raise SpecError(f"data.preload is memory, but the tokens take {wanted / MB:.0f} MB and {left}: {advice}")
        notice("info", "preload", f"tokens are read from disk: they take {wanted / MB:.0f} MB and {left}", **facts)
        yield False
        return
    try:
        for store in stores:
            store.load()
        notice("info", "preload", f"tokens are kept in memory: they take {wanted / MB:.1f} MB and {left}", **facts)
        yield True
    finally:
        for store in stores:
            store.release()
