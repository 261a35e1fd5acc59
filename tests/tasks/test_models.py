from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import BertConfig, BertLMHeadModel, GPT2Config, GPTNeoXConfig, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from infra.spans import digest_of
from tasks.models import base_digest, build_model, has_plain_head, load_model, logits_at, plain, save_model, seeded, uses_bf16
from tasks.shards import shards_of
from tasks.tuning import Settled
from tasks.vocabulary import EOS, train_vocabulary

HEADS: dict[str, Any] = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
CONFIGS = {
    "gpt2": GPT2Config(n_layer=2, n_embd=32, n_head=2, n_positions=64, vocab_size=320),
    "llama": LlamaConfig(**HEADS, num_key_value_heads=1, vocab_size=320, max_position_embeddings=64),
    "qwen2": Qwen2Config(**HEADS, num_key_value_heads=1, vocab_size=320, max_position_embeddings=64),
    "gpt_neox": GPTNeoXConfig(**HEADS, vocab_size=320, max_position_embeddings=64),
}


def tokenizer() -> Any:
    made: Tokenizer = train_vocabulary(["where is my card", "退款"], 320)
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token=EOS)


def base(folder: Path, kind: str) -> str:
    with seeded(1):
        AutoModelForCausalLM.from_config(CONFIGS[kind]).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def settings(**changes: Any) -> Settled:
    return Settled.model_validate({"size": {"n_layer": 1, "n_embd": 16, "n_head": 2}, "max_length": 32, **changes})


def test_the_same_seed_makes_the_same_model() -> None:
    first, second, other = (build_model(settings(seed=seed), tokenizer(), 40) for seed in (1, 1, 2))
    assert torch.equal(first.transformer.wte.weight, second.transformer.wte.weight)
    assert not torch.equal(first.transformer.wte.weight, other.transformer.wte.weight)


def test_rotary_positions_see_distances_alone() -> None:
    model = build_model(settings(positions="rotary", size={"n_layer": 2, "n_embd": 32, "n_head": 2}), tokenizer(), 40).eval()
    ids = torch.arange(9)[None]
    with torch.no_grad():
        here, there = (model(ids, position_ids=torch.arange(9)[None] + shift, use_cache=False).logits for shift in (0, 17))
    assert torch.allclose(here, there, atol=1e-4)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    with pytest.raises(ValueError, match="even multiple"):
        settings(positions="rotary", size={"n_layer": 1, "n_embd": 9, "n_head": 3})


def test_building_a_model_leaves_the_callers_random_numbers_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    build_model(settings(), tokenizer(), 40)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("kind", CONFIGS)
def test_logits_at_chosen_positions_are_those_of_the_whole_model(tmp_path: Path, kind: str) -> None:
    model = build_model(settings(base=base(tmp_path / "base", kind)), tokenizer(), 40).eval()
    ids, where = torch.arange(12).reshape(2, 6), torch.zeros(2, 6, dtype=torch.bool)
    where[0, 2] = where[1, 5] = True
    whole = model(ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[where]
    assert has_plain_head(model)
    torch.testing.assert_close(logits_at(model, ids, where, True), whole)


def test_padding_on_the_right_changes_nothing_for_the_tokens_before_it() -> None:
    model = build_model(settings(), tokenizer(), 40).eval()
    last = torch.tensor([[False, False, True]])
    padded = torch.tensor([[5, 6, 7, 0, 0]])
    alone = logits_at(model, torch.tensor([[5, 6, 7]]), last, True)
    torch.testing.assert_close(logits_at(model, padded, torch.nn.functional.pad(last, (0, 2)), True), alone)


def test_tokens_that_the_base_does_not_know_get_rows_of_their_own(tmp_path: Path) -> None:
    words = tokenizer()
    words.add_tokens([f"<|label:{number}|>" for number in range(100)], special_tokens=True)
    model = build_model(settings(base=base(tmp_path / "base", "llama")), words, 40)
    assert model.get_input_embeddings().weight.shape[0] == len(words) > 320


def test_new_tokens_are_trained_beside_adapters_also_where_the_base_has_rows_to_spare(tmp_path: Path) -> None:
    words = tokenizer()
    words.add_tokens(["<|label:card|>"], special_tokens=True)
    assert len(words) <= 320
    tuned = build_model(settings(base=base(tmp_path / "base", "qwen2"), lora={"r": 2}), words, 40)
    assert plain(tuned).get_input_embeddings().weight.requires_grad


def test_a_base_that_reads_from_both_sides_is_refused(tmp_path: Path) -> None:
    BertLMHeadModel(BertConfig(**HEADS, vocab_size=320)).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="reads a text from both sides"):
        build_model(settings(base=str(tmp_path)), tokenizer(), 40)


