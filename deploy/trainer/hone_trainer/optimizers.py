"""Which optimizer the Trainer makes for a spec, and what works only where."""

import torch

from hone_trainer.errors import SpecError
from hone_trainer.spec_train import Train

_ADAMW = {
    # One kernel for all tensors, on a CPU too.
    (32, False): "adamw_torch_fused",
    (8, False): "adamw_bnb_8bit",
    (32, True): "paged_adamw_32bit",
    (8, True): "paged_adamw_8bit",
}


def trainer_name(train: Train, precision: str) -> str:
    """The Trainer's word for `train.optimizer`; a SpecError where it would not do what it says."""
    if train.optimizer == "adafactor":
        return "adafactor"
    if train.paged and not torch.cuda.is_available():
        # bitsandbytes would only warn, and go on without pages.
        raise SpecError("train.optimizer.paged needs a GPU: without one there is no memory to page out of; remove it")
    if precision == "fp16" and (train.optimizer_bits, train.paged) == (32, False):
        # The fused kernel skips an update with overflown gradients by itself, and nobody is told: it would not be
        # counted, and the learning rate would go on without it.
        return "adamw_torch"
    return _ADAMW[train.optimizer_bits, train.paged]
