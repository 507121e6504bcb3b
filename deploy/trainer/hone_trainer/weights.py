"""Weights from mapped safetensors, tensor by tensor: never a second copy of the model in memory.

A tensor is copied out of the mapping when it is asked for, and the pages of the file that it came from are given
back at once. So the peak of a load is the model as it is kept, plus the largest tensor as it lies on the disk.
"""

import json
import mmap
from pathlib import Path

import torch

from hone_trainer.errors import MissingInput

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# No header is larger, by the format's own rule.
HEADER_BYTES = 100_000_000

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


class MappedTensor:
    """A tensor that still lies on the disk; `[...]` copies it into memory."""

    def __init__(self, file: "MappedFile", dtype: torch.dtype, shape: list[int], begin: int, end: int) -> None:
        self._file = file
        self._begin, self._end = begin, end
        self.dtype = dtype
        self.shape = torch.Size(shape)

    def __getitem__(self, _whole: object) -> torch.Tensor:
        raw = torch.frombuffer(self._file.mapping, dtype=torch.uint8, count=self._end - self._begin, offset=self._begin)
        tensor = raw.clone().view(self.dtype).view(self.shape)
        del raw
        self._file.give_back(self._begin, self._end)
        return tensor


class MappedFile:
    """One safetensors file, mapped; its header is read and checked."""

    def __init__(self, path: Path) -> None:
        with open(path, "rb") as file:
            # Private and never written to: PyTorch warns of memory that cannot be.
            self.mapping = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
        length = int.from_bytes(self.mapping[:8], "little")
        if not 2 <= length <= min(HEADER_BYTES, len(self.mapping) - 8):
            raise ValueError(f"{path.name} is cut off or not a safetensors file")
        header = json.loads(self.mapping[8 : 8 + length])
        header.pop("__metadata__", None)
        self.tensors = {name: self._tensor(path, name, entry, 8 + length) for name, entry in header.items()}

    def _tensor(self, path: Path, name: str, entry: dict, start: int) -> MappedTensor:
        dtype = _DTYPES.get(entry["dtype"])
        if dtype is None:
            raise ValueError(f"{name} in {path.name} is of type {entry['dtype']}, which this trainer cannot read")
        begin, end = (start + int(place) for place in entry["data_offsets"])
        shape = [int(size) for size in entry["shape"]]
        if not start <= begin <= end <= len(self.mapping) or (
            end - begin != torch.Size(shape).numel() * torch.empty(0, dtype=dtype).element_size()
        ):
            raise ValueError(f"{name} in {path.name} lies outside the file: it is cut off or damaged")
        return MappedTensor(self, dtype, shape, begin, end)

    def give_back(self, begin: int, end: int) -> None:
        """The whole pages between two places are no longer needed."""
        first = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
        last = end // mmap.PAGESIZE * mmap.PAGESIZE
        if last > first:
            self.mapping.madvise(mmap.MADV_DONTNEED, first, last - first)


def mapped_weights(directory: Path) -> dict[str, MappedTensor]:
    """Every tensor of a model in Hugging Face's layout, by its name there."""
    try:
        if (directory / INDEX).is_file():
            places = json.loads((directory / INDEX).read_bytes())["weight_map"]
            files = {name: MappedFile(directory / name) for name in sorted(set(places.values()))}
            return {name: files[place].tensors[name] for name, place in places.items()}
        return MappedFile(directory / SINGLE).tensors
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MissingInput(f"the model's weights cannot be read: {error}") from error
