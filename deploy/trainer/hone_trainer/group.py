"""The processes that train one model together, each on a part of every batch; most often there is only one.

Rank 0 is the one that speaks: it alone writes records, checkpoints and packages, and what depends on a clock, a signal
or a file is decided there. The others ask it at the same places of the program, so that all of them stop and save at
the same step. What is agreed on goes over the CPU: no GPU waits for it.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from hone_trainer.contract import Controls
from hone_trainer.errors import GpuMissing, SpecError

# Set in each process of several: the folder where it leaves its process id and its last word.
FOLDER = "HONE_RANKS_DIR"
# Rank 0 may tokenise or save for hours while the others wait. One that dies is noticed by the launcher.
PATIENCE = timedelta(days=1)

T = TypeVar("T")


class Abandoned(BaseException):
    """The launcher ends rank 0 because another one has ended; never the cause of anything."""


class NoMetrics:
    """A MetricsWriter for those ranks that write no records."""

    def write(self, kind: str, step: int, /, **fields: object) -> None:
        """Nothing: rank 0 tells it."""

    def sync(self) -> None:
        """Nothing was written."""

    def close(self) -> None:
        """Nothing is open."""


class Group:
    """This process among those that train together; alone unless it joins."""

    def __init__(self) -> None:
        folder = os.environ.get(FOLDER)
        self.folder = Path(folder) if folder else None
        self.rank = int(os.environ["RANK"]) if folder else 0
        self.size = int(os.environ["WORLD_SIZE"]) if folder else 1

    def join(self) -> None:
        """Meets the others; from here on they can agree."""
        require_gpus()
        if self.size == 1:
            return
        import torch
        from torch import distributed

        backend = "gloo"
        if torch.cuda.is_available():
            # Not tested: no machine of the tests has two GPUs.
            if torch.cuda.device_count() < self.size:
                raise SpecError(f"{self.size} processes, but this container sees {torch.cuda.device_count()} GPUs")
            torch.cuda.set_device(self.rank)
            _spare_missing_links()
            backend = "cpu:gloo,cuda:nccl"
        # Debian builds PyTorch without libuv, which is what it asks for by itself.
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = distributed.TCPStore(address, port, None, False, use_libuv=False)
        distributed.init_process_group(backend, store=store, rank=self.rank, world_size=self.size, timeout=PATIENCE)

    def leave(self) -> None:
        """Parts from the others in good order."""
        if self.size > 1:
            from torch import distributed

            distributed.destroy_process_group()

    def first(self, ask: Callable[[], T]) -> T:
        """What rank 0 answers; only there is it asked."""
        if self.size == 1:
            return ask()
        import torch
        from torch import distributed

        answer = [ask() if self.rank == 0 else None]
        distributed.broadcast_object_list(answer, src=0, device=torch.device("cpu"))
        return answer[0]

    def total(self, values: list[float]) -> list[float]:
        """The sums over all ranks; exact for whole numbers."""
        if self.size == 1:
            return values
        import torch
        from torch import distributed

        sums = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(sums)
        return sums.tolist()

    def wait(self) -> None:
        """Goes on once all are here."""
        self.total([0.0])

    @contextlib.contextmanager
    def one_before_all(self) -> Iterator[None]:
        """Rank 0 does what is inside before the others do: they find its results."""
        if self.rank:
            self.wait()
        yield
        if self.rank == 0:
            self.wait()

    def install(self, controls: Controls) -> None:
        """Takes this process's signals, and tells the launcher where to send them."""
        if self.folder is None:
            controls.install()
            return
        _die_with_parent()
        controls.install()
        # The launcher passes a stop on as SIGINT. Its SIGTERM means that the ranks are being ended: rank 0 still has
        # to tell how far things came, and the others just go, even out of a wait that Python has no hand in.
        signal.signal(signal.SIGTERM, signal.SIG_DFL if self.rank else _abandon)
        if self.rank:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        staged = self.folder / f"{self.rank}.pid.tmp"
        staged.write_text(str(os.getpid()))
        staged.rename(staged.with_suffix(""))

    def deaf(self) -> None:
        """A rank that is on its way out is not to be ended before its last word."""
        if self.folder is not None:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)


def require_gpus() -> None:
    """Fails where PyTorch does not see the attempt's GPUs: on a CPU it would train for weeks, and say nothing."""
    promised = int(os.environ.get("HONE_GPU_COUNT") or "0")
    if promised == 0 or os.environ.get("HONE_PROCESSES"):
        return
    import torch

    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if seen < promised:
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for CPUs"
        raise GpuMissing(
            f"the attempt has {promised} GPUs, and PyTorch ({torch.__version__}, {built}) sees {seen}: take an image that "
            "suits the node's driver (`hone-agent inventory` names it)"
        )


def share(micro_batch: int, accumulation: int, ranks: int) -> tuple[int, int]:
    """Rows at once and micro-batches of an update on each rank: no more rows than one process would take."""
    rows = -(-micro_batch * accumulation // ranks)
    parts = -(-rows // micro_batch)
    return -(-rows // parts), parts


def _abandon(_signum: int, _frame: object) -> None:
    raise Abandoned("another rank ended")


def _die_with_parent() -> None:
    """A rank whose launcher was killed would train on, unseen."""
    import ctypes

    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _spare_missing_links() -> None:
    """Some consumer cards cannot reach each other, and accelerate refuses them unless NCCL is told so."""
    from accelerate.utils import check_cuda_p2p_ib_support

    if not check_cuda_p2p_ib_support():
        os.environ.setdefault("NCCL_P2P_DISABLE", "1")
        os.environ.setdefault("NCCL_IB_DISABLE", "1")
