"""Joining: a tuned model + samples/ -> the regression on words that answers with it, where that helps on the validation split."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.artifacts import write_json
from tasks.baselines import TRAIN_ROWS, drawn
from tasks.batching import by_length
from tasks.columns import Columns
from tasks.generation import TOKENS_PER_BATCH, Predictor
from tasks.linear import Floats, Linear, Regression, read
from tasks.process import Process
from tasks.prompts import read_of
from tasks.tokenising import in_parts
from tasks.windows import Asked, Windows

MOST_LABELS = 200  # or marks; each costs a weight for every feature
WEIGHING_ROWS, WEIGHING_TOKENS = 2_000, 50_000  # of the validation split, at most
FEWEST_ROWS = 20  # of it, below which nothing can be weighed; of tokens, where marks are
ROWS_AT_ONCE = 100  # whose features are held
GAIN = 2.0  # nats on all of those together that must be saved: two numbers were chosen on them, and not one (Akaike 1974)
STEADY = 2.0  # nats that a factor costs, times its distance from 1 squared: where all answers are right, none grows without end

Rows = Iterable[Mapping[str, Any]]  # of samples/
Judged = tuple[Regression, Floats, Floats, NDArray[np.int64]]  # of held-out rows or tokens the model's logits, its own, what is right


def join(process: Process, samples: Path, folder: Path) -> dict[str, Any]:
    """Put a regression beside a model where both together foretell the validation split better; training.json says what it gains.

    Where a prompt holds columns alone there is no text to learn from; a base that spells its answers is left as it is.

    Args:
        samples: folder with train/, validation/ and contract.json.
        folder: the model/.

    Returns:
        For people: the validation loss of the answers or marks without it and with it; nothing where the model answers alone.
    """
    from datasets import load_from_disk

    train, validation = (load_from_disk(str(samples / side)) for side in ("train", "validation"))
    if not _may_help(process, json.loads((samples / "contract.json").read_text(encoding="utf-8")), len(validation)):
        return {}
    predictor, seed = Predictor.load(folder), process.finetuning.seed
    judged = _labels if predictor.label_ids else _marks
    found = judged(predictor, process, drawn(train, seed, TRAIN_ROWS), drawn(validation, seed, WEIGHING_ROWS))
    if found is None:
        return {}
    regression, logits, scores, right = found
    shares, (alone, both) = weighed(logits, scores, right)
    if (alone - both) * len(right) < GAIN:
        return {}
    replace(regression, shares=shares).save(folder)
    told = {"model": shares[0], "linear": shares[1], "loss_alone": alone, "loss": both}
    story = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    write_json(folder / "training.json", story | {"linear": told})
    return {"loss_alone": round(alone, 4), "loss_with_linear": round(both, 4)}


def _labels(predictor: Predictor, process: Process, train: Rows, held_out: Rows) -> Judged | None:
    """A regression that has learned labels; None where nothing can be learned or weighed."""
    (texts, answers), (asked, right) = (_read(predictor, rows) for rows in (train, held_out))
    texts = [read_of(process, text) for text in texts]
    if len(set(answers)) < 2 or len(right) < FEWEST_ROWS or not any(map(read, texts)):
        return None
    found = Linear.learn(texts, answers, len(predictor.labels))
    logits = _logits(predictor, asked, lambda batch: predictor.label_logits(batch).numpy())
    return found, np.array(logits), found.scores([read_of(process, text) for text in asked]), np.array(right)


def _marks(predictor: Predictor, process: Process, train: Rows, held_out: Rows) -> Judged | None:
    """The same of marks; what is weighed are tokens."""
    writing = predictor.writing
    if writing is None:
        return None
    numbers = {mark: number for number, mark in enumerate(writing.mark_ids)}
    told = (each for rows in in_parts(train, ROWS_AT_ONCE) for each in _told(predictor, rows, numbers))
    found = Windows.learn(process, told, len(numbers))
    if found is None:
        return None
    logits, scores, right = list[Floats](), list[Floats](), list[int]()
    for rows in in_parts(held_out, ROWS_AT_ONCE):
        asked, marks = zip(*_told(predictor, rows, numbers), strict=True)
        chances = _logits(predictor, [prompt for prompt, _ in asked], lambda batch: predictor.mark_chances(batch, writing))
        for own, true, (tokens, each) in zip(chances, marks, found.scores(process, asked), strict=True):
            logits.append(own[tokens])
            scores.append(each)
            right += [true[token] for token in tokens]
        if len(right) >= WEIGHING_TOKENS:
            break
    return (found, np.concatenate(logits), np.concatenate(scores), np.array(right)) if len(right) >= FEWEST_ROWS else None


def _told(predictor: Predictor, rows: Sequence[Mapping[str, Any]], numbers: Mapping[int, int]) -> Iterator[tuple[Asked, list[int]]]:
    """Prompts, and the number of each token's mark."""
    asked = predictor.asked([row["prompt"] for row in rows])
    return ((each, [numbers[mark] for mark in row["marks"]]) for each, row in zip(asked, rows, strict=True))


