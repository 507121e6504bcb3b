"""The training loop over a model that is spread over the ranks: what differs from one that each rank holds whole."""

import contextlib
from pathlib import Path

import torch
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler

from hone_trainer.loop import Loop

# The Trainer's names for them.
OPTIMIZER_FILE, SCHEDULER_FILE = "optimizer.pt", "scheduler.pt"


class ShardedLoop(Loop):
    """The loop of a session whose model is sharded. What is saved is whole, and can go on with any number of ranks."""

    def __init__(self, session, *args) -> None:
        super().__init__(session, *args)
        self._shards = session.shards
        if self.accelerator.scaler is not None:
            # A gradient that overflows does so in the part of one rank; all must skip that update.
            self.accelerator.scaler = ShardedGradScaler(self.args.device.type)
        # Between two micro-batches each rank keeps the sum of its part of the gradients. To add them up only at the
        # end of an update, as is done for whole models, it would have to keep those of the whole model.
        self.accelerator.no_sync = lambda model: contextlib.nullcontext()

    def _trained(self) -> dict[str, torch.nn.Parameter]:
        return self._session.shards.trained()

    def _over_ranks(self, found: list[float]) -> list[float]:
        return self._session.group.total(found)

    def _wrap_model(self, model, training: bool = True, dataloader=None):
        """It is wrapped already. The Trainer leaves alone what is another than its own model."""
        return self._shards.root

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The micro-batch's part of the update's loss; what the Trainer does not wrap, it does not cast either."""
        with self._session.autocast():
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def _clip_grad_norm(self, model) -> torch.Tensor:
        self.accelerator.unscale_gradients()
        return model.clip_grad_norm_(self.args.max_grad_norm)

    def _get_grad_norm(self, model, grad_norm=None) -> torch.Tensor:
        if grad_norm is not None:
            return grad_norm
        self.accelerator.unscale_gradients()
        return model.clip_grad_norm_(float("inf"))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        self._shards.put(Path(resume_from_checkpoint))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        state = self._shards.optimizer_state(self.optimizer.optimizer)
        if self.args.should_save:
            torch.save(state, Path(output_dir) / OPTIMIZER_FILE)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_FILE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        # Mapped: each rank reads what it needs of a state that may be larger than memory.
        whole = torch.load(Path(checkpoint) / OPTIMIZER_FILE, map_location="cpu", mmap=True, weights_only=True)
        self._shards.put_optimizer_state(self.optimizer.optimizer, whole)
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER_FILE, weights_only=True))
