"""A quantised base: bitsandbytes' linear layers, kept such that training through them is exact."""

import torch

from hone_trainer.errors import SpecError
from hone_trainer.spec_method import Quant


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


def require_trainable(model) -> None:
    """Says so if a 4-bit weight was packed for inference all the same (another release, another path)."""
    for name, layer in model.named_modules():
        state = getattr(getattr(layer, "weight", None), "quant_state", None)
        if getattr(state, "packing_format_for_cpu", False):
            raise SpecError(
                f"bitsandbytes packed {name} for inference, so nothing below it would learn; "
                "use method.quant.bits 8, or no quantisation, with this release"
            )
