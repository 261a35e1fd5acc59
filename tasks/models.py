"""Models: a declaration and a tokenizer -> a GPT to be tuned; a folder -> a GPT to be used. Nothing of a model's own code is ever run."""

import hashlib
import json
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM
from transformers.utils import logging as library_logging

from tasks.artifacts import file_digest, write_json
from tasks.bases import SCRATCH, base_folder, lacks_tokenizer, unopened
from tasks.kernels import last_mlp, only_at
from tasks.tuning import Lora, Settled
from tasks.vocabulary import base_tokenizer

Gpt = Any  # a transformers PreTrainedModel with a language-model head; its own annotations do not hold under strict typing

LOADING = threading.Lock()  # transformers makes a model through torch's global state: a process loads one at a time
BF16_PARAMETERS = 1_000_000  # below, the casts cost more than they save
PROBE_TOKENS = 8


def calm_transformers() -> None:
    """No bars, and no advice on padding: padding stands on the right without a mask on purpose (see Batch)."""
    library_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    library_logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def device() -> torch.device:
    """Where models run on this machine."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers of torch begin at `seed`, and the caller's go on afterwards as if nothing had happened."""
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of samples/ or model/."""
    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def build_model(settings: Settled, tokenizer: Any, positions: int) -> Gpt:
    """The model to be tuned, in float32; with declared LoRA a PeftModel whose adapters alone are trained.

    Args:
        positions: tokens that the model must be able to hold, when it is made from scratch.

    Raises:
        ValueError: the base cannot be opened, or is too short for max_length.
    """
    calm_transformers()
    with seeded(settings.seed):
        if settings.base == SCRATCH:
            return _from_scratch(settings, tokenizer, positions)
        model = _from_base(settings)
        if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        for known in (model.config, model.generation_config):  # where whoever else lets the model write will stop
            known.eos_token_id = tokenizer.eos_token_id
        new_tokens = lacks_tokenizer(settings.base) or len(tokenizer) > base_tokenizer(settings.base, settings.revision).get_vocab_size()
        return _with_lora(model, settings.lora, new_tokens) if settings.lora else model


def _from_scratch(settings: Settled, tokenizer: Any, positions: int) -> Gpt:
    """A GPT-NeoX, whose attention knows how far two tokens are apart; or a GPT-2, which learns each position by itself."""
    ids: dict[str, Any] = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), tokenizer.eos_token_id)
    # Dropout within the attention shuts out its fast kernel and costs a fifth of the pace; GELU as it was first given
    # is three times as quick as its approximation by tanh.
    options: dict[str, Any] = ids | {"vocab_size": len(tokenizer)}
    if settings.positions == "learned":
        options |= {"embd_pdrop": settings.dropout, "resid_pdrop": settings.dropout, "attn_pdrop": 0.0}
        options |= settings.size.model_dump() | {"n_positions": positions, "activation_function": "gelu"}
        return GPT2LMHeadModel(GPT2Config(**options))
    size = settings.size
    options |= {"num_hidden_layers": size.n_layer, "num_attention_heads": size.n_head, "max_position_embeddings": positions}
    options |= {"hidden_size": size.n_embd, "intermediate_size": 4 * size.n_embd, "hidden_act": "gelu"}
    options |= {"hidden_dropout": settings.dropout, "attention_dropout": 0.0, "tie_word_embeddings": True, "rotary_pct": 1.0}
    return GPTNeoXForCausalLM(GPTNeoXConfig(use_parallel_residual=False, **options))


def _from_base(settings: Settled) -> Gpt:
    options: dict[str, Any] = {"trust_remote_code": False, "use_safetensors": True, "dtype": torch.float32}
    try:
        model: Gpt = AutoModelForCausalLM.from_pretrained(
            base_folder(settings.base) or settings.base, revision=settings.revision or "main", **options
        )
    except (OSError, ValueError) as error:
        raise unopened(settings.base, "model in safetensors", error) from None
    if looks_ahead(model):
        raise ValueError(
            f"finetuning.base {settings.base!r} reads a text from both sides, so it cannot learn to write; choose another base"
        )
    longest = positions_of(model)
    if longest is not None and settings.max_length > longest:
        raise ValueError(f"finetuning.max_length is {settings.max_length} tokens, {settings.base} holds {longest}; lower max_length")
    return model


def _with_lora(model: Gpt, lora: Lora, new_tokens: bool) -> Any:
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers.pytorch_utils import Conv1D

    targets = list(lora.target_modules) if lora.target_modules else "all-linear"
    transposed = any(isinstance(module, Conv1D) for module in model.modules())  # GPT-2 keeps its weights as (in, out)
    options = lora.model_dump(include={"r", "lora_alpha", "lora_dropout"})
    config = LoraConfig(task_type=TaskType.CAUSAL_LM, target_modules=targets, fan_in_fan_out=transposed, **options)
    with warnings.catch_warnings():  # peft asks transformers 5.23 under a name that only version 6 will drop
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        tuned = get_peft_model(model, config)
    if new_tokens:  # rows that nobody has trained yet cannot stay frozen
        model.get_input_embeddings().weight.requires_grad_(True)
        model.get_output_embeddings().weight.requires_grad_(True)
    return tuned


def load_model(folder: Path) -> Gpt:
    """The model of model/ or of a published version, ready to be asked, on this machine's device.

    Raises:
        ValueError: the folder holds no model in safetensors.
    """
    calm_transformers()
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True, "dtype": torch.float32}
    try:
        model: Gpt = AutoModelForCausalLM.from_pretrained(folder, **options)
    except OSError as error:
        raise ValueError(f"{folder} holds no model in safetensors: {str(error).splitlines()[0]}") from None
    _merge_adapters(model)
    return model.to(device()).eval()


def _merge_adapters(model: Gpt) -> None:
    """Add adapters that stand beside their base to its weights: asked that way, a model is as quick as one without."""
    if getattr(model, "_hf_peft_config_loaded", False):
        from peft.tuners.tuners_utils import BaseTunerLayer

        for module in model.modules():
            if isinstance(module, BaseTunerLayer):
                module.merge(safe_merge=True)


def plain(model: Any) -> Gpt:
    """The transformers model itself, with its adapters in place when it has some."""
    return model.get_base_model() if hasattr(model, "merge_and_unload") else model


def save_model(model: Any, folder: Path, merged: bool = True) -> None:
    """Write a tuned model so that `from_pretrained` of transformers opens it.

    Args:
        merged: adapters, if there are any, are added to the weights; else they stand beside those of the base.
    """
    model.eval().to("cpu")
    if not hasattr(model, "merge_and_unload"):
        model.save_pretrained(folder)
    elif merged:
        model.merge_and_unload().save_pretrained(folder)
    else:
        model.save_pretrained(folder, save_embedding_layers=False)  # they stand beside it, new rows too
        (folder / "README.md").unlink(missing_ok=True)
        adapter = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        write_json(folder / "adapter_config.json", adapter | {"base_model_name_or_path": None})  # it stands in the same folder
        model.unload().save_pretrained(folder)


def positions_of(model: Gpt) -> int | None:
    """How many tokens the model can hold; None when its positions have no end."""
    found = getattr(model.config, "max_position_embeddings", None)
    return found if isinstance(found, int) and found > 0 else None


def looks_ahead(model: Gpt) -> bool:
    """Whether a token changes what the model says before it."""
    ids = torch.arange(PROBE_TOKENS)[None] % model.get_input_embeddings().weight.shape[0]
    other = ids.clone()
    other[0, -1] = 0
    with torch.no_grad():
        model.eval()
        first, second = (model(each, use_cache=False).logits[0, :-1] for each in (ids, other))
    return not torch.allclose(first, second, atol=1e-4, rtol=1e-4, equal_nan=True)


def has_plain_head(model: Gpt) -> bool:
    """Whether the logits are the output layer of the body's last states and nothing more (some models scale or cap them)."""
    ids = torch.arange(PROBE_TOKENS, device=model.device)[None] % model.get_input_embeddings().weight.shape[0]
    training = model.training
    with torch.no_grad():
        model.eval()
        whole = model(ids, use_cache=False).logits
        parts = _body_and_head(model, ids, torch.ones_like(ids, dtype=torch.bool))
        model.train(training)
    return torch.allclose(whole[0], parts, atol=1e-4, rtol=1e-4)


