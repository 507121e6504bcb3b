"""Failures that have an exit code of their own, and the code for all others."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from hone_trainer.contract import Exit

# A disk with less room than this counts as full once a write has failed.
ROOM_BYTES = 1024 * 1024


class TrainerError(Exception):
    """A failure with a known cause; subclasses fix the exit code."""

    code = Exit.INTERNAL


class SpecError(TrainerError):
    """The spec is invalid, or asks for what this trainer cannot do."""

    code = Exit.BAD_SPEC


class DataError(TrainerError):
    """The data is there but of no use."""

    code = Exit.DATA


class MissingInput(TrainerError):
    """The model or the data is not where the contract puts it."""

    code = Exit.MISSING_INPUT


class CannotWrite(TrainerError):
    """There is no room, or no right, to write the output."""

    code = Exit.CANNOT_WRITE


class GpuMissing(TrainerError):
    """This node does not give the GPUs that it promised; another may."""

    code = Exit.GPU_FAULT


class NotFinite(TrainerError):
    """The loss or the gradient norm is not a finite number."""

    code = Exit.NOT_FINITE


class NotLearning(TrainerError):
    """Trained tensors whose gradient stays exactly zero; the same spec would do the same again."""

    code = Exit.BAD_SPEC

    def __init__(self, names: list[str], of: int, updates: int, shown: int) -> None:
        listed = ", ".join(names[:shown]) + (", …" if len(names) > shown else "")
        super().__init__(
            f"{len(names)} of {of} trained tensors had a gradient of exactly zero in {updates} updates, so they learn "
            f"nothing: {listed}; train only what the loss depends on (method.lora.targets, method.freeze.modules)"
        )
        self.names = names


class Stopped(TrainerError):
    """A stop was asked for; `saved` says whether a checkpoint of this attempt holds all work."""

    def __init__(self, source: str, saved: bool, why: str | None = None) -> None:
        parts = [f"stopped on request ({source})"]
        if not saved:
            parts.append(f"no checkpoint was saved: {why}" if why else "no checkpoint was saved")
        super().__init__("; ".join(parts))
        self.source = source
        self.saved = saved
        self.code = Exit.INTERRUPTED if saved else Exit.INTERRUPTED_UNSAVED


@contextlib.contextmanager
def writing_to(directory: Path) -> Iterator[None]:
    """Tells a full disk from other failures while libraries write.

    Some of them report it as an error of their own that says nothing of room;
    so the question is put to the disk itself.
    """
    try:
        yield
    except (TrainerError, OSError):
        raise
    except Exception as error:
        refusal = _refusal(directory)
        if refusal is not None:
            raise CannotWrite(f"the output cannot be written: {refusal}") from error
        raise


def _refusal(directory: Path) -> OSError | None:
    trial = directory / f".hone-room-{os.getpid()}"
    try:
        with open(trial, "wb", buffering=0) as file:
            file.write(bytes(ROOM_BYTES))
            if os.fstat(file.fileno()).st_size < ROOM_BYTES:
                return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        return error
    finally:
        with contextlib.suppress(OSError):
            trial.unlink(missing_ok=True)
    return None


_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
_GPU_FAULTS = ("CUDA error", "NCCL", "uncorrectable ECC", "cuDNN error", "CUBLAS_STATUS")


def exit_code(error: BaseException) -> Exit:
    """The exit code that says most about this failure."""
    for cause in _chain(error):
        if isinstance(cause, TrainerError):
            return Exit(cause.code)
        if isinstance(cause, OSError) and (cause.errno in _CANNOT_WRITE or isinstance(cause, PermissionError)):
            return Exit.CANNOT_WRITE
        if isinstance(cause, MemoryError):
            return Exit.HOST_MEMORY
        name, text = type(cause).__name__, str(cause)
        # Matched by name: PyTorch may not be loaded when this is asked.
        if name == "OutOfMemoryError":
            return Exit.GPU_MEMORY
        if "can't allocate memory" in text:
            return Exit.HOST_MEMORY
        if "out of memory" in text and "CUDA" in text:
            return Exit.GPU_MEMORY
        # Libraries in other languages report a full disk as text only.
        if "No space left on device" in text or "Disk quota exceeded" in text:
            return Exit.CANNOT_WRITE
        if isinstance(cause, RuntimeError) and any(sign in text for sign in _GPU_FAULTS):
            return Exit.GPU_FAULT
    return Exit.INTERNAL


def retryable(code: Exit) -> bool:
    """Whether another attempt with the same spec may succeed."""
    return code in (
        Exit.INTERNAL,
        Exit.CANNOT_WRITE,
        Exit.INTERRUPTED,
        Exit.INTERRUPTED_UNSAVED,
        Exit.GPU_MEMORY,
        Exit.HOST_MEMORY,
        Exit.GPU_FAULT,
    )


def _chain(error: BaseException):
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
