"""The files of a channel: which they are, what is in them, and their rows."""

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hone_trainer.data.arrow_files import arrow_rows, parquet_rows
from hone_trainer.data.problems import BadRow
from hone_trainer.data.text_files import Numbered, csv_rows, json_array, json_lines
from hone_trainer.errors import DataError, MissingInput

# What lies beside the rows in a folder from a hub and holds none.
ASIDE_SUFFIXES = (".md", ".yaml", ".yml", ".lock", ".py", ".sha256")
ASIDE_NAMES = ("license", "notice", "readme", "dataset_info.json", "dataset_infos.json", "state.json")
HEAD = 4096
# An Arrow stream begins with this and the length of its schema.
CONTINUATION = b"\xff\xff\xff\xff"
# Splits of a saved set of data sets that can serve a channel, best first.
SPLITS = {"train": ("train",), "eval": ("eval", "validation", "valid", "dev", "test")}


@dataclass(frozen=True)
class DataFile:
    """One file, with its name relative to its channel."""

    path: Path
    name: str

    def sha256(self) -> str:
        """Of its bytes."""
        with open(self.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def place(name: str, kind: str, number: int) -> str:
    """Where a row is, as people write it: t.jsonl:3, t.json[3], t.parquet row 3."""
    if kind == "json":
        return f"{name}[{number}]"
    return f"{name} row {number}" if kind in ("parquet", "arrow", "stream") else f"{name}:{number}"


def channel_files(directory: Path, channel: str) -> list[DataFile]:
    """The files of a channel that hold rows, in reading order; MissingInput without any, or if one cannot be read."""
    folder = directory / channel
    try:
        found = sorted(_walk(folder, channel)) if folder.is_dir() else []
        for path in found:
            # Said now, and before any library is loaded.
            open(path, "rb").close()
    except PermissionError as error:
        raise MissingInput(f"the data of channel {channel} cannot be read: {error}") from error
    if not found:
        raise MissingInput(f"no data file in channel {channel}")
    return [DataFile(path, path.relative_to(folder).as_posix()) for path in found]


def _walk(folder: Path, channel: str) -> Iterator[Path]:
    listed = _saved_files(folder)
    if listed is not None:
        yield from listed
        return
    if (folder / "dataset_dict.json").is_file():
        yield from _walk(_saved_split(folder, channel), channel)
        return
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _walk(path, channel)
        elif path.is_file() and not _aside(path):
            yield path


def _aside(path: Path) -> bool:
    name = path.name.lower()
    return path.suffix.lower() in ASIDE_SUFFIXES or name in ASIDE_NAMES or path.stem.lower() in ASIDE_NAMES[:3]


def _saved_files(folder: Path) -> list[Path] | None:
    """The files that a data set saved by `save_to_disk` says it has; None for any other folder."""
    if not (folder / "dataset_info.json").is_file() or not (folder / "state.json").is_file():
        return None
    try:
        names = [item["filename"] for item in json.loads((folder / "state.json").read_bytes())["_data_files"]]
        paths = [folder / name for name in names]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder.name}/state.json does not list the files of a saved data set: {error}") from error
    for path in paths:
        if path.parent != folder or not path.is_file():
            raise DataError(f"state.json names {path.name!r}, which is not there")
    return paths


def _saved_split(folder: Path, channel: str) -> Path:
    """The one split that a channel may read: others hold what the model is tested on."""
    try:
        splits = [str(name) for name in json.loads((folder / "dataset_dict.json").read_bytes())["splits"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"dataset_dict.json does not list splits: {error}") from error
    for name in SPLITS.get(channel, (channel,)):
        if name in splits and (folder / name).is_dir():
            return folder / name
    listed = ", ".join(splits)
    raise DataError(f"the saved data set has no split for {channel}, only {listed}: bring one split's folder")


def read(file: DataFile) -> tuple[str, Numbered]:
    """What the file holds (jsonl, json, csv, parquet, arrow, stream), and its rows."""
    with open(file.path, "rb") as raw:
        head = raw.read(HEAD)
    if head[:4] == b"PAR1":
        return "parquet", parquet_rows(file.path)
    if head[:6] == b"ARROW1":
        return "arrow", arrow_rows(file.path, stream=False)
    if head[:4] == CONTINUATION:
        return "stream", arrow_rows(file.path, stream=True)
    packed = head[:2] == b"\x1f\x8b"
    if packed:
        try:
            with gzip.open(file.path, "rb") as unpacked:
                head = unpacked.read(HEAD)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            head = b""
    kind = _text_kind(file, head, packed)
    return kind, _text_rows(file, kind, head, packed)


def _text_kind(file: DataFile, head: bytes, packed: bool) -> str:
    name = file.name.lower().removesuffix(".gz") if packed else file.name.lower()
    if name.endswith((".csv", ".tsv")):
        return "csv"
    if name.endswith((".parquet", ".arrow")):
        raise DataError(f"{file.name} is neither Parquet nor Arrow, whatever its name says")
    return "json" if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"[" else "jsonl"


def _text_rows(file: DataFile, kind: str, head: bytes, packed: bool) -> Numbered:
    number = 0
    try:
        with gzip.open(file.path, "rb") if packed else open(file.path, "rb") as raw:
            if kind == "csv":
                tab = ".tsv" in file.name.lower()
                rows = csv_rows(raw, head.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace"), tab)
            else:
                rows = json_array(raw) if kind == "json" else json_lines(raw)
            for number, value in rows:
                yield number, value
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        yield number + 1, BadRow("unreadable_file", str(error), fatal=True)
