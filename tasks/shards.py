"""Shards: a model's safetensors files -> the same tensors in files that versions can share, and their index.

A tensor of ALONE_BYTES or more is a shard of its own, smaller ones of one layer share one: when a few tensors change, only
these travel again. Bytes are named, not copied: nothing is loaded or written, and equal models give equal shards. The format
is 8 bytes with the length of a JSON header, the header (name -> dtype, shape, offsets), and the tensors' bytes.
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.spans import Extent, Spans

ALONE_BYTES = 2**20
HEADER_BYTES = 100_000_000  # the format's own limit
METADATA = {"__metadata__": {"format": "pt"}}  # transformers refuses files without it
ADAPTER = "adapter_model.safetensors"
LINEAR = "linear.safetensors"  # tasks/linear.py, of a form tasks/windows.py
WHOLE = (ADAPTER, LINEAR)  # files that transformers does not take for a part of the model
INDEX = "model.safetensors.index.json"
LAYER = re.compile(r"(?:[^.]+\.)*?\d+(?=\.)")  # transformer.h.10 of transformer.h.10.mlp.c_fc.bias


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where a tensor's bytes lie."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    extent: Extent

    @property
    def layer(self) -> str:
        """The layer it belongs to; empty when it belongs to none."""
        found = LAYER.match(self.name)
        return found[0] if found else ""

    @property
    def item_bytes(self) -> int:
        """Bytes of one number; 0 for a tensor without any."""
        return self.extent.size // max(1, math.prod(self.shape))


def shards_of(model: Path, shard_bytes: int) -> dict[str, Spans]:
    """File name -> bytes of the shards and the index that `from_pretrained` opens.

    Args:
        model: folder of a saved model; all its *.safetensors are cut, but those of WHOLE stay the files that they are.
        shard_bytes: no shard of several tensors is larger, its header included; a single tensor may be.

    Raises:
        ValueError: there is no safetensors file, one is damaged, or a tensor is there twice.
    """
    tensors = [tensor for path in sorted(model.glob("*.safetensors")) if path.name not in WHOLE for tensor in tensors_of(path)]
    if not tensors:
        raise ValueError(f"{model.name} holds no tensors: expected *.safetensors, as save_pretrained writes them")
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise ValueError(f"{model.name} holds a tensor twice; make the model again in an empty folder")
    groups = plan(tensors, shard_bytes)
    names = [f"model-{number:05}-of-{len(groups):05}.safetensors" for number in range(1, len(groups) + 1)]
    homes = {tensor.name: name for group, name in zip(groups, names, strict=True) for tensor in group}
    index = {"metadata": {"total_size": sum(tensor.extent.size for tensor in tensors)}, "weight_map": homes}
    shards = {name: _shard(group) for group, name in zip(groups, names, strict=True)}
    whole = {name: Spans.of(model / name) for name in WHOLE if (model / name).exists()}
    return shards | whole | {INDEX: Spans((json.dumps(index, sort_keys=True, indent=1).encode() + b"\n",))}


def tensors_of(path: Path) -> list[Tensor]:
    """The tensors of a safetensors file.

    Raises:
        ValueError: its header does not fit its bytes.
    """
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = stream.read(length) if length <= HEADER_BYTES else b""
    try:
        entries: dict[str, Any] = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
        spans = {name: (int(entry["data_offsets"][0]), int(entry["data_offsets"][1])) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path.name} is no whole safetensors file: its header cannot be read; make the model again") from None
    end = 0
    for start, stop in sorted(spans.values()):
        end = stop if start == end <= stop else -1
    if 8 + length + end != path.stat().st_size:
        raise ValueError(f"{path.name} is no whole safetensors file: its bytes are not those its header names; make the model again")
    return [
        Tensor(name, entry["dtype"], tuple(entry["shape"]), Extent(path, 8 + length + spans[name][0], spans[name][1] - spans[name][0]))
        for name, entry in entries.items()
    ]


def plan(tensors: Sequence[Tensor], shard_bytes: int) -> list[list[Tensor]]:
    """Which tensors share a shard; neither the order they come in nor the files they come from matter."""
    groups: list[list[Tensor]] = []
    small: dict[str, list[Tensor]] = {}
    for tensor in sorted(tensors, key=lambda tensor: tensor.name):
        if tensor.extent.size >= ALONE_BYTES:
            groups.append([tensor])
        else:
            small.setdefault(tensor.layer, []).append(tensor)
    for layer in small.values():
        groups.extend(_filled(layer, shard_bytes))
    return sorted(groups, key=lambda group: group[0].name)


def _filled(tensors: Sequence[Tensor], shard_bytes: int) -> Iterator[list[Tensor]]:
    """Groups of at most `shard_bytes`, each filled before the next is begun; large numbers first, so that all lie aligned."""
    group: list[Tensor] = []
    for tensor in sorted(tensors, key=lambda tensor: (-tensor.item_bytes, tensor.name)):
        if group and _shard([*group, tensor]).size > shard_bytes:
            yield group
            group = []
        group.append(tensor)
    yield group


def _shard(group: Sequence[Tensor]) -> Spans:
    return Spans((_header(group), *(tensor.extent for tensor in group)))


def _header(group: Sequence[Tensor]) -> bytes:
    """Length and JSON of a shard's header, filled with blanks to a multiple of 8 so that tensors stay aligned."""
    entries: dict[str, Any] = dict(METADATA)
    at = 0
    for tensor in group:
        entries[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": (at, at + tensor.extent.size)}
        at += tensor.extent.size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
