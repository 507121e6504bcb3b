"""Sums between two metrics records: loss by token, and time spent training."""

import math
import time

import torch


class Meter:
    """Adds up on the device; values are fetched only when a record is due."""

    def __init__(self) -> None:
        self._nll: torch.Tensor | None = None
        self._loss_tokens: torch.Tensor | int = 0
        self._tokens: torch.Tensor | int = 0
        self._samples = 0
        self._steps = 0
        self._seconds = 0.0
        self._since: float | None = None

    def resume(self) -> None:
        """Training goes on: time counts from now."""
        self._since = time.monotonic()

    def pause(self) -> None:
        """Something else (saving, evaluating) begins: time stops counting."""
        if self._since is not None:
            self._seconds += time.monotonic() - self._since
            self._since = None

    def add(self, nll: torch.Tensor, loss_tokens: torch.Tensor, tokens: torch.Tensor, samples: int) -> None:
        """One micro-batch."""
        self._nll = nll if self._nll is None else self._nll + nll
        self._loss_tokens = self._loss_tokens + loss_tokens
        self._tokens = self._tokens + tokens
        self._samples += samples

    def step(self) -> None:
        """One optimizer step is complete."""
        self._steps += 1

    def has_steps(self) -> bool:
        """Whether steps were taken since the last record."""
        return self._steps > 0

    def drain(self) -> dict[str, float]:
        """The sums since the last call, as values; starts anew."""
        running = self._since is not None
        self.pause()
        loss_tokens, tokens = int(self._loss_tokens), int(self._tokens)
        nll = float(self._nll) if self._nll is not None else math.nan
        values = {
            "loss": nll / loss_tokens if loss_tokens else math.nan,
            "loss_tokens": loss_tokens,
            "tokens": tokens,
            "samples": self._samples,
            "seconds": self._seconds,
            "tokens_per_second": tokens / self._seconds if self._seconds > 0 else 0.0,
            "step_time_s": self._seconds / self._steps if self._steps else 0.0,
        }
        self.__init__()
        if running:
            self.resume()
        return values
