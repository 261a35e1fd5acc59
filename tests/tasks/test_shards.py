"""Cutting a model's safetensors into shards."""

import json
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import load_file, save_file

from tasks.shards import cut


def model_folder(folder: Path, **tensors: numpy.ndarray) -> Path:  # type: ignore[type-arg]
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def shard_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.safetensors"))


def test_every_tensor_is_in_one_shard_and_no_shard_is_too_large(tmp_path: Path) -> None:
    tensors = {f"layer.{n}": numpy.full((n + 1, 16), n, dtype="float16" if n % 2 else "float32") for n in range(9)}
    model = model_folder(tmp_path / "model", **tensors)
    (tmp_path / "out").mkdir()
    written = cut(model, tmp_path / "out", 1500)
    assert shard_names(tmp_path / "out") == [path.name for path in written[:-1]]
    assert len(written) > 3
    assert all(path.stat().st_size <= 1500 for path in written[:-1])
    homes = json.loads(written[-1].read_text())["weight_map"]
    for name, tensor in tensors.items():
        assert numpy.array_equal(load_file(tmp_path / "out" / homes[name])[name], tensor)


def test_a_model_that_fits_one_shard_has_no_index(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "model", a=numpy.ones(3))
    (tmp_path / "out").mkdir()
    assert [path.name for path in cut(model, tmp_path / "out", 1024)] == ["model.safetensors"]
    assert (tmp_path / "out" / "model.safetensors").read_bytes()[8:].startswith(b'{"__metadata__"')


def test_equal_models_give_equal_bytes_and_cutting_shards_again_works(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "model", **{f"layer.{n}": numpy.arange(100.0) + n for n in range(7)})
    for name, source in (("once", model), ("again", model), ("twice", tmp_path / "once")):
        (tmp_path / name).mkdir()
        cut(source, tmp_path / name, 2000)
    once = {path.name: path.read_bytes() for path in (tmp_path / "once").iterdir()}
    assert once == {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}
    assert once == {path.name: path.read_bytes() for path in (tmp_path / "twice").iterdir()}


def test_a_tensor_that_fits_no_shard_is_named_with_the_size_that_would_do(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "model", small=numpy.ones(3), wide=numpy.ones(1000))
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match=r"tensor 'wide' alone.*set shard_bytes to ") as refused:
        cut(model, tmp_path / "out", 4096)
    enough = int(str(refused.value).split("set shard_bytes to ")[1].split()[0])
    with pytest.raises(ValueError, match="wide"):
        cut(model, tmp_path / "out", enough - 1)
    assert len(cut(model, tmp_path / "out", enough)) == 3


@pytest.mark.parametrize("keep", [0, 4, 20, 150])
def test_a_file_cut_short_is_refused(tmp_path: Path, keep: int) -> None:
    model = model_folder(tmp_path / "model", a=numpy.ones(100))
    data = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(data[:keep])
    with pytest.raises(ValueError, match="no whole safetensors file"):
        cut(model, tmp_path, 4096)


def test_a_folder_without_tensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no tensors"):
        cut(tmp_path, tmp_path, 4096)


@pytest.mark.filterwarnings("ignore:builtin type .* has no __module__ attribute:DeprecationWarning")  # SWIG, inside sentencepiece
def test_transformers_opens_the_shards_and_the_model_is_the_same(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config

    torch.manual_seed(1)
    size = {"vocab_size": 64, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2}
    model = AutoModelForCausalLM.from_config(GPT2Config(**size)).eval()
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_bytes((tmp_path / "model" / "config.json").read_bytes())
    cut(tmp_path / "model", tmp_path / "out", 6000)
    assert len(shard_names(tmp_path / "out")) > 2
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out", local_files_only=True).eval()
    tokens = torch.arange(12).reshape(1, 12)
    with torch.inference_mode():
        assert torch.equal(model(tokens).logits, again(tokens).logits)