def _may_help(process: Process, contract: Mapping[str, Any], held_out: int) -> bool:
    if not process.finetuning.linear or held_out < FEWEST_ROWS or Columns.read(contract.get("columns")).whole:
        return False
    if contract["label_ids"]:
        return 2 <= len(contract["labels"]) <= MOST_LABELS
    return 0 < len((contract.get("form") or {}).get("marks", [])) <= MOST_LABELS


def _read(predictor: Predictor, rows: Rows) -> tuple[list[str], list[int]]:
    """Prompts of rows, and the numbers of their labels; those of unknown labels are left out."""
    numbers = {label: number for number, label in enumerate(predictor.labels)}
    pairs = [(str(row["prompt"]), numbers.get(json.loads(row["output"]))) for row in rows]
    known = [(prompt, number) for prompt, number in pairs if number is not None]
    return [prompt for prompt, _ in known], [number for _, number in known]


def _logits(predictor: Predictor, prompts: Sequence[str], ask: Callable[[list[list[int]]], Iterable[Floats]]) -> list[Floats]:
    """The model's own, of each prompt.

    Args:
        ask: gives those of a batch of rows.
    """
    rows, readings = predictor.encode(prompts), 2 if predictor.reads_twice else 1
    found: list[Floats] = [np.empty(0)] * len(rows)
    for batch in by_length([readings * len(row) for row in rows], TOKENS_PER_BATCH):
        for index, logits in zip(batch, ask([rows[index] for index in batch]), strict=True):
            found[index] = logits
    return found


def weighed(logits: Floats, scores: Floats, answers: NDArray[np.int64]) -> tuple[Floats, tuple[float, float]]:
    """How much the word of each counts so that together they foretell held-out answers best.

    Args:
        logits: of the model, (rows, labels).
        scores: log-chances of the regression, (rows, labels).
        answers: the number of each row's label.

    Returns:
        Factors of both, (2,); mean loss in nats of the model with the best factor of its own, and of both.
    """
    from scipy.optimize import minimize

    def loss(factors: Floats) -> float:
        return _loss(sum(factor * each for factor, each in zip(factors, (logits, scores), strict=False)), answers)

    def steadied(factors: Floats) -> float:
        return loss(factors) + STEADY * float(((factors - 1) ** 2).sum()) / len(answers)

    alone, both = (minimize(steadied, np.ones(count), method="L-BFGS-B", bounds=[(0, None)] * count).x for count in (1, 2))
    return both, (loss(alone), loss(both))


def _loss(logits: Any, answers: NDArray[np.int64]) -> float:
    from scipy.special import logsumexp

    return float(np.mean(logsumexp(logits, axis=1) - logits[np.arange(len(answers)), answers]))
