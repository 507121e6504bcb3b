"""The spec's `method`: which tensors are trained, and how the others are kept."""

from dataclasses import dataclass

from hone_trainer.errors import SpecError
from hone_trainer.section import Section

METHODS = ("lora", "freeze", "full")


@dataclass(frozen=True)
class Lora:
    """Adapter shape."""

    r: int
    alpha: float
    dropout: float
    targets: str | tuple[str, ...]
    rslora: bool
    dora: bool


@dataclass(frozen=True)
class Quant:
    """How the frozen base below an adapter is held."""

    bits: int
    type: str
    double: bool


@dataclass(frozen=True)
class Freeze:
    """What is trained when the rest is frozen: the last blocks, or named modules."""

    last_layers: int | None
    modules: tuple[str, ...]


@dataclass(frozen=True)
class Method:
    """What is trained; `freeze` is there exactly with that kind, `quant` only with lora."""

    kind: str
    lora: Lora
    quant: Quant | None
    freeze: Freeze | None

    @property
    def adapter(self) -> bool:
        """Whether an adapter is trained, and not the model's own tensors."""
        return self.kind == "lora"

    def name(self) -> str:
        """One word for people, such as `lora 4-bit` or `dora`."""
        if not self.adapter:
            return self.kind
        small = "dora" if self.lora.dora else "rslora" if self.lora.rslora else "lora"
        return f"{small} {self.quant.bits}-bit" if self.quant else small

    def lineage(self) -> dict[str, object]:
        """What must not change between a checkpoint and its continuation."""
        lora, quant, freeze = self.lora, self.quant, self.freeze
        targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
        shape = [lora.r, lora.alpha, lora.dropout, targets, lora.rslora, lora.dora]
        return {
            "method": self.kind,
            "lora": shape if self.adapter else None,
            "quant": [quant.bits, quant.type, quant.double] if quant else None,
            "freeze": [freeze.last_layers, list(freeze.modules)] if freeze else None,
        }


def read_method(section: Section) -> Method:
    """Checks the mapping; what belongs to another method is refused."""
    kind = section.choice("type", METHODS, "lora")
    if kind != "freeze" and section.get("freeze") is not None:
        raise SpecError(f"method.freeze has no meaning with type {kind}")
    if kind != "lora" and section.get("quant") is not None:
        raise SpecError(f"method.quant needs type lora: a quantised tensor cannot be trained by {kind}")
    return Method(
        kind=kind,
        lora=_lora(section.section("lora")),
        quant=_quant(section.section("quant")) if section.get("quant") is not None else None,
        freeze=_freeze(section.section("freeze")) if kind == "freeze" else None,
    )


def _lora(section: Section) -> Lora:
    targets = section.names("targets", "all-linear or a list of module names", word="all-linear")
    r = section.integer("r", 16, 1, 4096)
    return Lora(
        r=r,
        alpha=section.number("alpha", 2.0 * r, 1e-6, 1e6),
        dropout=section.number("dropout", 0.0, 0.0, 0.99),
        targets="all-linear" if targets is None else targets,
        rslora=section.flag("rslora", False),
        dora=section.flag("dora", False),
    )


def _quant(section: Section) -> Quant:
    bits = section.integer("bits", 4, 4, 8)
    if bits not in (4, 8):
        raise SpecError(f"method.quant.bits must be 4 or 8, not {bits}")
    return Quant(bits, section.choice("type", ("nf4", "fp4"), "nf4"), section.flag("double", True))


def _freeze(section: Section) -> Freeze:
    layers = section.integer("last_layers", None, 1, 10_000)
    modules = section.names("modules", "a list of module names")
    if (layers is None) == (modules is None):
        raise SpecError("method.freeze must have either last_layers or modules: what is trained")
    return Freeze(layers, modules or ())
