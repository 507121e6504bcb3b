"""Sums between two metrics records: loss by token, and time spent training."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator

import torch

# What a record splits the time since the record before into, in seconds, as `<part>_s`.
PARTS = ("data_wait", "compute", "optimizer", "save", "eval")


class Meter:
    """Adds up on the device; values are fetched only when a record is due."""

    def __init__(self) -> None:
        self._sums: list = [0, 0, 0, 0]
        self._partial: list = [0, 0, 0, 0]
        self._steps = 0
        self._seconds = 0.0
        self._since: float | None = None
        self._spent = dict.fromkeys(PARTS, 0.0)

    def resume(self) -> None:
        """Training goes on: time counts from now."""
        self._since = time.monotonic()

    def pause(self) -> None:
        """Something else (saving, evaluating) begins: time stops counting."""
        if self._since is not None:
            self._seconds += time.monotonic() - self._since
            self._since = None

    @contextlib.contextmanager
    def spending(self, part: str) -> Iterator[None]:
        """What is done inside counts as this part of the time."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.spent(part, time.monotonic() - started)

    def spent(self, part: str, seconds: float) -> None:
        """Seconds that went into one of PARTS."""
        self._spent[part] += seconds

    def add(self, nll: torch.Tensor, loss_tokens: torch.Tensor, tokens: torch.Tensor, samples: int) -> None:
        """One micro-batch; it counts once its optimizer step is complete."""
        self._partial = [have + new for have, new in zip(self._partial, (nll, loss_tokens, tokens, samples))]

    def step(self) -> None:
        """One optimizer step is complete."""
        self._sums = [have + new for have, new in zip(self._sums, self._partial)]
        self._steps += 1
        self.discard()

    def discard(self) -> None:
        """The micro-batches since the last step count for nothing."""
        self._partial = [0, 0, 0, 0]

    def has_steps(self) -> bool:
        """Whether steps were taken since the last record."""
        return self._steps > 0

    def drain(self, total: Callable[[list[float]], list[float]] = lambda sums: sums) -> dict[str, float]:
        """The sums since the last call, as values, after `total` has added those of other ranks; starts anew."""
        running = self._since is not None
        self.pause()
        nll, *counts = total([float(value) for value in self._sums])
        loss_tokens, tokens, samples = map(int, counts)
        values = {
            "loss": nll / loss_tokens if loss_tokens else math.nan,
            "loss_tokens": loss_tokens,
            "tokens": tokens,
            "samples": samples,
            "seconds": self._seconds,
            "tokens_per_second": tokens / self._seconds if self._seconds > 0 else 0.0,
            "step_time_s": self._seconds / self._steps if self._steps else 0.0,
            **{f"{part}_s": seconds for part, seconds in self._spent.items()},
        }
        self.__init__()
        if running:
            self.resume()
        return values
