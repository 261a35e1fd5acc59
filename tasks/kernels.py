"""Kernels: what torch does slowly on a CPU when it trains, done quicker with the same outcome.

Figures are of one core with torch 2.13.0, forward and backward: attention of 27 rows of 88 tokens by 4 heads 32 wide, 26 -> 8 ms, for the
fused kernel's backward is slow in bfloat16, and of 60 rows of 16 tokens by 8 heads in float32, on two cores, 9.9 -> 6.2 ms; dropout of
710 states 192 wide, 1.36 -> 0.39 ms; smoothed cross-entropy of 443 tokens among 3,047, 9.3 -> 3.3 ms. `make bench-training` shows what
comes of it.
"""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

FUSED, DENSE = "sdpa", "clerkflow_dense"  # names of ways to attend, as transformers knows them
# Tokens of a row; above, the fused kernel is about as quick, on one thread in float32 always, and needs less memory.
LONGEST = {torch.bfloat16: 512, torch.float32: 64}
# Models whose attention was found to be as true either way; some others, of sparse attention, ask for the fused kernel by its name.
TRIED = {"cohere", "gemma", "gemma3_text", "gpt2", "gpt_bigcode", "gpt_neox", "granite", "llama", "mistral", "mixtral", "olmo2", "opt"}
TRIED |= {"phi", "phi3", "qwen2", "qwen3", "smollm3", "stablelm"}
MIXED = {"mixtral"}  # of them, whose layers choose among several MLPs
SPECIAL = ("softcap", "position_bias", "cache", "is_causal")  # what may be asked of the fused kernel besides
PART = 2**20  # logits whose loss is counted at a time: what the caches hold, however large the vocabulary
STEPS = 2**16  # in which chances of dropout are told apart: four of them are drawn with one random number


def quicken(model: Any) -> None:
    """Make a transformers model on a CPU train quicker; what it computes stays the same, but for rounding."""
    if model.device.type != "cpu":
        return
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout and child.p < 1 and not child.inplace:
                setattr(module, name, Dropout(child.p).train(child.training))
    if model.config.model_type in TRIED and model.config._attn_implementation == FUSED:
        AttentionInterface.register(DENSE, attend)
        AttentionMaskInterface.register(DENSE, sdpa_mask)
        model.set_attn_implementation(DENSE)


class _Asked(threading.local):
    """What this thread asks of a module: threads may share a model."""

    module: nn.Module | None = None
    shape: torch.Size
    chosen: Tensor  # (positions,), of the rows laid end to end


ASKED, HOOKING = _Asked(), threading.Lock()


@contextmanager
def only_at(where: Tensor, module: nn.Module | None) -> Iterator[None]:
    """Let a module that treats each position by itself see those marked, and answer 0 at the others, when this thread calls it.

    Args:
        where: (rows, length).
        module: from (rows, length, width) to (rows, length, any width); None when there is no such module.
    """
    with HOOKING:
        if module is not None and _gathered not in module._forward_pre_hooks.values():
            module.register_forward_hook(_spread)
            module.register_forward_pre_hook(_gathered)
    ASKED.module, ASKED.shape, ASKED.chosen = module, where.shape, where.flatten().nonzero()[:, 0]
    try:
        yield
    finally:
        ASKED.module = None


