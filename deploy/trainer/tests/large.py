"""Makes data that is large as a file and as tokens, in no more memory than the drill allows.

large.py rows DATA.jsonl BYTES    rows with a long field that no format knows
large.py tokens                   the job's rows as tokens, by the trainer's own way but for the tokenizer: each row
                                  gets as many made-up ones as seq_len allows, since real ones would take minutes
"""

import random
import string
import sys
from pathlib import Path
from unittest import mock

import numpy

from hone_trainer import spec as specs
from hone_trainer.contract import Paths
from hone_trainer.data.prepare import prepare
from hone_trainer.environment import quieten_transformers
from hone_trainer.model import end_tokens, load_tokenizer
from hone_trainer.render import Example, Rendered, Renderer, Text, prepare_tokenizer
from hone_trainer.rows import Row

FIELD = 8_000
# Tokens below these are special ones.
LOWEST = 2


def write_rows(path: Path, size: int) -> None:
    """All different and in the same order every time, until the file has this size."""
    source = "".join(random.Random(1).choices(string.ascii_letters, k=2 * FIELD))
    number = written = 0
    with open(path, "w") as file:
        while written < size:
            start = number % FIELD
            written += file.write(f'{{"text": "row {number}", "source": "{source[start : start + FIELD]}"}}\n')
            number += 1


class Quick(Renderer):
    """Tokens that depend on the row's text alone, at the speed of a copy."""

    _source = numpy.random.default_rng(1).integers(LOWEST, 256, 1_000_000, dtype=numpy.int32)

    def text(self, row: Row) -> Text:
        return Text(row.text or "", [], plain=True)

    def encode(self, texts: list[Text]) -> list[Rendered]:
        found = []
        for text in texts:
            start = 7 * int(text.whole.split()[1]) % (len(self._source) - self._seq_len)
            ids = self._source[start : start + self._seq_len]
            found.append(Rendered(Example(ids, ids, len(ids))))
        return found


def write_tokens() -> None:
    """What an attempt of the job whose folders are mounted will find in its cache."""
    paths = Paths.from_env()
    quieten_transformers()
    spec = specs.load(paths.spec)
    tokenizer = load_tokenizer(paths.model, False)
    prepare_tokenizer(tokenizer, spec.data.template)
    ends = end_tokens(paths.model, tokenizer)
    with mock.patch("hone_trainer.data.prepare.Renderer", Quick):
        data = prepare(spec, paths, tokenizer, ends, lambda: None, lambda *words, **fields: print(*words))
    print(f"{len(data.train)} rows, {data.train.store.bytes()} bytes of tokens")


if __name__ == "__main__":
    if sys.argv[1] == "rows":
        write_rows(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        write_tokens()
