"""What tests of training share: a tiny model on the disk, rows of unequal length, and a session around them."""

import functools
import json
import logging
import signal
import tempfile
import unittest
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import MixtralConfig, MixtralForCausalLM

from hone_trainer.contract import METRICS_FILE, Controls, MetricsWriter, Paths
from hone_trainer.environment import quieten_transformers
from hone_trainer.loading import load_model
from hone_trainer.loop import Loop
from hone_trainer.loss import Head
from hone_trainer.make_base import new_model, train_tokenizer
from hone_trainer.render import IGNORED, Example
from hone_trainer.session import Session
from hone_trainer.spec import parse

STEPS, BATCH, SEED = 3, 8, 11
TOKENIZER = train_tokenizer(["the cat sees the dog"])
_HOLDER = tempfile.TemporaryDirectory()


@functools.cache
def base(hidden: int = 32, layers: int = 1, dtype: torch.dtype = torch.float32) -> Path:
    """The directory of a random model."""
    directory = Path(_HOLDER.name) / f"{hidden}-{layers}-{dtype}"
    torch.manual_seed(SEED)
    new_model(TOKENIZER, hidden=hidden, layers=layers).to(dtype).save_pretrained(directory)
    TOKENIZER.save_pretrained(directory)
    return directory


@functools.cache
def experts(dtype: torch.dtype = torch.float32) -> Path:
    """The directory of a random model of experts, which are fused in memory and one by one in its files."""
    directory = Path(_HOLDER.name) / f"experts-{dtype}"
    torch.manual_seed(SEED)
    config = MixtralConfig(
        vocab_size=len(TOKENIZER),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=4,
        max_position_embeddings=128,
    )
    MixtralForCausalLM(config).to(dtype).save_pretrained(directory)
    TOKENIZER.save_pretrained(directory)
    return directory


def rows(count: int = STEPS * BATCH) -> list[Example]:
    """Rows of very unequal length, with prompts of unequal share."""
    found = []
    for number in range(count):
        length, prompt = 3 + (number * 7) % 29, 1 + number % 3
        ids = [2 + (number * 31 + place * 17) % 250 for place in range(length)]
        found.append(Example(ids, [IGNORED] * prompt + ids[prompt:], length))
    return found


def summed_nll(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The loss as it is written in a textbook: the sum over all next tokens that count, in fp32."""
    targets = labels[:, 1:].reshape(-1)
    scores = logits[:, :-1].reshape(-1, logits.size(-1)).float()
    return torch.nn.functional.cross_entropy(scores, targets, ignore_index=IGNORED, reduction="sum")


class Watched(Loop):
    """A loop that notes what it begins, and is asked to stop at its n-th micro-batch."""

    stop_at = 0
    begun = 0

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        self.begun += 1
        if self.begun == self.stop_at:
            self._session.controls._on_stop(signal.SIGTERM, None)
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)


class Training(unittest.TestCase):
    """Sessions in directories of their own."""

    def setUp(self) -> None:
        quieten_transformers()
        logging.captureWarnings(True)
        logging.disable()
        self.addCleanup(logging.disable, logging.NOTSET)

    def directory(self) -> Path:
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        return Path(holder.name)

    def session(
        self, micro: int = 2, model: Path | None = None, grace: float | None = None, steps: int = STEPS, **parts: dict
    ) -> Session:
        """A session with its model loaded; `parts` are sections of the spec that are merged into a plain one."""
        directory = self.directory()
        values = {"version": 1, "model": {"name": "m"}, "method": {"type": "full"}}
        values["train"] = {"max_steps": steps, "micro_batch": micro, "accumulation": BATCH // micro, "clip_norm": 0.0}
        values["train"] |= {"seed": SEED, "optimizer": {"lr": 0.01}, "precision": "fp32"}
        for name, part in parts.items():
            # A method is given whole.
            values[name] = {**({} if name == "method" else values.get(name, {})), **part}
        names = {f"HONE_{name}_DIR": str(directory) for name in ("METRICS", "OUTPUT", "CONTROL")}
        names |= {"HONE_MODEL_DIR": str(model or base()), "HONE_GRACE_SECONDS": "" if grace is None else str(grace)}
        paths = Paths.from_env(names)
        metrics = MetricsWriter(paths.metrics, paths.attempt)
        self.addCleanup(metrics._file.close)
        session = Session(parse(values), paths, metrics, Controls(paths.control))
        session.precision = session.spec.train.precision
        session.tokenizer = TOKENIZER
        torch.manual_seed(SEED)
        session.model = load_model(paths.model, session.spec, session.precision)
        if session.spec.train.sharding:
            session.shard()
            session.shards.meet()
        session.head = Head(session.model)
        return session

    def loop(self, session: Session, stop_at: int = 0, steps: int = STEPS) -> Watched:
        loop = Watched(session, rows(steps * BATCH), session.precision, steps)
        loop.stop_at = stop_at
        return loop

    def records(self, session: Session, kind: str) -> list[dict]:
        lines = (session.paths.metrics / METRICS_FILE).read_text().splitlines()
        return [record for record in map(json.loads, lines) if record["type"] == kind]

    def losses(self, session: Session) -> list[float]:
        """Of every training record, in order."""
        return [record["values"]["loss"] for record in self.records(session, "metrics") if record["split"] == "train"]


def values_of(model: torch.nn.Module, keep: Callable[[str], bool] = lambda name: True) -> dict[str, torch.Tensor]:
    """Copies of a model's tensors."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items() if keep(name)}
