"""Generation: model/ + prompts -> completions, the outputs they state, and how sure the model is; evaluation and scoring both use it."""

import inspect
import json
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache

from infra.threads import use_threads
from tasks.batching import by_length, left_padded, right_padded
from tasks.declaration import parse_process
from tasks.models import Gpt, has_plain_head, load_model, load_tokenizer, logits_at, positions_of
from tasks.process import Process
from tasks.prompts import parse, prompt_of
from tasks.vocabulary import as_written

TOKENS_PER_BATCH = 8192  # with padding and with what is still to be written; more is no faster on a CPU
LOADING = threading.Lock()  # transformers makes a model through torch's global state: a process loads one at a time
DECIMALS = 6  # of a confidence: what is left of rounding when a prompt stands in another batch


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says to one prompt.

    `confidence` is the probability of the label among all labels when labels are single tokens; of the whole completion
    for spelled labels and fields; and the geometric mean over the tokens for text. `problem` is a code word when there
    is no output: too_long, unknown_label, unparseable or unfinished.
    """

    output: Any | None
    completion: str
    confidence: float  # 0-1
    problem: str | None
    tokens: int  # of the prompt


@dataclass(slots=True)
class Written:
    """Tokens written greedily, without the end; how likely each was, the end's too; and whether the end came."""

    ids: list[int] = field(default_factory=list)
    log_probabilities: list[float] = field(default_factory=list)
    ended: bool = False

    def take(self, token: int, log_probability: float, end: bool) -> None:
        """Add one token."""
        self.log_probabilities.append(log_probability)
        if end:
            self.ended = True
        else:
            self.ids.append(token)