def adapted(folder: str, step: float) -> Any:
    """A base with adapters that have moved by so much."""
    tuned = build_model(settings(base=folder, lora={"r": 2}), tokenizer(), 40)
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                weight.fill_(step)
    return tuned


@pytest.mark.parametrize("kind", CONFIGS)
def test_an_adapter_beside_its_base_opens_as_the_merged_model_does_and_alone_is_new(tmp_path: Path, kind: str) -> None:
    folder = base(tmp_path / "base", kind)
    save_model(adapted(folder, 0.02), tmp_path / "merged")
    for name, step in (("first", 0.02), ("second", 0.03)):
        save_model(adapted(folder, step), tmp_path / name, merged=False)
    ids = torch.arange(6)[None]
    whole, ours = (load_model(tmp_path / name).cpu()(ids, use_cache=False).logits for name in ("merged", "first"))
    plainly = AutoModelForCausalLM.from_pretrained(tmp_path / "first").eval()(ids, use_cache=False).logits
    torch.testing.assert_close(ours, whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(plainly, whole, atol=1e-5, rtol=1e-5)
    first, second = (
        {file: digest_of(spans).sha256 for file, spans in shards_of(tmp_path / name, 2**25).items()} for name in ("first", "second")
    )
    assert {file for file in first if first[file] != second[file]} == {"adapter_model.safetensors"}
    assert str(tmp_path) not in (tmp_path / "first" / "adapter_config.json").read_text()


@pytest.mark.parametrize("kind", CONFIGS)
def test_lora_trains_adapters_only_and_is_merged_into_the_weights(tmp_path: Path, kind: str) -> None:
    tuned = adapted(base(tmp_path / "base", kind), 0.02)
    trained = {name for name, weight in tuned.named_parameters() if weight.requires_grad}
    assert trained
    assert all("lora" in name for name in trained)
    ids, where = torch.arange(6)[None], torch.ones(1, 6, dtype=torch.bool)
    expected = logits_at(plain(tuned.eval()), ids, where, True)
    save_model(tuned, tmp_path / "model")
    opened = load_model(tmp_path / "model")
    assert not any("lora" in name for name, _ in opened.named_parameters())
    torch.testing.assert_close(logits_at(opened.cpu(), ids, where, True), expected, atol=1e-5, rtol=1e-5)


def test_a_base_too_short_for_the_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds 64; lower max_length"):
        build_model(settings(base=base(tmp_path / "base", "gpt2"), max_length=100), tokenizer(), 128)


def test_a_base_that_is_only_a_pickle_is_refused(tmp_path: Path) -> None:
    CONFIGS["gpt2"].save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"whatever this would run")
    with pytest.raises(ValueError, match="safetensors"):
        build_model(settings(base=str(tmp_path)), tokenizer(), 40)
    with pytest.raises(ValueError, match="safetensors"):
        load_model(tmp_path)


def test_small_models_stay_in_full_precision_and_a_declared_precision_is_kept() -> None:
    model = build_model(settings(), tokenizer(), 40)
    assert not uses_bf16(settings(), model)
    assert uses_bf16(settings(precision="bf16"), model)


def test_other_weights_in_the_folder_of_a_base_are_another_input(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"one")
    before = base_digest(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"two")
    assert base_digest(str(tmp_path)) != before
    assert base_digest("scratch") is None


def test_a_base_below_the_home_is_found_and_counts_by_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = base(tmp_path / "base", "gpt2")
    assert base_digest("~/base") == base_digest(folder) is not None
    assert build_model(settings(base="~/base"), tokenizer(), 40).config.n_embd == 32
