"""Between a stop and the kill: how much time is left, and what still fits in."""

import math
import time
from collections.abc import Callable

from hone_trainer.contract import Controls

# Kept for what comes after a save: the last records, the result, the exit.
MARGIN_SECONDS = 0.5


class Grace:
    """The time that a stop leaves; without a stop, or without a bound, it is endless."""

    def __init__(self, seconds: float | None, controls: Controls, now: Callable[[], float] = time.monotonic) -> None:
        self._seconds = math.inf if seconds is None else seconds
        self._controls = controls
        self._now = now

    def left(self) -> float:
        """Seconds until the attempt may be killed; never negative."""
        if self._controls.stop_requested() is None:
            return math.inf
        return max(0.0, self._seconds - (self._now() - self._controls.stopped_at))

    def allows(self, seconds: float) -> bool:
        """Whether something that takes so long is over in time."""
        return seconds + MARGIN_SECONDS <= self.left()


class Pace:
    """How long a micro-batch takes: the slowest of this update and the one before."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._began: float | None = None
        self._slowest = self._before = 0.0
        self.begun = 0

    def begin(self) -> None:
        """A micro-batch begins; the one before it is over."""
        self._lap()
        self._began = self._now()
        self.begun += 1

    def end_update(self) -> None:
        """The update's last micro-batch is over."""
        self._lap()
        self._before, self._slowest = self._slowest, 0.0
        self._began, self.begun = None, 0

    def seconds_for(self, micro_batches: int) -> float:
        """What so many more of them will take; 0 before any was measured."""
        return micro_batches * max(self._slowest, self._before)

    def _lap(self) -> None:
        if self._began is not None:
            self._slowest = max(self._slowest, self._now() - self._began)