class Predictor:
    """A tuned model and all it takes to ask it."""

    def __init__(self, process: Process, model: Gpt, tokenizer: Any, contract: Mapping[str, Any]) -> None:
        self.process, self.model, self.eos = process, model, int(tokenizer.eos_token_id)
        self.labels: list[str] = contract.get("labels") or []
        self.label_ids: list[int] | None = contract.get("label_ids")
        self.max_new_tokens: int = contract["max_new_tokens"]
        self.tokens = as_written(tokenizer.backend_tokenizer)
        self.plain_head = has_plain_head(model)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The predictor of a model/ folder or of a published version.

        Raises:
            ValueError: something that belongs to a model is missing or does not fit; the message says what.
        """
        use_threads()
        found = {name: _read(folder, name) for name in ("contract.json", "declaration.json")}
        process = parse_process(found["declaration.json"], str(folder / "declaration.json"))
        with LOADING:
            return cls(process, load_model(folder), load_tokenizer(folder), found["contract.json"])

    def prompt_of(self, values: Mapping[str, Any]) -> str:
        """The prompt of a record's values, as in training."""
        return prompt_of(self.process, values)

    def predict(self, prompts: Sequence[str]) -> list[Prediction]:
        """One prediction for each prompt, in their order; memory grows with the longest prompts, not with their number."""
        rows = self.encode(prompts)
        found: list[Prediction | None] = [None if len(row) <= self.longest_prompt else _too_long(len(row)) for row in rows]
        waiting = [index for index, prediction in enumerate(found) if prediction is None]
        extra = 1 if self.label_ids else self.max_new_tokens
        for batch in by_length([len(rows[index]) + extra for index in waiting], TOKENS_PER_BATCH):
            indices = [waiting[position] for position in batch]
            for index, prediction in zip(indices, self._answers([rows[index] for index in indices]), strict=True):
                found[index] = prediction
        return [prediction for prediction in found if prediction is not None]

    def encode(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids of prompts; an empty one begins with the end of the text before it, so that there is something to go on from."""
        return [encoding.ids or [self.eos] for encoding in self.tokens.encode_batch(list(prompts), add_special_tokens=False)]

    @property
    def longest_prompt(self) -> int:
        """Tokens that a prompt may have, with room left for the completion."""
        tuned = self.process.finetuning.max_length - 1
        held = positions_of(self.model)
        return tuned if held is None else min(tuned, held - (0 if self.label_ids else self.max_new_tokens))

    def _answers(self, rows: Sequence[list[int]]) -> Iterator[Prediction]:
        if self.label_ids:
            yield from self._labels(rows, self.label_ids)
            return
        for row, written in zip(rows, self.write(rows), strict=True):
            yield self._read_answer(len(row), written)

    @torch.inference_mode()
    def _labels(self, rows: Sequence[list[int]], label_ids: list[int]) -> Iterator[Prediction]:
        """The likeliest label of each row from a single forward pass: nothing has to be written."""
        batch = right_padded(rows, [0] * len(rows))
        last = torch.arange(batch.input_ids.shape[1]) == batch.lengths[:, None] - 1
        device = self.model.device
        logits = logits_at(self.model, batch.input_ids.to(device), last.to(device), self.plain_head)[:, label_ids]
        shares, best = functional.softmax(logits.double(), dim=-1).max(-1)
        for row, share, number in zip(rows, shares.tolist(), best.tolist(), strict=True):
            label = self.labels[number]
            yield Prediction(label, label, round(share, DECIMALS), None, len(row))

    def _read_answer(self, prompt_tokens: int, written: Written) -> Prediction:
        """What a written completion states."""
        completion = self.tokens.decode(written.ids, skip_special_tokens=True)
        kind, total = self.process.output.kind, math.fsum(written.log_probabilities)
        likelihood = math.exp(total / len(written.log_probabilities) if kind == "text" else total)
        output, problem = self._state(completion, written.ended)
        return Prediction(output, completion, round(min(1.0, likelihood), DECIMALS), problem, prompt_tokens)

    def _state(self, completion: str, ended: bool) -> tuple[Any, str | None]:
        """Output, or None and the problem."""
        kind = self.process.output.kind
        problem = {"label": "unknown_label", "fields": "unparseable", "text": "unparseable" if ended else "unfinished"}[kind]
        if not ended:
            return None, problem
        try:
            output = parse(self.process, completion)
        except ValueError:
            return None, problem
        return (None, problem) if kind == "label" and output not in self.labels else (output, None)

    @torch.inference_mode()
    def write(self, rows: Sequence[list[int]]) -> list[Written]:
        """Continue each row with the likeliest token until its end; rows that have ended leave the batch."""
        ids, mask = (tensor.to(self.model.device) for tensor in left_padded(rows))
        written = [Written() for _ in rows]
        alive, cache = list(range(len(rows))), DynamicCache(config=self.model.config)
        for length in range(1, self.max_new_tokens + 1):
            logits = self._next(ids, mask, cache)
            chance, token = functional.log_softmax(logits.float(), dim=-1).max(-1)
            going = token != self.eos
            for index, number, log_probability in zip(alive, token.tolist(), chance.tolist(), strict=True):
                written[index].take(number, log_probability, number == self.eos)
            alive = [index for index, goes in zip(alive, going.tolist(), strict=True) if goes]
            if not alive or length == self.max_new_tokens:
                break
            if not going.all():
                cache.batch_select_indices(going.nonzero()[:, 0])
            ids, mask = token[going][:, None], functional.pad(mask[going], (0, 1), value=1)
        return written

    def _next(self, ids: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
        """Logits (rows, vocabulary) of the token after the last one."""
        options: dict[str, Any] = {"attention_mask": mask, "past_key_values": cache, "use_cache": True}
        taken = inspect.signature(self.model.forward).parameters
        if "position_ids" in taken:
            options["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        if "logits_to_keep" in taken:
            options["logits_to_keep"] = 1
        logits: Tensor = self.model(ids, **options).logits
        return logits[:, -1]


@torch.inference_mode()
def token_losses(predictor: Predictor, input_ids: Sequence[Sequence[int]], prompt_tokens: Sequence[int]) -> list[tuple[float, int]]:
    """Loss in nats of each sample's completion, its end included, and over how many tokens; perplexity is exp(sum / tokens).

    Args:
        input_ids: prompt, completion and end of each sample.
        prompt_tokens: how many of them are the prompt's.

    Returns:
        (0.0, 0) for a sample that is longer than the model can hold.
    """
    found: list[tuple[float, int]] = [(0.0, 0)] * len(input_ids)
    held = positions_of(predictor.model) or math.inf
    fitting = [index for index, row in enumerate(input_ids) if len(row) <= held]
    for run in by_length([len(input_ids[index]) for index in fitting], TOKENS_PER_BATCH):
        indices = [fitting[position] for position in run]
        batch = right_padded([input_ids[index] for index in indices], [prompt_tokens[index] for index in indices])
        position = torch.arange(1, batch.input_ids.shape[1])
        where = (position < batch.lengths[:, None]) & (position >= batch.prompt_tokens[:, None])
        device = predictor.model.device
        logits = logits_at(predictor.model, batch.input_ids[:, :-1].to(device), where.to(device), predictor.plain_head)
        losses = functional.cross_entropy(logits.float(), batch.input_ids[:, 1:][where].to(device), reduction="none").cpu()
        counts = where.sum(1).tolist()
        for index, part in zip(indices, torch.split(losses, counts), strict=True):
            found[index] = float(part.double().sum()), len(part)
    return found


def _too_long(tokens: int) -> Prediction:
    return Prediction(None, "", 0.0, "too_long", tokens)


def _read(folder: Path, name: str) -> Any:
    try:
        return json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{folder} is not a model of clerkflow: {name} is missing") from None
