"""The container contract's native level, in the standard library alone.

Copy or import this one file to make any training script a native citizen:

    paths = Paths.from_env()
    controls = Controls(paths.control)
    controls.install()
    metrics = MetricsWriter(paths.metrics, paths.attempt)
    metrics.write("start", step=0, max_steps=100)
    ...                                            # at each optimizer step:
    metrics.write("metrics", step=step, split="train", values={"loss": loss})
    if controls.stop_requested() or controls.take_checkpoint_request():
        with CheckpointStage(paths.output, step, paths.attempt) as stage:
            save_everything_into(stage.path)
            stage.commit(kind="adapter")
    ...                                            # as the last thing:
    write_result(paths, {"status": "completed", "code": 0, "step": step})
"""

import contextlib
import enum
import errno
import faulthandler
import hashlib
import json
import math
import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MANIFEST = "hone_manifest.json"
METRICS_FILE = "metrics.jsonl"
RESULT_FILE = "result.json"
# The agent reads lines up to this size and drops longer ones.
MAX_LINE_BYTES = 64 * 1024
# Marks a text that was shortened to keep its line within the bound.
SHORTENED = " [shortened]"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


class Exit(enum.IntEnum):
    """Exit codes, each with one meaning for whoever retries."""

    COMPLETED = 0
    USAGE = 2
    DATA = 65
    MISSING_INPUT = 66
    INTERNAL = 70
    CANNOT_WRITE = 73
    INTERRUPTED = 75
    INTERRUPTED_UNSAVED = 76
    BAD_SPEC = 78
    GPU_MEMORY = 80
    HOST_MEMORY = 81
    NOT_FINITE = 82
    GPU_FAULT = 83
    KILLED_BY_SECOND_SIGNAL = 143


@dataclass(frozen=True)
class Paths:
    """Where things are, which attempt this is, and the seconds from a stop to the kill."""

    spec: Path
    model: Path
    data: Path
    output: Path
    metrics: Path
    control: Path
    cache: Path
    resume: Path | None
    attempt: int
    grace: float | None = None

    @classmethod
    def from_env(cls, env: "dict[str, str] | os._Environ[str]" = os.environ) -> "Paths":
        """Reads HONE_*; each variable falls back on the path of the contract."""

        def path(name: str, default: str) -> Path:
            return Path(env.get(name) or default)

        resume, grace = env.get("HONE_RESUME_FROM"), env.get("HONE_GRACE_SECONDS")
        return cls(
            spec=path("HONE_SPEC", "/hone/spec.json"),
            model=path("HONE_MODEL_DIR", "/hone/input/model"),
            data=path("HONE_DATA_DIR", "/hone/input/data"),
            output=path("HONE_OUTPUT_DIR", "/hone/output"),
            metrics=path("HONE_METRICS_DIR", "/hone/metrics"),
            control=path("HONE_CONTROL_DIR", "/hone/control"),
            cache=path("HONE_CACHE_DIR", "/hone/cache"),
            resume=Path(resume) if resume else None,
            attempt=int(env.get("HONE_ATTEMPT") or "1"),
            grace=float(grace) if grace else None,
        )


