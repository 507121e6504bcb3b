"""The job as spec.json states it: read, checked and given defaults.

Unknown keys are ignored (the format only grows); an unknown version, a wrong
type or a value out of range is a SpecError that names the key.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from hone_trainer.contract import encode
from hone_trainer.errors import SpecError
from hone_trainer.section import Section
from hone_trainer.spec_method import Method, read_method
from hone_trainer.spec_train import Every, Train, read_every, read_train

VERSION = 1
FORMATS = ("auto", "alpaca", "messages", "sharegpt", "prompt_completion", "text")
TEMPLATES = ("tokenizer", "plain", "chatml")


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
    system: str
    loss_on: str
    overlong: str
    bad_rows: str
    preload: str
    held_out: HeldOut


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
    method: Method
    train: Train
    every: Every
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
        return {
            "model_digest": self.model_digest,
            **self.method.lineage(),
            "data": [data.format, data.template, data.loss_on, data.overlong],
            # None is what checkpoints say that were made before there was such a key.
            "system": data.system or None,
            "held_out": [data.held_out.channel, data.held_out.fraction, data.held_out.seed],
            "length": [train.epochs, train.max_steps],
            "seq_len": train.seq_len,
            "packing": train.packing or None,
            # Micro-batch and accumulation may be traded for each other.
            "effective_batch": train.micro_batch * train.accumulation,
            "optimizer": [train.optimizer, train.optimizer_bits, train.lr, train.weight_decay, list(train.betas)],
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
    method, train = read_method(root.section("method")), read_train(root.section("train"))
    for key, there in (("method.quant", method.quant), ("method.lora.dora", method.lora and method.lora.dora)):
        if train.sharding and there:
            raise SpecError(f"train.sharding does not work with {key}: set sharding to none, or leave that out")
    return Spec(
        job_id=job.text("id", "0"),
        job_name=job.text("name", "job"),
        project=job.text("project", "default"),
        model_name=model.text("name"),
        model_digest=model.text("digest", ""),
        trust_remote_code=model.flag("trust_remote_code", False),
        data=_data(root.section("data")),
        method=method,
        train=train,
        every=read_every(root.section("checkpoint")),
        evaluate_base=root.section("evaluate").flag("base_model", True),
        export=_export(root.get("export"), method.kind),
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
        system=section.text("system", ""),
        loss_on=section.choice("loss_on", ("answers", "last_answer", "all"), "answers"),
        overlong=section.choice("overlong", ("truncate", "drop", "error"), "truncate"),
        bad_rows=section.choice("bad_rows", ("error", "skip"), "error"),
        preload=section.choice("preload", ("auto", "memory", "none"), "auto"),
        held_out=HeldOut(
            channel=channel,
            fraction=held_out.number("fraction", 0.0, 0.0, 0.9),
            seed=held_out.integer("seed", 7, 0),
        ),
    )


def _export(value: object, method: str) -> tuple[str, ...]:
    holds = "adapter" if method == "lora" else "model"
    if value is None:
        return (holds,)
    if not isinstance(value, list):
        raise SpecError("export must be a list")
    wanted = [item.get("type") if isinstance(item, dict) else item for item in value]
    for kind in wanted:
        if kind != holds:
            raise SpecError(f"method {method} exports {holds}, not {kind!r}")
    return tuple(wanted)
