"""Perplexity done right: summed loss over counted tokens, never a mean of means."""

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch

from hone_trainer.batches import collate
from hone_trainer.group import Group
from hone_trainer.loss import Head, Targets
from hone_trainer.packing import counted
from hone_trainer.render import Example


@dataclass
class Score:
    """Sums over a set of rows."""

    nll_sum: float = 0.0
    tokens: int = 0
    correct: int = 0
    bytes: int = 0
    rows: int = 0

    def over(self, group: Group) -> "Score":
        """The sums over all ranks."""
        nll_sum, *counts = group.total([self.nll_sum, self.tokens, self.correct, self.bytes, self.rows])
        return Score(nll_sum, *map(int, counts))

    def loss(self) -> float:
        """Mean negative log-likelihood per token, in nats."""
        return self.nll_sum / self.tokens if self.tokens else math.nan

    def perplexity(self) -> float:
        """exp of the loss; inf rather than an overflow."""
        loss = self.loss()
        return math.exp(loss) if loss < 700 else (math.nan if math.isnan(loss) else math.inf)

    def values(self) -> dict[str, float]:
        """The values of a metrics record."""
        return {
            "eval_nll_sum": self.nll_sum,
            "eval_tokens": self.tokens,
            "eval_loss": self.loss(),
            "eval_perplexity": self.perplexity(),
            "eval_token_accuracy": self.correct / self.tokens if self.tokens else math.nan,
            "eval_bits_per_byte": self.nll_sum / (math.log(2) * self.bytes) if self.bytes else math.nan,
            "eval_rows": self.rows,
        }

    def as_dict(self) -> dict:
        """The sums, for a checkpoint."""
        return asdict(self)


def evaluate(
    model,
    head: Head,
    examples: Sequence[Example],
    pad: int,
    batch: int,
    autocast: Callable[[], contextlib.AbstractContextManager],
    interrupted: Callable[[], bool],
    group: Group | None = None,
) -> Score | None:
    """Scores a model on examples, each rank every so many batches; None if it was interrupted between batches.

    Runs in evaluation mode and draws no random number: training that goes on
    afterwards is the same as without it.
    """
    device, group = next(model.parameters()).device, group or Group()
    score = Score()
    was_training = model.training
    model.eval()
    try:
        # Not in inference mode: what is gathered of a sharded model in it cannot be trained with afterwards.
        with torch.no_grad():
            for start in range(0, len(examples), batch * group.size):
                if interrupted():
                    return None
                own = start + batch * group.rank
                rows = examples[own : own + batch]
                # Without a row of its own, a rank scores nothing all the same: others may wait for its part of a layer.
                inputs = collate(rows, pad)
                counted(inputs)
                inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
                targets = Targets.of(inputs.pop("labels"))
                with autocast():
                    nll, correct = head.score(model, inputs, targets)
                score.nll_sum += nll
                score.correct += correct
                score.tokens += len(targets)
                score.bytes += sum(row.scored_bytes for row in rows)
                score.rows += len(rows)
    finally:
        model.train(was_training)
    return score.over(group)
