"""When a checkpoint is due: by steps, epochs or minutes, whichever comes first, or by what a save costs."""

import math
import time
from collections.abc import Callable

from hone_trainer.spec_train import Every

# With `auto`, saves take at most this part of the time …
OVERHEAD = 0.02
# … unless they would lie further apart than this: more is lost at once than a save costs.
LONGEST_SECONDS = 30 * 60.0
# Mean time between two losses of a node that `auto` reckons with: rented machines go without notice.
BETWEEN_FAILURES_SECONDS = 6 * 3600.0
# Nothing is known before the first save: it comes after this time, and is measured.
FIRST_SECONDS = 60.0


def auto_seconds(save_seconds: float) -> float:
    """Seconds of training between two saves.

    Young's first-order optimum (J. W. Young, 1974): with a save of C seconds and a failure every M, the interval
    sqrt(2 C M) loses least in all. It is lengthened where saves would take more than OVERHEAD of the time.
    """
    if save_seconds <= 0:
        return FIRST_SECONDS
    best = math.sqrt(2 * save_seconds * BETWEEN_FAILURES_SECONDS)
    return min(LONGEST_SECONDS, max(best, save_seconds / OVERHEAD))


class Intervals:
    """Remembers the save before; looking at it changes nothing that training sees."""

    def __init__(self, every: Every, now: Callable[[], float] = time.monotonic) -> None:
        self._every = every
        self._now = now
        self._saved_at = now()
        self._epoch = 0.0

    def begin(self, epoch: float) -> None:
        """Training begins or goes on here."""
        self._saved_at, self._epoch = self._now(), epoch

    def saved(self) -> None:
        """A checkpoint was just saved, for whatever reason."""
        self._saved_at = self._now()

    def due(self, step: int, epoch: float, save_seconds: float) -> bool:
        """Whether to save after this step; to be asked once after each."""
        every, before, self._epoch = self._every, self._epoch, epoch
        if every.steps and step % every.steps == 0:
            return True
        if every.epochs and _whole(epoch / every.epochs) > _whole(before / every.epochs):
            return True
        passed = self._now() - self._saved_at
        if every.minutes and passed >= 60 * every.minutes:
            return True
        return every.auto and passed >= auto_seconds(save_seconds)


def _whole(share: float) -> int:
    # Epochs are sums of fractions: 0.3 / 0.1 must count as three.
    return math.floor(share + 1e-6)
