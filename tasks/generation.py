"""Generation: model/ + prompts -> completions, the outputs they state, and how sure the model is; evaluation and scoring both use it."""

import inspect
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache

from infra.threads import side_by_side, use_threads
from tasks.batching import (
    Row,
    answers_at,
    batch_of,
    by_length,
    left_padded,
    marks_at,
    read_twice,
    right_padded,
    second_positions,
    wanted_in,
)
from tasks.columns import Columns
from tasks.declaration import parse_process
from tasks.engines import Engine, Written, reopen
from tasks.filling import Filled, Grammar, Guide, Marker, likelihood, missing, ordered
from tasks.forms import Form, Writing
from tasks.guiding import LabelGuide, Labels, Leading
from tasks.linear import Floats, Linear
from tasks.models import LOADING, Gpt, has_plain_head, load_model, load_tokenizer, logits_at, positions_of
from tasks.objects import JsonGuide, JsonRules, copied
from tasks.predictions import Prediction
from tasks.process import Process
from tasks.prompts import completion_of, parse, prompt_of, read_of
from tasks.tokenising import Encoder
from tasks.vocabulary import as_written
from tasks.windows import Asked, Windows

TOKENS_PER_BATCH = 8192  # with padding and with what is still to be written; more is no faster on a CPU
FEWEST_TOKENS, TOKENS_AT_ONCE, BATCHES_A_THREAD = 2048, 32_768, 3  # where several threads have a batch each
DECIMALS = 6  # of a confidence: what is left of rounding when a prompt stands in another batch


