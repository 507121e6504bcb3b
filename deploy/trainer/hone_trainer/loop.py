"""The training loop: Hugging Face's Trainer, steered by hone's contract.

The Trainer contributes gradients, clipping, optimizer, scheduler and their
state; what is logged, evaluated and saved, and when to stop, is decided in
`_maybe_log_save_evaluate`, which it calls at each optimizer step boundary.
"""

import logging
import math

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from hone_trainer import memory
from hone_trainer.batches import EpochLoader
from hone_trainer.errors import NotFinite
from hone_trainer.evaluate import summed_nll
from hone_trainer.meter import Meter
from hone_trainer.render import IGNORED, Example
from hone_trainer.session import Session
from hone_trainer.spec import Train

log = logging.getLogger(__name__)

_SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


def arguments(train: Train, precision: str, max_steps: int, output: str) -> TrainingArguments:
    """Our settings as the Trainer's, with everything else that it does turned off."""
    warmup = train.warmup if train.warmup >= 1 else math.ceil(train.warmup * max_steps)
    return TrainingArguments(
        output_dir=output,
        max_steps=max_steps,
        per_device_train_batch_size=train.micro_batch,
        gradient_accumulation_steps=train.accumulation,
        learning_rate=train.lr,
        weight_decay=train.weight_decay,
        adam_beta1=train.betas[0],
        adam_beta2=train.betas[1],
        optim="adamw_torch",
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
    )


class _CatchUp(TrainerCallback):
    """Scores a resumed model where a stop left that out: curves have no gap."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Runs once the checkpoint's weights are in place."""
        if state.global_step > 0 and self._session.owes_evaluation():
            self._session.evaluate_tuned()


class Loop(Trainer):
    """The Trainer with our data order, loss, records and checkpoints."""

    def __init__(self, session: Session, examples: list[Example], precision: str, max_steps: int) -> None:
        train = session.spec.train
        args = arguments(train, precision, max_steps, str(session.paths.output))
        super().__init__(model=session.model, args=args, processing_class=session.tokenizer)
        self.remove_callback(PrinterCallback)
        self.add_callback(_CatchUp(session))
        self.compute_loss_func = self._loss
        self._session = session
        self._examples = examples
        self._meter = Meter()
        self._handled = -1

    def load_weights(self, checkpoint: str) -> None:
        """The weights of a checkpoint, without training on."""
        self._load_from_checkpoint(checkpoint)

    def get_train_dataloader(self) -> EpochLoader:
        """Our own loader: its order depends on seed and epoch alone."""
        self._meter.resume()
        seed, pad = self._session.spec.train.seed, self._session.tokenizer.pad_token_id
        return EpochLoader(self._examples, self._session.spec.train.micro_batch, seed, pad)

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor:
        return sum((batch["labels"][:, 1:] != IGNORED).sum() for batch in batch_samples).to(device)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Counts the micro-batch, then lets the Trainer call `_loss`."""
        self._batch = (inputs["labels"][:, 1:] != IGNORED).sum(), inputs["attention_mask"].sum(), len(inputs["labels"])
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def _loss(self, outputs, labels: torch.Tensor, num_items_in_batch: torch.Tensor) -> torch.Tensor:
        nll = summed_nll(outputs.logits, labels)
        self._meter.add(nll.detach(), *self._batch)
        return nll / num_items_in_batch.clamp(min=1)

    def _maybe_log_save_evaluate(
        self, tr_loss, grad_norm, model, trial, epoch, ignore_keys_for_eval, start_time, learning_rate=None
    ) -> None:
        step = self.state.global_step
        if step == self._handled:
            return  # the Trainer calls once more at the end of an epoch
        self._handled = step
        self._meter.step()
        self._meter.pause()
        session, last = self._session, step >= self.state.max_steps
        session.progress.step, session.progress.epoch = step, float(self.state.epoch or 0.0)
        stop = session.controls.stop_requested()
        reason = self._reason_to_save(last, stop)
        if reason or step % session.spec.train.log_every == 0:
            self._record(grad_norm, learning_rate)
        if not last and not stop and session.evaluates_at(step):
            session.evaluate_tuned()
            stop = session.controls.stop_requested()
            reason = reason or stop
        if reason:
            if self._meter.has_steps():
                # The counters in a checkpoint are those of its step.
                self._record(grad_norm, learning_rate)
            session.save_checkpoint(reason, self._save_state)
        if stop and not last:
            self.control.should_training_stop = True
        self._meter.resume()

    def _reason_to_save(self, last: bool, stop: str | None) -> str | None:
        asked = self._session.controls.take_checkpoint_request()
        if last:
            return "final"
        every = self._session.spec.every_steps
        due = every and self.state.global_step % every == 0
        return stop or asked or ("periodic" if due else None)

    def _record(self, grad_norm, learning_rate: float | None) -> None:
        sums = self._meter.drain()
        progress = self._session.progress
        progress.tokens_seen += sums.pop("tokens")
        progress.samples_seen += sums.pop("samples")
        progress.train_seconds += sums.pop("seconds")
        values = {**sums, "tokens_seen": progress.tokens_seen, "samples_seen": progress.samples_seen}
        values["learning_rate"] = learning_rate
        values["grad_norm"] = None if grad_norm is None else float(grad_norm)
        values |= memory.peaks()
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

    def _save_state(self, directory: str) -> None:
        self._save_optimizer_and_scheduler(directory)
        self._save_scaler(directory)
        self._save_rng_state(directory)
        self.state.save_to_json(f"{directory}/trainer_state.json")
