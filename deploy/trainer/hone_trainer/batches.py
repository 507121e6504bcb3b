"""Batches in an order that is a function of seed and epoch alone.

Nothing depends on a random state that training advances, so a resumed run
sees exactly the batches that the uninterrupted one would have seen.
"""

import math
from collections.abc import Iterator

import torch

from hone_trainer.render import IGNORED, Example


def collate(rows: list[Example], pad: int) -> dict[str, torch.Tensor]:
    """Pads on the right to the longest row."""
    width = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    labels = torch.full((len(rows), width), IGNORED, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for index, row in enumerate(rows):
        length = len(row.ids)
        ids[index, :length] = torch.tensor(row.ids, dtype=torch.long)
        labels[index, :length] = torch.tensor(row.labels, dtype=torch.long)
        mask[index, :length] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


class EpochBatches(torch.utils.data.Sampler):
    """Batches of row numbers; a new permutation for each epoch."""

    def __init__(self, rows: int, batch: int, seed: int) -> None:
        self.batch_size = batch
        self.drop_last = False
        self._rows = rows
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the permutation for the next iteration."""
        self._epoch = epoch

    def __len__(self) -> int:
        return math.ceil(self._rows / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        order = torch.randperm(self._rows, generator=generator).tolist()
        for start in range(0, self._rows, self.batch_size):
            yield order[start : start + self.batch_size]


class EpochLoader(torch.utils.data.DataLoader):
    """A loader that passes the epoch on to its batches."""

    def __init__(self, examples: list[Example], batch: int, seed: int, pad: int) -> None:
        super().__init__(
            examples,
            batch_sampler=EpochBatches(len(examples), batch, seed),
            collate_fn=lambda rows: collate(rows, pad),
            # Its own generator: iterating must not advance the global one.
            generator=torch.Generator().manual_seed(seed),
        )

    def set_epoch(self, epoch: int) -> None:
        """Chooses the permutation for the next iteration."""
        self.batch_sampler.set_epoch(epoch)


def steps_per_epoch(rows: int, micro_batch: int, accumulation: int) -> int:
    """Optimizer steps in one pass over the rows."""
    return math.ceil(math.ceil(rows / micro_batch) / accumulation)
