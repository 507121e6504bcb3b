"""Several rows in one sequence: hardly any padding, and the same losses.

Each row keeps positions that count from zero and a mask of its own, so that it is computed as if it were alone. Which
rows share a sequence depends on their lengths and the seed alone, and stays so for the whole job; in what order the
sequences come is drawn for each epoch.
"""

import bisect
import contextlib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy
import torch

from hone_trainer.batches import collate
from hone_trainer.data.store import Rows
from hone_trainer.errors import SpecError
from hone_trainer.render import IGNORED, Example
from hone_trainer.split import keyed

# A row of one token has nothing to predict: less room than this is as good as none.
SHORTEST = 2
# Two passes of one shape may differ by no more than this part of the largest logit; two shapes by this much of it.
SAME, NEAR = 1e-5, 3e-2
TRIAL_TOKENS = 8


@dataclass(frozen=True)
class Packed(Example):
    """Rows one after the other; a row's first token, which nothing predicts, is never learned."""

    positions: numpy.ndarray
    rows: int


def pack(rows: Sequence[Example]) -> Packed:
    """One sequence of these rows."""
    ids = numpy.concatenate([numpy.asarray(row.ids) for row in rows])
    labels = numpy.concatenate([numpy.asarray(row.labels) for row in rows])
    lengths = [len(row.ids) for row in rows]
    labels[numpy.cumsum([0, *lengths[:-1]])] = IGNORED
    positions = numpy.concatenate([numpy.arange(length) for length in lengths])
    return Packed(ids, labels, sum(row.scored_bytes for row in rows), positions, len(rows))


def arrange(lengths: numpy.ndarray, capacity: int, seed: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Rows by sequence, and where each sequence's rows begin: longest first, each where least room is left over."""
    numbers = numpy.arange(len(lengths))
    # Among rows of one length the seed decides: neighbours in a file often are about one matter.
    order = numpy.lexsort((keyed(numbers, seed), -lengths.astype(numpy.int64)))
    place = numpy.zeros(len(lengths), dtype=numpy.int64)
    rooms: list[int] = []
    waiting: dict[int, list[int]] = {}
    count = 0
    for number, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        at = bisect.bisect_left(rooms, length)
        if at == len(rooms):
            room, sequence, count = capacity, count, count + 1
        else:
            room = rooms[at]
            sequence = waiting[room].pop()
            if not waiting[room]:
                del waiting[room], rooms[at]
        place[number] = sequence
        left = room - length
        if left >= SHORTEST:
            if left not in waiting:
                bisect.insort(rooms, left)
                waiting[left] = []
            waiting[left].append(sequence)
    sizes = numpy.bincount(place, minlength=count)
    return numpy.argsort(place, kind="stable"), numpy.concatenate(([0], numpy.cumsum(sizes)))


class Packs(Sequence):
    """All of some rows as packed sequences of up to `capacity` tokens; none is held."""

    def __init__(self, rows: Rows, capacity: int, seed: int) -> None:
        self._rows = rows
        self._order, self._bounds = arrange(rows.lengths(), capacity, seed)
        self._capacity = capacity

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        start, stop = self._bounds[index], self._bounds[index + 1]
        return pack([self._rows[number] for number in self._order[start:stop].tolist()])

    def lengths(self) -> numpy.ndarray:
        """Tokens of each sequence."""
        lengths = self._rows.lengths()[self._order].astype(numpy.int64)
        return numpy.add.reduceat(lengths, self._bounds[:-1])

    def longest(self, count: int) -> list[Packed]:
        """The longest sequences, the longest last."""
        return [self[int(index)] for index in numpy.argsort(self.lengths(), kind="stable")[-count:]]

    def full(self) -> float:
        """The part of all positions that holds tokens."""
        return float(self.lengths().sum()) / (len(self) * self._capacity)

    def digest(self) -> str:
        """One hash over the rows and how they are packed."""
        state = hashlib.sha256(self._rows.digest().encode())
        state.update(self._order.astype("<i8").tobytes())
        state.update(self._bounds.astype("<i8").tobytes())
        return state.hexdigest()


def flat(model) -> bool:
    """Whether sequences go to this model end to end: kernels that take rows apart by themselves want them so."""
    return "flash" in str(getattr(model.config, "_attn_implementation", ""))


def require_apart(model, tokens: Sequence[int], autocast: Callable[[], contextlib.AbstractContextManager]) -> None:
    """Tries on a few tokens that a packed row is computed as if alone; SpecError if this model cannot.

    Most models tell rows apart by their positions. One that carries a state along, or whose code comes with it, may
    not, and nothing but worse results would tell.
    """
    ids = numpy.resize(numpy.asarray(tokens), TRIAL_TOKENS)
    # Of other tokens, and yet of ones that the model knows.
    other = numpy.full(TRIAL_TOKENS, ids[0] if ids[0] != ids[-1] else ids.min())

    def seen(*before: numpy.ndarray) -> torch.Tensor:
        rows = [Example(row, row, 0) for row in (*before, ids)]
        batch = collate([pack(rows)], 0, flat(model))
        counted(batch)
        batch.pop("labels")
        with autocast():
            logits = model(**{name: value.to(device) for name, value in batch.items()}, use_cache=False).logits
        return logits[0, -TRIAL_TOKENS:].float()

    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    try:
        with torch.no_grad():
            one, two, alone = seen(ids[::-1].copy()), seen(other), seen()
    finally:
        model.train(was_training)
    largest = float(alone.abs().max())
    leaks = float((one - two).abs().max()) > SAME * largest
    if leaks or float((one - alone).abs().max()) > NEAR * largest:
        what = "see each other" if leaks else "are not computed as they are alone"
        raise SpecError(f"rows that share a sequence {what} in this model: set train.packing to false")


def counted(batch: dict) -> tuple[torch.Tensor | int, int]:
    """Tokens and rows of a batch; takes out of it what models do not know."""
    if "rows" in batch:
        return batch.pop("tokens"), batch.pop("rows")
    return batch["attention_mask"].sum(), len(batch["labels"])
