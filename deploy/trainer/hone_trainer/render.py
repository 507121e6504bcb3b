"""From rows to token ids with labels: templates, masks, ends, lengths.

Labels use -100 for what is not learned. Every row that is not cut ends in an
end-of-sequence token that is learned, so that the tuned model knows to stop.
"""

import contextlib
import datetime
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy

from hone_trainer.data.problems import BadRow
from hone_trainer.errors import SpecError
from hone_trainer.rows import Row

IGNORED = -100

# For tokenizers without a chat template: "prompt\ncompletion<eos>".
PLAIN_TEMPLATE = (
    "%s{%% for message in messages %%}{{ message['content'] }}"
    "{%% if message['role'] == 'assistant' %%}{{ eos_token }}{%% else %%}{{ '\\n' }}{%% endif %%}{%% endfor %%}"
)
CHATML_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# Some templates print the day. A row must have the same tokens on every day:
# else nothing could be continued tomorrow.
TODAY = datetime.datetime(2024, 7, 26)
# Put in an answer's place to see where a template prints it: one word, which no template takes apart.
MARKER = "HoneAnswerPlace5e1d0c"


@dataclass(frozen=True)
class Example:
    """One tokenised row: whole numbers of the same count in ids and labels."""

    ids: Sequence[int]
    labels: Sequence[int]
    scored_bytes: int

    def learned(self) -> int:
        """Tokens that count in the loss; the first can never be predicted."""
        return int((numpy.asarray(self.labels)[1:] != IGNORED).sum())


@dataclass(frozen=True)
class Rendered:
    """What became of a row: its example unless it is of no use, and the kinds of problem it has, with details."""

    example: Example | None
    kinds: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Text:
    """A row as text, with the parts that are answers, before its tokens."""

    whole: str
    answers: list[tuple[int, int]]
    plain: bool
    kinds: tuple[tuple[str, str], ...] = ()


def prepare_tokenizer(tokenizer, template: str) -> None:
    """Makes sure that there is a template, an end and a padding token."""
    if not getattr(tokenizer, "is_fast", False):
        raise SpecError("the model's tokenizer has no tokenizer.json, which masking needs")
    if tokenizer.eos_token_id is None:
        raise SpecError("the model's tokenizer has no end-of-sequence token")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    if template == "chatml":
        tokenizer.chat_template = CHATML_TEMPLATE
    elif template == "plain" or not tokenizer.chat_template:
        starts = tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]
        tokenizer.chat_template = PLAIN_TEMPLATE % ("{{ bos_token }}" if starts else "")
    _fix_the_date(tokenizer.chat_template)
    # Lengths are decided here; a tokenizer.json may have settings of its own.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()


def _fix_the_date(template: object) -> None:
    """A template that prints the date prints the same one in every attempt: else no job could go on tomorrow."""
    # As an argument it would arrive as text: arguments of templates are made plain data.
    from transformers.utils.chat_template_utils import _compile_jinja_template

    for text in template.values() if isinstance(template, dict) else [template]:
        with contextlib.suppress(Exception):  # a template that is none is refused with its rows
            _compile_jinja_template(text).environment.globals["strftime_now"] = TODAY.strftime


