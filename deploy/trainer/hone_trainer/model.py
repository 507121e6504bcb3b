"""What is looked at of a model before it is loaded, and its tokenizer."""

import json
import logging
from pathlib import Path

from hone_trainer.errors import MissingInput

log = logging.getLogger(__name__)


def resolve_precision(wanted: str) -> str:
    """What `auto` means on this machine."""
    import torch

    if wanted != "auto":
        return wanted
    if not torch.cuda.is_available():
        return "fp32"
    # Older GPUs only emulate bf16, several times slower than fp16.
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def check_model_dir(directory: Path) -> None:
    """The files without which nothing can be loaded."""
    if not (directory / "config.json").is_file():
        raise MissingInput("the model directory has no config.json")
    if not any(directory.glob("*.safetensors")):
        raise MissingInput("the model directory has no .safetensors file")


def load_tokenizer(directory: Path, trust: bool):
    """The tokenizer as it lies there."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=trust)
    except (OSError, ValueError) as error:
        raise MissingInput(f"the tokenizer cannot be loaded: {error}") from error


def end_tokens(directory: Path, tokenizer) -> set[int]:
    """Every token at which generation stops."""
    ends = {tokenizer.eos_token_id} - {None}
    try:
        value = json.loads((directory / "generation_config.json").read_text()).get("eos_token_id")
        ends |= {int(item) for item in (value if isinstance(value, list) else [value]) if item is not None}
    except (OSError, ValueError, AttributeError, TypeError):
        pass
    return ends
