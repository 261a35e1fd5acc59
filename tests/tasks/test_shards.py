"""Cutting a model's safetensors into shards."""

import json
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import load_file, save_file

from infra.spans import Spans
from tasks.shards import ALONE_BYTES, INDEX, shards_of


def model_folder(folder: Path, **tensors: numpy.ndarray) -> Path:  # type: ignore[type-arg]
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def content(spans: Spans) -> bytes:
    return b"".join(map(bytes, spans.blocks()))


def written(files: dict[str, Spans], folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for name, spans in files.items():
        (folder / name).write_bytes(content(spans))
    return folder


def test_every_tensor_is_in_one_shard_and_no_shard_is_too_large(tmp_path: Path) -> None:
    tensors = {f"weight.{n}": numpy.full((n + 1, 16), n, dtype="float16" if n % 2 else "float32") for n in range(9)}
    files = shards_of(model_folder(tmp_path / "model", **tensors), 1500)
    assert len(files) > 3
    assert all(spans.size <= 1500 for name, spans in files.items() if name != INDEX)
    out = written(files, tmp_path / "out")
    homes = json.loads((out / INDEX).read_text())["weight_map"]
    assert set(homes.values()) == set(files) - {INDEX}
    for name, tensor in tensors.items():
        assert numpy.array_equal(load_file(out / homes[name])[name], tensor)


def test_large_tensors_stand_alone_and_small_ones_with_their_layer(tmp_path: Path) -> None:
    wide = numpy.zeros(ALONE_BYTES // 4, dtype="float32")
    tensors = {f"h.{n}.{name}": numpy.ones(4, dtype="float32") for n in (1, 2, 10) for name in ("bias", "norm")}
    model = model_folder(tmp_path / "model", **tensors, **{"h.1.mlp.wide": wide, "h.10.mlp.wide": wide, "embedding": numpy.ones(3)})
    homes = json.loads(content(shards_of(model, 2**30)[INDEX]))["weight_map"]
    shards = sorted(sorted(name for name, home in homes.items() if home == shard) for shard in set(homes.values()))
    assert shards == [
        ["embedding"],
        ["h.1.bias", "h.1.norm"],
        ["h.1.mlp.wide"],
        ["h.10.bias", "h.10.norm"],
        ["h.10.mlp.wide"],
        ["h.2.bias", "h.2.norm"],
    ]


def test_a_changed_tensor_changes_its_own_shard_only(tmp_path: Path) -> None:
    tensors = {f"h.{n}.weight": numpy.full(9, n) for n in range(6)}
    before = shards_of(model_folder(tmp_path / "before", **tensors), 10_000)
    after = shards_of(model_folder(tmp_path / "after", **tensors | {"h.5.weight": numpy.zeros(9)}), 10_000)
    assert len({content(spans) for spans in before.values()} - {content(spans) for spans in after.values()}) == 1


def test_equal_models_give_equal_bytes_and_cutting_shards_again_works(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "model", **{f"layer.{n}.w": numpy.arange(100.0) + n for n in range(7)})
    once = shards_of(model, 2000)
    written(once, tmp_path / "once")
    twice = shards_of(tmp_path / "once", 2000)
    assert {name: content(spans) for name, spans in once.items()} == {name: content(spans) for name, spans in twice.items()}


def test_numbers_lie_aligned_in_their_shard(tmp_path: Path) -> None:
    mixed = {"a": numpy.ones(3, dtype="int8"), "b": numpy.ones(5, dtype="float64"), "c": numpy.ones(3, dtype="float16")}
    files = shards_of(model_folder(tmp_path / "model", **mixed), 10_000)
    data = content(files["model-00001-of-00001.safetensors"])
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    for name, tensor in mixed.items():
        assert (8 + length + header[name]["data_offsets"][0]) % tensor.dtype.itemsize == 0


def test_a_tensor_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "model", a=numpy.ones(3))
    save_file({"a": numpy.zeros(3)}, model / "other.safetensors")
    with pytest.raises(ValueError, match="twice"):
        shards_of(model, 4096)


@pytest.mark.parametrize("keep", [0, 4, 20, 150])
def test_a_file_cut_short_is_refused(tmp_path: Path, keep: int) -> None:
    model = model_folder(tmp_path / "model", a=numpy.ones(100))
    data = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(data[:keep])
    with pytest.raises(ValueError, match="no whole safetensors file"):
        shards_of(model, 4096)


def test_a_folder_without_tensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no tensors"):
        shards_of(tmp_path, 4096)


@pytest.mark.filterwarnings("ignore:builtin type .* has no __module__ attribute:DeprecationWarning")  # SWIG, inside sentencepiece
def test_transformers_opens_the_shards_and_the_model_is_the_same(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config

    torch.manual_seed(1)
    size = {"vocab_size": 64, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2}
    model = AutoModelForCausalLM.from_config(GPT2Config(**size)).eval()
    model.save_pretrained(tmp_path / "model")
    files = shards_of(tmp_path / "model", 6000)
    assert len(files) > 3
    written(files | {"config.json": Spans.of(tmp_path / "model" / "config.json")}, tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out", local_files_only=True).eval()
    tokens = torch.arange(12).reshape(1, 12)
    with torch.inference_mode():
        assert torch.equal(model(tokens).logits, again(tokens).logits)
