"""Joining: a tuned model + samples/ -> the regression on words that answers with it what is chosen, where that helps on held-out rows."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks.artifacts import write_json
from tasks.baselines import TRAIN_ROWS, Row, sampled
from tasks.columns import Columns
from tasks.linear import Floats, Head, Linear
from tasks.prompts import read_of

if TYPE_CHECKING:
    from tasks.generation import Predictor

MOST_CLASSES = 200  # each costs a weight for every feature
WEIGHING_ROWS = 1_000  # of the validation split
FEWEST_ROWS = 20  # of it, below which nothing can be weighed
GAIN = 2.0  # nats on all those rows together that must be saved: two numbers were chosen on them, and not one (Akaike 1974)
STEADY = 2.0  # nats that a factor costs, times its distance from 1 squared: where all answers are right, none grows without end


Numbers = NDArray[np.int64]


def join(samples: Path, folder: Path) -> dict[str, Any]:
    """Put a regression beside a model where both together foretell the validation split better; training.json says what it gains.

    Tables are left out: boosted trees have taught their models (`tasks.synthetic`).

    Args:
        samples: folder with train/, validation/ and contract.json.
        folder: the model/.

    Returns:
        For people: what it answers with the model; nothing where the model answers alone.
    """
    from datasets import load_from_disk

    from tasks.generation import Predictor

    contract = json.loads((samples / "contract.json").read_text(encoding="utf-8"))
    predictor = Predictor.load(folder)
    train, validation = (load_from_disk(str(samples / side)) for side in ("train", "validation"))
    classes = {name: values for name, values in predictor.choices.items() if 2 <= len(values) <= MOST_CLASSES}
    whole = Columns.read(contract.get("columns")).whole  # a table
    if whole or not (classes and predictor.process.finetuning.linear) or len(validation) < FEWEST_ROWS:
        return {}
    seed = predictor.process.finetuning.seed
    learned, asked = sampled(train, seed, TRAIN_ROWS), sampled(validation, seed, WEIGHING_ROWS)
    linear, told = _found(predictor, classes, learned, asked)
    if not told:
        return {}
    linear.save(folder)
    story = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    write_json(folder / "training.json", story | {"linear": told})
    return {"linear": ", ".join(told)}


def _found(
    predictor: "Predictor", classes: Mapping[str, Sequence[Any]], train: Sequence[Row], validation: Sequence[Row]
) -> tuple[Linear, dict[str, Any]]:
    """The regression with the heads that help, and of each what it gains."""
    process, (texts, prompts) = predictor.process, ([str(row["prompt"]) for row in rows] for rows in (train, validation))
    bare, features = Linear.learn([read_of(process, text) for text in texts], max(map(len, classes.values())))
    held_out, alone = bare.features([read_of(process, prompt) for prompt in prompts]), predictor.considered(prompts)
    heads, told = dict[str, Head](), dict[str, Any]()
    for name, values in classes.items():
        (rows, answers), (asked, right) = numbered(train, name, values), numbered(validation, name, values)
        if not features.shape[1] or len(set(answers.tolist())) < 2 or len(right) < FEWEST_ROWS:
            continue
        head = Head.learn(features[rows], answers, len(values))
        shares, losses = weighed(alone[name][asked], head.scores(held_out[asked]), right)
        if (losses[0] - losses[1]) * len(right) >= GAIN:
            heads[name] = replace(head, shares=shares)
            told[name] = dict(zip(("model", "linear", "loss_alone", "loss"), [*shares.tolist(), *losses], strict=True))
    return replace(bare, heads=heads), told


def numbered(rows: Sequence[Row], name: str, values: Sequence[Any]) -> tuple[Numbers, Numbers]:
    """Rows of samples/ whose label, or value of a field, is one of these, and which; None among them is no value.

    Returns:
        Indices of such rows; for each the number of its value.
    """
    numbers = {json.dumps(value): number for number, value in enumerate(values)}
    outputs = [json.loads(row["output"]) for row in rows]
    found = [numbers.get(json.dumps(output.get(name) if isinstance(output, dict) else output), -1) for output in outputs]
    known = np.array(found, dtype=np.int64)
    return np.flatnonzero(known >= 0), known[known >= 0]


def weighed(logits: Floats, scores: Floats, answers: Numbers) -> tuple[Floats, tuple[float, float]]:
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


def _loss(logits: Any, answers: Numbers) -> float:
    from scipy.special import logsumexp

    return float(np.mean(logsumexp(logits, axis=1) - logits[np.arange(len(answers)), answers]))