class Predictor:
    """A tuned model and all it takes to ask it."""

    def __init__(self, process: Process, model: Gpt, tokenizer: Any, contract: Mapping[str, Any]) -> None:
        self.process, self.model, self.eos = process, model, int(tokenizer.eos_token_id)
        self.labels: list[str] = contract.get("labels") or []
        self.label_ids: list[int] | None = contract.get("label_ids")
        self.max_new_tokens: int = contract["max_new_tokens"]
        self.quantization: str | None = contract.get("quantization")
        self.tokens, self._tokenizer = as_written(tokenizer.backend_tokenizer), tokenizer
        self.plain_head = has_plain_head(model)
        form = Form.read(contract["form"]) if contract.get("form") else None  # versions without one write fields as JSON
        self.encoder = Encoder(process, tokenizer, form, Columns.read(contract.get("columns")))
        self.writing = self.encoder.writing
        self._grammar = Grammar(self.writing, self.eos) if self.writing else None
        self._marker = Marker(self.writing) if self.writing else None
        self.engine: Engine | None = None  # transformers
        self.linear: Linear | None = None  # what answers with the model
        self.windows: Windows | None = None  # what marks with it

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
            predictor = cls(process, load_model(folder), load_tokenizer(folder), found["contract.json"])
        predictor.engine = reopen(predictor, folder)
        if predictor.label_ids:
            predictor.linear = Linear.load(folder, len(predictor.label_ids))
        if predictor.writing and predictor.reads_twice:
            predictor.windows = Windows.load(folder, len(predictor.writing.mark_ids))
        return predictor

    def prompt_of(self, values: Mapping[str, Any]) -> str:
        """The prompt of a record's values, as in training."""
        return prompt_of(self.process, values)

    def predict(self, prompts: Sequence[str]) -> list[Prediction]:
        """One prediction for each prompt, in their order; memory grows with the longest prompts and with threads, not with their number."""
        rows = self.encode(prompts)
        found: list[Prediction | None] = [None if len(row) <= self.longest_prompt else _too_long(len(row)) for row in rows]
        waiting = [index for index, prediction in enumerate(found) if prediction is None]
        extra, readings = 1 if self.label_ids else self.max_new_tokens, 2 if self.reads_twice else 1
        lengths = [readings * len(rows[index]) + extra for index in waiting]
        runs = by_length(lengths, sum(lengths) if self.engine else self._tokens_per_batch(sum(lengths)))  # an engine makes its own batches
        batches = [[waiting[position] for position in run] for run in runs]

        def answered(indices: Sequence[int]) -> list[Prediction]:
            return list(self._answers([prompts[index] for index in indices], [rows[index] for index in indices]))

        each = side_by_side(answered, batches) if self._on_cpu else map(answered, batches)
        for indices, answers in zip(batches, each, strict=True):
            for index, prediction in zip(indices, answers, strict=True):
                found[index] = prediction
        return [prediction for prediction in found if prediction is not None]

    def _tokens_per_batch(self, tokens: int) -> int:
        """Of so many in all: where several threads answer, small enough that each has some batches, and that all fit into memory."""
        threads = torch.get_num_threads()
        if threads == 1 or not self._on_cpu:
            return TOKENS_PER_BATCH
        return max(FEWEST_TOKENS, min(TOKENS_PER_BATCH, TOKENS_AT_ONCE // threads, tokens // (BATCHES_A_THREAD * threads)))

    def encode(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids of prompts, as in training."""
        return self.encoder.prompts(prompts)

    @property
    def longest_prompt(self) -> int:
        """Tokens that a prompt may have, with room left for the completion."""
        tuned = self.process.finetuning.max_length - 1
        held = positions_of(self.model)
        more = 0 if self.label_ids else self.max_new_tokens
        if self.writes_freely and self.process.output.kind == "label":
            more = max(more, self._spelled.most)
        return tuned if held is None else min(tuned, held - more)

    @property
    def _on_cpu(self) -> bool:
        return bool(self.model.device.type == "cpu")

    @property
    def decoding(self) -> str:
        """What, beside the model and the prompt, decides an answer; to be raised when answers of one model change."""
        return "greedy 1" if self.label_ids else "greedy 3" if self.writing else "greedy 2"

    @property
    def writes_freely(self) -> bool:
        """Whether completions are written token by token, each the likeliest of all."""
        return not self.label_ids and self.writing is None

    @property
    def reads_twice(self) -> bool:
        """Whether the model reads each prompt a second time, to mark values in it."""
        return self.writing is not None and bool(self.writing.form.marked)

    def _answers(self, prompts: Sequence[str], rows: Sequence[list[int]]) -> Iterator[Prediction]:
        if self.label_ids:
            yield from self._labels(prompts, rows)
            return
        if self.writing:
            yield from self._forms(prompts, rows, self.writing)
            return
        freely = self.engine.write(rows) if self.engine else self.write(rows)
        answers = [self._read_answer(prompt, len(row), written) for prompt, row, written in zip(prompts, rows, freely, strict=True)]
        guided = self.process.output.kind != "text"  # an empty text is none: no guide knows what it should have said
        again = [index for index, answer in enumerate(answers) if guided and answer.problem in ("unknown_label", "unparseable")]
        redone = self._redone([prompts[index] for index in again], [rows[index] for index in again])
        for index, answer in zip(again, redone, strict=True):
            answers[index] = answer
        yield from answers

    def _redone(self, prompts: Sequence[str], rows: Sequence[list[int]]) -> list[Prediction]:
        """Answers to rows whose own words stated nothing, written by transformers under a guide, whoever wrote the first time."""
        guides = [self._guide(prompt, row) for prompt, row in zip(prompts, rows, strict=True)]
        found: dict[int, Prediction] = {}
        for batch in by_length([len(row) + guide.most for row, guide in zip(rows, guides, strict=True)], TOKENS_PER_BATCH):
            asked, most = [guides[index] for index in batch], 1 + max(guides[index].most for index in batch)  # behind the last one the end
            for index, written in zip(batch, self.write([rows[index] for index in batch], asked, most=most), strict=True):
                guide = guides[index]
                label = guide.output() if isinstance(guide, LabelGuide) else None
                found[index] = self._read_answer(prompts[index], len(rows[index]), written, label)
        return [found[index] for index in range(len(rows))]

    def _guide(self, prompt: str, row: Sequence[int]) -> LabelGuide | JsonGuide:
        if self.process.output.kind == "label":
            return LabelGuide(self._spelled)
        most, held = self.max_new_tokens + self._json.room, positions_of(self.model)
        return JsonGuide(self._json, prompt, most if held is None else min(most, held - len(row)))

    @cached_property
    def _spelled(self) -> Labels:
        """The labels as a model spells them."""
        completions = [completion_of(self.process, label) for label in self.labels]
        encodings = self.tokens.encode_batch(completions, add_special_tokens=False)
        return Labels(self.labels, [encoding.ids for encoding in encodings], self.eos)

    @cached_property
    def _json(self) -> JsonRules:
        """The declared fields as JSON."""
        return JsonRules(self.process, self._tokenizer, self.model.get_input_embeddings().weight.shape[0], self.eos)

    @torch.inference_mode()
    def label_logits(self, rows: Sequence[list[int]]) -> Tensor:
        """What the model alone holds of each label behind prompts, from a single forward pass: (rows, labels), float64, on the CPU.

        Args:
            rows: token ids of prompts.
        """
        batch = right_padded(rows, [0] * len(rows))
        last = torch.arange(batch.input_ids.shape[1]) == batch.lengths[:, None] - 1
        device = self.model.device
        return logits_at(self.model, batch.input_ids.to(device), last.to(device), self.plain_head)[:, self.label_ids].double().cpu()

    def _labels(self, prompts: Sequence[str], rows: Sequence[list[int]]) -> Iterator[Prediction]:
        """The likeliest label of each row: nothing has to be written."""
        logits = self.label_logits(rows)
        if self.linear:
            logits = torch.from_numpy(self.linear.joined(logits.numpy(), [read_of(self.process, prompt) for prompt in prompts]))
        shares, best = functional.softmax(logits, dim=-1).max(-1)
        for row, share, number in zip(rows, shares.tolist(), best.tolist(), strict=True):
            label = self.labels[number]
            yield Prediction(label, label, round(share, DECIMALS), None, len(row))

    def _forms(self, prompts: Sequence[str], rows: Sequence[list[int]], writing: Writing) -> Iterator[Prediction]:
        """Declared fields, marked and written; a form lacks a field only where nothing that fits could be found."""
        marked, written = self._marked(prompts, rows, writing), self._written(rows, writing)
        for row, *parts in zip(rows, marked, written, strict=True):
            output = ordered(writing, *(part.values for part in parts))
            sure = round(likelihood(*(part.log_probability for part in parts)), DECIMALS)
            each = {name: round(chance, DECIMALS) for part in parts for name, chance in part.sure.items()}
            completion = json.dumps(output, ensure_ascii=False)
            lacking = missing(writing, output)
            yield Prediction(
                None if lacking else output, completion, sure, "unparseable" if lacking else None, len(row), ordered(writing, each)
            )

    def _marked(self, prompts: Sequence[str], rows: Sequence[list[int]], writing: Writing) -> list[Filled]:
        """The marked fields of each prompt, from a single forward pass."""
        if not writing.form.marked or not self._marker:
            return [Filled() for _ in rows]
        asked, chances = self.asked(prompts), self.mark_chances(rows, writing)
        if self.windows:
            chances = self.windows.joined(self.process, asked, chances)
        return [self._marker.fill(*one, each[: len(one[1])]) for one, each in zip(asked, chances, strict=True)]

    def asked(self, prompts: Sequence[str]) -> list[Asked]:
        """Prompts with the characters of each of their tokens."""
        encodings = self.tokens.encode_batch(list(prompts), add_special_tokens=False)
        return [(prompt, encoding.offsets) for prompt, encoding in zip(prompts, encodings, strict=True)]

    @torch.inference_mode()
    def mark_chances(self, rows: Sequence[list[int]], writing: Writing) -> list[Floats]:
        """What the model alone holds of each mark of each token, from a single forward pass: (tokens, marks) of each row, in nats.

        Args:
            rows: token ids of prompts.
        """
        nothing = writing.mark_ids[:1]
        batch = batch_of([Row([*row, writing.begin], len(row), nothing * len(row)) for row in rows], writing.read)
        device, where = self.model.device, marks_at(batch)
        positions = None if batch.positions is None else batch.positions.to(device)
        logits = logits_at(self.model, batch.input_ids.to(device), where.to(device), self.plain_head, positions)
        chances = functional.log_softmax(logits[:, writing.mark_ids].double(), dim=-1).cpu()
        return [part.numpy() for part in torch.split(chances, [len(row) for row in rows])]

    def _written(self, rows: Sequence[list[int]], writing: Writing) -> list[Filled]:
        """The chosen and the spelled fields of each prompt."""
        if not writing.form.written or not self._grammar:
            return [Filled() for _ in rows]
        begun = [[*row, writing.begin] for row in rows]
        twice = [len(row) for row in rows] if self.reads_twice else None
        if twice:
            begun = [read_twice(row, prompt, writing.read) for row, prompt in zip(begun, twice, strict=True)]
        guides = [Guide(self._grammar) for _ in rows]
        self.write(begun, guides, twice)
        return [Filled(guide.output(), math.fsum(guide.chances.values()), guide.sure()) for guide in guides]

    def _read_answer(self, prompt: str, prompt_tokens: int, written: Written, label: str | None = None) -> Prediction:
        """What a written completion states.

        Args:
            label: that it is, when a guide has written it.
        """
        completion = self.tokens.decode(written.ids, skip_special_tokens=True)
        kind, total = self.process.output.kind, math.fsum(written.log_probabilities)
        likelihood = math.exp(total / written.count if kind == "text" else total)
        output, problem = self._state(prompt, completion, written.ended) if label is None else (label, None)
        return Prediction(output, completion, round(min(1.0, likelihood), DECIMALS), problem, prompt_tokens)

    def _state(self, prompt: str, completion: str, ended: bool) -> tuple[Any, str | None]:
        """Output, or None and the problem."""
        kind = self.process.output.kind
        problem = {"label": "unknown_label", "fields": "unparseable", "text": "unparseable" if ended else "unfinished"}[kind]
        if not ended:
            return None, problem
        try:
            output = parse(self.process, completion)
            output = copied(self.process, prompt, output) if kind == "fields" else output
        except ValueError:
            return None, problem
        return (None, problem) if kind == "label" and output not in self.labels else (output, None)

    @torch.inference_mode()
    def write(
        self,
        rows: Sequence[list[int]],
        guides: Sequence[Leading] | None = None,
        prompt_tokens: Sequence[int] | None = None,
        most: int | None = None,
    ) -> list[Written]:
        """Continue each row with the likeliest token until its end; rows that have ended leave the batch.

        Args:
            guides: of each row, when only some tokens are allowed; they take the tokens that are written.
            prompt_tokens: of each row, when its prompt stands there twice.
            most: tokens that may be written; max_new_tokens when absent.

        Returns:
            With how likely each token was among all, under a guide, too: so answers can be compared by their confidence.
        """
        most = most or self.max_new_tokens
        ids, mask = (tensor.to(self.model.device) for tensor in left_padded(rows))
        twice = None if prompt_tokens is None else torch.tensor(prompt_tokens, device=ids.device)[:, None]
        written = [Written() for _ in rows]
        alive, cache = list(range(len(rows))), DynamicCache(config=self.model.config)
        for length in range(1, most + 1):
            shares = functional.log_softmax(self._next(ids, mask, cache, twice).float(), dim=-1)
            chance, token = shares.max(-1) if guides is None else _guided(shares, [guides[index] for index in alive])
            going = token != self.eos
            for index, number, log_probability in zip(alive, token.tolist(), chance.tolist(), strict=True):
                written[index].take(number, log_probability, number == self.eos)
            alive = [index for index, goes in zip(alive, going.tolist(), strict=True) if goes]
            if not alive or length == most:
                break
            if not going.all():
                cache.batch_select_indices(going.nonzero()[:, 0])
                twice = None if twice is None else twice[going]
            ids, mask = token[going][:, None], functional.pad(mask[going], (0, 1), value=1)
        return written

    def _next(self, ids: Tensor, mask: Tensor, cache: DynamicCache, twice: Tensor | None) -> Tensor:
        """Logits (rows, vocabulary) of the token after the last one."""
        options: dict[str, Any] = {"attention_mask": mask, "past_key_values": cache, "use_cache": True}
        taken = inspect.signature(self.model.forward).parameters
        if "position_ids" in taken:
            places = (mask.cumsum(1) - 1).clamp(min=0)
            options["position_ids"] = (places if twice is None else second_positions(places, twice))[:, -ids.shape[1] :]
        if "logits_to_keep" in taken:
            options["logits_to_keep"] = 1
        logits: Tensor = self.model(ids, **options).logits
        return logits[:, -1]


def _guided(shares: Tensor, guides: Sequence[Leading]) -> tuple[Tensor, Tensor]:
    """How likely the likeliest allowed token of each row is among all (nats), and that token."""
    chances, tokens = list[float](), list[int]()
    for row, guide in zip(shares.cpu(), guides, strict=True):
        allowed = guide.allowed()
        among = row[allowed]
        best = int(among.argmax())
        guide.take(int(allowed[best]), float(among[best] - among.logsumexp(0)))
        chances.append(float(among[best]))
        tokens.append(int(allowed[best]))
    return torch.tensor(chances), torch.tensor(tokens, device=shares.device)


@torch.inference_mode()
def token_losses(predictor: Predictor, samples: Sequence[Row]) -> list[tuple[float, int]]:
    """Loss in nats of each sample's completion, its end and marks included, and over how many tokens; perplexity is exp(sum / tokens).

    Args:
        samples: prompt, completion and end of each; with the marks of the prompt's tokens, where the model marks.

    Returns:
        (0.0, 0) for a sample that is longer than the model can hold.
    """
    found: list[tuple[float, int]] = [(0.0, 0)] * len(samples)
    held = positions_of(predictor.model) or math.inf
    read = predictor.writing.read if predictor.writing and predictor.reads_twice else None
    fitting = [index for index, row in enumerate(samples) if len(row.input_ids) <= held]
    lengths = [len(samples[index].input_ids) + (0 if read is None else samples[index].prompt_tokens) for index in fitting]
    for run in by_length(lengths, TOKENS_PER_BATCH):
        indices = [fitting[position] for position in run]
        batch = batch_of([samples[index] for index in indices], read)
        where = answers_at(batch)
        device, positions = predictor.model.device, None if batch.positions is None else batch.positions[:, :-1]
        ids = batch.input_ids[:, :-1].to(device)
        logits = logits_at(
            predictor.model, ids, where.to(device), predictor.plain_head, None if positions is None else positions.to(device)
        )
        losses = functional.cross_entropy(logits.float(), wanted_in(batch)[where].to(device), reduction="none").cpu()
        for index, part in zip(indices, torch.split(losses, where.sum(1).tolist()), strict=True):
            found[index] = float(part.double().sum()), len(part)
    return found


def _too_long(tokens: int) -> Prediction:
    return Prediction(None, "", 0.0, "too_long", tokens)


def _read(folder: Path, name: str) -> Any:
    try:
        return json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{folder} is not a model of clerkflow: {name} is missing") from None
