"""A model in parts: each rank keeps a part of every weight, and a layer is gathered while it is needed.

PyTorch's FullyShardedDataParallel does that, on a CPU and on GPUs alike. What it is given is cut into units, which are
gathered and let go one by one: a decoder layer each, and within it what differs in its type or is trained while the
rest is frozen. So a frozen unit has no gradients at all, and an adapter in fp32 may stand in a layer in 16 bits.

What leaves the ranks is whole again, unit by unit and on the CPU of rank 0: checkpoints and packages are those of a
model that was never in parts.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import distributed
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.fsdp._common_utils import clean_tensor_name
from torch.distributed.fsdp.wrap import CustomPolicy

from hone_trainer.errors import MissingInput, SpecError
from hone_trainer.methods import SHOWN, blocks
from hone_trainer.weights import MappedFile, mapped_weights

ADAPTER_FILE = "adapter_model.safetensors"
# What AdamW keeps of each weight.
MOMENTS = ("exp_avg", "exp_avg_sq")
# Modules that hold weights and are never called: a unit is gathered when it is called.
_HOLDERS = (torch.nn.ParameterDict, torch.nn.ParameterList)


class Shards:
    """This rank's part of a model, and the way back to the whole.

    `root` is what is called; `inner` is the model within it, whose weights are parts at rest; `shape` is a copy without
    any values, as the model was before: it tells names and sizes, and writes files from tensors that it is given.
    """

    def __init__(self, model: torch.nn.Module, rank: int) -> None:
        self.inner = model
        self.shape = shape_of(model)
        # Tied weights have several names. The parameters stay the same objects; their values become parts.
        self._named = dict(model.named_parameters(remove_duplicate=False))
        self._rank = rank
        chosen = {id(module) for module in units(model)}
        device = torch.device("cpu")
        if torch.cuda.is_available():
            device = torch.device("cuda", torch.cuda.current_device())
        try:
            self.root = FSDP(
                model,
                auto_wrap_policy=CustomPolicy(lambda module: id(module) in chosen),
                device_id=device,
                use_orig_params=True,
            )
        except ValueError as error:
            raise SpecError(f"train.sharding: this model cannot be cut into parts: {error}") from error

    def meet(self) -> None:
        """Once all ranks have their parts: whichever unit is asked first takes itself for the root."""
        with FSDP.summon_full_params(self.root, recurse=False, writeback=False):
            pass

    def trained(self) -> dict[str, torch.nn.Parameter]:
        """What is trained, by the names that files have for it, as parts."""
        return {name: self._named[name] for name, of in self.shape.named_parameters() if of.requires_grad}

    def state(self, base: Path | None) -> dict[str, torch.Tensor]:
        """Whole tensors on the CPU by name, at rank 0; nothing elsewhere. All ranks must ask.

        Those of an adapter alone, unless the directory of the base is given: from its files comes what was not trained.
        """
        aliases: dict[torch.nn.Parameter, list[str]] = {}
        for name, parameter in self.shape.named_parameters(remove_duplicate=False):
            aliases.setdefault(parameter, []).append(name)
        trained = {name for parameter, names in aliases.items() if parameter.requires_grad for name in names}
        if base is None:
            return self._gathered(trained.__contains__)
        disk, kept = mapped_weights(base), {}
        for names in aliases.values():
            place = next((name for name in names if name in disk and name not in trained), None)
            kept |= dict.fromkeys(names, place) if place else {}
        found = self._gathered(lambda name: name not in kept)
        if self._rank:
            return {}
        read = {place: disk[place][...] for place in set(kept.values())}
        found |= {name: read[place] for name, place in kept.items()}
        found |= {clean_tensor_name(name): buffer.cpu() for name, buffer in self.inner.named_buffers()}
        return {name: found[name] for name in self.shape.state_dict()}

    def _gathered(self, wanted: Callable[[str], bool]) -> dict[str, torch.Tensor]:
        copies: dict[int, torch.Tensor] = {}
        found = {}
        for inside in self._whole(wanted, writeback=False):
            if self._rank:
                continue
            for name, parameter in inside.items():
                if id(parameter) not in copies:
                    copies[id(parameter)] = parameter.detach().to("cpu", copy=True)
                found[name] = copies[id(parameter)]
        return found

    def put(self, directory: Path) -> None:
        """The trained weights of a checkpoint, in this model's place; MissingInput if it lacks one."""
        adapter = directory / ADAPTER_FILE
        saved: Mapping = mapped_weights(directory) if not adapter.is_file() else MappedFile(adapter).tensors
        names = _names_in_files(self.shape)
        missing = []
        for inside in self._whole(self.trained().__contains__, writeback=True):
            for name, parameter in inside.items():
                if names.get(name, name) not in saved:
                    missing.append(name)
                    continue
                with torch.no_grad():
                    parameter.copy_(saved[names.get(name, name)][...])
        if missing:
            raise MissingInput(f"the checkpoint lacks weights that are trained: {', '.join(missing[:SHOWN])}")

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict:
        """The state that AdamW would have of the whole model, at rank 0; all ranks must ask.

        Not by `FSDP.optim_state_dict`: on a CPU, PyTorch 2.6 gives every moment the values of the last one.
        """
        trained, names = self.trained(), self._in_order(optimizer)
        steps = torch.tensor([float(optimizer.state.get(trained[name], {}).get("step", 0)) for name in names])
        # A rank that has no part of a tensor has no state of it.
        distributed.all_reduce(steps, op=distributed.ReduceOp.MAX)
        state = {number: {"step": step.clone()} for number, step in enumerate(steps) if step}
        for moment in MOMENTS:
            with self._weights_set_aside():
                for parameter in trained.values():
                    if moment in optimizer.state.get(parameter, {}):
                        parameter.copy_(optimizer.state[parameter][moment])
                found = self._gathered(trained.__contains__)
            for number in state if found else ():
                state[number][moment] = found[names[number]]
        return {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}

    def put_optimizer_state(self, optimizer: torch.optim.Optimizer, whole: dict) -> None:
        """Takes this rank's part of such a state."""
        trained, names = self.trained(), self._in_order(optimizer)
        held = {number for number, name in enumerate(names) if trained[name].numel() and number in whole["state"]}
        state = {number: {"step": whole["state"][number]["step"]} for number in held}
        numbers = {name: number for number, name in enumerate(names) if number in whole["state"]}
        for moment in MOMENTS:
            with self._weights_set_aside():
                for inside in self._whole(numbers.__contains__, writeback=True):
                    for name, parameter in inside.items():
                        parameter.copy_(whole["state"][numbers[name]][moment])
                for number in held:
                    state[number][moment] = trained[names[number]].detach().clone()
        optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})

    def _in_order(self, optimizer: torch.optim.Optimizer) -> list[str]:
        """The names of an optimizer's parameters, by the numbers that it saves them under."""
        known = {id(parameter): name for name, parameter in self.trained().items()}
        return [known[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]

    @contextlib.contextmanager
    def _weights_set_aside(self) -> Iterator[None]:
        """Something else of the same shape is gathered and cut in the place of the trained weights."""
        kept = {parameter: parameter.detach().to("cpu", copy=True) for parameter in self.trained().values()}
        with torch.no_grad():
            try:
                yield
            finally:
                for parameter, values in kept.items():
                    parameter.copy_(values)

    def _whole(self, wanted: Callable[[str], bool], writeback: bool) -> Iterator[dict[str, torch.nn.Parameter]]:
        """Unit by unit, what of it is wanted, as long as it is whole."""
        for unit in FSDP.fsdp_modules(self.root):
            own = {id(parameter) for parameter in _own(unit.module)}
            inside = {name: p for name, p in self._named.items() if id(p) in own and wanted(name)}
            if inside:
                with FSDP.summon_full_params(unit, recurse=False, writeback=writeback):
                    yield inside


def shape_of(model: torch.nn.Module) -> torch.nn.Module:
    """A copy that holds no values."""
    # What deepcopy has copied already, it takes as it is.
    memo: dict[int, object] = {}
    for parameter in model.parameters():
        empty = torch.empty_like(parameter, device="meta")
        memo[id(parameter)] = torch.nn.Parameter(empty, requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, memo)


def units(model: torch.nn.Module) -> list[torch.nn.Module]:
    """What becomes a unit of its own: the decoder layers, and what in a unit is unlike the most of it."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    whole = set(getattr(base, "_no_split_modules", None) or ())
    layers = [module for module in model.modules() if type(module).__name__ in whole]
    layers = layers or list(blocks(model))
    found = list(layers)
    for top in (*layers, model):
        region = list(_region(top, {id(layer) for layer in layers if layer is not top}))
        common = _commonest(region)
        for module in region:
            kinds = {_kind(parameter) for parameter in module.parameters(recurse=False)}
            if kinds - {common} and module is not top and not isinstance(module, _HOLDERS):
                found.append(module)
    return found


def _kind(parameter: torch.nn.Parameter) -> tuple[torch.dtype, bool]:
    return parameter.dtype, parameter.requires_grad


def _commonest(region: list[torch.nn.Module]) -> tuple | None:
    """The kind that most weights have. What several modules share counts first: it cannot be of two units."""
    holders: dict[torch.nn.Parameter, int] = {}
    for module in region:
        for parameter in module.parameters(recurse=False):
            holders[parameter] = holders.get(parameter, 0) + 1
    sizes: dict[tuple, tuple[int, int]] = {}
    for parameter, count in holders.items():
        shared, size = sizes.get(_kind(parameter), (0, 0))
        sizes[_kind(parameter)] = (shared + (count > 1), size + parameter.numel())
    return max(sizes, key=sizes.__getitem__, default=None)


def _region(module: torch.nn.Module, borders: set[int]) -> Iterator[torch.nn.Module]:
    """A module and those below it, without what is below a border."""
    yield module
    for child in module.children():
        if id(child) not in borders:
            yield from _region(child, borders)


def _own(module: torch.nn.Module) -> Iterator[torch.nn.Parameter]:
    """The parameters of a unit, without those of the units below it."""
    yield from module.parameters(recurse=False)
    for child in module.children():
        if not isinstance(child, FSDP):
            yield from _own(child)


def _names_in_files(shape: torch.nn.Module) -> dict[str, str]:
    """What an adapter's file calls its tensors, by the model's name for them; nothing for a whole model."""
    if not hasattr(shape, "get_base_model"):
        return {}
    from peft import get_peft_model_state_dict

    own = dict(shape.named_parameters())
    saved = get_peft_model_state_dict(shape, state_dict=own, save_embedding_layers=False)
    names = {id(tensor): name for name, tensor in own.items()}
    return {names[id(tensor)]: name for name, tensor in saved.items()}
