"""Batches in an order that is a function of seed and epoch alone.

Nothing depends on a random state that training advances, so a resumed run
sees exactly the batches that the uninterrupted one would have seen.
"""

import math
from collections.abc import Iterator, Sequence

import numpy
import torch

from hone_trainer.group import share
from hone_trainer.render import IGNORED, Example


def collate(rows: list[Example], pad: int, flat: bool = False) -> dict:
    """Pads on the right to the longest row; packed rows may come end to end instead."""
    if not rows:
        return _nothing(pad)
    if hasattr(rows[0], "positions"):
        return _packed(rows, pad, flat)
    width = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    labels = torch.full((len(rows), width), IGNORED, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for index, row in enumerate(rows):
        length = len(row.ids)
        ids[index, :length] = torch.from_numpy(numpy.asarray(row.ids, numpy.int64))
        labels[index, :length] = torch.from_numpy(numpy.asarray(row.labels, numpy.int64))
        mask[index, :length] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def _nothing(pad: int) -> dict:
    """For a rank that has no row while others have: a model must still run, and nothing of it counts."""
    ids = torch.full((1, 2), pad, dtype=torch.long)
    labels = torch.full_like(ids, IGNORED)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels, "tokens": 0, "rows": 0}


def _packed(rows: list, pad: int, flat: bool) -> dict:
    """Models tell packed rows apart by positions that begin again, and only without an attention mask."""
    total, width = sum(len(row.ids) for row in rows), max(len(row.ids) for row in rows)
    shape = (1, total) if flat else (len(rows), width)
    ids = torch.full(shape, pad, dtype=torch.long)
    labels = torch.full(shape, IGNORED, dtype=torch.long)
    # Every padding token is a row of its own, which no other sees.
    positions = torch.zeros(shape, dtype=torch.long)
    start = 0
    for index, row in enumerate(rows):
        length = len(row.ids)
        place = (0, slice(start, start + length)) if flat else (index, slice(0, length))
        ids[place] = torch.from_numpy(numpy.asarray(row.ids, numpy.int64))
        labels[place] = torch.from_numpy(numpy.asarray(row.labels, numpy.int64))
        positions[place] = torch.from_numpy(numpy.asarray(row.positions, numpy.int64))
        start += length
    counts = {"tokens": total, "rows": sum(row.rows for row in rows)}
    return {"input_ids": ids, "position_ids": positions, "labels": labels, **counts}


class EpochBatches(torch.utils.data.Sampler):
    """One rank's batches of row numbers; a new permutation for each epoch.

    An update takes the same rows however many ranks there are: each micro-batch of all together is dealt out to them
    row by row. Where rows run out at the end of an epoch, a rank's batch may be empty.
    """

    def __init__(self, rows: int, batch: int, seed: int, accumulation: int = 1, rank: int = 0, ranks: int = 1) -> None:
        self.batch_size, _ = share(batch, accumulation, ranks)
        self.drop_last = False
        self._rows = rows
        self._update = batch * accumulation
        self._rank, self._ranks = rank, ranks
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the permutation for the next iteration."""
        self._epoch = epoch

    def __len__(self) -> int:
        full, rest = divmod(self._rows, self._update)
        together = self.batch_size * self._ranks
        return full * math.ceil(self._update / together) + math.ceil(rest / together)

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        order = torch.randperm(self._rows, generator=generator).tolist()
        for begin in range(0, self._rows, self._update):
            update = order[begin : begin + self._update]
            together = self.batch_size * self._ranks
            for start in range(0, len(update), together):
                yield update[start : start + together][self._rank :: self._ranks]


class EpochLoader(torch.utils.data.DataLoader):
    """A loader that passes the epoch on to its batches."""

    def __init__(self, examples: Sequence[Example], batches: EpochBatches, pad: int, flat: bool = False) -> None:
        super().__init__(
            examples,
            batch_sampler=batches,
            collate_fn=lambda rows: collate(rows, pad, flat),
            # Its own generator: iterating must not advance the global one.
            generator=torch.Generator().manual_seed(0),
        )

    def set_epoch(self, epoch: int) -> None:
        """Chooses the permutation for the next iteration."""
        self.batch_sampler.set_epoch(epoch)


def longest(examples: Sequence[Example], count: int) -> list[Example]:
    """The longest rows, the longest last, without holding the others."""
    if hasattr(examples, "longest"):
        return examples.longest(count)
    return sorted(examples, key=lambda example: len(example.ids))[-count:]


def steps_per_epoch(rows: int, micro_batch: int, accumulation: int) -> int:
    """Optimizer steps in one pass over the rows."""
    return math.ceil(math.ceil(rows / micro_batch) / accumulation)