class Renderer:
    """Renders rows with one tokenizer and one set of rules."""

    def __init__(
        self, tokenizer, ends: set[int], loss_on: str, seq_len: int, overlong: str, system: str = ""
    ) -> None:
        self._tokenizer = tokenizer
        self._ends = sorted(ends | {tokenizer.eos_token_id})
        self._loss_on = loss_on
        self._seq_len = seq_len
        self._overlong = overlong
        self._system = system

    def render(self, row: Row) -> Rendered:
        """One row by itself."""
        return self.encode([self.text(row)])[0]

    def text(self, row: Row) -> Text:
        """The row as text; a BadRow if the template refuses it or hides its answers."""
        if row.text is not None:
            return Text(row.text, [(0, len(row.text))], plain=True)
        row = row.with_system(self._system)
        messages = list(row.messages)
        whole = self._template(messages, row)
        answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        spans = []
        for index in answers[-1:] if self._loss_on == "last_answer" else answers:
            span = self._answer_span(messages, index, row, whole)
            if span is not None:
                spans.append(span)
        # Templates may rewrite earlier turns; the last answer must be found.
        last = bool(answers) and answers[-1] == len(messages) - 1
        if not spans or (last and spans[-1][1] != len(whole)):
            raise BadRow("template_mismatch")
        kinds = [("fields_ignored", ", ".join(row.ignored))] if row.ignored else []
        if self._loss_on == "all":
            return Text(whole, [(0, len(whole))], plain=False, kinds=tuple(kinds))
        lost = len(answers) - len(spans) if self._loss_on == "answers" else 0
        if lost:
            kinds.append(("answers_not_found", f"{lost} of {len(answers)} answers"))
        return Text(whole, spans, plain=False, kinds=tuple(kinds))

    def _answer_span(self, messages: list, index: int, row: Row, whole: str) -> tuple[int, int] | None:
        """Where the answer at `index` lies in the rendered conversation."""
        through = whole if index == len(messages) - 1 else self._template(messages[: index + 1], row)
        if not whole.startswith(through):
            return self._marked_span(messages, index, row, whole)
        # Some templates open an answer otherwise than they ask for one; then
        # the opening counts as a part of the answer.
        for prompt in (True, False):
            before = self._template(messages[:index], row, prompt=prompt) if index else ""
            if through.startswith(before):
                return len(before), len(through)
        return None

    def _marked_span(self, messages: list, index: int, row: Row, whole: str) -> tuple[int, int] | None:
        """Where an earlier answer lies if the template prints it otherwise once more turns follow.

        Some templates give the last answer alone a block of thoughts, so that a shorter conversation is no prefix of
        the whole. With a marker in the answer's place, what is before the marker and what follows the turn must be
        found in the whole again; the turn's close is what a conversation prints that ends with it.
        """
        marked = [*messages[:index], {**messages[index], "content": MARKER}, *messages[index + 1 :]]
        before, found, after = self._template(marked, row).partition(MARKER)
        close = self._template(marked[: index + 1], row).partition(MARKER)[2]
        rest = after[len(close) :] if after.startswith(close) else after
        end = len(whole) - len(rest)
        if not found or MARKER in after or not whole.startswith(before) or not whole.endswith(rest):
            return None
        return (len(before), end) if len(before) < end else None

    def _template(self, messages: list, row: Row, prompt: bool = False) -> str:
        try:
            return self._tokenizer.apply_chat_template(
                messages,
                tools=row.tools,
                tokenize=False,
                add_generation_prompt=prompt,
            )
        except Exception as error:
            # Templates are programs that come with the model and may refuse a row.
            raise BadRow("template_refuses", str(error)) from error

    def encode(self, texts: list[Text]) -> list[Rendered]:
        """Texts to examples, many at once: the tokenizer spreads them over the CPUs."""
        encodings: list = [None] * len(texts)
        for plain in (False, True):
            mine = [index for index, text in enumerate(texts) if text.plain is plain]
            if mine:
                whole = [texts[index].whole for index in mine]
                found = self._tokenizer.backend_tokenizer.encode_batch(whole, add_special_tokens=plain)
                for index, encoding in zip(mine, found, strict=True):
                    encodings[index] = encoding
        found = [self._example(text, encoding) for text, encoding in zip(texts, encodings, strict=True)]
        # What is said of rows that are learned all the same is said of those alone.
        return [
            replace(one, kinds=text.kinds + one.kinds) if one.example else one
            for text, one in zip(texts, found, strict=True)
        ]

    def _example(self, text: Text, encoding) -> Rendered:
        ids = numpy.array(encoding.ids, dtype=numpy.int32)
        learned = self._learned(text, ids, encoding.offsets)
        places = numpy.flatnonzero(learned)
        if not len(places):
            return Rendered(None, (("fully_masked", ""),))
        # What follows the last token that is learned would only cost time.
        ids, learned = ids[: places[-1] + 1], learned[: places[-1] + 1]
        kinds = []
        if ids[-1] not in self._ends:
            ids = numpy.append(ids, numpy.int32(self._tokenizer.eos_token_id))
            learned = numpy.append(learned, True)
            if not text.plain:
                kinds.append(("stop_appended", ""))
        scored, length = sum(len(text.whole[start:stop].encode()) for start, stop in text.answers), len(ids)
        if length > self._seq_len:
            detail = f"{length} tokens"
            if self._overlong != "truncate":
                return Rendered(None, (("overlong" if self._overlong == "error" else "overlong_dropped", detail),))
            scored = round(scored * self._seq_len / length)
            ids, learned = ids[: self._seq_len], learned[: self._seq_len]
            kinds = [("overlong_truncated", detail)]
            if not (learned[-1] and ids[-1] in self._ends):
                kinds.append(("no_stop", ""))
        if not learned[1:].any():
            return Rendered(None, (("fully_masked", f"{length} tokens"),))
        labels = numpy.where(learned, ids, numpy.int32(IGNORED))
        return Rendered(Example(ids, labels, scored), tuple(kinds))

    def _learned(self, text: Text, ids: numpy.ndarray, offsets: list) -> numpy.ndarray:
        """Which tokens count: those of the answers, up to the end that generation stops at."""
        learned = numpy.zeros(len(ids), dtype=bool)
        # Much faster than an array of a list of pairs.
        flat = numpy.fromiter(chain.from_iterable(offsets), dtype=numpy.int64, count=2 * len(ids))
        begins, ends = flat[::2], flat[1::2]
        final = numpy.logical_or.reduce([ids == end for end in self._ends])
        for start, stop in text.answers:
            within = (begins < ends) & (begins >= start) & (begins < stop)
            inside, stops = numpy.flatnonzero(within), numpy.flatnonzero(within & final)
            # What a template prints after the end of a turn is never generated.
            if len(stops):
                learned[inside[0] : stops[-1] + 1] = True
            else:
                learned[inside] = True
        return learned
