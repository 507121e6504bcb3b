"""The base model on the device, with what the method trains."""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from hone_trainer import quantise
from hone_trainer.errors import MissingInput, SpecError
from hone_trainer.methods import SHOWN, add_adapter, trained_names
from hone_trainer.spec import Spec
from hone_trainer.weights import mapped_weights

FLASH = "flash_attention_2"


def load_model(directory: Path, spec: Spec, precision: str):
    """The model with what the method trains, on the device unless it is to be sharded; nothing else of it is trainable.

    Below an adapter the base is kept in half precision if the arithmetic is, or quantised. What is trained itself is
    kept in fp32 and computed under autocast: updates of a small learning rate vanish in 8 bits of mantissa.
    """
    method, kept, half = spec.method, torch.float32, half_type(precision)
    if method.adapter or (method.freeze and disk_type(directory) == half):
        kept = half
    # What is to be cut into parts may not fit a GPU as a whole.
    device = "cpu" if spec.train.sharding or not torch.cuda.is_available() else f"cuda:{torch.cuda.current_device()}"
    model = _load(directory, spec, kept, device, half)
    if spec.train.sharding:
        _require_plain_names(model)
    model.config.use_cache = False
    if spec.train.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        if method.freeze:
            # The library lets gradients through to the embeddings, which only reentrant checkpoints need: the backward
            # pass would go through all layers below the lowest that is trained, and compute each of them anew.
            model.disable_input_require_grads()
    if method.adapter:
        model = add_adapter(model, method.lora)
    if method.freeze:
        trained = trained_names(model, method.freeze)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trained)
            if name in trained:
                parameter.data = parameter.data.float()
    if method.quant and quantise.keep_trainable(model) == 0:
        raise SpecError("method.quant: the model has no linear layer that can be quantised")
    return model


def half_type(precision: str) -> torch.dtype:
    """The type of the arithmetic, in which a frozen base is kept."""
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)


def attention(kind: type, half: torch.dtype) -> str | None:
    """FlashAttention where an image brings it, for arithmetic in 16 bits; None leaves the choice to the library.

    That one takes PyTorch's own kernels, or plain products for models that know nothing else.
    """
    from transformers.utils import is_flash_attn_2_available

    known = getattr(kind, "_compatible_flash_implementations", None) or [FLASH]
    if half == torch.float32 or not torch.cuda.is_available() or not is_flash_attn_2_available():
        return None
    if not getattr(kind, "_supports_flash_attn", False) or FLASH not in known:
        return None
    # Its backward pass adds up in any order unless told otherwise, and no continuation would be exact.
    os.environ["FLASH_ATTENTION_DETERMINISTIC"] = "1"
    return FLASH


def parameter_counts(model) -> tuple[int, int]:
    """(trainable, total) numbers of weights, also where several share a byte."""
    trainable = total = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        count = parameter.numel() if state is None else math.prod(state.shape)
        total += count
        trainable += count if parameter.requires_grad else 0
    return trainable, total


def disk_type(directory: Path) -> torch.dtype | None:
    """The type of all floating tensors on the disk; None if there are several."""
    types = {tensor.dtype for tensor in mapped_weights(directory).values() if tensor.dtype.is_floating_point}
    return types.pop() if len(types) == 1 else None


def as_on_disk(model, directory: Path) -> dict[str, torch.Tensor]:
    """The model's tensors, those that were never trained in the very type that the base has them in."""
    disk = mapped_weights(directory)
    # By all its names: the files may hold a tied tensor under each of them.
    named = model.named_parameters(remove_duplicate=False)
    trained = {name for name, parameter in named if parameter.requires_grad}
    made: dict[tuple, torch.Tensor] = {}
    found = {}
    for name, tensor in model.state_dict().items():
        if name not in trained:
            # Cast as it is in memory: the library cuts fused experts only as it saves them.
            types = {disk[place].dtype if place in disk else None for place in _saved_names(model, {name: tensor})}
            dtype = types.pop() if len(types) == 1 else None
            if dtype not in (None, tensor.dtype):
                # Tied tensors stay tied: the library saves what is shared once.
                tensor = made.setdefault((tensor.data_ptr(), tensor.shape, dtype), tensor.to(dtype))
        found[name] = tensor
    return found


def _saved_names(model, tensors: dict[str, torch.Tensor]) -> set[str]:
    """What files call these tensors of a model: the library renames some as it loads and saves, and fuses experts."""
    from transformers.core_model_loading import revert_weight_conversion

    # Without values: it is the library's own way back, which would copy them.
    return set(revert_weight_conversion(model, {name: value.to("meta") for name, value in tensors.items()}))


def _require_plain_names(model) -> None:
    """Parts of a model are read from files and put into them by the model's own names."""
    own = dict(model.named_parameters(remove_duplicate=False))
    other = sorted(own.keys() - _saved_names(model, own))
    if other:
        raise SpecError(
            f"train.sharding: this model's files have other names for {', '.join(other[:SHOWN])} than the model has in "
            "memory, where experts are fused, for one: set sharding to none"
        )


def _load(directory: Path, spec: Spec, dtype: torch.dtype, device: str, half: torch.dtype):
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    options = {"dtype": dtype}
    if spec.method.quant:
        options["quantization_config"] = quantise.settings(spec.method.quant, dtype)
    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=spec.trust_remote_code)
        if getattr(config, "quantization_config", None):
            raise SpecError("the model's files are quantised already; give the model in 16 or 32 bits")
        with torch.device("meta"):
            shape = AutoModelForCausalLM.from_config(config, trust_remote_code=spec.trust_remote_code)
        with _one_at_a_time():
            model, told = type(shape).from_pretrained(
                None,
                config=config,
                state_dict=mapped_weights(directory),
                device_map={"": device},
                attn_implementation=attention(type(shape), half),
                output_loading_info=True,
                **options,
            )
    except (ValueError, ImportError) as error:
        raise SpecError(f"this trainer cannot load the model: {error}") from error
    except PermissionError as error:
        raise MissingInput(f"the model's files cannot be read: {error}") from error
    if told["missing_keys"]:
        # They would be random.
        names = ", ".join(sorted(told["missing_keys"])[:SHOWN])
        raise MissingInput(f"the model's files lack tensors that its config.json asks for: {names}")
    model.config.name_or_path = str(directory)
    if (directory / "generation_config.json").is_file():
        try:
            model.generation_config = GenerationConfig.from_pretrained(directory, local_files_only=True)
        except OSError as error:
            raise MissingInput(f"the model's generation_config.json cannot be read: {error}") from error
    return model


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Without it, four threads run ahead and read tensors that nobody has room for yet."""
    before = os.environ.get("HF_DEACTIVATE_ASYNC_LOAD")
    os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HF_DEACTIVATE_ASYNC_LOAD"]
        else:
            os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = before
