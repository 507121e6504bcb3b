"""From rows to token ids with labels: templates, masks, ends, lengths.

Labels use -100 for what is not learned. Every row that is not cut ends in an
end-of-sequence token that is learned, so that the tuned model knows to stop.
"""

from array import array
from collections import Counter
from dataclasses import dataclass

from hone_trainer.errors import DataError, SpecError
from hone_trainer.rows import Row

IGNORED = -100

# For tokenizers without a chat template: "prompt\ncompletion<eos>".
PLAIN_TEMPLATE = (
    "%s{%% for message in messages %%}{{ message['content'] }}"
    "{%% if message['role'] == 'assistant' %%}{{ eos_token }}{%% else %%}{{ '\\n' }}{%% endif %%}{%% endfor %%}"
)


@dataclass(frozen=True)
class Example:
    """One tokenised row. Arrays of 32-bit integers: large sets must fit."""

    ids: array
    labels: array
    scored_bytes: int

    def learned(self) -> int:
        """Tokens that count in the loss; the first can never be predicted."""
        return sum(1 for label in self.labels[1:] if label != IGNORED)


def prepare_tokenizer(tokenizer, template: str) -> None:
    """Makes sure that there is a template, an end and a padding token."""
    if not getattr(tokenizer, "is_fast", False):
        raise SpecError("the model's tokenizer has no tokenizer.json, which masking needs")
    if tokenizer.eos_token_id is None:
        raise SpecError("the model's tokenizer has no end-of-sequence token")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    if template == "plain" or not tokenizer.chat_template:
        starts = tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]
        tokenizer.chat_template = PLAIN_TEMPLATE % ("{{ bos_token }}" if starts else "")


class Renderer:
    """Renders rows with one tokenizer and one set of rules, and counts losses."""

    def __init__(self, tokenizer, ends: set[int], loss_on: str, seq_len: int, overlong: str) -> None:
        self._tokenizer = tokenizer
        self._ends = ends | {tokenizer.eos_token_id}
        self._loss_on = loss_on
        self._seq_len = seq_len
        self._overlong = overlong
        self.counts: Counter[str] = Counter()

    def render_all(self, rows: list[Row]) -> list[Example]:
        """The usable examples of these rows, in order; the rest is counted."""
        found = (self.render(row) for row in rows)
        return [example for example in found if example is not None]

    def render(self, row: Row) -> Example | None:
        """One row, or None when nothing of it can be learned."""
        text, spans = self._text_and_spans(row)
        if text is None:
            self.counts["template_mismatch"] += 1
            return None
        ids, labels, scored = self._tokenise(text, spans, special=row.text is not None)
        if len(ids) > self._seq_len:
            if self._overlong == "error":
                raise DataError(f"a row has {len(ids)} tokens, more than seq_len {self._seq_len}")
            self.counts["overlong_dropped" if self._overlong == "drop" else "overlong_truncated"] += 1
            if self._overlong == "drop":
                return None
            scored = round(scored * self._seq_len / len(ids))
            ids, labels = ids[: self._seq_len], labels[: self._seq_len]
        example = Example(array("i", ids), array("i", labels), scored)
        if example.learned() == 0:
            self.counts["fully_masked"] += 1
            return None
        return example

    def _text_and_spans(self, row: Row) -> tuple[str | None, list[tuple[int, int]]]:
        if row.text is not None:
            return row.text, [(0, len(row.text))]
        messages = list(row.messages)
        whole = self._template(messages, row)
        spans = []
        last = None
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            last = index
            span = self._answer_span(messages, index, row, whole)
            if span is not None:
                spans.append(span)
        # Templates may rewrite earlier turns; the last answer must be found.
        if last is None or not spans or (last == len(messages) - 1 and spans[-1][1] != len(whole)):
            return None, []
        return whole, spans

    def _answer_span(self, messages: list, index: int, row: Row, whole: str) -> tuple[int, int] | None:
        """Where the answer at `index` lies in the rendered conversation."""
        through = self._template(messages[: index + 1], row)
        if not whole.startswith(through):
            return None
        # Some templates open an answer otherwise than they ask for one; then
        # the opening counts as a part of the answer.
        for prompt in (True, False):
            before = self._template(messages[:index], row, prompt=prompt) if index else ""
            if through.startswith(before):
                return len(before), len(through)
        return None

    def _template(self, messages: list, row: Row, prompt: bool = False) -> str:
        try:
            return self._tokenizer.apply_chat_template(
                messages, tools=row.tools, tokenize=False, add_generation_prompt=prompt
            )
        except Exception as error:
            # Templates are programs that come with the model and may refuse a row.
            raise DataError(f"the chat template refuses a row: {error}") from error

    def _tokenise(self, text: str, spans: list, special: bool) -> tuple[list, list, int]:
        encoded = self._tokenizer(text, add_special_tokens=special, return_offsets_mapping=True, verbose=False)
        ids, offsets = list(encoded["input_ids"]), encoded["offset_mapping"]
        if self._loss_on == "all":
            spans = [(0, len(text))]
        labels = [IGNORED] * len(ids)
        for start, stop in spans:
            inside = [i for i, (a, b) in enumerate(offsets) if a < b and start <= a < stop]
            ends = [i for i in inside if ids[i] in self._ends]
            # What a template prints after the end of a turn is never generated.
            for i in inside if not ends else range(inside[0], ends[-1] + 1):
                labels[i] = ids[i]
        scored = sum(len(text[start:stop].encode()) for start, stop in spans)
        return *self._end(ids, labels), scored

    def _end(self, ids: list, labels: list) -> tuple[list, list]:
        """Cuts what follows a final end token, or appends one."""
        final = max((i for i, label in enumerate(labels) if label != IGNORED), default=None)
        if final is None:
            return ids, labels
        if ids[final] in self._ends:
            return ids[: final + 1], labels[: final + 1]
        end = [self._tokenizer.eos_token_id]
        return ids[: final + 1] + end, labels[: final + 1] + end
