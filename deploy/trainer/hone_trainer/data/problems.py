"""What is wrong with rows: each kind counted, with the first places of each.

Rows that cannot be read say that a file is not what its owner thinks it is;
what becomes of them is the owner's choice (`data.bad_rows`). Rows that can be
read and teach nothing are left out, and said so. Some are only told.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from hone_trainer.errors import DataError

# Places that are kept for each kind: enough to see a pattern.
PLACES = 20
# Places that a message names: it shares its line with other kinds.
NAMED = 3
# Characters of what exactly is wrong in one place.
DETAIL = 160

UNREADABLE = {
    "not_utf8": "not UTF-8",
    "not_json": "not JSON",
    "torn": "cut off by the end of the file",
    "too_large": "larger than a row may be",
    "not_csv": "not as the table's header says",
    "not_object": "not an object with named fields",
    "unknown_format": "of no known format",
    "wrong_type": "without a field of its format, or with one of another type",
    "unknown_role": "with an unknown role",
    "template_refuses": "refused by the chat template",
    "unreadable_file": "from where on the file cannot be read",
}
REFUSED = {"overlong": "longer than train.seq_len, which data.overlong forbids"}
LEFT_OUT = {
    "empty_rows": "without any text",
    "no_answer": "without an answer",
    "fully_masked": "without a token to learn within train.seq_len",
    "template_mismatch": "whose answers cannot be found again in the chat template's output",
    "overlong_dropped": "longer than train.seq_len",
    "overlap": "equal to a held-out row",
}
KEPT = {
    "overlong_truncated": "cut at train.seq_len",
    "no_stop": "that end without a stop token; a model that learned from such rows alone would never stop",
    "answers_not_found": "with earlier answers that the chat template hides or rewrites; those are not learned",
    "fields_ignored": "with fields in their messages that no template is given",
    "stop_appended": "that the chat template ends without a stop token; one was appended",
}
# What is done as a matter of course.
HARMLESS = frozenset({"stop_appended"})
CONSEQUENCE = {
    "unreadable": "data.bad_rows says whether to go on without",
    "refused": "data.overlong says what to do about it",
    "left_out": "left out",
    "kept": "trained on all the same",
}
OUTCOMES = {"unreadable": UNREADABLE, "refused": REFUSED, "left_out": LEFT_OUT, "kept": KEPT}
MEANING = UNREADABLE | REFUSED | LEFT_OUT | KEPT


class BadRow(DataError):
    """One row that is of no use; `fatal` if what follows in its file is lost too."""

    def __init__(self, kind: str, detail: str = "", fatal: bool = False) -> None:
        super().__init__(f"{MEANING[kind]}: {detail}" if detail else MEANING[kind])
        self.kind = kind
        self.detail = detail
        self.fatal = fatal


@dataclass
class Found:
    """How often a kind was met, and the first places, each with what exactly is wrong."""

    count: int = 0
    first: list[list[str]] = field(default_factory=list)

    def places(self) -> list[str]:
        """The first places, without details."""
        return [place for place, _ in self.first]


@dataclass
class Problems:
    """All that is wrong with the rows of one channel."""

    kinds: dict[str, Found] = field(default_factory=dict)
    fatal: bool = False

    def add(self, kind: str, place: str, detail: str = "", fatal: bool = False) -> None:
        """One more row of this kind."""
        found = self.kinds.setdefault(kind, Found())
        found.count += 1
        self.fatal = self.fatal or fatal
        if len(found.first) < PLACES:
            found.first.append([place, detail[:DETAIL]])

    def of(self, name: str) -> dict[str, Found]:
        """The kinds with this outcome, most frequent first."""
        mine = ((kind, found) for kind, found in self.kinds.items() if kind in OUTCOMES[name])
        return dict(sorted(mine, key=lambda item: (-item[1].count, item[0])))

    def messages(self) -> Iterator[tuple[str, str, Found, str]]:
        """(kind, message, what was found, outcome) for every kind."""
        for name in OUTCOMES:
            for kind, found in self.of(name).items():
                yield kind, sentence(kind, found), found, name

    def as_dict(self) -> dict:
        """For the report and the cache."""
        return {
            "fatal": self.fatal,
            "kinds": {kind: {"count": found.count, "first": found.first} for kind, found in self.kinds.items()},
        }

    @classmethod
    def from_dict(cls, values: dict) -> "Problems":
        """What `as_dict` gave."""
        kinds = {kind: Found(found["count"], found["first"]) for kind, found in values["kinds"].items()}
        return cls(kinds, values["fatal"])


def sentence(kind: str, found: Found) -> str:
    """`2 rows not JSON (t.jsonl:3: Expecting value; t.jsonl:9)`."""
    named = []
    for index, (place, detail) in enumerate(found.first[:NAMED]):
        named.append(f"{place}: {detail}" if detail and index == 0 else place)
    more = ", …" if found.count > len(named) else ""
    rows = "row" if found.count == 1 else "rows"
    return f"{found.count} {rows} {MEANING[kind]} ({'; '.join(named)}{more})"


def require_readable(channels: dict[str, Problems], policy: str) -> None:
    """A DataError that names every kind at once, unless the policy leaves such rows out."""
    parts, fatal, refused = [], False, False
    for name, problems in channels.items():
        kinds = problems.of("refused")
        refused = refused or bool(kinds)
        fatal = fatal or problems.fatal
        if policy == "error" or problems.fatal:
            kinds = problems.of("unreadable") | kinds
        parts += [f"{name}: {sentence(kind, found)}" for kind, found in kinds.items()]
    if not parts:
        return
    if fatal:
        hint = "part of a file cannot be read at all: bring it again"
    elif refused:
        hint = "repair these rows, or let data.overlong be truncate or drop"
    else:
        hint = "repair these rows, or set data.bad_rows to skip to train without them"
    raise DataError(f"{'; '.join(parts)}. {hint}")
