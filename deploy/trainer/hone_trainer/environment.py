"""What must be settled before any library is imported."""

import logging
import os
import sys
import tempfile
import warnings
from pathlib import Path

from hone_trainer.contract import Paths
from hone_trainer.progress import threads_of

_QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "true",
    "USE_TF": "0",
    "USE_FLAX": "0",
}
# transformers posts metrics by itself where these are set; we write our own.
_PUSH = ("KUBEFLOW_TRAINER_SERVER_URL", "KUBEFLOW_TRAINER_SERVER_TOKEN", "KUBEFLOW_TRAINER_SERVER_CA_CERT")
# Quota and period, as cgroup v2 and v1 state them.
_QUOTAS = (
    ("/sys/fs/cgroup/cpu.max",),
    ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)


def prepare(paths: Paths) -> None:
    """Offline, quiet, with a home that can be written and a fixed thread count."""
    os.environ.update(_QUIET)
    for name in _PUSH:
        os.environ.pop(name, None)
    cache = writable(paths.cache) or Path(tempfile.gettempdir())
    home = writable(Path(os.environ.get("HOME") or "/nonexistent"))
    if home is None:
        os.environ["HOME"] = str(cache)
    os.environ.setdefault("HF_HOME", str(cache / "hf"))
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache / "inductor"))
    os.environ.setdefault("TRITON_CACHE_DIR", str(cache / "triton"))
    # An arbitrary uid has no passwd entry, and some libraries ask for the name.
    os.environ.setdefault("USER", "hone")
    os.environ.setdefault("LOGNAME", "hone")
    if not os.environ.get("OMP_NUM_THREADS"):
        os.environ["OMP_NUM_THREADS"] = str(_threads(paths.resume))
    # The tokenizer's threads; by itself it would count the machine's CPUs.
    os.environ.setdefault("RAYON_NUM_THREADS", str(allowed_cpus()))
    if processes() == 1:
        # One process drives one GPU; more would silently change the batch.
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]


def processes() -> int:
    """How many train together: one for each GPU of the attempt, unless HONE_PROCESSES says otherwise."""
    return max(1, int(os.environ.get("HONE_PROCESSES") or os.environ.get("HONE_GPU_COUNT") or "1"))


def _threads(resume: Path | None) -> int:
    """Of each process. The checkpoint's thread count: with another, sums round differently."""
    return (threads_of(resume) if resume else None) or max(1, allowed_cpus() // processes())


def allowed_cpus() -> int:
    """Whole CPUs that this container may use, by affinity and by quota."""
    cpus = len(os.sched_getaffinity(0))
    for quota_files in _QUOTAS:
        try:
            quota, period = " ".join(Path(name).read_text() for name in quota_files).split()
            if quota != "max" and int(quota) > 0:
                cpus = min(cpus, int(quota) // int(period))
        except (OSError, ValueError):
            continue
    return max(1, cpus)


def writable(path: Path) -> Path | None:
    """The folder, made if need be; None if nothing can be written there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return path if os.access(path, os.W_OK | os.X_OK) else None


def configure_logging(level: str, rank: int = 0) -> None:
    """`LEVEL logger: message` on stderr; the libraries at warning unless debug. Other ranks tell errors alone."""
    if rank:
        level = "error"
    whose = f" [rank {rank}]" if rank else ""
    layout = f"%(levelname)s %(name)s{whose}: %(message)s"
    logging.basicConfig(stream=sys.stderr, level=level.upper(), format=layout, force=True)
    logging.captureWarnings(True)
    if level != "debug":
        # Notes from the libraries to their callers; users can do nothing about them.
        warnings.simplefilter("ignore", FutureWarning)
        for name in ("transformers", "peft", "accelerate", "huggingface_hub", "httpx", "torch"):
            logging.getLogger(name).setLevel(logging.WARNING)
        # It warns of every product in 8 bits, which is what was asked for.
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def quieten_transformers() -> None:
    """transformers logs through our handler, without progress bars."""
    import transformers

    transformers.logging.disable_default_handler()
    transformers.logging.enable_propagation()
    transformers.logging.disable_progress_bar()
    verbosity = logging.DEBUG if logging.getLogger().level <= logging.DEBUG else logging.WARNING
    transformers.logging.set_verbosity(verbosity)
