"""One channel: from its files to a store of tokens and a list of what is wrong.

The files are read once, in order, a bounded number of rows at a time. The store
is named by all that shapes it, so that whoever comes later with the same files
and settings, such as the next attempt, finds it ready.
"""

import errno
import fcntl
import hashlib
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hone_trainer.contract import encode
from hone_trainer.data.files import DataFile, channel_files, place, read
from hone_trainer.data.problems import BadRow, Problems
from hone_trainer.data.store import Store, StoreWriter
from hone_trainer.errors import CannotWrite
from hone_trainer.render import Renderer, Text
from hone_trainer.rows import Channel, Row, convert, detect

log = logging.getLogger(__name__)

# Counts up when the same files and settings would give another store.
VERSION = 2
# Rows, and characters of them, that are tokenised at a time: enough to keep the
# tokenizer's threads busy, few enough to cost no memory worth the name.
BATCH_ROWS, BATCH_CHARACTERS = 512, 1_000_000
# Between two words on how far things are.
WORD_SECONDS = 15.0
LOCK_SECONDS = 0.2


@dataclass
class Summary:
    """What reading a channel came to."""

    channel: Channel
    rows: int = 0
    problems: Problems = field(default_factory=Problems)

    def as_dict(self) -> dict:
        """For the store's manifest."""
        files, name = self.channel.files, self.channel.format
        return {"format": name, "files": files, "read": self.rows, "problems": self.problems.as_dict()}

    @classmethod
    def from_facts(cls, name: str, facts: dict) -> "Summary":
        """What `as_dict` gave."""
        channel = Channel(name, facts["format"], facts["files"])
        return cls(channel, facts["read"], Problems.from_dict(facts["problems"]))


@dataclass(frozen=True)
class Rules:
    """What shapes a store besides its files; `identity` names the renderer's part."""

    format: str
    bad_rows: str
    identity: str


def load_channel(
    data: Path, name: str, cache: Path, rules: Rules, renderer: Renderer, pause: Callable[[], None]
) -> tuple[Store | None, Summary]:
    """The channel's store, made if need be; None where rows forbid it.

    `pause` is called often, and may raise to stop.
    """
    files = channel_files(data, name)
    found = []
    for file in files:
        found.append({"name": file.name, "sha256": file.sha256(), "rows": 0, "kind": ""})
        pause()
    named = [[file["name"], file["sha256"]] for file in found]
    key = hashlib.sha256(encode([VERSION, named, rules.format, rules.bad_rows, rules.identity])).hexdigest()[:32]
    directory = cache / f"{name}-{key}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache / f"{name}.lock", pause):
            store = Store.open(directory)
            if store is not None:
                log.info("%s: %d rows were tokenised before", name, store.facts["rows"])
                return store, Summary.from_facts(name, store.facts)
            _make_room(cache, name)
            summary = Summary(Channel(name, rules.format, found))
            reading = _Reading(files, summary, rules.bad_rows, renderer, StoreWriter(directory), pause)
            return reading.run(), summary
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CannotWrite(f"no room for the tokens of {name} in {cache}: they take 4 bytes each") from error
        raise


@contextmanager
def _locked(path: Path, pause: Callable[[], None]) -> Iterator[None]:
    """One process makes a store; others of the same job wait for it."""
    with open(path, "wb") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                pause()
                time.sleep(LOCK_SECONDS)
        yield


def _make_room(cache: Path, name: str) -> None:
    """Stores of this channel that fit no longer: other files, or other settings."""
    for path in cache.glob(f"{name}-*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


@dataclass
class _Pending:
    """A readable row that waits for its tokens."""

    file: int
    number: int
    place: str
    content: int
    text: Text | None


class _Reading:
    """One pass over the files."""

    def __init__(
        self,
        files: list[DataFile],
        summary: Summary,
        bad_rows: str,
        renderer: Renderer,
        writer: StoreWriter,
        pause: Callable[[], None],
    ) -> None:
        self._files = files
        self._summary = summary
        self._policy = bad_rows
        self._renderer = renderer
        self._writer = writer
        self._pause = pause
        self._pending: list[_Pending] = []
        self._characters = 0
        self._said = time.monotonic()

    def run(self) -> Store | None:
        """Reads everything; the store, unless rows forbid one."""
        try:
            for index, file in enumerate(self._files):
                self._read(index, file)
            self._flush()
            if self._hopeless():
                self._writer.abandon()
                return None
            directory = self._writer.finish(**self._summary.as_dict())
        except BaseException:
            self._writer.abandon()
            raise
        return Store.open(directory)

    def _hopeless(self) -> bool:
        """Whether no store will come of this; the rest is then read to name all problems at once."""
        problems = self._summary.problems
        unreadable = self._policy == "error" and problems.of("unreadable")
        return bool(problems.fatal or unreadable or problems.of("refused"))

    def _read(self, index: int, file: DataFile) -> None:
        facts = self._summary.channel.files[index]
        facts["kind"], rows = read(file)
        for number, value in rows:
            facts["rows"] += 1
            self._summary.rows += 1
            self._row(index, number, place(file.name, facts["kind"], number), value)
            if len(self._pending) >= BATCH_ROWS or self._characters >= BATCH_CHARACTERS:
                self._flush()

    def _row(self, file: int, number: int, where: str, value: object) -> None:
        problems = self._summary.problems
        try:
            if isinstance(value, BadRow):
                raise value
            row = self._converted(value)
            content, lack = row.content(), row.lack()
            if lack:
                problems.add(lack, where)
            else:
                self._pending.append(_Pending(file, number, where, content, self._text(row, where)))
        except BadRow as bad:
            problems.add(bad.kind, where, bad.detail, bad.fatal)

    def _converted(self, value: object) -> Row:
        channel = self._summary.channel
        if channel.format != "auto":
            return convert(value, channel.format)
        if not isinstance(value, dict):
            raise BadRow("not_object")
        found = detect(value)
        row = convert(value, found)
        channel.format = found
        log.info("%s: rows are of the format %s", channel.name, found)
        return row

    def _text(self, row: Row, where: str) -> Text | None:
        """None for a row that can be read and not be learned from: it keeps its place among the contents."""
        try:
            text = self._renderer.text(row)
        except BadRow as bad:
            if bad.kind != "template_mismatch":
                raise
            self._summary.problems.add(bad.kind, where)
            return None
        self._characters += len(text.whole)
        return text

    def _flush(self) -> None:
        waiting, self._pending, self._characters = self._pending, [], 0
        self._pause()
        useful = not self._hopeless()
        rendered = iter(self._renderer.encode([item.text for item in waiting if item.text is not None]))
        for item in waiting:
            example = None
            if item.text is not None:
                found = next(rendered)
                example = found.example
                for kind, detail in found.kinds:
                    self._summary.problems.add(kind, item.place, detail)
            if useful:
                self._writer.add(item.content, item.file, item.number, example)
        if time.monotonic() - self._said > WORD_SECONDS:
            self._said = time.monotonic()
            log.info("%s: %d rows read", self._summary.channel.name, self._summary.rows)
