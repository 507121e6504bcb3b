"""One attempt in flight: its inputs, its counters, and what it writes."""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from hone_trainer.contract import MANIFEST, CheckpointStage, Controls, MetricsWriter, Paths
from hone_trainer.errors import Stopped, writing_to
from hone_trainer.evaluate import Score, evaluate
from hone_trainer.facts import facts
from hone_trainer.grace import Grace
from hone_trainer.group import Group, NoMetrics
from hone_trainer.loading import as_on_disk
from hone_trainer.loss import Head
from hone_trainer.meter import PARTS, Meter
from hone_trainer.progress import Progress
from hone_trainer.quantise import require_trainable
from hone_trainer.render import Example
from hone_trainer.sharding import Shards
from hone_trainer.spec import Spec

log = logging.getLogger(__name__)

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Session:
    """What the loop, the evaluation and the export share."""

    def __init__(
        self,
        spec: Spec,
        paths: Paths,
        metrics: MetricsWriter | NoMetrics,
        controls: Controls,
        group: Group | None = None,
    ) -> None:
        self.spec = spec
        self.group = group or Group()
        self.paths = paths
        self.metrics = metrics
        self.controls = controls
        self.progress = Progress()
        # What is called: where the model is sharded, that is a wrapper around it.
        self.model = None
        self.shards: Shards | None = None
        self.head: Head | None = None
        self.tokenizer = None
        # What a forward and backward pass was seen to take, by the names of records; empty before.
        self.probed: dict[str, int] = {}
        self.held_out: Sequence[Example] = ()
        self.precision = "fp32"
        self.last_checkpoint: str | None = None
        self.saved_step: int | None = None
        self.save_seconds = 0.0
        self.meter = Meter()
        self.grace = Grace(paths.grace, controls)
        self._unsaved: str | None = None
        self.package: str | None = None
        self.last_loss: float | None = None
        self.tuned: Score | None = None
        self.versions = facts()
        self._started = time.monotonic()

    @property
    def kind(self) -> str:
        """What checkpoints and packages hold: an adapter, or the full weights."""
        return "adapter" if self.spec.method.adapter else "full"

    @property
    def inner(self):
        """The model itself, whose weights may be parts."""
        return self.shards.inner if self.shards else self.model

    @property
    def shape(self):
        """A model with whole sizes and plain names, whose weights may have no values."""
        return self.shards.shape if self.shards else self.model

    @property
    def sharding(self) -> str:
        """The spec's word for how the model lies on the ranks."""
        return "full" if self.shards else "none"

    def shard(self) -> None:
        """Cuts the model into parts, of which this rank keeps its own."""
        self.shards = Shards(self.model, self.group.rank)
        self.model = self.shards.root

    def wall_seconds(self) -> float:
        """Since this attempt began."""
        return time.monotonic() - self._started

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Records begin and end; a stop is noticed at either edge."""
        self.metrics.write("phase", self.progress.step, name=name, state="begin")
        started = time.monotonic()
        yield
        seconds = round(time.monotonic() - started, 3)
        if name in PARTS:
            self.meter.spent(name, seconds)
        self.metrics.write("phase", self.progress.step, name=name, state="end", duration_s=seconds)
        log.info("%s took %.1f s", name, seconds)

    def stop_asked(self) -> str | None:
        """Who asked for a stop, if anyone did; the same on all ranks, which must all ask here."""
        return self.group.first(self.controls.stop_requested)

    def stop_if_asked(self) -> None:
        """Ends the attempt if a stop was asked for. Where a rank does so alone, its launcher ends the others."""
        source = self.controls.stop_requested()
        if source:
            raise self.stopped(source)

    def stopped(self, source: str) -> Stopped:
        """The ending that a stop gives, as things are now."""
        return Stopped(source, saved=self.saved_step == self.progress.step, why=self._unsaved)

    def notice(self, level: str, code: str, message: str, **fields: object) -> None:
        """Something that the user should know, in the metrics and in the log."""
        self.metrics.write("notice", self.progress.step, level=level, code=code, message=message, **fields)
        # Ranks but the first have their logs at error.
        log.log(logging.WARNING if level == "warning" else logging.INFO, "%s: %s", code, message)

    def record(self, split: str, values: dict, **fields: object) -> None:
        """One metrics record at the current step."""
        self.metrics.write(
            "metrics", self.progress.step, split=split, epoch=self.progress.epoch, values=values, **fields
        )
        if split == "train":
            log.info("step %d loss %.4f", self.progress.step, values["loss"])

    def evaluates_at(self, step: int) -> bool:
        """Whether the held-out rows are scored at this step."""
        every = self.spec.train.eval_every
        return bool(every and self.held_out and step % every == 0)

    def owes_evaluation(self) -> bool:
        """Whether a stop at this step left out an evaluation that was due."""
        return self.evaluates_at(self.progress.step) and self.progress.evaluated != self.progress.step

    def score(self, base: bool) -> Score | None:
        """Scores the held-out rows with the base or the tuned weights."""
        adapter_off = self.model.disable_adapter() if base and self.kind == "adapter" else contextlib.nullcontext()
        with adapter_off:
            score = evaluate(
                self.model,
                self.head,
                self.held_out,
                pad=self.tokenizer.pad_token_id,
                batch=self.spec.train.micro_batch,
                autocast=self.autocast,
                interrupted=lambda: self.stop_asked() is not None,
                group=self.group,
            )
        if self.spec.method.quant:
            require_trainable(self.model)
        return score

    def autocast(self) -> contextlib.AbstractContextManager:
        """The precision of the spec, for what runs outside the training loop."""
        if self.precision not in _AUTOCAST:
            return contextlib.nullcontext()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.autocast(device, dtype=_AUTOCAST[self.precision])

    def base(self) -> Score | None:
        """The base's score, of whichever attempt took it."""
        return Score(**self.progress.base) if self.progress.base else None

    def evaluate_base(self) -> None:
        """Scores the base once; attempts that follow find it in the checkpoint."""
        with self.phase("eval"):
            score = self.score(base=True)
        if score is None:
            raise self.stopped(self.stop_asked() or "unknown")
        self.progress.base = score.as_dict()
        self.record("eval_base", score.values(), model="base")

    def evaluate_tuned(self) -> None:
        """Scores the tuned weights; says nothing if interrupted."""
        with self.phase("eval"):
            score = self.score(base=False)
        if score is None:
            return
        self.tuned = score
        self.progress.evaluated = self.progress.step
        self.record("eval", score.values(), model="tuned")
        loss = score.loss()
        if self.progress.is_better(loss):
            self.progress.best = {"step": self.progress.step, "eval_loss": loss}
        if not math.isfinite(loss):
            self.notice("warning", "eval_not_finite", f"the evaluation loss is {loss}")

    def save_in_time(self, reason: str, save_state: Callable[[str], None]) -> None:
        """Saves, unless a stop leaves less time than the save before took."""
        if self.group.first(lambda: self.grace.allows(self.save_seconds)):
            self.save_checkpoint(reason, save_state)
            return
        left = self.grace.left()
        self._unsaved = f"{left:.1f} s were left, and the save before took {self.save_seconds:.1f} s"
        self.notice("warning", "not_saved", self._unsaved)

    def save_checkpoint(self, reason: str, save_state: Callable[[str], None]) -> None:
        """Saves everything that a continuation needs, then says so."""
        started = time.monotonic()
        stage = CheckpointStage(self.paths.output, self.progress.step, self.paths.attempt)
        with self.phase("save"), writing_to(self.paths.output):
            tensors = self.tensors()
            if self.group.rank == 0:
                self._save_first(stage, save_state, tensors)
            else:
                self.group.wait()
                save_state(str(stage.path))
                self.group.wait()
            # Only now is it there.
            self.group.wait()
        self.last_checkpoint, self.saved_step = str(stage.final), self.progress.step
        self.save_seconds = time.monotonic() - started
        self.metrics.write(
            "checkpoint",
            self.progress.step,
            path=str(stage.final),
            kind=self.kind,
            bytes=stage.bytes,
            reason=reason,
            duration_s=self.save_seconds,
            manifest=str(stage.final / MANIFEST),
        )
        self.metrics.sync()

    def _save_first(self, stage: CheckpointStage, save_state: Callable[[str], None], tensors: dict | None) -> None:
        """Rank 0's part of a save. The others add their random states; the manifest, which names all, comes last."""
        with stage:
            self.group.wait()
            self.save_weights(stage.path, tensors)
            save_state(str(stage.path))
            self.progress.save(stage.path)
            self.group.wait()
            stage.commit(**self.manifest_facts())

    def tensors(self) -> dict[str, torch.Tensor] | None:
        """A sharded model's weights, whole and at rank 0, for `save_weights`; all ranks must ask. None: it has them."""
        return self.shards.state(None if self.kind == "adapter" else self.paths.model) if self.shards else None

    def save_weights(self, directory: Path, tensors: dict[str, torch.Tensor] | None = None) -> None:
        """Weights (or the adapter) and the tokenizer, under Hugging Face's names."""
        if self.kind == "adapter":
            # Whether embeddings were resized would be looked up on the network.
            self.shape.save_pretrained(directory, state_dict=tensors, save_embedding_layers=False)
        else:
            state = as_on_disk(self.model, self.paths.model) if tensors is None else tensors
            self.shape.save_pretrained(directory, state_dict=state)
        self.tokenizer.save_pretrained(directory)
        (directory / "README.md").unlink(missing_ok=True)

    def manifest_facts(self) -> dict:
        """What manifests say beside their files."""
        return {
            "kind": self.kind,
            "job": self.spec.job_id,
            "project": self.spec.project,
            "world_size": self.group.size,
            "model": self.spec.model_name,
            "model_digest": self.spec.model_digest,
            "spec_digest": self.spec.digest,
            "versions": self.versions,
        }
