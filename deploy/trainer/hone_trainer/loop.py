"""The training loop: Hugging Face's Trainer, steered by hone's contract.

The Trainer contributes gradients, clipping, optimizer, scheduler and their
state; what is logged, evaluated and saved, and when to stop, is decided in
`_maybe_log_save_evaluate`, which it calls at each optimizer step boundary. A
stop that leaves no time for the rest of an update ends it between micro-batches.
"""

import logging
import math
import time
from collections.abc import Sequence

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from hone_trainer import peaks, random_state
from hone_trainer.batches import EpochBatches, EpochLoader
from hone_trainer.errors import NotFinite
from hone_trainer.gradients import Watch
from hone_trainer.grace import Pace
from hone_trainer.group import share
from hone_trainer.intervals import Intervals
from hone_trainer.loss import Targets
from hone_trainer.optimizers import trainer_name
from hone_trainer.packing import counted, flat
from hone_trainer.render import IGNORED, Example
from hone_trainer.session import Session
from hone_trainer.spec import Train

log = logging.getLogger(__name__)

# Below it, gradients are made smaller than they are: those that still overflow are of no use.
LEAST_SCALE = 1.0
_SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


def arguments(train: Train, precision: str, max_steps: int, output: str, ranks: int = 1) -> TrainingArguments:
    """Our settings as the Trainer's, with everything else that it does turned off."""
    micro_batch, accumulation = share(train.micro_batch, train.accumulation, ranks)
    warmup = train.warmup if train.warmup >= 1 else math.ceil(train.warmup * max_steps)
    return TrainingArguments(
        output_dir=output,
        max_steps=max_steps,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=accumulation,
        learning_rate=train.lr,
        weight_decay=train.weight_decay,
        adam_beta1=train.betas[0],
        adam_beta2=train.betas[1],
        optim=trainer_name(train, precision),
        lr_scheduler_type=_SCHEDULES[train.schedule],
        warmup_steps=int(warmup),
        max_grad_norm=train.clip_norm,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        seed=train.seed,
        data_seed=train.seed,
        use_cpu=not torch.cuda.is_available(),
        logging_strategy="no",
        eval_strategy="no",
        save_strategy="no",
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        average_tokens_across_devices=False,
        # A tensor that gets no gradient is Watch's to name. It also keeps sums in one order from the first update on.
        ddp_find_unused_parameters=True,
        ddp_broadcast_buffers=False,
    )


