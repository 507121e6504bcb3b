"""A tensor that is trained but never gets a gradient learns nothing, and nobody would notice."""

from collections.abc import Callable

import torch

from hone_trainer.errors import NotLearning

# Updates that a tensor may stay without a gradient.
PATIENCE = 3
# How many names the reason lists.
SHOWN = 8


class Watch:
    """Looks at the gradients of the first updates, and again after evaluations: a library may switch paths there.

    The A matrices of a fresh adapter have no gradient until B has left zero, so an update counts only once the
    weights have moved before it. What is frozen is not looked at, nor single rows of a tensor: an embedding whose
    tokens do not occur has none. The sums stay on the device; they are fetched once, after the last of these updates.
    """

    def __init__(
        self,
        trained: dict[str, torch.nn.Parameter],
        over_ranks: Callable[[list[float]], list[float]] = list,
        patience: int = PATIENCE,
    ) -> None:
        """`over_ranks` sums numbers over ranks that hold a part of each gradient."""
        self._named = list(trained.items())
        self._over_ranks = over_ranks
        self._patience = patience
        self._moved = self._decided = False
        self._left = 0
        self.rearm()

    def rearm(self) -> None:
        """Looks again from the next update on; what is being looked at is looked at to its end."""
        if self._left:
            return
        self._left = self._patience
        self._largest: list[torch.Tensor | None] = [None] * len(self._named)

    def before_update(self) -> None:
        """The gradients of an update are complete."""
        if self._left == 0 or not self._moved:
            return
        with torch.no_grad():
            for place, (_, parameter) in enumerate(self._named):
                if parameter.grad is None:
                    continue
                # NaN counts as a gradient: that is for others to find.
                largest, found = self._largest[place], (parameter.grad != 0).any()
                self._largest[place] = found if largest is None else largest | found

    def after_update(self, learning_rate: float, skipped: bool) -> None:
        """The update is made, or was skipped by the scaler; raises NotLearning at the last one looked at."""
        if self._moved and not skipped and self._left:
            self._left -= 1
            if self._left == 0:
                self._require_all()
        self._moved = self._moved or (learning_rate > 0 and not skipped)

    def conclude(self) -> None:
        """After the last update of a job too short for all that are waited for: those that there were must do."""
        if not self._decided and self._left < self._patience:
            self._require_all()

    def _require_all(self) -> None:
        self._decided = True
        seen = [torch.zeros((), dtype=torch.bool) if found is None else found for found in self._largest]
        found = self._over_ranks([float(one) for one in torch.stack([one.cpu() for one in seen]).tolist()])
        dead = [name for (name, _), times in zip(self._named, found, strict=True) if not times]
        if dead:
            raise NotLearning(dead, len(self._named), self._patience - self._left, SHOWN)
