"""Several processes on one machine, one for each GPU, started through PyTorch's launcher (torchrun).

This process trains nothing. It passes signals on to rank 0, waits, and makes one word of the words that the ranks
leave: that of rank 0 if it completed or was stopped, else the failure that came first, with its rank.
"""

import faulthandler
import json
import logging
import os
import signal
import sys
import tempfile
import threading
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from hone_trainer.contract import Controls, Exit, encode, write_durably
from hone_trainer.errors import retryable
from hone_trainer.group import FOLDER

ADDRESS = "127.0.0.1"
# Rank 0 is killed if it does not end within this time after another has ended. A stop has its own grace, before.
CLOSE_SECONDS = "10"
POLL_SECONDS = 0.1
# What a last word says where memory ran out; another rank's says nothing of the failure.
SHAPE = ("micro_batch", "accumulation", "seq_len")
MEMORY = (*SHAPE, "probe_peak_bytes", "peak_bytes")


def run(count: int, controls: Controls) -> dict:
    """The attempt as so many ranks; gives its last word. `controls` had the signals until now."""
    with tempfile.TemporaryDirectory(prefix="hone-ranks-") as folder:
        endings = launch(count, Path(folder), ["-m", "hone_trainer"], controls)
        words = {}
        for rank in range(count):
            with suppress(OSError, ValueError):
                words[rank] = json.loads(_word_of(Path(folder), rank).read_bytes())
        return verdict(words, endings)


def leave_word(folder: Path, rank: int, word: dict) -> None:
    """A rank's last word, whole or not at all."""
    final = _word_of(folder, rank)
    staged = final.with_suffix(".tmp")
    write_durably(staged, encode(word))
    staged.rename(final)


def _word_of(folder: Path, rank: int) -> Path:
    return folder / f"{rank}.json"


def verdict(words: dict[int, dict], endings: dict[int, int]) -> dict:
    """One word out of the ranks' words, and of the exit codes of those that failed first."""
    told = dict(words.get(0) or {})
    for key in ("ended", "abandoned"):
        told.pop(key, None)
    if told.get("status") in ("completed", "interrupted"):
        return told
    for key in MEMORY:
        told.pop(key, None)
    silent = {rank: code for rank, code in endings.items() if rank not in words}
    if silent:
        # A signal from outside comes before what it does to the others.
        rank, code = min(silent.items(), key=lambda ending: (ending[1] >= 0, ending[0]))
        reason = f"rank {rank} {_ending(code)}"
        failure = {"code": int(Exit.INTERNAL), "error": {"type": "RankLost", "message": reason, "trace": ""}}
    else:
        failed = {rank: word for rank, word in words.items() if word["status"] == "failed"}
        # Once one has gone the others fail as well, a moment later.
        causes = {rank: word for rank, word in failed.items() if not word["abandoned"]} or failed
        rank = min(causes, key=lambda rank: causes[rank]["ended"], default=0)
        word = causes.get(rank, {"code": int(Exit.INTERNAL), "reason": "left no word", "error": None})
        # What all ranks find alike is no rank's own failure.
        alike = word["reason"] == told.get("reason")
        reason = word["reason"] if alike else f"rank {rank}: {word['reason']}"
        failure = {name: word[name] for name in ("code", "error", *MEMORY) if name in word}
    return told | failure | {"status": "failed", "reason": reason, "retryable": retryable(Exit(failure["code"]))}


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with code {code} and left no word"
    with suppress(ValueError):
        return f"was killed by {signal.Signals(-code).name}"
    return f"was killed by signal {-code}"


def launch(count: int, folder: Path, arguments: list[str], controls: Controls) -> dict[int, int]:
    """Runs Python with these arguments as so many ranks; gives the exit codes of those that failed first."""
    os.environ[FOLDER] = str(folder)
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = CLOSE_SECONDS
    for library in ("GLOO", "NCCL"):
        # All are on this machine, whose name may not resolve.
        os.environ.setdefault(f"{library}_SOCKET_IFNAME", "lo")
    # Else each rank warns that DDP looked for tensors without a gradient and found none.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    outcome: dict = {}
    # PyTorch's launcher takes the signals of a main thread, and kills its ranks upon them.
    thread = threading.Thread(target=_launch, args=(count, arguments, outcome), daemon=True)
    pending = _take_signals()
    if controls.stop_requested():
        pending.append(signal.SIGINT)
    thread.start()
    while thread.is_alive():
        thread.join(POLL_SECONDS)
        _pass_on(pending, folder, count)
    if "raised" in outcome:
        raise outcome["raised"]
    return outcome["endings"]


def _launch(count: int, arguments: list[str], outcome: dict) -> None:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import rendezvous_handler_registry
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # It warns of threads, and of every process that it ends; the ranks speak for themselves.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    with suppress(ValueError):
        rendezvous_handler_registry.register("hone", lambda _parameters: _meeting_place())
    size = {"min_nodes": 1, "max_nodes": 1, "nproc_per_node": count, "max_restarts": 0}
    config = LaunchConfig(**size, run_id="hone", rdzv_backend="hone", local_addr=ADDRESS, monitor_interval=POLL_SECONDS)
    try:
        elastic_launch(config, sys.executable)(*arguments)
        outcome["endings"] = {}
    except ChildFailedError as error:
        outcome["endings"] = {rank: failure.exitcode for rank, failure in error.failures.items()}
    except BaseException as error:  # the main thread raises it
        outcome["raised"] = error


def _meeting_place():
    """A rendezvous on one machine: nothing to agree on, only a store where the ranks find each other.

    Those that come with PyTorch insist on libuv, which Debian's build is without.
    """
    from torch.distributed import TCPStore
    from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousInfo, RendezvousStoreInfo

    class OneMachine(RendezvousHandler):
        def __init__(self) -> None:
            wait = {"timeout": timedelta(minutes=5), "wait_for_workers": False}
            self._store = TCPStore(ADDRESS, 0, None, True, multi_tenant=True, use_libuv=False, **wait)

        use_agent_store = True

        def get_backend(self) -> str:
            return "hone"

        def next_rendezvous(self) -> RendezvousInfo:
            return RendezvousInfo(self._store, 0, 1, RendezvousStoreInfo(ADDRESS, self._store.port))

        def is_closed(self) -> bool:
            return False

        def set_closed(self) -> None:
            pass

        def num_nodes_waiting(self) -> int:
            return 0

        def get_run_id(self) -> str:
            return "hone"

        def shutdown(self) -> bool:
            return True

    return OneMachine()


def _take_signals() -> list[int]:
    """Signals wait in this list until a rank can take them."""
    pending: list[int] = []

    def stop(signum: int, _frame: object) -> None:
        if signum == signal.SIGTERM and stop.asked:
            # The ranks die with this process.
            os._exit(Exit.KILLED_BY_SECOND_SIGNAL)
        stop.asked = True
        pending.append(signal.SIGINT)

    stop.asked = False
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    faulthandler.unregister(signal.SIGUSR2)
    for signum in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(signum, lambda signum, _frame: pending.append(signum))
    return pending


def _pass_on(pending: list[int], folder: Path, count: int) -> None:
    while pending and (folder / "0.pid").exists():
        signum = pending.pop(0)
        # Where they are is for every rank to say; the rest is for rank 0.
        for rank in range(count if signum == signal.SIGUSR2 else 1):
            with suppress(OSError, ValueError):
                os.kill(int((folder / f"{rank}.pid").read_text()), signum)
