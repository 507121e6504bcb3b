"""The loss of a model without all of its logits.

Logits are the largest tensor of a training step by far: rows × length × vocabulary in fp32, three times over with
their gradient. Here the model's output layer is asked for the loss instead. It takes the hidden states of those
positions that count, a chunk at a time, and keeps none of the chunk's logits: the backward pass computes them anew.
Training, probe and evaluation all go this way.

A model may do more with its logits than its output layer does. What is known of that (soft-capping, scaling) is done
to each chunk; whether that was all is tried on a few tokens when the head is made, and if the two losses differ, the
plain way is taken.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.utils.checkpoint import checkpoint

from hone_trainer.render import IGNORED

# A chunk's logits take no more than this in fp32. Larger ones gain no speed on a GPU: the product is then long enough.
CHUNK_BYTES = 128 * 2**20
# The two ways differ by how sums are rounded, and by no more than this part of the loss.
TOLERANCE = 1e-3
# How many tokens the two ways are tried on.
TRIAL_TOKENS = 16


@dataclass(frozen=True)
class Targets:
    """The positions that count, in rows × length order, and the tokens to come there."""

    index: torch.Tensor
    ids: torch.Tensor

    @classmethod
    def of(cls, labels: torch.Tensor) -> "Targets":
        """From labels that are aligned with the inputs; each position predicts the next."""
        following = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED).reshape(-1)
        index = (following != IGNORED).nonzero().squeeze(-1)
        return cls(index, following[index])

    def to(self, device: torch.device) -> "Targets":
        """The same on a device."""
        return Targets(self.index.to(device, non_blocking=True), self.ids.to(device, non_blocking=True))

    def __len__(self) -> int:
        return len(self.ids)


class Head:
    """A model's output layer, which gives its loss when it is asked to."""

    def __init__(self, model: torch.nn.Module, chunk_bytes: int = CHUNK_BYTES) -> None:
        layer = model.get_output_embeddings()
        # Of a sharded model it may be a part of its own: once that is called, the layer within is whole.
        self._layer = layer.module if isinstance(layer, FullyShardedDataParallel) else layer
        self._asked: Targets | None = None
        self._exact = False
        self._correct: torch.Tensor | None = None
        self._shape, self._left_out = _what_follows(model)
        self._fused = None
        self.way = "plain"
        if self._layer is not None:
            self._logits = self._layer.forward
            self._layer.forward = self._forward
            self.way = "chunked"
            self._chunk_bytes = chunk_bytes
            self._fused = _fused(self._layer) if self._shape is None else None
            self.way = "fused" if self._fused else "chunked"

    def nll(self, model: Callable, inputs: dict, targets: Targets) -> torch.Tensor:
        """The summed loss in fp32; `model` may be wrapped for several processes."""
        with self._ask(targets):
            return self._result(model(**inputs, use_cache=False).logits, targets)

    def score(self, model: Callable, inputs: dict, targets: Targets) -> tuple[float, int]:
        """The summed loss, added up in fp64, and how many targets were the likeliest token."""
        self._exact = True
        try:
            with self._ask(targets):
                nll = self._result(model(**inputs, use_cache=False).logits, targets)
            return float(nll), int(self._correct)
        finally:
            self._exact, self._correct = False, None

    def settle(
        self, model: torch.nn.Module, ids: Sequence[int], autocast: Callable = contextlib.nullcontext
    ) -> str | None:
        """Tries its way beside the plain one; what spoke against it, if anything did, else None."""
        if self.way == "plain":
            return "the model has no output layer of its own"
        # Rows from disk hold 32 bits a token, which the loss does not take.
        row = torch.tensor([list(ids[:TRIAL_TOKENS])], dtype=torch.long, device=next(model.parameters()).device)
        targets = Targets.of(row)
        inputs = {"input_ids": row, "attention_mask": torch.ones_like(row)}
        was_training, way, why = model.training, self.way, None
        model.eval()
        try:
            with torch.no_grad(), autocast():
                self.way = "plain"
                expected = float(self.nll(model, inputs, targets))
                self.way = way
                found = float(self.nll(model, inputs, targets))
            if not abs(found - expected) <= TOLERANCE * max(1.0, abs(expected)):
                why = f"it gives {found:.6g} where the model's logits give {expected:.6g}"
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            why = f"it fails: {error}"
        finally:
            model.train(was_training)
            self.way = way if why is None else "plain"
        return why

    @contextlib.contextmanager
    def _ask(self, targets: Targets) -> Iterator[None]:
        if self.way == "plain":
            yield
            return
        kept = [(holder, name, getattr(holder, name)) for holder, name, _ in self._left_out]
        self._asked = targets
        for holder, name, neutral in self._left_out:
            setattr(holder, name, neutral)
        try:
            yield
        finally:
            self._asked = None
            for holder, name, value in kept:
                setattr(holder, name, value)

    def _result(self, output: torch.Tensor, targets: Targets) -> torch.Tensor:
        if self.way != "plain":
            return output
        rows = output.reshape(-1, output.shape[-1]).index_select(0, targets.index.to(output.device))
        return self._sum(rows, targets.ids.to(output.device))

    def _forward(self, hidden: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        targets = self._asked
        if targets is None:
            return self._logits(hidden, *args, **kwargs)
        rows = hidden.reshape(-1, hidden.shape[-1]).index_select(0, targets.index)
        if self._fused and not self._exact:
            return self._fused(rows, targets.ids)
        return self._in_chunks(rows, targets.ids)

    def _in_chunks(self, rows: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        size = max(1, self._chunk_bytes // (4 * _vocabulary(self._layer)))
        if len(rows) <= size:
            return self._part(rows, ids)
        total, correct = 0, 0
        with _cast_for_each(rows.device.type):
            for part, wanted in zip(rows.split(size), ids.split(size)):
                if torch.is_grad_enabled():
                    total = total + checkpoint(self._part, part, wanted, use_reentrant=False)
                else:
                    total = total + self._part(part, wanted)
                    correct = correct + self._correct if self._exact else 0
        self._correct = correct if self._exact else None
        return total

    def _part(self, rows: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        logits = self._logits(rows)
        return self._sum(self._shape(logits.float()) if self._shape else logits, ids)

    def _sum(self, logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        logits = logits.float()
        if not self._exact:
            return torch.nn.functional.cross_entropy(logits, ids, reduction="sum")
        self._correct = (logits.argmax(-1) == ids).sum()
        return torch.nn.functional.cross_entropy(logits, ids, reduction="none").double().sum()


@contextlib.contextmanager
def _cast_for_each(device: str) -> Iterator[None]:
    """Autocast, where it is on, casts the output layer's weight for each chunk anew.

    With one cast for all, the chunks' gradients would be added up in that cast's 16 bits; so they are in the weight's.
    """
    if not torch.is_autocast_enabled(device):
        yield
        return
    with torch.autocast(device, dtype=torch.get_autocast_dtype(device), cache_enabled=False):
        yield


def _vocabulary(layer: torch.nn.Module) -> int:
    size = getattr(layer, "out_features", None)
    return int(size) if size else layer.weight.shape[0]


def _what_follows(model: torch.nn.Module) -> tuple[Callable | None, list[tuple]]:
    """What the model does to its logits, and the settings that make it leave that out."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = inner.config.get_text_config()
    steps, left_out = [], []
    cap = getattr(config, "final_logit_softcapping", None)
    if cap:
        steps.append(lambda logits: torch.tanh(logits / cap) * cap)
        left_out.append((config, "final_logit_softcapping", None))
    divisor = getattr(config, "logits_scaling", None)
    if divisor and divisor != 1.0:
        steps.append(lambda logits: logits / divisor)
        left_out.append((config, "logits_scaling", 1.0))
    factor = getattr(inner, "logit_scale", None)
    if isinstance(factor, float) and factor != 1.0:
        steps.append(lambda logits: logits * factor)
        left_out.append((inner, "logit_scale", 1.0))
    if not steps:
        return None, []

    def shape(logits: torch.Tensor) -> torch.Tensor:
        for step in steps:
            logits = step(logits)
        return logits

    return shape, left_out


def _fused(layer: torch.nn.Module) -> Callable | None:
    """liger-kernel's product and loss in one, on a GPU that has it. Not tested: no machine of the tests has a GPU."""
    if type(layer) is not torch.nn.Linear or not layer.weight.is_cuda:
        return None
    try:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss
    except ImportError:
        return None
    loss = LigerFusedLinearCrossEntropyLoss(reduction="sum")
    return lambda rows, ids: loss(layer.weight, rows, ids, layer.bias)
