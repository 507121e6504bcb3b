"""JSON lines, JSON arrays and CSV, row by row: no file is ever held whole.

Each reader yields (number, value); the value of a bad row is a BadRow. Numbers
are lines for JSON lines and CSV, and positions for arrays, from 1.
"""

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from hone_trainer.data.problems import BadRow

# One row; larger ones are refused rather than read into memory.
MAX_ROW_BYTES = 16 * 1024 * 1024
# Read from an array at a time, in characters.
CHUNK = 256 * 1024

Numbered = Iterator[tuple[int, object]]


def json_lines(file: BinaryIO) -> Numbered:
    """One JSON value a line; empty lines are passed over."""
    number = 0
    while line := file.readline(MAX_ROW_BYTES + 1):
        number += 1
        ended = line.endswith(b"\n")
        if len(line) > MAX_ROW_BYTES and not ended:
            _skip_line(file)
            yield number, BadRow("too_large", f"more than {MAX_ROW_BYTES} bytes")
        elif line.strip():
            yield number, _parse(line, ended)


def _skip_line(file: BinaryIO) -> None:
    while (rest := file.readline(MAX_ROW_BYTES)) and not rest.endswith(b"\n"):
        pass


def _parse(line: bytes, ended: bool) -> object:
    try:
        return json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        # A multi-byte character may be what the end of the file cut.
        torn = not ended and error.end >= len(line)
        return BadRow("torn" if torn else "not_utf8", f"at byte {error.start + 1} of the line")
    except (ValueError, RecursionError) as error:
        return BadRow("not_json" if ended else "torn", str(error))


def json_array(file: BinaryIO) -> Numbered:
    """The elements of one JSON array, parsed as they come."""
    with _as_text(file) as text:
        yield from _elements(_Buffer(text))


@contextmanager
def _as_text(file: BinaryIO, newline: str | None = None) -> Iterator[io.TextIOWrapper]:
    # Bytes that are not UTF-8 become lone surrogates, which rows must not have.
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline=newline)
    try:
        yield text
    finally:
        # Whoever opened the file closes it.
        text.detach()


def _elements(buffer: "_Buffer") -> Numbered:
    if buffer.next_character() != "[":
        yield 1, BadRow("not_json", "expected an array of rows", fatal=True)
        return
    buffer.at += 1
    number = 0
    while (character := buffer.next_character()) != "]":
        number += 1
        if number > 1 and character == ",":
            buffer.at += 1
            character = buffer.next_character()
        elif number > 1:
            yield number, _broken("expected a comma or the end of the array", character)
            return
        if not character:
            yield number, _broken("", character)
            return
        value = buffer.value()
        yield number, value
        if isinstance(value, BadRow):
            return
    buffer.at += 1
    if buffer.next_character():
        yield number + 1, BadRow("not_json", "text after the end of the array", fatal=True)


def _broken(detail: str, character: str) -> BadRow:
    return BadRow("not_json", detail, fatal=True) if character else BadRow("torn", "the array has no end")


class _Buffer:
    """What was read of an array and not yet parsed."""

    def __init__(self, text: io.TextIOBase) -> None:
        self._text = text
        self._decoder = json.JSONDecoder()
        self._have = ""
        self.at = 0

    def _more(self, size: int) -> bool:
        new = self._text.read(size)
        self._have, self.at = self._have[self.at :] + new, 0
        return bool(new)

    def next_character(self) -> str:
        """The next one that is no space, or nothing at the end."""
        while True:
            while self.at < len(self._have) and self._have[self.at].isspace():
                self.at += 1
            if self.at < len(self._have) or not self._more(CHUNK):
                return self._have[self.at : self.at + 1]

    def value(self) -> object:
        """The value that begins here; a BadRow that is fatal unless the file ends with it."""
        while True:
            try:
                value, end = self._decoder.raw_decode(self._have, self.at)
                # A number could go on in what is not read yet.
                if end < len(self._have) or not self._more(CHUNK):
                    self.at = end
                    return value
                continue
            except (ValueError, RecursionError) as error:
                waiting = len(self._have) - self.at
                if waiting > MAX_ROW_BYTES:
                    return BadRow("too_large", f"more than {MAX_ROW_BYTES} characters, or not JSON", fatal=True)
                # As much again: a long row is parsed a few times, not once for each chunk.
                beyond = waiting - (getattr(error, "pos", self.at) - self.at)
                if not self._more(max(CHUNK, waiting)):
                    return _unfinished(error, beyond)


def _unfinished(error: Exception, beyond: int) -> BadRow:
    """What an error means with so many characters after it at the end of the file."""
    # An error well before the end was not made by the end; `\\u00e` and `-Infinit` are the longest that were.
    cut = beyond < len("-Infinity") or "Unterminated" in str(error)
    return BadRow("torn", "the array has no end") if cut else BadRow("not_json", str(error), fatal=True)


def csv_rows(file: BinaryIO, head: str, tab: bool) -> Numbered:
    """The rows of a table with a header line, as mappings of text."""
    csv.field_size_limit(MAX_ROW_BYTES)
    with _as_text(file, newline="") as text:
        yield from _records(csv.reader(text, delimiter=_delimiter(head, tab), strict=True))


def _records(reader) -> Numbered:
    header, line = None, 1
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, _csv_error(error, header is None)
            if header is None:
                return
            line = reader.line_num + 1
            continue
        if header is None and row:
            header = row
            if len(set(header)) != len(header):
                yield line, BadRow("not_csv", "the header names a column twice", fatal=True)
                return
        elif row and len(row) != len(header or ()):
            yield line, BadRow("not_csv", f"{len(row)} fields, and the header has {len(header or ())}")
        elif row:
            yield line, dict(zip(header or (), row, strict=True))
        line = reader.line_num + 1


def _csv_error(error: csv.Error, fatal: bool) -> BadRow:
    text = str(error)
    if "field limit" in text or "field larger" in text:
        return BadRow("too_large", "a field without an end, or too long a one", fatal=True)
    return BadRow("torn" if "unexpected end" in text else "not_csv", text, fatal=fatal)


def _delimiter(head: str, tab: bool) -> str:
    """A comma, unless the header has none and another is common."""
    first = head.splitlines()[0] if head else ""
    if tab or ("\t" in first and "," not in first):
        return "\t"
    return ";" if ";" in first and "," not in first else ","
