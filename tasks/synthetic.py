"""Synthetic: few training samples of a table or form -> more of them, each mixed of several, labelled by what is good at tables.

A small GPT that learns a few hundred rows by heart guesses between them as its seed will have it: of german_credit with 300 rows its AUC
lay between 0.64 and 0.76. Logistic regression and boosted trees are steadier there; what the better of them says of thousands of rows
that might have been teaches it to a GPT (Bucilă, Caruana and Niculescu-Mizil 2006, "Model compression"). The GPT learns the chances
that the teacher gives to each label, and so how sure to be. benchmarks/real.py tells what it gains.
"""

import json
import logging
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from tasks.artifacts import write_json
from tasks.bases import SCRATCH
from tasks.batching import CHANCES, DOUBTFUL, TokenRows
from tasks.columns import Columns
from tasks.models import load_tokenizer
from tasks.process import Process
from tasks.prompts import completion_of, prompt_of
from tasks.tabular import Chances, Rows, Table, fitted, quietly
from tasks.tokenising import Encoder, Sample, Tally, tokenise, write_dataset

logger = logging.getLogger(__name__)

PREFIX = "synthetic-"  # of the ids of samples that were made
NAMED = "synthetic.json"  # beside train/: how many rows were made, and who labelled them
MIXED = 0.5  # of a row's columns, the share that comes from other rows
FOLDS = 5
BOTH = " and "  # between the names of two methods whose chances are averaged


def fill_up(process: Process, samples: Path) -> Path:
    """samples/ -> the same folder, its train/ filled up with synthetic samples where that is a table of few.

    The same samples give the same rows. Nothing changes where a prompt is a text, a base knows words already, or
    fewer than two labels have FOLDS rows.
    """
    from datasets import load_from_disk

    contract = json.loads((samples / "contract.json").read_text(encoding="utf-8"))
    known = len(TokenRows(samples / "train"))
    wanted = process.label_tokens and process.finetuning.base == SCRATCH and 0 < known < process.finetuning.synthetic_up_to
    if (samples / NAMED).exists() or not wanted:
        return samples
    rows = list(load_from_disk(str(samples / "train")))
    classes, table = [json.loads(row["output"]) for row in rows], Table.read(rows, process)
    if table is None or sum(often >= FOLDS for often in Counter(classes).values()) < 2:
        return samples
    random = np.random.default_rng(process.finetuning.seed)
    logger.info("%s: %d training samples are filled up to %d", process.name, known, process.finetuning.synthetic_up_to)
    mixed = mixed_rows(rows, list(process.input_columns), process.finetuning.synthetic_up_to - known, random)
    teacher, chances = taught(table, rows, classes, mixed)
    told = in_order(chances, sorted(set(classes)), contract["labels"])
    made = written(process, samples, Columns.read(contract.get("columns")), mixed, contract["labels"], told)
    _exchange(samples, [*rows, *made])
    write_json(samples / NAMED, {"rows": len(made), "teacher": teacher})
    logger.info("%s: %d synthetic samples, labelled by %s", process.name, len(made), teacher.replace("_", " "))
    return samples


def mixed_rows(rows: Sequence[Mapping[str, Any]], paths: Sequence[str], count: int, random: np.random.Generator) -> list[dict[str, Any]]:
    """Rows, with `inputs` as those of samples/, whose columns are a row's own or, a share of them, of other rows drawn one by one.

    Args:
        paths: of the columns; others are left out.
    """
    inputs = [{path: values.get(path) for path in paths} for values in (json.loads(row["inputs"]) for row in rows)]
    first, foreign = random.integers(len(rows), size=count), random.random((count, len(paths))) < MIXED
    others = random.integers(len(rows), size=(count, len(paths)))
    found = []
    for row in range(count):
        values = dict(inputs[first[row]])
        for column in np.flatnonzero(foreign[row]).tolist():
            values[paths[column]] = inputs[others[row, column]][paths[column]]
        found.append({"inputs": json.dumps(values, ensure_ascii=False)})
    return found


def taught(table: Table, rows: Rows, classes: Sequence[str], asked: Rows) -> tuple[str, Chances]:
    """The name of the method that foretells left-out rows best, and its chances (rows, labels in their order) of others.

    The methods compete one by one, and both together with the mean of their chances.
    """
    train, methods = table.frame(rows), table.methods(len(rows), len(set(classes)))
    names = list(methods)
    if len(names) > 1:
        told = {name: _left_out(train, classes, method) for name, method in methods.items()}
        names = min([[name] for name in methods] + [names], key=lambda names: _loss(classes, [told[name] for name in names]))
    return BOTH.join(names), np.mean([table.chances(fitted(methods[name], train, classes), asked) for name in names], axis=0)


def _left_out(train: pd.DataFrame, classes: Sequence[str], method: Pipeline) -> Chances:
    """What a method says of each row that learned from the other folds."""
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    with quietly():
        found: Chances = cross_val_predict(method, train, classes, cv=folds, method="predict_proba")
    return found


def _loss(classes: Sequence[str], told: Sequence[Chances]) -> float:
    """Nats a row, of the mean of several methods' chances."""
    from sklearn.metrics import log_loss

    mean = np.mean(told, axis=0)
    return float(log_loss(classes, mean / mean.sum(axis=1, keepdims=True), labels=sorted(set(classes))))


def in_order(chances: Chances, known: Sequence[str], labels: Sequence[str]) -> Chances:
    """Chances of all labels (rows, labels), none of those that are not known."""
    found = np.zeros((len(chances), len(labels)))
    found[:, [labels.index(label) for label in known]] = chances
    return found


def written(
    process: Process, samples: Path, columns: Columns, mixed: Rows, labels: Sequence[str], chances: Chances
) -> list[dict[str, Any]]:
    """Mixed rows in tokens, as rows of a dataset, with the likeliest label and the chances of all; those that are too long are left out."""
    encoder = Encoder(process, load_tokenizer(samples / "tokenizer"), None, columns)
    likeliest = [labels[index] for index in chances.argmax(axis=1).tolist()]
    made = (_sample(process, number, row, label) for number, (row, label) in enumerate(zip(mixed, likeliest, strict=True)))
    rows = tokenise(encoder, made, {}, False, Tally())
    return [row | {CHANCES: chances[int(row["record_id"].removeprefix(PREFIX))].tolist()} for row in rows]


def _sample(process: Process, number: int, row: Mapping[str, Any], label: str) -> Sample:
    inputs = json.loads(row["inputs"])
    return Sample(f"{PREFIX}{number}", prompt_of(process, inputs), completion_of(process, label), label, inputs, {}, "")


def _exchange(samples: Path, rows: list[dict[str, Any]]) -> None:
    """Put these rows in the place of train/."""
    write_dataset(rows, samples, "filled", DOUBTFUL)
    shutil.rmtree(samples / "train")
    (samples / "filled").rename(samples / "train")
