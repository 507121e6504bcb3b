"""Rows as users bring them, read from JSONL or JSON into one common form.

A row becomes either a conversation (`messages`) or a plain text. What a file
cannot mean is a DataError that names file and line.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hone_trainer.contract import encode
from hone_trainer.errors import DataError, MissingInput

# One row of a data file; longer lines are refused rather than read into memory.
MAX_ROW_BYTES = 16 * 1024 * 1024

_ROLES = {
    "system": "system",
    "developer": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
}


@dataclass(frozen=True)
class Row:
    """One example; exactly one of messages and text is set."""

    messages: tuple[dict, ...] = ()
    text: str | None = None
    tools: list | None = None

    def content_hash(self) -> str:
        """Names the content, whatever the spacing of its file."""
        return hashlib.sha256(encode([list(self.messages), self.text, self.tools])).hexdigest()

    def is_empty(self) -> bool:
        """Whether there is nothing to learn: no text, or no answer with text."""
        if self.text is not None:
            return not self.text.strip()
        return not any(
            message["role"] == "assistant" and (message["content"].strip() or message.get("tool_calls"))
            for message in self.messages
        )


@dataclass
class Channel:
    """All rows of one data channel, with what identifies its files."""

    name: str
    format: str
    rows: list[Row] = field(default_factory=list)
    files: list[dict] = field(default_factory=list)

    def fingerprint(self) -> str:
        """One hash over the files, in their reading order."""
        return hashlib.sha256(encode([file["sha256"] for file in self.files])).hexdigest()


def read_channel(directory: Path, name: str, wanted: str) -> Channel:
    """Reads every file of a channel, in name order."""
    folder = directory / name
    files = sorted(
        path for path in (folder.rglob("*") if folder.is_dir() else ()) if path.is_file() and path.name[0] != "."
    )
    if not files:
        raise MissingInput(f"no data file in channel {name}")
    channel = Channel(name=name, format=wanted)
    for path in files:
        count = len(channel.rows)
        for where, value in _values(path):
            if channel.format == "auto":
                channel.format = detect(value, where)
            channel.rows.append(convert(value, channel.format, where))
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        channel.files.append(
            {"name": path.relative_to(folder).as_posix(), "sha256": digest, "rows": len(channel.rows) - count}
        )
    return channel


def _values(path: Path) -> Iterator[tuple[str, object]]:
    """(place, parsed value) for each row of a file."""
    with open(path, "rb") as file:
        head = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
        file.seek(0)
        if path.suffix.lower() == ".json" or head[:1] == b"[":
            yield from _array(path, file.read())
            return
        for number, line in enumerate(iter(lambda: file.readline(MAX_ROW_BYTES + 1), b""), start=1):
            where = f"{path.name}:{number}"
            if len(line) > MAX_ROW_BYTES:
                raise DataError(f"{where}: the row is longer than {MAX_ROW_BYTES} bytes")
            if line.strip():
                yield where, _parse(line, where)


def _array(path: Path, content: bytes) -> Iterator[tuple[str, object]]:
    values = _parse(content, path.name)
    if not isinstance(values, list):
        raise DataError(f"{path.name}: expected a JSON array of rows")
    for number, value in enumerate(values, start=1):
        yield f"{path.name}[{number}]", value


def _parse(content: bytes, where: str) -> object:
    try:
        return json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 at byte {error.start}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error})") from error


def detect(value: object, where: str = "the first row") -> str:
    """The format that a row has."""
    keys = set(value) if isinstance(value, dict) else set()
    if "messages" in keys:
        return "messages"
    if "conversations" in keys:
        return "sharegpt"
    if "instruction" in keys and keys & {"output", "response"}:
        return "alpaca"
    if {"prompt", "completion"} <= keys:
        return "prompt_completion"
    if "text" in keys:
        return "text"
    raise DataError(f"{where}: no known format has the keys {', '.join(sorted(map(str, keys))) or '(none)'}")


def convert(value: object, kind: str, where: str) -> Row:
    """A parsed row in the common form."""
    if not isinstance(value, dict):
        raise DataError(f"{where}: a row must be an object")
    return _CONVERTERS[kind](value, where)


def _text(value: dict, key: str, where: str, optional: bool = False) -> str:
    found = value.get(key)
    if found is None and optional:
        return ""
    if isinstance(found, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in found):
        found = "".join(str(part.get("text", "")) for part in found)
    if not isinstance(found, str):
        raise DataError(f"{where}: {key} must be text")
    return found


def _message(value: object, where: str, role_key: str = "role", text_key: str = "content") -> dict:
    if not isinstance(value, dict):
        raise DataError(f"{where}: a message must be an object")
    name = value.get(role_key)
    role = _ROLES.get(name.lower()) if isinstance(name, str) else None
    if role is None:
        raise DataError(f"{where}: {role_key} {name!r} is unknown")
    calls = value.get("tool_calls")
    message = {"role": role, "content": _text(value, text_key, where, optional=bool(calls))}
    if calls:
        message["tool_calls"] = calls
    return message


def _messages(values: object, where: str, **keys: str) -> tuple[dict, ...]:
    if not isinstance(values, list) or not values:
        raise DataError(f"{where}: expected a list of messages")
    return tuple(_message(value, where, **keys) for value in values)


def _from_messages(value: dict, where: str) -> Row:
    return Row(messages=_messages(value.get("messages"), where), tools=value.get("tools") or None)


def _from_sharegpt(value: dict, where: str) -> Row:
    messages = _messages(value.get("conversations"), where, role_key="from", text_key="value")
    system = _text(value, "system", where, optional=True)
    if system:
        messages = ({"role": "system", "content": system}, *messages)
    return Row(messages=messages)


def _from_alpaca(value: dict, where: str) -> Row:
    messages = []
    system = _text(value, "system", where, optional=True)
    if system:
        messages.append({"role": "system", "content": system})
    history = value.get("history") or []
    if not isinstance(history, list):
        raise DataError(f"{where}: history must be a list of pairs")
    for pair in history:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise DataError(f"{where}: history must be a list of pairs")
        messages.append({"role": "user", "content": pair[0]})
        messages.append({"role": "assistant", "content": pair[1]})
    instruction = _text(value, "instruction", where)
    extra = _text(value, "input", where, optional=True)
    messages.append({"role": "user", "content": f"{instruction}\n\n{extra}" if extra.strip() else instruction})
    answer = _text(value, "output" if "output" in value else "response", where)
    messages.append({"role": "assistant", "content": answer})
    return Row(messages=tuple(messages))


def _from_prompt_completion(value: dict, where: str) -> Row:
    prompt, completion = value.get("prompt"), value.get("completion")
    if isinstance(prompt, list) and isinstance(completion, list):
        return Row(messages=_messages(prompt, where) + _messages(completion, where))
    return Row(
        messages=(
            {"role": "user", "content": _text(value, "prompt", where)},
            {"role": "assistant", "content": _text(value, "completion", where)},
        )
    )


def _from_text(value: dict, where: str) -> Row:
    return Row(text=_text(value, "text", where))


_CONVERTERS = {
    "messages": _from_messages,
    "sharegpt": _from_sharegpt,
    "alpaca": _from_alpaca,
    "prompt_completion": _from_prompt_completion,
    "text": _from_text,
}
