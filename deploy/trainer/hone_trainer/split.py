"""The held-out rows: chosen once by content, never trained on."""

from dataclasses import dataclass

import numpy

from hone_trainer.errors import DataError

# Constants of splitmix64, which turns numbers that are close into numbers that are not.
_STEP, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


@dataclass
class Split:
    """Numbers of train and evaluation rows, and of those dropped to keep them apart."""

    train: numpy.ndarray
    held_out: numpy.ndarray
    copies: numpy.ndarray

    @property
    def overlap(self) -> int:
        """Train rows that equal a held-out one."""
        return len(self.copies)


def split(train: numpy.ndarray, held_out: numpy.ndarray | None, fraction: float, seed: int) -> Split:
    """Holds rows out, and drops train rows equal to those; rows are given by their contents.

    Without given evaluation rows, the contents with the smallest keyed hashes
    are held out: the choice depends on content and seed only, not on order.
    """
    every = numpy.arange(len(train))
    if held_out is not None:
        if not len(held_out):
            raise DataError("no usable row in the evaluation channel")
        copies = numpy.isin(train, held_out)
        result = Split(every[~copies], numpy.arange(len(held_out)), every[copies])
    elif fraction > 0:
        result = _hold_out(train, fraction, seed)
    else:
        result = Split(every, every[:0], every[:0])
    if not len(result.train):
        raise DataError("no row to train on is left after filtering")
    return result


def _hold_out(train: numpy.ndarray, fraction: float, seed: int) -> Split:
    different, first = numpy.unique(train, return_index=True)
    if len(different) < 2:
        raise DataError("too few different rows to hold some out for evaluation")
    count = min(max(1, round(fraction * len(different))), len(different) - 1)
    chosen = numpy.argsort(keyed(different, seed), kind="stable")[:count]
    held_out = numpy.sort(first[chosen])
    # A copy of a held-out row would leak the answer into training.
    equal = numpy.isin(train, different[chosen])
    copies = equal.copy()
    copies[held_out] = False
    return Split(numpy.flatnonzero(~equal), held_out, numpy.flatnonzero(copies))


def keyed(contents: numpy.ndarray, seed: int) -> numpy.ndarray:
    """A number for each content that tells nothing about those of other seeds."""
    with numpy.errstate(over="ignore"):
        key = _mixed(numpy.array([seed & 0xFFFFFFFFFFFFFFFF], dtype=numpy.uint64))
        return _mixed(contents.astype(numpy.uint64) ^ key)


def _mixed(values: numpy.ndarray) -> numpy.ndarray:
    values = values + numpy.uint64(_STEP)
    values = (values ^ (values >> numpy.uint64(30))) * numpy.uint64(_FIRST)
    values = (values ^ (values >> numpy.uint64(27))) * numpy.uint64(_SECOND)
    return values ^ (values >> numpy.uint64(31))
