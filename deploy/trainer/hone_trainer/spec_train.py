"""The spec's `train` and `checkpoint`: what shapes the optimisation, and when it is saved."""

from dataclasses import dataclass

from hone_trainer.errors import SpecError
from hone_trainer.section import Section


@dataclass(frozen=True)
class Train:
    """Everything that shapes the optimisation."""

    epochs: float | None
    max_steps: int | None
    seq_len: int
    micro_batch: int
    accumulation: int
    optimizer: str
    optimizer_bits: int
    paged: bool
    lr: float
    weight_decay: float
    betas: tuple[float, float]
    schedule: str
    warmup: float
    clip_norm: float
    precision: str
    gradient_checkpointing: bool
    packing: bool
    sharding: bool
    seed: int
    log_every: int
    eval_every: int | None


@dataclass(frozen=True)
class Every:
    """When to save: whichever comes first; `auto` by what a save was seen to cost."""

    steps: int | None
    epochs: float | None
    minutes: float | None
    auto: bool


def read_train(section: Section) -> Train:
    """Checks the mapping and fills in defaults."""
    optimizer, schedule = section.section("optimizer"), section.section("schedule")
    name, bits, paged = _optimizer(optimizer)
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
        optimizer=name,
        optimizer_bits=bits,
        paged=paged,
        lr=optimizer.number("lr", 2e-4, 0.0, 100.0),
        weight_decay=optimizer.number("weight_decay", 0.0, 0.0, 10.0),
        betas=(pair.number("first", None, 0.0, 0.999999), pair.number("second", None, 0.0, 0.99999999)),
        schedule=schedule.choice("type", ("cosine", "linear", "constant"), "cosine"),
        warmup=schedule.number("warmup", 0.03, 0.0, 1e9),
        clip_norm=section.number("clip_norm", 1.0, 0.0, 1e9),
        precision=section.choice("precision", ("auto", "fp32", "bf16", "fp16"), "auto"),
        gradient_checkpointing=section.flag("gradient_checkpointing", False),
        packing=section.flag("packing", False),
        sharding=section.choice("sharding", ("none", "full"), "none") == "full",
        seed=section.integer("seed", 42, 0, 2**32 - 1),
        log_every=section.integer("log_every", 1, 1),
        eval_every=section.integer("eval_every", None, 1),
    )
    if train.epochs is None and train.max_steps is None:
        raise SpecError("one of train.epochs and train.max_steps must be given")
    if train.sharding and (name, bits, paged) != ("adamw", 32, False):
        raise SpecError("train.sharding needs the optimizer adamw in 32 bits, not paged; or set sharding to none")
    return train


def _optimizer(section: Section) -> tuple[str, int, bool]:
    name = section.choice("name", ("adamw", "adafactor"), "adamw")
    bits, paged = section.integer("bits", 32, 8, 32), section.flag("paged", False)
    if bits not in (8, 32):
        raise SpecError(f"train.optimizer.bits must be 8 or 32, not {bits}")
    if name != "adamw" and (bits == 8 or paged):
        raise SpecError(f"train.optimizer.bits and paged are adamw's: {name} keeps almost no state to shrink")
    return name, bits, paged


def read_every(section: Section) -> Every:
    """Checks the mapping; without a key, saves happen at the end and on request only."""
    every = Every(
        steps=section.integer("every_steps", None, 1),
        epochs=section.number("every_epochs", None, 1e-6, 1e6),
        minutes=section.number("every_minutes", None, 1e-3, 1e6),
        auto=section.flag("auto", False),
    )
    if every.auto and (every.steps or every.epochs or every.minutes):
        raise SpecError("checkpoint.auto stands beside an interval: keep one of the two")
    return every
