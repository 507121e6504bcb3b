"""Tokenised rows in a file that is mapped, not read: data may be larger than memory.

tokens.bin    every token of every row as int32; one that is not learned as its
              complement, so that ids and labels are one array
index.bin     a record for each row: where its tokens are, and what it was
store.json    what both are, written last: a directory without it, or whose
              files have other sizes than it says, is not a store
"""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy

from hone_trainer.contract import encode, sync_directory, write_durably
from hone_trainer.render import IGNORED, Example

TOKENS, INDEX, MANIFEST = "tokens.bin", "index.bin", "store.json"
TOKEN = numpy.dtype("<i4")
RECORD = numpy.dtype(
    [
        ("offset", "<u8"),
        ("length", "<u4"),  # 0: readable, but of no use
        ("learned", "<u4"),
        ("scored", "<u4"),
        ("file", "<u4"),
        ("number", "<u8"),
        ("content", "<u8"),
    ]
)
# Records that are gathered before they are written.
RECORDS = 16384


class StoreWriter:
    """A store in the making: written aside, and complete once `finish` has renamed it."""

    def __init__(self, final: Path) -> None:
        self._final = final
        self._stage = final.with_name(f"{final.name}.tmp")
        # What a killed attempt left half done.
        shutil.rmtree(self._stage, ignore_errors=True)
        self._stage.mkdir(parents=True)
        self._tokens = open(self._stage / TOKENS, "wb", buffering=1024 * 1024)
        self._index = open(self._stage / INDEX, "wb")
        self._hash = hashlib.sha256()
        self._records: list[tuple] = []
        self._facts = {"rows": 0, "tokens": 0, "learned": 0, "longest": 0, "highest": -1}

    def add(self, content: int, file: int, number: int, example: Example | None) -> None:
        """One readable row, with its tokens if they are of use."""
        facts, length, learned, scored = self._facts, 0, 0, 0
        if example is not None:
            ids, labels = numpy.asarray(example.ids, numpy.int32), numpy.asarray(example.labels, numpy.int32)
            known = labels != IGNORED
            content_of_row = numpy.where(known, ids, ~ids).tobytes()
            self._tokens.write(content_of_row)
            self._hash.update(len(ids).to_bytes(4, "little") + content_of_row)
            length, learned, scored = len(ids), int(known[1:].sum()), example.scored_bytes
            facts["longest"] = max(facts["longest"], length)
            facts["highest"] = max(facts["highest"], int(ids.max()))
        self._records.append((facts["tokens"], length, learned, scored, file, number, content))
        facts["rows"] += 1
        facts["tokens"] += length
        facts["learned"] += learned
        if len(self._records) >= RECORDS:
            self._flush()

    def _flush(self) -> None:
        self._index.write(numpy.array(self._records, dtype=RECORD).tobytes())
        self._records.clear()

    def finish(self, **facts: object) -> Path:
        """Makes it durable under its final name; the facts go into its manifest."""
        self._flush()
        for file in (self._tokens, self._index):
            file.flush()
            os.fsync(file.fileno())
            file.close()
        found = {"v": 1, **self._facts, "sha256": self._hash.hexdigest(), **facts}
        write_durably(self._stage / MANIFEST, encode(found))
        shutil.rmtree(self._final, ignore_errors=True)
        self._stage.rename(self._final)
        sync_directory(self._final.parent)
        return self._final

    def abandon(self) -> None:
        """Leaves nothing behind."""
        self._tokens.close()
        self._index.close()
        shutil.rmtree(self._stage, ignore_errors=True)


class Store:
    """A complete store, mapped."""

    def __init__(self, directory: Path, facts: dict) -> None:
        self.directory = directory
        self.facts = facts
        self.release()

    @classmethod
    def open(cls, directory: Path) -> "Store | None":
        """The store in this directory; None if it is not there or not complete."""
        try:
            facts = json.loads((directory / MANIFEST).read_bytes())
            sizes = ((TOKENS, 4 * facts["tokens"]), (INDEX, RECORD.itemsize * facts["rows"]))
            if facts["v"] != 1 or any((directory / name).stat().st_size != size for name, size in sizes):
                return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return cls(directory, facts)

    def example(self, row: int) -> Example:
        """The row's tokens, copied out of the map."""
        offset, length, _, scored = self.index[row].tolist()[:4]
        values = numpy.array(self.tokens[offset : offset + length])
        known = values >= 0
        return Example(numpy.where(known, values, ~values), numpy.where(known, values, IGNORED), scored)

    def usable(self) -> numpy.ndarray:
        """Numbers of the rows that have tokens."""
        return numpy.flatnonzero(self.index["length"])

    def bytes(self) -> int:
        """What `load` takes."""
        return self.tokens.nbytes + self.index.nbytes

    def load(self) -> None:
        """Everything into memory, read from front to end."""
        self.tokens = numpy.fromfile(self.directory / TOKENS, dtype=TOKEN)
        self.index = numpy.fromfile(self.directory / INDEX, dtype=RECORD)

    def release(self) -> None:
        """Nothing in memory: the files are mapped, and read where they are needed."""
        self.tokens = _mapped(self.directory / TOKENS, TOKEN, self.facts["tokens"])
        self.index = _mapped(self.directory / INDEX, RECORD, self.facts["rows"])


def _mapped(path: Path, kind: numpy.dtype, count: int) -> numpy.ndarray:
    # An empty file cannot be mapped.
    return numpy.memmap(path, dtype=kind, mode="r", shape=(count,)) if count else numpy.zeros(0, dtype=kind)


class Rows(Sequence):
    """Some rows of a store, in order, as examples; none is held."""

    def __init__(self, store: Store, numbers: numpy.ndarray) -> None:
        self.store = store
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self.store.example(int(row)) for row in self.numbers[index]]
        return self.store.example(int(self.numbers[index]))

    def lengths(self) -> numpy.ndarray:
        """Tokens of each row."""
        return self.store.index["length"][self.numbers]

    def learned(self) -> numpy.ndarray:
        """Tokens of each row that count in the loss."""
        return self.store.index["learned"][self.numbers]

    def longest(self, count: int) -> list[Example]:
        """The longest rows, the longest last."""
        lengths = self.lengths()
        return [self[int(index)] for index in numpy.argsort(lengths, kind="stable")[-count:]]

    def digest(self) -> str:
        """One hash over these rows in their order, of what the model is trained on."""
        state = hashlib.sha256(self.store.facts["sha256"].encode())
        # Which rows they are counts by their tokens' places, not by what else was in the files.
        state.update(numpy.ascontiguousarray(self.store.index["offset"][self.numbers]).tobytes())
        state.update(numpy.ascontiguousarray(self.lengths()).tobytes())
        return state.hexdigest()
