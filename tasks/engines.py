"""Engines: what writes completions token by token. transformers always can; CTranslate2 is faster and has to write the very same.

Which of the two a version writes with is found when it is evaluated, stands in its metrics.json, and stays: batches answer as the
evaluation did. A label that is one token, and forms, take no engine: transformers reads them from one forward pass, or under guidance.
"""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from infra.scratch import scratch
from tasks.batching import by_length
from tasks.models import LOADING, load_model, load_tokenizer

if TYPE_CHECKING:
    from tasks.generation import Predictor
    from tasks.predictions import Prediction

logger = logging.getLogger(__name__)

TRANSFORMERS, CTRANSLATE2 = "transformers", "ctranslate2"
TOKENS = 8192  # of a batch, with padding and with what is still to be written
# What is longer in a prompt than the shortest of its batch is read token by token, and a batch of few rows is not worth its steps. So for
# each token that may be written, a batch may have so many rows times tokens of difference; 8 to 24 are about alike, less is slower:
ROWS_A_STEP = 16
LARGE = (
    200_000_000  # weights from which on it is not chosen by itself: at 124 M it was faster from 64 records on, beyond nobody has measured
)
SHARED = 16  # tokens that all prompts begin with are read once for a batch, from so many on; fewer save less than they cost
CLOSE = 1e-4  # of a confidence: two libraries add up in different orders


@dataclass(slots=True)
class Written:
    """Tokens written greedily, without the end; how likely they were, the end too, one by one or together (nats); and whether it came."""

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

    @property
    def count(self) -> int:
        """Tokens, with the end."""
        return len(self.ids) + self.ended


class Engine:
    """A model in CTranslate2, on this machine's cores; it is converted anew each time, so that no copy can be a stale one.

    Args:
        folder: a model/ folder or a published version.
        quantization: of the weights; float32 when it is None.

    Raises:
        Exception: CTranslate2 does not know the architecture; each of its loaders has its own way to say so.
    """

    def __init__(self, folder: Path, eos: int, max_new_tokens: int, quantization: str | None = None) -> None:
        import ctranslate2

        self.eos, self.max_new_tokens, self.version = eos, max_new_tokens, ctranslate2.__version__
        self._forgets = has_window(folder)
        with scratch() as place, LOADING:
            converted = convert(folder, place / "converted", eos, quantization)
            threads = torch.get_num_threads()  # a batch each: sharing one has them wait for each other
            self._generator = ctranslate2.Generator(
                converted, compute_type=quantization or "float32", inter_threads=threads, intra_threads=1
            )
            torch.set_num_threads(threads)  # CTranslate2 has told OpenMP, and so torch, to take intra_threads from now on

    def write(self, rows: Sequence[list[int]]) -> list[Written]:
        """Continue each row with the likeliest token until its end, or until max_new_tokens are written."""
        shared = [] if self._forgets else shared_by(rows)
        own = [row[len(shared) :] for row in rows]
        asked = [(batch, self._ask([own[index] for index in batch], shared)) for batch in self._batches([len(row) for row in rows])]
        found = {index: self._read(answer.result()) for batch, answers in asked for index, answer in zip(batch, answers, strict=True)}
        return [found[index] for index in range(len(rows))]

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Indices of rows of nearly one length, from short to long."""
        for run in by_length([length + self.max_new_tokens for length in lengths], TOKENS):
            batch: list[int] = []
            for index in run:
                if batch and not self._fits(lengths[batch[0]], lengths[index], len(batch) + 1):
                    yield batch
                    batch = []
                batch.append(index)
            yield batch

    def _fits(self, shortest: int, longest: int, rows: int) -> bool:
        if shortest == 1:  # beside a row of one token, answers begin with what is left of the prompts
            return longest == 1
        return rows * (longest - shortest) <= ROWS_A_STEP * self.max_new_tokens

    def _ask(self, rows: Sequence[Sequence[int]], shared: Sequence[int]) -> Any:
        """Answers to come, behind what all rows begin with and what is each one's own."""
        return self._generator.generate_batch(
            [[str(token) for token in row] for row in rows],
            static_prompt=[str(token) for token in shared] or None,
            cache_static_prompt=False,  # it would keep one for each beginning that it ever saw
            max_length=self.max_new_tokens,
            include_prompt_in_result=False,
            return_end_token=True,
            return_scores=True,
            length_penalty=0,  # the score is the sum, not the mean
            asynchronous=True,
        )

    def _read(self, answer: Any) -> Written:
        ids = answer.sequences_ids[0]
        ended = bool(ids) and ids[-1] == self.eos
        return Written(ids[:-1] if ended else ids, [answer.scores[0]], ended)


