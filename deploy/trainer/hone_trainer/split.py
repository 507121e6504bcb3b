"""The held-out rows: chosen once by content, never trained on."""

import hashlib
from dataclasses import dataclass, field

from hone_trainer.errors import DataError
from hone_trainer.rows import Row


@dataclass
class Split:
    """Train and evaluation rows, and what had to be dropped to keep them apart."""

    train: list[Row] = field(default_factory=list)
    held_out: list[Row] = field(default_factory=list)
    empty: int = 0
    overlap: int = 0


def split(train: list[Row], held_out: list[Row] | None, fraction: float, seed: int) -> Split:
    """Drops empty rows, holds rows out, and drops train rows equal to those.

    Without given evaluation rows, the contents with the smallest keyed hashes
    are held out: the choice depends on content and seed only, not on order.
    """
    kept = [row for row in train if not row.is_empty()]
    result = Split(empty=len(train) - len(kept))
    if held_out is not None:
        result.held_out = [row for row in held_out if not row.is_empty()]
        result.empty += len(held_out) - len(result.held_out)
        if not result.held_out:
            raise DataError("no usable row in the evaluation channel")
        excluded = {row.content_hash() for row in result.held_out}
        result.train = [row for row in kept if row.content_hash() not in excluded]
        result.overlap = len(kept) - len(result.train)
    elif fraction > 0:
        _hold_out(kept, fraction, seed, result)
    else:
        result.train = kept
    if not result.train:
        raise DataError("no row to train on is left after filtering")
    return result


def _hold_out(kept: list[Row], fraction: float, seed: int, result: Split) -> None:
    contents = [row.content_hash() for row in kept]
    different = set(contents)
    if len(different) < 2:
        raise DataError("too few different rows to hold some out for evaluation")
    count = min(max(1, round(fraction * len(different))), len(different) - 1)
    ranked = sorted(different, key=lambda content: hashlib.sha256(f"{seed}:{content}".encode()).digest())
    chosen = set(ranked[:count])
    for row, content in zip(kept, contents, strict=True):
        if content not in different:
            # A copy of a held-out row would leak the answer into training.
            result.overlap += 1
        elif content in chosen:
            result.held_out.append(row)
            different.discard(content)
        else:
            result.train.append(row)
