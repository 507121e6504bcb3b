"""Everything between the files and the loop: tokens, held-out rows, and the report before training."""

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy

from hone_trainer.contract import Paths, encode, write_durably
from hone_trainer.data.channel import Rules, Summary, load_channel
from hone_trainer.data.files import place
from hone_trainer.data.problems import CONSEQUENCE, HARMLESS, Problems, require_readable
from hone_trainer.data.store import Rows, Store
from hone_trainer.environment import writable
from hone_trainer.errors import DataError
from hone_trainer.render import Renderer
from hone_trainer.rows import Channel
from hone_trainer.spec import Spec
from hone_trainer.split import Split, split

REPORT_FILE = "data_report.json"
# Files that the report names; the rest is counted.
NAMED_FILES = 500


@dataclass
class Prepared:
    """What there is to train on and to score on."""

    train: Rows
    held_out: Rows
    split: Split
    summaries: dict[str, Summary]

    @property
    def highest(self) -> int:
        """The highest token of the stores."""
        return max(rows.store.facts["highest"] for rows in (self.train, self.held_out))

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(rows.store.facts["longest"] for rows in (self.train, self.held_out))

    @property
    def channels(self) -> list[Channel]:
        """The channels that were read."""
        return [summary.channel for summary in self.summaries.values()]


def channel_names(spec: Spec) -> list[str]:
    """The channels that the spec wants read."""
    return ["train"] + ([spec.data.held_out.channel] if spec.data.held_out.channel else [])


def prepare(
    spec: Spec, paths: Paths, tokenizer, ends: set[int], pause: Callable[[], None], notice: Callable[..., None]
) -> Prepared:
    """Reads, tokenises and splits the data, and reports; DataError if it is of no use.

    `pause` is called often, and may raise to stop; `notice` takes a level, a
    code, a message and further fields.
    """
    data, seq_len = spec.data, spec.train.seq_len
    renderer = Renderer(tokenizer, ends, data.loss_on, seq_len, data.overlong, data.system)
    identity = _identity(tokenizer, ends, [data.loss_on, seq_len, data.overlong, data.system])
    rules = Rules(data.format, data.bad_rows, identity)
    cache = (writable(paths.cache) or Path(tempfile.gettempdir())) / "data"
    stores: dict[str, Store | None] = {}
    summaries: dict[str, Summary] = {}
    for name in channel_names(spec):
        stores[name], summaries[name] = load_channel(paths.data, name, cache, rules, renderer, pause)
    prepared = None
    try:
        require_readable({name: summary.problems for name, summary in summaries.items()}, data.bad_rows)
        prepared = _split(spec, stores, summaries)
    finally:
        write_report(paths, data.bad_rows, summaries, prepared)
        _tell(notice, summaries)
    return prepared


def _tell(notice: Callable[..., None], summaries: dict[str, Summary]) -> None:
    for name, summary in summaries.items():
        for kind, message, found, outcome in summary.problems.messages():
            level = "info" if kind in HARMLESS else "warning"
            text = f"{name}: {message}; {CONSEQUENCE[outcome]}"
            notice(level, kind, text, channel=name, count=found.count, outcome=outcome, places=found.places())


def _identity(tokenizer, ends: set[int], settings: list) -> str:
    """One hash over all that decides a row's tokens and labels."""
    special = [tokenizer.chat_template, tokenizer.special_tokens_map, sorted(ends)]
    state = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode())
    state.update(encode([special, settings]))
    return state.hexdigest()


def _split(spec: Spec, stores: dict[str, Store], summaries: dict[str, Summary]) -> Prepared:
    train, own = stores["train"], stores.get("eval")
    held_out = spec.data.held_out
    contents = own.index["content"] if own is not None else None
    parts = split(numpy.asarray(train.index["content"]), contents, held_out.fraction, held_out.seed)
    found = Prepared(
        Rows(train, _usable(train, parts.train)),
        Rows(own or train, _usable(own or train, parts.held_out)),
        parts,
        summaries,
    )
    _note_copies(train, parts, summaries["train"])
    if not len(found.train):
        raise DataError("no train row has a token to learn within seq_len")
    if len(parts.held_out) and not len(found.held_out):
        raise DataError("no evaluation row has a token to score within seq_len")
    return found


def _usable(store: Store, numbers: numpy.ndarray) -> numpy.ndarray:
    return numbers[store.index["length"][numbers] > 0]


def _note_copies(store: Store, parts: Split, summary: Summary) -> None:
    files = summary.channel.files
    for number in parts.copies.tolist():
        record = store.index[number]
        file = files[int(record["file"])]
        summary.problems.add("overlap", place(file["name"], file["kind"], int(record["number"])))


def write_report(paths: Paths, policy: str, summaries: dict[str, Summary], prepared: Prepared | None) -> None:
    """data_report.json: every kind of problem with its first places; of bounded size."""
    report: dict = {"v": 1, "bad_rows": policy, "usable": prepared is not None, "channels": {}}
    for name, summary in summaries.items():
        files = summary.channel.files
        report["channels"][name] = {
            "format": summary.channel.format,
            "rows": summary.rows,
            "files": files[:NAMED_FILES],
            "files_not_named": max(0, len(files) - NAMED_FILES),
            "problems": _described(summary.problems),
        }
    if prepared is not None:
        report["train"], report["held_out"] = _sizes(prepared.train), _sizes(prepared.held_out)
    write_durably(paths.metrics / REPORT_FILE, encode(report) + b"\n")


def _described(problems: Problems) -> list[dict]:
    return [
        {
            "kind": kind,
            "outcome": outcome,
            "count": found.count,
            "message": message,
            "first": [{"place": where, "detail": detail} for where, detail in found.first],
        }
        for kind, message, found, outcome in problems.messages()
    ]


def _sizes(rows: Rows) -> dict:
    lengths = rows.lengths()
    if not len(lengths):
        return {"rows": 0}
    percentiles = numpy.percentile(lengths, (50, 90, 99), method="lower").astype(int).tolist()
    return {
        "rows": len(rows),
        "tokens": int(lengths.sum(dtype=numpy.int64)),
        "learned_tokens": int(rows.learned().sum(dtype=numpy.int64)),
        "length": dict(zip(("p50", "p90", "p99"), percentiles, strict=True)) | {"max": int(lengths.max())},
    }
