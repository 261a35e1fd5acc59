"""Quick kernels compute what torch's own do: losses, gradients, shares of dropout, attention of every kind of model."""

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from tasks import kernels
from tasks.kernels import DENSE, FUSED, LONGEST, Dropout, attend, cross_entropy, last_mlp, only_at, quicken
from tasks.models import load_model, logits_at, save_model

VOCABULARY, LENGTH = 61, 24
IDS: dict[str, Any] = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 0)
WIDE: dict[str, Any] = IDS | {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
WIDE |= {"intermediate_size": 64, "max_position_embeddings": 64, "initializer_range": 0.2}
NONE: dict[str, Any] = dict.fromkeys(("embd_pdrop", "resid_pdrop", "attn_pdrop"), 0.0)
GPT2: dict[str, Any] = NONE | IDS | {"vocab_size": VOCABULARY, "n_layer": 2, "n_embd": 32, "n_head": 4, "initializer_range": 0.2}
MODELS: dict[str, Any] = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**GPT2)),
    "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**WIDE)),
    "llama, fewer keys than queries": lambda: LlamaForCausalLM(LlamaConfig(num_key_value_heads=2, **WIDE)),
    "mistral, looks back five tokens": lambda: MistralForCausalLM(MistralConfig(num_key_value_heads=2, sliding_window=5, **WIDE)),
}


