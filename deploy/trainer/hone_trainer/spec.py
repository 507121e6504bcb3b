"""The job as spec.json states it: read, checked and given defaults.

Unknown keys are ignored (the format only grows); an unknown version, a wrong
type or a value out of range is a SpecError that names the key.
"""

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path

from hone_trainer.contract import encode
from hone_trainer.errors import SpecError

VERSION = 1
FORMATS = ("auto", "alpaca", "messages", "sharegpt", "prompt_completion", "text")
TEMPLATES = ("tokenizer", "plain")


class Section:
    """A mapping of the spec with checked access to its keys."""

    def __init__(self, values: object, where: str) -> None:
        if not isinstance(values, dict):
            raise SpecError(f"{where or 'the spec'} must be a mapping")
        self._values = values
        self._where = where

    def _name(self, key: str) -> str:
        return f"{self._where}.{key}" if self._where else key

    def get(self, key: str) -> object:
        """The raw value, or None."""
        return self._values.get(key)

    def section(self, key: str) -> "Section":
        """A mapping below this one; absent means empty."""
        value = self._values.get(key)
        return Section({} if value is None else value, self._name(key))

    def text(self, key: str, default: str | None = None) -> str:
        """A string; without a default the key is required."""
        value = self._values.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise SpecError(f"{self._name(key)} must be a string")
        return value

    def choice(self, key: str, choices: tuple[str, ...], default: str | None = None) -> str:
        """One of a few strings."""
        value = self.text(key, default)
        if value not in choices:
            raise SpecError(f"{self._name(key)} must be one of {', '.join(choices)}, not {value!r}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """true or false."""
        value = self._values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise SpecError(f"{self._name(key)} must be true or false")
        return value

    def number(self, key: str, default: float | None, low: float, high: float) -> float | None:
        """A finite number within bounds; None stays None."""
        value = self._values.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise SpecError(f"{self._name(key)} must be a number")
        if not low <= value <= high:
            raise SpecError(f"{self._name(key)} must lie between {low:g} and {high:g}, not {value:g}")
        return float(value)

    def integer(self, key: str, default: int | None, low: int, high: int = 2**53) -> int | None:
        """A whole number within bounds; None stays None."""
        value = self.number(key, default, low, high)
        if value is None:
            return None
        if value != int(value):
            raise SpecError(f"{self._name(key)} must be a whole number, not {value:g}")
        return int(value)


@dataclass(frozen=True)
class HeldOut:
    """Where the evaluation rows come from: a channel, or a part of train."""

    channel: str | None
    fraction: float
    seed: int


@dataclass(frozen=True)
class Data:
    """How rows are read, rendered and masked."""

    format: str
    template: str
    loss_on: str
    overlong: str
    held_out: HeldOut


@dataclass(frozen=True)
class Lora:
    """Adapter shape."""

    r: int
    alpha: float
    dropout: float
    targets: str | tuple[str, ...]


@dataclass(frozen=True)
class Train:
    """Everything that shapes the optimisation."""

    epochs: float | None
    max_steps: int | None
    seq_len: int
    micro_batch: int
    accumulation: int
    lr: float
    weight_decay: float
    betas: tuple[float, float]
    schedule: str
    warmup: float
    clip_norm: float
    precision: str
    gradient_checkpointing: bool
    seed: int
    log_every: int
    eval_every: int | None


@dataclass(frozen=True)
class Spec:
    """One job for one attempt."""

    job_id: str
    job_name: str
    project: str
    model_name: str
    model_digest: str
    trust_remote_code: bool
    data: Data
    method: str
    lora: Lora
    train: Train
    every_steps: int | None
    evaluate_base: bool
    export: tuple[str, ...]
    log_level: str
    digest: str

    def lineage(self) -> dict[str, object]:
        """What must not change between a checkpoint and its continuation.

        Data order, optimizer, model and the length of the schedule; how often
        to log, save or evaluate may differ.
        """
        train, data = self.train, self.data
        lora = None
        if self.method == "lora":
            targets = self.lora.targets
            lora = [
                self.lora.r,
                self.lora.alpha,
                self.lora.dropout,
                targets if isinstance(targets, str) else list(targets),
            ]
        return {
            "model_digest": self.model_digest,
            "method": self.method,
            "lora": lora,
            "data": [data.format, data.template, data.loss_on, data.overlong],
            "held_out": [data.held_out.channel, data.held_out.fraction, data.held_out.seed],
            "length": [train.epochs, train.max_steps],
            "seq_len": train.seq_len,
            # Micro-batch and accumulation may be traded for each other.
            "effective_batch": train.micro_batch * train.accumulation,
            "optimizer": ["adamw", train.lr, train.weight_decay, list(train.betas)],
            "schedule": [train.schedule, train.warmup],
            "clip_norm": train.clip_norm,
            "seed": train.seed,
        }


def load(path: Path) -> Spec:
    """Reads and checks spec.json."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise SpecError(f"cannot read the spec: {error}") from error
    try:
        values = json.loads(raw)
    except ValueError as error:
        raise SpecError(f"the spec is not JSON: {error}") from error
    return parse(values)


def parse(values: object) -> Spec:
    """Checks the parsed JSON and fills in defaults."""
    root = Section(values, "")
    version = root.get("version")
    if version != VERSION or isinstance(version, bool):
        raise SpecError(f"spec version {version!r} is unknown to this trainer (it knows {VERSION})")
    job, model = root.section("job"), root.section("model")
    method = root.section("method")
    kind = method.choice("type", ("lora", "full"), "lora")
    return Spec(
        job_id=job.text("id", "0"),
        job_name=job.text("name", "job"),
        project=job.text("project", "default"),
        model_name=model.text("name"),
        model_digest=model.text("digest", ""),
        trust_remote_code=model.flag("trust_remote_code", False),
        data=_data(root.section("data")),
        method=kind,
        lora=_lora(method.section("lora")),
        train=_train(root.section("train")),
        every_steps=root.section("checkpoint").integer("every_steps", None, 1),
        evaluate_base=root.section("evaluate").flag("base_model", True),
        export=_export(root.get("export"), kind),
        log_level=root.choice("log_level", ("debug", "info", "warning", "error"), "info"),
        digest=root.text("spec_digest", "") or hashlib.sha256(encode(values)).hexdigest(),
    )


def _data(section: Section) -> Data:
    held_out = section.section("eval")
    channel = held_out.text("channel", "") or None
    if channel not in (None, "eval"):
        raise SpecError(f"data.eval.channel must be eval, not {channel!r}")
    return Data(
        format=section.choice("format", FORMATS, "auto"),
        template=section.choice("template", TEMPLATES, "tokenizer"),
        loss_on=section.choice("loss_on", ("answers", "all"), "answers"),
        overlong=section.choice("overlong", ("truncate", "drop", "error"), "truncate"),
        held_out=HeldOut(
            channel=channel,
            fraction=held_out.number("fraction", 0.0, 0.0, 0.9),
            seed=held_out.integer("seed", 7, 0),
        ),
    )


def _lora(section: Section) -> Lora:
    targets = section.get("targets")
    if targets is None:
        targets = "all-linear"
    if isinstance(targets, list):
        if not targets or not all(isinstance(name, str) and name for name in targets):
            raise SpecError("method.lora.targets must be all-linear or a list of module names")
        targets = tuple(targets)
    elif targets != "all-linear":
        raise SpecError("method.lora.targets must be all-linear or a list of module names")
    r = section.integer("r", 16, 1, 4096)
    return Lora(
        r=r,
        alpha=section.number("alpha", 2.0 * r, 1e-6, 1e6),
        dropout=section.number("dropout", 0.0, 0.0, 0.99),
        targets=targets,
    )


def _train(section: Section) -> Train:
    optimizer, schedule = section.section("optimizer"), section.section("schedule")
    optimizer.choice("name", ("adamw",), "adamw")
    betas = optimizer.get("betas")
    betas = [0.9, 0.999] if betas is None else betas
    if not isinstance(betas, list) or len(betas) != 2:
        raise SpecError("train.optimizer.betas must be two numbers")
    pair = Section({"first": betas[0], "second": betas[1]}, "train.optimizer.betas")
    train = Train(
        epochs=section.number("epochs", None, 1e-6, 1e6),
        max_steps=section.integer("max_steps", None, 1),
        seq_len=section.integer("seq_len", 1024, 2, 10**7),
        micro_batch=section.integer("micro_batch", 1, 1, 10**5),
        accumulation=section.integer("accumulation", 1, 1, 10**5),
        lr=optimizer.number("lr", 2e-4, 0.0, 100.0),
        weight_decay=optimizer.number("weight_decay", 0.0, 0.0, 10.0),
        betas=(pair.number("first", None, 0.0, 0.999999), pair.number("second", None, 0.0, 0.99999999)),
        schedule=schedule.choice("type", ("cosine", "linear", "constant"), "cosine"),
        warmup=schedule.number("warmup", 0.03, 0.0, 1e9),
        clip_norm=section.number("clip_norm", 1.0, 0.0, 1e9),
        precision=section.choice("precision", ("auto", "fp32", "bf16", "fp16"), "auto"),
        gradient_checkpointing=section.flag("gradient_checkpointing", False),
        seed=section.integer("seed", 42, 0, 2**32 - 1),
        log_every=section.integer("log_every", 1, 1),
        eval_every=section.integer("eval_every", None, 1),
    )
    if train.epochs is None and train.max_steps is None:
        raise SpecError("one of train.epochs and train.max_steps must be given")
    return train


def _export(value: object, method: str) -> tuple[str, ...]:
    kinds = {"lora": "adapter", "full": "model"}
    if value is None:
        return (kinds[method],)
    if not isinstance(value, list):
        raise SpecError("export must be a list")
    wanted = [item.get("type") if isinstance(item, dict) else item for item in value]
    for kind in wanted:
        if kind != kinds[method]:
            raise SpecError(f"method {method} exports {kinds[method]}, not {kind!r}")
    return tuple(wanted)