def has_window(folder: Path) -> bool:
    """Whether a model attends to the last tokens only: CTranslate2 4.8 writes over its memory when it reads more than those beforehand."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    parts = [config, *(part for part in config.values() if isinstance(part, dict))]
    return any(part.get("sliding_window") and part.get("use_sliding_window", True) for part in parts)


def shared_by(rows: Sequence[list[int]]) -> list[int]:
    """What all rows begin with, where it is worth to be read apart; each keeps two tokens of its own, or see `_fits`."""
    if len(rows) < 2:
        return []
    least, most = min(rows), max(rows)  # what these two begin with, all between them begin with
    shared = [token for token, other in takewhile(lambda both: both[0] == both[1], zip(least, most, strict=False))]
    shared = shared[: max(0, min(map(len, rows)) - 2)]
    return shared if len(shared) >= SHARED else []


def convert(folder: Path, into: Path, eos: int, quantization: str | None = None) -> str:
    """Write a model as CTranslate2 reads it, for this module: its vocabulary are the tokens' numbers. The new folder."""
    return str(
        _converter(folder, lambda count: Vocabulary([str(number) for number in range(count)], eos)).convert(
            str(into), quantization=quantization
        )
    )


def export(folder: Path, into: Path, quantization: str | None = None) -> None:
    """Write a published version as CTranslate2 reads it elsewhere, with its own tokens and its tokenizer beside it.

    Args:
        folder: of the version.
        into: an empty folder.
        quantization: of the weights; float32 when it is None.

    Raises:
        ValueError: CTranslate2 does not know the architecture.
    """
    tokenizer = load_tokenizer(folder)

    def named(count: int) -> Vocabulary:
        known = tokenizer.convert_ids_to_tokens(list(range(min(count, len(tokenizer)))))
        return Vocabulary([*known, *(f"<|unused:{number}|>" for number in range(len(known), count))], tokenizer.eos_token_id)

    try:
        _converter(folder, named).convert(str(into), quantization=quantization, force=True)
    except Exception as error:  # each of its loaders has its own way to say so
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
        raise ValueError(f"CTranslate2 cannot take this model, a {kind}: {told(error)}") from None
    tokenizer.save_pretrained(into)


class Vocabulary:
    """As much of a tokenizer as CTranslate2's converter asks for.

    Args:
        tokens: by their number, as many as the model's embedding has rows.
    """

    def __init__(self, tokens: Sequence[str], eos: int) -> None:
        self.vocabulary = {token: number for number, token in enumerate(tokens)}
        self.bos_token = self.eos_token = self.unk_token = tokens[eos]  # it does not open a model without an unknown token

    def get_vocab(self) -> dict[str, int]:
        """Token -> number."""
        return self.vocabulary


def _converter(folder: Path, vocabulary: Callable[[int], Vocabulary]) -> Any:
    """CTranslate2's converter for a model's weights, opened as for transformers.

    Args:
        vocabulary: rows of the embedding -> as many tokens.
    """
    from ctranslate2.converters import TransformersConverter

    class Converter(TransformersConverter):  # type: ignore[misc]
        def load_model(self, *_: Any, **__: Any) -> Any:
            self.model = load_model(folder).to("cpu")
            return self.model

        def load_tokenizer(self, *_: Any, **__: Any) -> Vocabulary:
            return vocabulary(self.model.get_input_embeddings().weight.shape[0])

    return Converter(str(folder))