def outcome(model: Any, bf16: bool, ids: torch.Tensor, **asked: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits and gradients of one step."""
    model.train().zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = model(ids, use_cache=False, **asked).logits.float()
    functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    return logits.detach(), {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Of two sets of gradients, relative to the second one's size."""
    difference = sum(float((one[name] - value).square().sum()) for name, value in other.items())
    return float(difference / sum(float(value.square().sum()) for value in other.values())) ** 0.5


@pytest.mark.parametrize("kind", MODELS)
def test_attention_is_as_true_as_the_fused_one(kind: str) -> None:
    torch.manual_seed(3)
    model, ids = MODELS[kind](), torch.randint(VOCABULARY, (5, LENGTH))
    exact_logits, exact = outcome(model, False, ids)
    fused_logits, fused = outcome(model, True, ids)
    quicken(model)
    (single, others), (logits, gradients) = outcome(model, False, ids), outcome(model, True, ids)
    assert model.config._attn_implementation == DENSE
    torch.testing.assert_close(single, exact_logits, atol=1e-4, rtol=1e-4)
    assert apart(others, exact) < 1e-5
    assert (logits - exact_logits).norm() < 1.5 * (fused_logits - exact_logits).norm()  # bfloat16 is off by as much either way
    assert apart(gradients, exact) < 1.5 * apart(fused, exact) < 0.1


def test_a_prompt_read_twice_is_seen_whole() -> None:
    torch.manual_seed(3)
    model, ids = MODELS["gpt2"](), torch.randint(VOCABULARY, (5, LENGTH))
    asked = {"position_ids": torch.arange(LENGTH).expand(5, -1) % (LENGTH // 2), "attention_mask": torch.ones_like(ids)}
    exact, _ = outcome(model, False, ids, **asked)
    quicken(model)
    torch.testing.assert_close(outcome(model, False, ids, **asked)[0], exact, atol=1e-4, rtol=1e-4)
    logits, _ = outcome(model, True, ids, **asked)
    assert (logits - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("bf16", [False, True])
def test_only_a_training_attends_otherwise(bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    softmax = torch.Tensor.softmax
    monkeypatch.setattr(torch.Tensor, "softmax", lambda scores, axis: (shapes.append(tuple(scores.shape)), softmax(scores, axis))[1])
    model, ids = MODELS["gpt2"](), torch.randint(VOCABULARY, (5, LENGTH))
    quicken(model)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        model.eval()(ids, use_cache=False)
    assert not shapes
    outcome(model, bf16, ids)
    assert shapes == [(5 * 4, LENGTH, LENGTH)] * 2


@pytest.mark.parametrize("kind", MODELS)
def test_the_last_mlp_where_nothing_is_predicted_changes_nothing(kind: str) -> None:
    torch.manual_seed(3)
    model, ids = MODELS[kind]().train(), torch.randint(VOCABULARY, (5, LENGTH))
    where = torch.rand(5, LENGTH) < 0.4
    mlp, found = last_mlp(model), []
    assert mlp is not None
    for lean in (False, True):
        model.zero_grad()
        seen: list[int] = []
        hook = mlp.register_forward_hook(lambda _, inputs, output, seen=seen: seen.append(inputs[0].shape[:2].numel()))
        logits = logits_at(model, ids, where, plain_head=lean)
        hook.remove()
        assert seen == [int(where.sum()) if lean else ids.numel()]
        functional.cross_entropy(logits, ids[where]).backward()
        found.append((logits.detach(), {name: weight.grad.clone() for name, weight in model.named_parameters()}))
    torch.testing.assert_close(found[1][0], found[0][0], atol=1e-4, rtol=1e-4)
    assert apart(found[1][1], found[0][1]) < 1e-5


def test_positions_left_out_get_zeros_and_the_module_is_itself_again_even_after_an_error() -> None:
    states, where = torch.randn(2, 3, 4), torch.tensor([[True, False, False], [False, True, True]])
    module = torch.nn.Linear(4, 5)
    with pytest.raises(ZeroDivisionError), only_at(where, module):
        found = module(states)
        raise ZeroDivisionError
    whole = module(states)
    torch.testing.assert_close(found, whole.masked_fill(~where[:, :, None], 0.0))
    with only_at(torch.zeros_like(where), module):
        assert not module(states).any()


def test_threads_that_share_a_model_ask_each_for_its_own_positions() -> None:
    torch.manual_seed(3)
    model, mlp = MODELS["gpt2"]().eval(), torch.nn.Linear(4, 5)
    ids, wheres = torch.randint(VOCABULARY, (5, LENGTH)), [torch.rand(5, LENGTH) < share for share in (0.1, 0.5, 0.9, 1.1)] * 8
    whole = model(ids, use_cache=False).logits
    with torch.no_grad(), ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda where: logits_at(model, ids, where, plain_head=True), wheres))
    for where, logits in zip(wheres, found, strict=True):
        torch.testing.assert_close(logits, whole[where], atol=1e-4, rtol=1e-4)
    with only_at(wheres[0], mlp), ThreadPoolExecutor(1) as pool:
        assert pool.submit(mlp, torch.ones(2, 3, 4)).result().all()
    assert last_mlp(copy.deepcopy(model)) is not last_mlp(model)
    torch.testing.assert_close(logits_at(copy.deepcopy(model), ids, wheres[0], plain_head=True), whole[wheres[0]], atol=1e-4, rtol=1e-4)


def test_layers_that_are_run_again_and_kinds_that_nobody_tried_see_every_position() -> None:
    model = MODELS["gpt2"]()
    model.activation_checkpointing_enable()
    assert last_mlp(model) is None
    model.activation_checkpointing_disable()
    assert last_mlp(model) is not None
    model.config.model_type = "falcon"
    assert last_mlp(model) is None


def test_weights_of_attention_are_dropped() -> None:
    module = torch.nn.Module().train()
    torch.manual_seed(3)
    query, key, value = torch.randn(3, 2, 4, 16, 8).unbind(0)
    with torch.autocast("cpu", torch.bfloat16):
        whole, _ = attend(module, query, key, value, None)
        many = torch.stack([attend(module, query, key, value, None, dropout=0.5)[0].float() for _ in range(600)])
    assert (many[0] != whole).any()
    torch.testing.assert_close(many.mean(0), whole.float(), atol=0.25, rtol=0)


def test_a_model_that_nobody_tried_keeps_its_attention() -> None:
    model = MODELS["gpt2"]()
    model.config.model_type = "falcon"  # which asks for the fused kernel by its name, and looks ahead without it
    quicken(model)
    assert model.config._attn_implementation == FUSED


@pytest.mark.parametrize("kind", LONGEST)
def test_long_rows_keep_the_fused_kernel(kind: torch.dtype) -> None:
    query, key, value = torch.randn(3, 1, 2, LONGEST[kind] + 1, 8).unbind(0)
    with torch.autocast("cpu", torch.bfloat16, enabled=kind is torch.bfloat16):
        found, _ = attend(torch.nn.Module().train(), query, key, value, None)
    fused = functional.scaled_dot_product_attention(query.to(kind), key.to(kind), value.to(kind), is_causal=True)
    assert torch.equal(found, fused.transpose(1, 2))


def test_nothing_of_it_is_published(tmp_path: Any) -> None:
    model = MODELS["gpt2"]()
    quicken(model)
    save_model(model, tmp_path)
    assert DENSE not in (tmp_path / "config.json").read_text()
    assert load_model(tmp_path).config._attn_implementation == FUSED


def test_dropout_leaves_the_mean_and_passes_gradients_where_it_kept() -> None:
    torch.manual_seed(3)
    states = torch.ones(333, 301, requires_grad=True)  # four chances a random number: this is no multiple of four
    dropped = Dropout(0.3)(states)
    kept = dropped != 0
    assert kept.float().mean().item() == pytest.approx(0.7, abs=0.01)
    torch.testing.assert_close(dropped[kept], torch.full_like(dropped[kept], 1 / 0.7), atol=1e-4, rtol=0)
    dropped.sum().backward()
    assert states.grad is not None and torch.equal(states.grad, dropped)
    assert kept.float().mean(0).std() < 0.05 and kept.float().mean(1).std() < 0.05  # no column and no row is dropped more often


def test_dropout_is_decided_by_the_seed_and_not_in_evaluation() -> None:
    layer, states = Dropout(0.5), torch.ones(64, 7, dtype=torch.bfloat16)
    torch.manual_seed(1)
    first = layer(states)
    torch.manual_seed(1)
    assert torch.equal(layer(states), first) and not torch.equal(layer(states), first)
    assert layer.eval()(states) is states and Dropout(0.0)(states) is states
    assert not Dropout(0.999999)(states).any()


def test_every_dropout_of_a_model_is_exchanged() -> None:
    model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=32, n_head=4, resid_pdrop=0.3, **IDS))
    quicken(model)
    found = [module for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    assert found and all(type(module) is Dropout for module in found)
    assert {module.p for module in found} == {0.1, 0.3}


@pytest.mark.parametrize("part", [2**20, 120])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_and_its_gradient_are_those_of_torch(smoothing: float, part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "PART", part)
    torch.manual_seed(3)
    logits, wanted, weights = torch.randn(50, 17, dtype=torch.float64) * 4, torch.randint(17, (50,)), torch.rand(50, dtype=torch.float64)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    losses = cross_entropy(ours, wanted, smoothing)
    expected = functional.cross_entropy(theirs, wanted, reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(losses, expected)
    (losses * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_cross_entropy_of_bfloat16_is_counted_in_float32() -> None:
    torch.manual_seed(3)
    logits, wanted = torch.randn(50, 17).bfloat16().requires_grad_(), torch.randint(17, (50,))
    losses = cross_entropy(logits, wanted)
    torch.testing.assert_close(losses, functional.cross_entropy(logits.float(), wanted, reduction="none"))
    losses.sum().backward()
    assert logits.grad is not None and logits.grad.dtype is torch.bfloat16


def test_tokens_that_cannot_be_cost_nothing_but_where_they_are_wanted() -> None:
    logits = torch.tensor([[0.0, 0.0, -torch.inf]] * 2)
    torch.testing.assert_close(cross_entropy(logits, torch.tensor([0, 2])), torch.tensor([2.0, torch.inf]).log().abs())


def test_no_tokens_have_no_losses() -> None:
    assert cross_entropy(torch.empty(0, 5), torch.empty(0, dtype=torch.int64)).shape == (0,)


def test_logits_that_are_no_numbers_are_no_loss() -> None:
    assert cross_entropy(torch.full((2, 5), torch.nan), torch.zeros(2, dtype=torch.int64)).isnan().all()
