"""Synthetic: few training samples of a table or form -> more of them, each mixed of several, labelled by what is good at tables.

A small GPT that learns a few hundred rows by heart guesses between them as its seed will have it: of german_credit with 300 rows its AUC
lay between 0.64 and 0.76. Logistic regression and boosted trees are steadier there; what the better of them says of thousands of rows
that might have been teaches it to a GPT (Bucilă, Caruana and Niculescu-Mizil 2006, "Model compression"). The GPT learns the chances
that the teacher gives to each label, and so how sure to be. Where a text among the columns says more than all of them, as the history
of a case does, nothing is made: who reads words foretells left-out rows better then. data/kinds.md tells what it gains.
"""

import json
import logging
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from operator import eq
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import Pipeline

from tasks.artifacts import write_json
from tasks.baselines import Chooser, Vectors, texts_of
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
READ_FOLDS = 2  # of them, that are foretold from words, too
BOTH = " and "  # between the names of two methods whose chances are averaged


def fill_up(process: Process, samples: Path) -> Path:
    """samples/ -> the same folder, its train/ filled up with synthetic samples where that is a table of few.

    The same samples give the same rows. Nothing changes where a prompt is a text, or its texts say more than its columns, a base
    knows words already, or fewer than two labels have FOLDS rows.
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
    names, left_out = teacher_of(table, rows, classes)
    if table.has_text and words_say_more(rows, classes, process, left_out):
        logger.info("%s: its texts say more than its columns, so no samples are made", process.name)
        return samples
    random = np.random.default_rng(process.finetuning.seed)
    logger.info("%s: %d training samples are filled up to %d", process.name, known, process.finetuning.synthetic_up_to)
    mixed = mixed_rows(rows, list(process.input_columns), process.finetuning.synthetic_up_to - known, random)
    told = in_order(taught(table, names, rows, classes, mixed), sorted(set(classes)), contract["labels"])
    made, teacher = written(process, samples, Columns.read(contract.get("columns")), mixed, contract["labels"], told), BOTH.join(names)
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


def teacher_of(table: Table, rows: Rows, classes: Sequence[str]) -> tuple[list[str], Chances]:
    """The methods that foretell left-out rows best, and the mean of their chances of these (rows, labels in their order).

    The methods compete one by one, and all together.
    """
    train, methods = table.frame(rows), table.methods(len(rows), len(set(classes)))
    told = {name: _left_out(train, classes, method) for name, method in methods.items()}
    means = [(names, np.mean([told[name] for name in names], axis=0)) for names in ([*([name] for name in methods), list(methods)])]
    return min(means, key=lambda each: _loss(classes, each[1]))


def taught(table: Table, names: Sequence[str], rows: Rows, classes: Sequence[str], asked: Rows) -> Chances:
    """The mean of the chances (rows, labels in their order) that these methods, having learned some rows, give to others."""
    train, methods = table.frame(rows), table.methods(len(rows), len(set(classes)))
    found: Chances = np.mean([table.chances(fitted(methods[name], train, classes), asked) for name in names], axis=0)
    return found


@quietly()
def words_say_more(rows: Rows, classes: Sequence[str], process: Process, left_out: Chances) -> bool:
    """Whether a linear classifier that reads prompts as words is right about left-out rows more often than the methods for tables.

    Args:
        left_out: what these say of each row.
    """
    labels, words, tables = sorted(set(classes)), 0, 0
    for known, asked in [*_folds().split(rows, classes)][:READ_FOLDS]:
        vectors = Vectors(texts_of([rows[index] for index in known], process))
        chooser = Chooser(vectors.train, [classes[index] for index in known])
        read = [label for part in vectors.batches([rows[index] for index in asked], process) for label in chooser.choose(part)]
        wanted = [classes[index] for index in asked]
        words += sum(map(eq, read, wanted))
        tables += sum(map(eq, [labels[best] for best in left_out[asked].argmax(axis=1).tolist()], wanted))
    return words > tables


def _folds() -> StratifiedKFold:
    return StratifiedKFold(FOLDS, shuffle=True, random_state=0)


def _left_out(train: pd.DataFrame, classes: Sequence[str], method: Pipeline) -> Chances:
    """What a method says of each row that learned from the other folds."""
    with quietly():
        found: Chances = cross_val_predict(method, train, classes, cv=_folds(), method="predict_proba")
    return found


def _loss(classes: Sequence[str], chances: Chances) -> float:
    """Nats a row."""
    return float(log_loss(classes, chances / chances.sum(axis=1, keepdims=True), labels=sorted(set(classes))))


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