def _gathered(module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor | None:
    return inputs[0].flatten(0, 1).index_select(0, ASKED.chosen)[None] if ASKED.module is module else None


def _spread(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
    if ASKED.module is not module:
        return None
    rows, length, width = *ASKED.shape, output.shape[-1]
    return output.new_zeros(rows * length, width).index_copy(0, ASKED.chosen, output[0]).view(rows, length, width)


def last_mlp(model: Any) -> nn.Module | None:
    """What of a transformers model's last layer nobody asks for but where a token is predicted.

    None where the model is of no kind that was tried, or where that layer is run a second time in the backward pass.
    """
    if model.config.model_type not in TRIED - MIXED:
        return None
    layers = next((child for child in model.base_model.children() if isinstance(child, nn.ModuleList)), None)
    if not layers or getattr(layers[-1], "gradient_checkpointing", False):
        return None
    found = getattr(layers[-1], "mlp", None)
    return found if isinstance(found, nn.Module) else None


class Dropout(nn.Dropout):
    """Dropout whose chances are drawn four at a time."""

    def forward(self, input: Tensor) -> Tensor:
        """The input with a share `p` of it at 0 and the rest scaled up."""
        if not self.training or not self.p:
            return input
        words = torch.empty(-(-input.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        chances = words.view(torch.int16)[: input.numel()].view(input.shape)
        dropped = min(round(self.p * STEPS), STEPS - 1)
        kept = (chances >= dropped - STEPS // 2).to(input.dtype)
        return input * kept.mul_(STEPS / (STEPS - dropped))


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Causal attention of short rows as plain matrix products, in autocast's type; whatever else is asked for goes to the fused kernel.

    Args:
        query: (rows, heads, length, width); of keys and values there may be fewer heads.
        attention_mask: None when every token sees all those before it and itself.

    Returns:
        (rows, length, heads, width); no weights.
    """
    rows, heads, length, width = query.shape
    kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    plain = attention_mask is None and all(options.get(name) is None for name in SPECIAL)
    if not (plain and module.training and getattr(module, "is_causal", True) and key.shape[2] == length <= LONGEST.get(kind, 0)):
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **options)
    groups = heads // key.shape[1]
    queries, keys, values = (
        each.to(kind).reshape(rows * heads, length, -1) for each in (query, repeat_kv(key, groups), repeat_kv(value, groups))
    )
    later = torch.full((length, length), -math.inf, dtype=kind).triu_(1)
    scores = torch.baddbmm(later, queries, keys.transpose(1, 2), alpha=width**-0.5 if scaling is None else scaling)
    weights = functional.dropout(scores.softmax(-1), dropout)
    return torch.bmm(weights, values).view(rows, heads, length, -1).transpose(1, 2).contiguous(), None


class _CrossEntropy(torch.autograd.Function):
    """The gradient is made beside the loss, from the same probabilities, where torch goes over the vocabulary six times."""

    @staticmethod
    def forward(context: Any, logits: Tensor, wanted: Tensor, smoothing: float) -> Tensor:
        kind, (tokens, vocabulary) = torch.promote_types(logits.dtype, torch.float32), logits.shape
        losses, gradient = logits.new_empty(tokens, dtype=kind), torch.empty_like(logits)
        learning = context.needs_input_grad[0]
        count = max(1, min(tokens, PART // vocabulary) if logits.device.type == "cpu" else tokens)
        held = logits.new_empty(count, vocabulary, dtype=kind)
        for part, each, loss, slope in zip(*(torch.split(of, count) for of in (logits, wanted[:, None], losses, gradient)), strict=True):
            told = torch.log_softmax(part, dim=-1, dtype=kind, out=held[: len(part)])
            loss.copy_((smoothing - 1) * told.gather(1, each)[:, 0])
            if smoothing:
                loss.sub_(told.mean(1), alpha=smoothing)
            if learning:
                told.exp_().sub_(smoothing / vocabulary)
                slope.copy_(told.scatter_add_(1, each, told.new_full(each.shape, smoothing - 1)))
        context.gradient = gradient
        return losses

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        gradient, context.gradient = context.gradient, None  # written over, so a second time is an error and not a wrong gradient
        return gradient.mul_(gradients[0][:, None].to(gradient.dtype)), None, None


def cross_entropy(logits: Tensor, wanted: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy in nats of each wanted token, as torch's own with `label_smoothing` and without `reduction`.

    Args:
        logits: (tokens, vocabulary), in any precision.
        wanted: (tokens,).

    Returns:
        (tokens,), in float32 at least.
    """
    losses: Tensor = _CrossEntropy.apply(logits, wanted, smoothing)  # type: ignore[no-untyped-call]
    return losses