class _Moments(TrainerCallback):
    """Moments of training that the Trainer tells of, but leaves no other place for."""

    def __init__(self, session: Session, watch: Watch, intervals: Intervals) -> None:
        self._session = session
        self._watch = watch
        self._intervals = intervals

    def on_pre_optimizer_step(self, args, state, control, **kwargs) -> None:
        """The gradients of an update are complete, and clipped."""
        self._watch.before_update()

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Scores a resumed model where a stop left that out: curves have no gap."""
        self._intervals.begin(self._session.progress.epoch)
        # The checkpoint's weights are in place by now.
        if state.global_step > 0 and self._session.owes_evaluation():
            self._session.evaluate_tuned()


class Loop(Trainer):
    """The Trainer with our data order, loss, records and checkpoints."""

    def __init__(self, session: Session, examples: Sequence[Example], precision: str, max_steps: int) -> None:
        train = session.spec.train
        args = arguments(train, precision, max_steps, str(session.paths.output), session.group.size)
        super().__init__(model=session.inner, args=args, processing_class=session.tokenizer)
        if precision == "fp16" and not torch.cuda.is_available():
            # Asked for fp16 on a CPU, the library would calculate in fp32 and say nothing.
            self.accelerator.native_amp = True
            self.accelerator.scaler = torch.amp.GradScaler("cpu")
        if session.group.rank:
            # Each rank drops other parts of its own rows; all else that is drawn was drawn by now.
            set_seed((train.seed + session.group.rank) % 2**32)
        self.remove_callback(PrinterCallback)
        self.loss_is_scaled_for_ga = True
        self._session = session
        self._examples = examples
        self._watch = Watch(self._trained(), self._over_ranks)
        self._intervals = Intervals(session.spec.every)
        self.add_callback(_Moments(session, self._watch, self._intervals))
        self._pace = Pace()
        self._handled = -1
        self._drawn: tuple | None = None
        self._computed = 0.0
        # Attempts that continue have others before them, which looked long enough.
        self._first_attempt = session.progress.step == 0

    def _trained(self) -> dict[str, torch.nn.Parameter]:
        """What is trained, by name."""
        return {name: value for name, value in self.model.named_parameters() if value.requires_grad}

    def _over_ranks(self, found: list[float]) -> list[float]:
        """Sums of what the ranks found, each in its gradients; where all have the same ones, any will do."""
        return found

    def load_weights(self, checkpoint: str) -> None:
        """The weights of a checkpoint, without training on."""
        self._load_from_checkpoint(checkpoint)

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Of a checkpoint in fp16 that goes on in another precision, there is nothing to scale."""
        if self.accelerator.scaler is not None:
            super()._load_scaler(checkpoint)

    def get_train_dataloader(self) -> EpochLoader:
        """Our own loader: its order depends on seed and epoch alone."""
        self._session.meter.resume()
        session, train = self._session, self._session.spec.train
        parts = train.accumulation, session.group.rank, session.group.size
        batches = EpochBatches(len(self._examples), train.micro_batch, train.seed, *parts)
        return EpochLoader(self._examples, batches, session.tokenizer.pad_token_id, flat(session.model))

    def get_batch_samples(self, epoch_iterator, num_batches: int, device: torch.device) -> tuple:
        """The micro-batches of an update; what they are waited for is measured."""
        with self._session.meter.spending("data_wait"):
            return super().get_batch_samples(epoch_iterator, num_batches, device)

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """Forward and backward of one micro-batch."""
        with self._session.meter.spending("compute"):
            loss = super().training_step(model, inputs, num_items_in_batch)
            if self.accelerator.sync_gradients and torch.cuda.is_available():
                # Once an update: what follows must not be charged with what the GPU has yet to do.
                torch.cuda.synchronize()
        self._computed = time.monotonic()
        return loss

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor:
        own = sum((batch["labels"][:, 1:] != IGNORED).sum() for batch in batch_samples)
        return torch.tensor(int(self._session.group.total([int(own)])[0]), device=device)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The micro-batch's part of the update's loss, weighted by its tokens."""
        self._stop_between()
        self._pace.begin()
        session = self._session
        tokens, samples = counted(inputs)
        labels = inputs.pop("labels")
        targets = Targets.of(labels)
        nll = session.head.nll(model, inputs, targets)
        session.meter.add(nll.detach(), len(targets), tokens, samples)
        # The mean of the ranks' gradients is taken, and their sum is wanted.
        return nll * session.group.size / num_items_in_batch.clamp(min=1)

    def _too_late(self) -> str | None:
        """Who asked for a stop that the rest of this update would not keep to."""
        session = self._session
        source = session.controls.stop_requested()
        missing = self.current_gradient_accumulation_steps - self._pace.begun
        if source and session.grace.allows(self._pace.seconds_for(missing) + session.save_seconds):
            return None
        return source

    def _stop_between(self) -> None:
        """Gives up an update that a stop leaves no time for; what came before it is saved."""
        session = self._session
        source = session.group.first(self._too_late)
        if not source:
            return
        self.model.zero_grad(set_to_none=True)
        self._session.meter.discard()
        # Without an update of this attempt there is nothing new to save.
        if self._drawn is not None and session.saved_step != session.progress.step:
            random_state.put_back(self._drawn)
            if self._session.meter.has_steps():
                self._record(None, None)
            session.save_in_time(source, self._save_state)
        raise session.stopped(source)

    def _maybe_log_save_evaluate(
        self, tr_loss, grad_norm, model, trial, epoch, ignore_keys_for_eval, start_time, learning_rate=None
    ) -> None:
        step = self.state.global_step
        if step == self._handled:
            return  # the Trainer calls once more at the end of an epoch
        self._handled = step
        self._finish_update(learning_rate)
        session, last = self._session, step >= self.state.max_steps
        session.progress.step, session.progress.epoch = step, float(self.state.epoch or 0.0)
        stop, reason = session.group.first(lambda: self._wishes(last))
        if reason or step % session.spec.train.log_every == 0:
            self._record(grad_norm, learning_rate)
        if not last and not stop and session.evaluates_at(step):
            session.evaluate_tuned()
            self._watch.rearm()
            stop = session.stop_asked()
            reason = reason or stop
        if reason:
            if self._session.meter.has_steps():
                # The counters in a checkpoint are those of its step.
                self._record(grad_norm, learning_rate)
            session.save_in_time(reason, self._save_state)
            self._intervals.saved()
        if stop and not last:
            self.control.should_training_stop = True
        self._drawn = random_state.take()
        self._session.meter.resume()

    def _finish_update(self, learning_rate: float | None) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        session, skipped = self._session, self.accelerator.optimizer_step_was_skipped
        session.meter.spent("optimizer", time.monotonic() - self._computed)
        session.meter.step()
        session.meter.pause()
        self._pace.end_update()
        session.progress.skipped_steps += skipped
        if skipped:
            self._require_scale()
        self._watch.after_update(learning_rate or 0.0, skipped)
        if self._first_attempt and self.state.global_step >= self.state.max_steps:
            self._watch.conclude()

    def _wishes(self, last: bool) -> tuple[str | None, str | None]:
        """Who asked for a stop, and the reason to save, where there is one."""
        controls = self._session.controls
        stop, asked = controls.stop_requested(), controls.take_checkpoint_request()
        if last:
            return stop, "final"
        due = self._intervals.due(self.state.global_step, self.state.epoch or 0.0, self._session.save_seconds)
        return stop, stop or asked or ("periodic" if due else None)

    def _record(self, grad_norm, learning_rate: float | None) -> None:
        sums = self._session.meter.drain(self._session.group.total)
        progress = self._session.progress
        progress.tokens_seen += sums.pop("tokens")
        progress.samples_seen += sums.pop("samples")
        progress.train_seconds += sums.pop("seconds")
        values = {**sums, "tokens_seen": progress.tokens_seen, "samples_seen": progress.samples_seen}
        values["learning_rate"] = learning_rate
        values["grad_norm"] = None if grad_norm is None else float(grad_norm)
        if self.accelerator.scaler is not None:
            values["skipped_steps"] = progress.skipped_steps
            values["loss_scale"] = self.accelerator.scaler.get_scale()
        values |= peaks.so_far()
        self._session.record("train", {name: value for name, value in values.items() if value is not None})
        self._session.last_loss = values["loss"]
        self._require_finite(values["loss"], values["grad_norm"])

    def _require_finite(self, loss: float, grad_norm: float | None) -> None:
        step = self.state.global_step
        if not math.isfinite(loss):
            raise NotFinite(f"the loss is {loss} at step {step}")
        # A scaler skips steps whose scaled gradients overflow; that is its job.
        if grad_norm is not None and not math.isfinite(grad_norm) and self.accelerator.scaler is None:
            raise NotFinite(f"the gradient norm is {grad_norm} at step {step}")

    def _require_scale(self) -> None:
        """A scaler that can scale no further down, or a job whose every update was skipped, trains nothing."""
        step, scale = self.state.global_step, self.accelerator.scaler.get_scale()
        never = step >= self.state.max_steps and self._session.progress.skipped_steps >= step
        if never or scale < LEAST_SCALE:
            raise NotFinite(
                f"the gradients overflow in fp16 at step {step}, down to a loss scale of {scale:g}: "
                "train in bf16 or fp32, or lower the learning rate"
            )

    def _save_state(self, directory: str) -> None:
        self._save_optimizer_and_scheduler(directory)
        self._save_scaler(directory)
        self._save_rng_state(directory)
        if self._session.group.rank == 0:
            self.state.save_to_json(f"{directory}/trainer_state.json")