def logits_at(model: Gpt, input_ids: Tensor, where: Tensor, plain_head: bool, positions: Tensor | None = None) -> Tensor:
    """Logits (targets, vocabulary) at the marked positions only: the vocabulary is half the cost of a small model.

    Args:
        input_ids: (rows, length), padded on the right.
        where: (rows, length), True where a prediction is wanted.
        plain_head: what `has_plain_head` says of the model.
        positions: (rows, length), when they do not count from 0; every token still sees all those before it.
    """
    if plain_head:
        return _body_and_head(model, input_ids, where, positions)
    logits: Tensor = model(input_ids, use_cache=False, **_placed(input_ids, positions)).logits
    return logits[where]


def _placed(input_ids: Tensor, positions: Tensor | None) -> dict[str, Tensor]:
    """Positions with a mask that hides nothing: without one, transformers takes a position of 0 for the beginning of another text."""
    return {} if positions is None else {"position_ids": positions, "attention_mask": torch.ones_like(input_ids)}


def _body_and_head(model: Gpt, input_ids: Tensor, where: Tensor, positions: Tensor | None = None) -> Tensor:
    # use_cache=True, the default of every config, makes the attention wrong in training (field notes).
    with only_at(where, last_mlp(model)):
        states = model.base_model(input_ids, use_cache=False, **_placed(input_ids, positions)).last_hidden_state
    logits: Tensor = model.get_output_embeddings()(states[where])
    return logits


def uses_bf16(settings: Settled, model: nn.Module) -> bool:
    """Whether the forward pass runs in bfloat16; weights and optimizer stay in float32."""
    if settings.precision != "auto":
        return settings.precision == "bf16"
    if sum(weight.numel() for weight in model.parameters()) < BF16_PARAMETERS:
        return False
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def base_digest(base: str) -> str | None:
    """Digest of a base model's folder, so that other weights under the same name are another input; None when base is no folder."""
    folder = base_folder(base)
    if folder is None:
        return None
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{path.relative_to(folder).as_posix()} {file_digest(path)}" for path in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
