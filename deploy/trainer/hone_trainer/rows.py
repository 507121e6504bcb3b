"""Rows as users bring them, in one common form.

A row becomes either a conversation (`messages`) or a plain text. What a row
cannot mean is a BadRow that says why; where the row is, its reader knows.
"""

import hashlib
import json
from dataclasses import dataclass, field, replace

from hone_trainer.contract import encode
from hone_trainer.data.problems import BadRow

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
# Fields of a message that some templates print, as they are; beside its role, its content and its tool_calls.
PASSED = ("reasoning_content", "thinking", "name", "tool_call_id")
# Every field that some format reads.
COLUMNS = frozenset(
    "messages tools conversations system instruction input output response history prompt completion text".split()
)


@dataclass(frozen=True)
class Row:
    """One example; exactly one of messages and text is set. `ignored` names fields of messages that it is without."""

    messages: tuple[dict, ...] = ()
    text: str | None = None
    tools: list | None = None
    ignored: tuple[str, ...] = ()

    def content(self) -> int:
        """64 bits of a hash that names the content, whatever the spacing of its file."""
        whole = json.dumps([self.messages, self.text, self.tools], ensure_ascii=False, default=str)
        try:
            return int.from_bytes(hashlib.sha256(whole.encode()).digest()[:8], "little")
        except UnicodeEncodeError as error:
            raise BadRow("not_utf8", "bytes that are no character, or half a surrogate pair") from error

    def lack(self) -> str | None:
        """The kind of emptiness, if there is nothing to learn: no text, or no answer with text."""
        if self.text is not None:
            return None if self.text.strip() else "empty_rows"
        if any(_says(message) for message in self.messages if message["role"] == "assistant"):
            return None
        return "no_answer" if any(_says(message) for message in self.messages) else "empty_rows"

    def with_system(self, prompt: str) -> "Row":
        """The conversation under this system prompt, unless it has one of its own."""
        if not prompt or self.text is not None or any(message["role"] == "system" for message in self.messages):
            return self
        return replace(self, messages=({"role": "system", "content": prompt}, *self.messages))


def _says(message: dict) -> bool:
    return bool(message["content"].strip() or message.get("tool_calls"))


@dataclass
class Channel:
    """One data channel: its format, and what identifies its files."""

    name: str
    format: str
    files: list[dict] = field(default_factory=list)

    def fingerprint(self) -> str:
        """One hash over the files, in their reading order."""
        return hashlib.sha256(encode([file["sha256"] for file in self.files])).hexdigest()


def detect(value: object) -> str:
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
    raise BadRow("unknown_format", f"it has {', '.join(sorted(map(str, keys))) or 'no fields'}")


def convert(value: object, kind: str) -> Row:
    """A parsed row in the common form."""
    if not isinstance(value, dict):
        raise BadRow("not_object")
    return _CONVERTERS[kind](value)


def _text(value: dict, key: str, optional: bool = False) -> str:
    found = value.get(key)
    if found is None and optional:
        return ""
    if isinstance(found, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in found):
        found = "".join(str(part.get("text", "")) for part in found)
    if not isinstance(found, str):
        raise BadRow("wrong_type", f"{key} must be text")
    return found


def _list(value: dict, key: str) -> object:
    """A field that holds a list; tables that know only text hold it as JSON."""
    found = value.get(key)
    if not isinstance(found, str):
        return found
    try:
        return json.loads(found) if found.strip() else None
    except (ValueError, RecursionError) as error:
        raise BadRow("wrong_type", f"{key} is text that is not JSON: {error}") from error


def _message(value: object, role_key: str = "role", text_key: str = "content") -> dict:
    if not isinstance(value, dict):
        raise BadRow("wrong_type", "a message must be an object")
    name = value.get(role_key)
    role = _ROLES.get(name.lower()) if isinstance(name, str) else None
    if role is None:
        raise BadRow("unknown_role", f"{role_key} is {name!r}")
    calls = value.get("tool_calls")
    message = {"role": role, "content": _text(value, text_key, optional=bool(calls))}
    if calls:
        message["tool_calls"] = calls
    return message | {key: value[key] for key in PASSED if isinstance(value.get(key), str)}


def _conversation(value: dict, key: str, role_key: str = "role", text_key: str = "content") -> Row:
    found = _list(value, key)
    if not isinstance(found, list) or not found:
        raise BadRow("wrong_type", f"{key} must be a list of messages")
    messages, ignored = [], set()
    for item in found:
        messages.append(_message(item, role_key, text_key))
        # Tables have every field of one message in all others, without a value. Calls may be an empty list.
        given = {name for name, content in item.items() if content is not None}
        ignored |= given - {role_key, text_key, "tool_calls", *(set(PASSED) & set(messages[-1]))}
    return Row(messages=tuple(messages), ignored=tuple(sorted(ignored)))


def _from_messages(value: dict) -> Row:
    tools = _list(value, "tools") or None
    if tools is not None and not isinstance(tools, list):
        raise BadRow("wrong_type", "tools must be a list")
    return replace(_conversation(value, "messages"), tools=tools)


def _from_sharegpt(value: dict) -> Row:
    row = _conversation(value, "conversations", role_key="from", text_key="value")
    return row.with_system(_text(value, "system", optional=True))


def _from_alpaca(value: dict) -> Row:
    messages = []
    history = _list(value, "history") or []
    if not isinstance(history, list):
        raise BadRow("wrong_type", "history must be a list of pairs")
    for pair in history:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise BadRow("wrong_type", "history must be a list of pairs")
        messages.append({"role": "user", "content": pair[0]})
        messages.append({"role": "assistant", "content": pair[1]})
    instruction, extra = _text(value, "instruction"), _text(value, "input", optional=True)
    messages.append({"role": "user", "content": f"{instruction}\n\n{extra}" if extra.strip() else instruction})
    messages.append({"role": "assistant", "content": _text(value, "output" if "output" in value else "response")})
    return Row(messages=tuple(messages)).with_system(_text(value, "system", optional=True))


def _from_prompt_completion(value: dict) -> Row:
    if isinstance(value.get("prompt"), list) and isinstance(value.get("completion"), list):
        prompt, completion = _conversation(value, "prompt"), _conversation(value, "completion")
        ignored = tuple(sorted({*prompt.ignored, *completion.ignored}))
        return Row(messages=prompt.messages + completion.messages, ignored=ignored)
    return Row(
        messages=(
            {"role": "user", "content": _text(value, "prompt")},
            {"role": "assistant", "content": _text(value, "completion")},
        )
    )


def _from_text(value: dict) -> Row:
    return Row(text=_text(value, "text"))


_CONVERTERS = {
    "messages": _from_messages,
    "sharegpt": _from_sharegpt,
    "alpaca": _from_alpaca,
    "prompt_completion": _from_prompt_completion,
    "text": _from_text,
}
