"""The base model and its tokenizer, on the device, ready to be trained."""

import json
import logging
from pathlib import Path

from hone_trainer.errors import MissingInput, SpecError
from hone_trainer.spec import Spec

log = logging.getLogger(__name__)


def resolve_precision(wanted: str) -> str:
    """What `auto` means on this machine; a SpecError where the wish is futile."""
    import torch

    gpu = torch.cuda.is_available()
    if wanted == "auto":
        if not gpu:
            return "fp32"
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    if wanted == "fp16" and not gpu:
        raise SpecError("train.precision fp16 needs a GPU; use fp32 or bf16 on a CPU")
    return wanted


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


def load_model(directory: Path, spec: Spec, precision: str):
    """The base model: half precision for a frozen base, full for full tuning."""
    import torch
    from transformers import AutoModelForCausalLM

    # Full tuning in half precision keeps its weights in fp32 and computes under
    # autocast: updates of a small learning rate vanish in 8 bits of mantissa.
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}
    dtype = half.get(precision, torch.float32) if spec.method == "lora" else torch.float32
    try:
        model = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=spec.trust_remote_code,
            attn_implementation="sdpa",
        )
    except (ValueError, ImportError) as error:
        raise SpecError(f"this trainer cannot load the model: {error}") from error
    model.config.use_cache = False
    if spec.train.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def add_adapter(model, spec: Spec):
    """The model with a fresh LoRA adapter, and only that trainable."""
    from peft import LoraConfig, get_peft_model

    targets = spec.lora.targets
    config = LoraConfig(
        r=spec.lora.r,
        lora_alpha=spec.lora.alpha,
        lora_dropout=spec.lora.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="CAUSAL_LM",
        bias="none",
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise SpecError(f"method.lora does not fit the model: {error}") from error


def parameter_counts(model) -> tuple[int, int]:
    """(trainable, total)."""
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return trainable, sum(parameter.numel() for parameter in model.parameters())
