"""What a checkpoint carries beside Hugging Face's files: hone_state.json."""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hone_trainer.contract import encode, restored, verify_checkpoint, write_durably
from hone_trainer.errors import MissingInput, SpecError

STATE_FILE = "hone_state.json"


@dataclass
class Progress:
    """Counters that go on over attempts, and what a continuation must match."""

    lineage: dict = field(default_factory=dict)
    data_digest: str = ""
    step: int = 0
    max_steps: int = 0
    epoch: float = 0.0
    tokens_seen: int = 0
    samples_seen: int = 0
    train_seconds: float = 0.0
    skipped_steps: int = 0
    threads: int = 0
    ranks: int = 1
    sharding: str = "none"
    precision: str = ""
    torch: str = ""
    base: dict | None = None
    best: dict | None = None
    evaluated: int = 0

    def save(self, directory: Path) -> None:
        """Writes hone_state.json into a checkpoint in the making."""
        write_durably(directory / STATE_FILE, encode({"v": 1, **asdict(self)}))

    @classmethod
    def load(cls, directory: Path) -> "Progress":
        """Reads it back from a complete checkpoint."""
        try:
            # Sizes only: whoever brought the files here has hashed them.
            verify_checkpoint(directory, hashes=False)
            values = json.loads((directory / STATE_FILE).read_bytes())
            known = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        except (OSError, ValueError, TypeError) as error:
            raise MissingInput(f"cannot resume from {directory}: {error}") from error
        progress = cls(**known)
        # Sums and losses: numbers only, of which JSON holds some as words.
        progress.base, progress.best = _numbers(progress.base), _numbers(progress.best)
        if progress.best is not None and not math.isfinite(progress.best["eval_loss"]):
            progress.best = None
        return progress

    def is_better(self, loss: float) -> bool:
        """Whether an evaluation loss beats the best so far; what is not finite never does."""
        return math.isfinite(loss) and (self.best is None or loss < self.best["eval_loss"])

    def require_lineage(self, lineage: dict) -> None:
        """Refuses to continue what would not be the same training."""
        # Through JSON and back: a checkpoint cannot tell a tuple from a list.
        wanted = json.loads(encode(lineage))
        changed = sorted(name for name in wanted if self.lineage.get(name) != wanted[name])
        if changed:
            raise SpecError(f"cannot resume: these differ from the checkpoint: {', '.join(changed)}")

    def require_data(self, data_digest: str) -> None:
        """Refuses to continue on other data, or the same in another order."""
        if data_digest != self.data_digest:
            raise SpecError("cannot resume: the training data differs from the checkpoint's")


def _numbers(values: dict | None) -> dict | None:
    """Values of a mapping that `encode` wrote: nan, inf and -inf are numbers again."""
    return None if values is None else {name: restored(value) for name, value in values.items()}


def threads_of(directory: Path) -> int | None:
    """The thread count of a checkpoint's writer, to be used again; None if unknown."""
    try:
        return int(json.loads((directory / STATE_FILE).read_bytes())["threads"]) or None
    except (OSError, ValueError, KeyError, TypeError):
        return None
