"""A quantised base: bitsandbytes' linear layers, kept such that training through them is exact."""

import math

import torch

from hone_trainer.errors import SpecError
from hone_trainer.spec_method import Quant

# Norms and biases stay as they are, and take hardly anything. More than this part of the weights is worth a word.
NOTABLE = 0.05


def settings(quant: Quant, compute: torch.dtype):
    """The library's configuration; `compute` is the type that its products are made in."""
    from transformers import BitsAndBytesConfig

    if quant.bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quant.type,
        bnb_4bit_use_double_quant=quant.double,
        bnb_4bit_compute_dtype=compute,
    )


def keep_trainable(model) -> int:
    """Makes the 4-bit layers stay as training needs them; how many layers are quantised.

    On a CPU with bf16 instructions, `Linear4bit.forward` packs its weight anew in place the first time that it runs
    in evaluation mode, and from then on takes a kernel for inference that has no gradient: every adapter below such
    a layer then learns nothing or something wrong, and a warning is all that tells. The layer asks an attribute of
    its own whether the processor has those instructions; that attribute is set to no.
    """
    import bitsandbytes

    layers = 0
    for layer in model.modules():
        if isinstance(layer, bitsandbytes.nn.Linear4bit):
            layer.support_avx512bf16_for_cpu = False
        layers += isinstance(layer, (bitsandbytes.nn.Linear4bit, bitsandbytes.nn.Linear8bitLt))
    return layers


def left_whole(model) -> tuple[float, list[str]]:
    """The part of the base's weights that is not quantised, and its tensors, the largest first.

    Embeddings and the output layer are never quantised and count on neither side. Models that hold their experts as
    one tensor have no linear layers there, and the library leaves such a tensor as it is.
    """
    import bitsandbytes

    embeddings = [layer for layer in (model.get_input_embeddings(), model.get_output_embeddings()) if layer is not None]
    apart = {id(parameter) for layer in embeddings for parameter in layer.parameters()}
    total, left = 0, {}
    for name, parameter in model.named_parameters():
        if id(parameter) in apart or "lora_" in name:
            continue
        state = getattr(parameter, "quant_state", None)
        count = parameter.numel() if state is None else math.prod(state.shape)
        total += count
        if state is None and not isinstance(parameter, bitsandbytes.nn.Int8Params):
            left[name] = count
    return sum(left.values()) / max(1, total), sorted(left, key=lambda name: -left[name])


def require_trainable(model) -> None:
    """Says so if a 4-bit weight was packed for inference all the same (another release, another path)."""
    for name, layer in model.named_modules():
        state = getattr(getattr(layer, "weight", None), "quant_state", None)
        if getattr(state, "packing_format_for_cpu", False):
            raise SpecError(
                f"bitsandbytes packed {name} for inference, so nothing below it would learn; "
                "use method.quant.bits 8, or no quantisation, with this release"
            )
