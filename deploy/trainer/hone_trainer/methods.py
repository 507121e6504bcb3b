"""What each method trains: adapters beside the layers, the last blocks, named modules, or everything."""

import torch

from hone_trainer.errors import SpecError
from hone_trainer.spec_method import Freeze, Lora

# How many names a message lists.
SHOWN = 6


def add_adapter(model, lora: Lora):
    """The model with a fresh adapter, and only that trainable."""
    from peft import LoraConfig, get_peft_model

    targets = lora.targets
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        task_type="CAUSAL_LM",
        bias="none",
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise SpecError(f"method.lora does not fit the model: {error}") from error


def trained_names(model, freeze: Freeze) -> set[str]:
    """The parameters that a model with the rest frozen trains."""
    if freeze.last_layers is not None:
        modules = _last_blocks(model, freeze.last_layers)
    else:
        modules = _named(model, freeze.modules)
    chosen = {id(parameter) for module in modules for parameter in module.parameters()}
    return {name for name, parameter in model.named_parameters() if id(parameter) in chosen}


def blocks(model) -> torch.nn.ModuleList:
    """The stack of transformer blocks: the longest list of modules; empty if there is none."""
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    return max(lists, key=len, default=torch.nn.ModuleList())


def _last_blocks(model, count: int) -> list[torch.nn.Module]:
    stack = blocks(model)
    if not len(stack):
        raise SpecError("method.freeze.last_layers: the model has no list of blocks; name modules instead")
    if count > len(stack):
        raise SpecError(f"method.freeze.last_layers is {count}, but the model has {len(stack)} blocks")
    return list(stack)[-count:]


def _named(model, names: tuple[str, ...]) -> list[torch.nn.Module]:
    found = {}
    for wanted in names:
        hits = {name: module for name, module in model.named_modules() if f".{name}".endswith(f".{wanted}")}
        hits = {name: module for name, module in hits.items() if any(True for _ in module.parameters())}
        if not hits:
            known = [name for name, _ in model.named_children()] + [name for name, _ in model.named_modules()][-SHOWN:]
            raise SpecError(
                f"method.freeze.modules: the model has no module {wanted!r} with weights; it has {', '.join(known)}"
            )
        found |= hits
    return list(found.values())
