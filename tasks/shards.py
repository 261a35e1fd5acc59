"""Shards: a model's safetensors files -> the same tensors in files of at most so many bytes, and their index.

The bytes are copied, not the tensors: nothing is loaded, memory stays flat, and equal models give equal shards. The
format is 8 bytes with the length of a JSON header, the header (name -> dtype, shape, offsets), and the tensors' bytes.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

CHUNK_BYTES = 2**20
HEADER_BYTES = 100_000_000  # the format's own limit
METADATA = {"__metadata__": {"format": "pt"}}  # transformers refuses files without it
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where a tensor's bytes lie."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int  # bytes from the beginning of the file
    size: int  # bytes


def cut(model: Path, folder: Path, shard_bytes: int) -> list[Path]:
    """Write a model's tensors as shards that `from_pretrained` opens, and return what was written, the index last.

    Args:
        model: folder of a saved model; all its *.safetensors are cut.
        folder: existing folder to write to.
        shard_bytes: no shard is larger, its header included.

    Raises:
        ValueError: there is no safetensors file, one is damaged, or a tensor alone is larger than a shard may be.
    """
    tensors = [tensor for path in sorted(model.glob("*.safetensors")) for tensor in tensors_of(path)]
    if not tensors:
        raise ValueError(f"{model.name} holds no tensors: expected *.safetensors, as save_pretrained writes them")
    groups = plan(tensors, shard_bytes)
    if len(groups) == 1:
        return [_write_shard(groups[0], folder / "model.safetensors")]
    names = [f"model-{number:05}-of-{len(groups):05}.safetensors" for number in range(1, len(groups) + 1)]
    shards = [_write_shard(group, folder / name) for group, name in zip(groups, names, strict=True)]
    homes = {tensor.name: name for group, name in zip(groups, names, strict=True) for tensor in group}
    index = {"metadata": {"total_size": sum(tensor.size for tensor in tensors)}, "weight_map": homes}
    (folder / INDEX).write_text(json.dumps(index, sort_keys=True, indent=1) + "\n", encoding="utf-8")
    return [*shards, folder / INDEX]


def tensors_of(path: Path) -> list[Tensor]:
    """The tensors of a safetensors file, in the order of their bytes.

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
    found = [
        Tensor(name, entry["dtype"], tuple(entry["shape"]), path, 8 + length + spans[name][0], spans[name][1] - spans[name][0])
        for name, entry in entries.items()
    ]
    return sorted(found, key=lambda tensor: (tensor.start, tensor.name))


def plan(tensors: Sequence[Tensor], shard_bytes: int) -> list[list[Tensor]]:
    """Tensors in the order they came, each shard filled before the next is begun."""
    largest = max(tensors, key=lambda tensor: _size([tensor]))
    if _size([largest]) > shard_bytes:
        raise ValueError(
            f"publishing.shard_bytes is {shard_bytes}, and tensor {largest.name!r} alone makes a shard of {_size([largest])} bytes: "
            f"set shard_bytes to {_size([largest])} or more"
        )
    groups: list[list[Tensor]] = [[]]
    for tensor in tensors:
        if groups[-1] and _size([*groups[-1], tensor]) > shard_bytes:
            groups.append([])
        groups[-1].append(tensor)
    return groups


def _size(group: Sequence[Tensor]) -> int:
    """Bytes of a shard, its header included."""
    return len(_header(group)) + sum(tensor.size for tensor in group)


def _header(group: Sequence[Tensor]) -> bytes:
    """Length and JSON of a shard's header, filled with blanks to a multiple of 8 so that tensors stay aligned."""
    entries: dict[str, Any] = dict(METADATA)
    at = 0
    for tensor in group:
        entries[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": (at, at + tensor.size)}
        at += tensor.size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write_shard(group: Sequence[Tensor], path: Path) -> Path:
    with path.open("wb") as target:
        target.write(_header(group))
        for tensor in group:
            with tensor.file.open("rb") as source:
                for block in _blocks(source, tensor):
                    target.write(block)
    return path


def _blocks(source: BinaryIO, tensor: Tensor) -> Iterator[bytes]:
    source.seek(tensor.start)
    left = tensor.size
    while left:
        block = source.read(min(CHUNK_BYTES, left))
        if not block:
            raise ValueError(f"{tensor.file.name} ends within tensor {tensor.name!r}; make the model again")
        left -= len(block)
        yield block