def choose(predictor: "Predictor", folder: Path, declared: str, prompts: Sequence[str]) -> dict[str, Any]:
    """Let a predictor write through CTranslate2, where that may be and gives the very same answers; what metrics.json says of it.

    Args:
        folder: of the predictor's model.
        declared: auto, transformers or ctranslate2.
        prompts: that both are asked.

    Raises:
        ValueError: ctranslate2 is declared and cannot take the place of transformers.
    """
    if predictor.quantization:  # compression has judged it, by what it is good for
        predictor.engine = open_engine(predictor, folder)
        return {"name": CTRANSLATE2, "version": predictor.engine.version, "quantization": predictor.quantization}
    if declared == TRANSFORMERS or not predictor.writes_freely:
        return {"name": TRANSFORMERS}
    if declared != CTRANSLATE2 and (weights := sum(weight.numel() for weight in predictor.model.parameters())) > LARGE:
        return {"name": TRANSFORMERS, "reason": f"{weights:,} weights are more than {LARGE:,}"}
    fault = _fault(predictor, folder, prompts)
    if fault is None and predictor.engine:
        return {"name": CTRANSLATE2, "version": predictor.engine.version, "checked": len(prompts)}
    predictor.engine = None
    if declared == CTRANSLATE2:
        raise ValueError(f"{predictor.process.name}: scoring.engine is ctranslate2, but {fault}; declare auto or transformers")
    logger.warning("evaluation: transformers writes for %s: %s", predictor.process.name, fault)
    return {"name": TRANSFORMERS, "reason": fault}


def _fault(predictor: "Predictor", folder: Path, prompts: Sequence[str]) -> str | None:
    """Why CTranslate2 cannot take the place of transformers; None when it has taken it."""
    if not prompts:
        return "there is no test prompt to compare it with"
    if predictor.model.device.type != "cpu":
        return "the model is on an accelerator"
    slow = predictor.predict(prompts)
    try:
        predictor.engine = open_engine(predictor, folder)
        fast = predictor.predict(prompts)
    except Exception as error:  # of the loader for one architecture, or of the library below it
        return f"CTranslate2 cannot take its model: {told(error)}"
    different = sum(not same(*both) for both in zip(slow, fast, strict=True))
    return f"CTranslate2 answers {different} of {len(prompts)} prompts differently" if different else None


def same(one: "Prediction", other: "Prediction") -> bool:
    """Whether two answers state the same; confidences may differ in their last digits."""
    exact = (one.output, one.completion, one.problem) == (other.output, other.completion, other.problem)
    return exact and abs(one.confidence - other.confidence) <= CLOSE


def open_engine(predictor: "Predictor", folder: Path) -> Engine:
    """CTranslate2 for a predictor's model."""
    return Engine(folder, predictor.eos, predictor.max_new_tokens, predictor.quantization)


def quantization_of(folder: Path) -> str | None:
    """That of the weights that a model/ or a version is written with; None when it is written as it was tuned."""
    found: str | None = json.loads((folder / "contract.json").read_text(encoding="utf-8")).get("quantization")
    return found


def unjudged(folder: Path, wanted: str | None) -> str | None:
    """Why nobody knows what a version is good for with its weights quantized otherwise than it answers; None when it is known."""
    if wanted == quantization_of(folder) or wanted in (None, "float32"):
        return None
    file = folder / "compression.json"
    tried = json.loads(file.read_text(encoding="utf-8"))["tried"].get(wanted) if file.is_file() else None
    return f"the gate of its compression refused {wanted}" if tried else f"no gate has judged it with {wanted}"


def reopen(predictor: "Predictor", folder: Path) -> Engine | None:
    """The engine with which a version was evaluated; None, transformers, when it was none, or cannot be had here.

    Raises:
        ValueError: it is quantized, so transformers would answer otherwise, and cannot be had here.
    """
    file = folder / "metrics.json"
    told_of = json.loads(file.read_text(encoding="utf-8")).get("engine", {}) if file.is_file() else {}
    if told_of.get("name") != CTRANSLATE2 or not predictor.writes_freely or predictor.model.device.type != "cpu":
        return None
    try:
        return open_engine(predictor, folder)
    except Exception as error:  # a library that this machine lacks, or another version of it
        if predictor.quantization:
            raise ValueError(f"{predictor.process.name}: CTranslate2 cannot write with {predictor.quantization}: {told(error)}") from error
        logger.warning("%s: transformers writes on this machine: %s", predictor.process.name, told(error))
        return None


def told(error: Exception) -> str:
    """The first line of what a library says."""
    return (str(error).splitlines() or [""])[0][:120] or type(error).__name__