def strict(value: object) -> object:
    """The value with its non-finite numbers as the strings nan, inf and -inf."""
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    if isinstance(value, dict):
        return {str(key): strict(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(inner) for inner in value]
    return value


def restored(value: object) -> object:
    """The number that `strict` wrote as a word; anything else as it is."""
    return float(value) if value in ("nan", "inf", "-inf") else value


def encode(value: object) -> bytes:
    """Strict JSON in UTF-8, on one line."""
    return json.dumps(strict(value), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(
        "utf-8", "backslashreplace"
    )


def shortened(text: str, limit: int, keep_end: bool = False) -> str:
    """The text, cut until it takes no more than `limit` bytes as JSON."""
    if len(encode(text)) <= limit:
        return text
    room = limit - len(SHORTENED)
    text = text[-room:] if keep_end else text[:room]
    while (over := len(encode(text)) - room) > 0:
        # A character takes six bytes at most, so this never cuts too much off.
        cut = max(1, over // 6)
        text = text[cut:] if keep_end else text[:-cut]
    return SHORTENED.lstrip() + " " + text if keep_end else text + SHORTENED


class MetricsWriter:
    """Appends records to metrics.jsonl, each on one bounded line, flushed."""

    def __init__(self, directory: Path, attempt: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / METRICS_FILE
        self._attempt = attempt
        self._seq, torn = _last_record(path, attempt)
        self._file = open(path, "ab", buffering=0)
        if torn:
            # A killed writer left half a line: end it, so that the next is whole.
            self._file.write(b"\n")

    def write(self, kind: str, step: int, /, **fields: object) -> None:
        """Writes one record; `kind` is its type, `step` the steps completed."""
        self._seq += 1
        record = {
            "v": 1,
            "type": kind,
            "ts": time.time(),
            "attempt": self._attempt,
            "step": step,
            "seq": self._seq,
            **fields,
        }
        # One write call per line: a reader sees a line whole or not at all.
        self._file.write(bounded_line(record))

    def sync(self) -> None:
        """Makes what was written survive a power cut."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Syncs and closes."""
        self.sync()
        self._file.close()


def bounded_line(record: dict) -> bytes:
    """The record as a line; its longest texts are shortened until it fits."""
    line = encode(record) + b"\n"
    while len(line) > MAX_LINE_BYTES:
        holder, key = _longest_text(record)
        text = holder[key] if holder is not None else ""
        if len(text) <= 64:
            raise ValueError("a metrics record is too large to shorten")
        holder[key] = text[: len(text) // 2].removesuffix(SHORTENED) + SHORTENED
        line = encode(record) + b"\n"
    return line


def _longest_text(value: object) -> tuple:
    best: tuple = (None, None)
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        found = (None, None)
        if isinstance(inner, str):
            found = (value, key)
        elif isinstance(inner, (dict, list)):
            found = _longest_text(inner)
        if found[0] is not None and (best[0] is None or len(found[0][found[1]]) > len(best[0][best[1]])):
            best = found
    return best


def _last_record(path: Path, attempt: int) -> tuple[int, bool]:
    """The highest seq of this attempt in the file, and whether its end is torn."""
    highest = 0
    torn = False
    try:
        with open(path, "rb") as file:
            for line in file:
                torn = not line.endswith(b"\n")
                try:
                    record = json.loads(line)
                    if record.get("attempt") == attempt:
                        highest = max(highest, int(record.get("seq", 0)))
                except (ValueError, AttributeError, TypeError):
                    continue
    except FileNotFoundError:
        pass
    return highest, torn


class Controls:
    """What the agent asks for, by signal or by a file in control/.

    Handlers only set flags; the training loop looks at step boundaries.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stop: str | None = None
        # When that was, on the monotonic clock: the grace counts from here.
        self.stopped_at = math.inf
        self._checkpoint = False

    def install(self) -> None:
        """Takes SIGTERM, SIGINT, SIGUSR1 and SIGUSR2."""
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGINT, self._on_stop)
        signal.signal(signal.SIGUSR1, self._on_checkpoint)
        faulthandler.register(signal.SIGUSR2, all_threads=True, chain=False)

    def _on_stop(self, signum: int, _frame: object) -> None:
        if self._stop == "signal" and signum == signal.SIGTERM:
            os._exit(Exit.KILLED_BY_SECOND_SIGNAL)
        self._asked("signal")

    def _on_checkpoint(self, _signum: int, _frame: object) -> None:
        self._checkpoint = True

    def stop_requested(self) -> str | None:
        """`signal` or `control` once a stop was asked for, else None."""
        if self._stop is None and self._take("stop"):
            self._asked("control")
        return self._stop

    def _asked(self, source: str) -> None:
        self._stop = source
        self.stopped_at = min(self.stopped_at, time.monotonic())

    def take_checkpoint_request(self) -> str | None:
        """`signal` or `control` if a checkpoint was asked for; asks are consumed."""
        if self._checkpoint:
            self._checkpoint = False
            return "signal"
        return "control" if self._take("checkpoint") else None

    def _take(self, name: str) -> bool:
        path = self._directory / name
        if not path.exists():
            return False
        try:
            path.unlink()
        except OSError as error:
            # The wish counts even where the file cannot be deleted.
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT):
                raise
        return True


class CheckpointStage:
    """One checkpoint in the making: staged aside, manifest last, then renamed.

    A directory named checkpoint-<step> is therefore always complete. Leaving
    the context without commit() removes what was staged.
    """

    def __init__(self, output: Path, step: int, attempt: int, name: str | None = None) -> None:
        self.step = step
        self.final = output / (name or f"checkpoint-{step}")
        self.path = output / f"{self.final.name}.tmp-{attempt}"
        self.bytes = 0
        self._attempt = attempt

    def __enter__(self) -> "CheckpointStage":
        # What an earlier try of this attempt left half done must not be mixed in.
        _remove_tree(self.path)
        self.path.mkdir(parents=True)
        return self

    def __exit__(self, *_exc: object) -> None:
        # What is half written may fill the disk to its last byte, and the last word needs room.
        with contextlib.suppress(OSError):
            for path in _files_below(self.path):
                # Whoever failed to write it may still have it open, and so hold its room.
                os.truncate(path, 0)
            _remove_tree(self.path)

    def commit(self, **facts: object) -> Path:
        """Syncs the files, writes the manifest last and gives the final name."""
        files = []
        for path in _files_below(self.path):
            path.chmod(0o644)
            size, digest = _sync_and_hash(path)
            files.append({"path": path.relative_to(self.path).as_posix(), "bytes": size, "sha256": digest})
        self.bytes = sum(file["bytes"] for file in files)
        manifest = {"v": 1, "step": self.step, "attempt": self._attempt, "created": time.time(), **facts}
        write_durably(self.path / MANIFEST, encode({**manifest, "files": files}))
        for directory in {path.parent for path in _files_below(self.path)}:
            sync_directory(directory)
        if self.final.exists():
            # Nothing saved is ever deleted here: retention is the agent's.
            self.final.rename(_unused_name(self.final, self._attempt))
        self.path.rename(self.final)
        sync_directory(self.final.parent)
        return self.final


def verify_checkpoint(directory: Path, hashes: bool = True) -> dict:
    """The manifest of a complete checkpoint; ValueError says what is wrong."""
    try:
        manifest = json.loads((directory / MANIFEST).read_bytes())
        files = manifest["files"]
        for file in files:
            path = directory / file["path"]
            if path.stat().st_size != file["bytes"]:
                raise ValueError(f"{file['path']} has another size than its manifest says")
            if hashes and _hash(path) != file["sha256"]:
                raise ValueError(f"{file['path']} has other content than its manifest says")
    except (OSError, KeyError, TypeError) as error:
        raise ValueError(f"not a complete checkpoint: {error}") from error
    return manifest


def newest_checkpoint(output: Path) -> Path | None:
    """The complete checkpoint with the highest step in a directory, if any."""
    found = []
    for path in output.iterdir() if output.is_dir() else ():
        match = _CHECKPOINT.fullmatch(path.name)
        if match and (path / MANIFEST).is_file():
            found.append((int(match[1]), path))
    return max(found)[1] if found else None


def write_result(paths: Paths, result: dict) -> None:
    """Writes result.json, the trainer's last word, atomically and durably."""
    paths.metrics.mkdir(parents=True, exist_ok=True)
    final = paths.metrics / RESULT_FILE
    staged = paths.metrics / f"{RESULT_FILE}.tmp-{paths.attempt}"
    write_durably(staged, encode({"v": 1, "attempt": paths.attempt, **result}))
    staged.rename(final)
    sync_directory(paths.metrics)


def write_durably(path: Path, content: bytes) -> None:
    """Writes a whole file and syncs it."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Makes the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files_below(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_and_hash(path: Path) -> tuple[int, str]:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        return os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()


def _unused_name(path: Path, attempt: int) -> Path:
    number = 0
    while True:
        name = path.with_name(f"{path.name}.replaced-{attempt}-{number}")
        if not name.exists():
            return name
        number += 1


def _remove_tree(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        for inner in path.iterdir():
            _remove_tree(inner)
        path.rmdir()
    elif path.exists() or path.is_symlink():
        path.unlink()
