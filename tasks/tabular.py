"""Tabular: the training split -> what methods made for tables answer, where prompts are columns only; no text to be read.

logistic_regression has a weight for each value of a column and for each number; boosted_trees (LightGBM's kind, scikit-learn's) split
them. On most tables they are hard to beat (Grinsztajn et al. 2022), so a model of such records has to stand beside them.
"""

import json
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from tasks.columns import MOST_VALUES
from tasks.metrics import Answers
from tasks.process import Process
from tasks.records import NUMBER, as_text

Kind = Literal["number", "value", "text"]  # of a column
Method = Callable[[int], Pipeline]  # number of labels -> what learns them
Chances = np.ndarray[Any, np.dtype[np.float64]]
AGAIN = 2  # rows with each value of a column on average, at least; more different ones are texts
TREES = 2_000  # of all classes together; 100 of a class at most
ROUNDS = 100
RARE = 5  # rows, below which a value is one of the others


@dataclass(frozen=True, slots=True)
class Table:
    """What kind of column each input is that is not always empty."""

    kinds: Mapping[str, Kind]  # path -> kind; none is a text

    @classmethod
    def read(cls, rows: Sequence[Mapping[str, Any]], process: Process) -> Self | None:
        """The table that training rows are; None where a prompt holds texts, or nothing."""
        known = {path: values for path, values in values_of(rows, process.input_columns).items() if any(values)}
        kinds = {path: kind_of(values) for path, values in known.items()}
        return cls(kinds) if kinds and "text" not in kinds.values() else None

    def frame(self, rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
        """Columns of floats (NaN where no number is) and of strings."""
        values = values_of(rows, self.kinds)
        return pd.DataFrame({path: numbers_in(values[path]) if kind == "number" else values[path] for path, kind in self.kinds.items()})


def tabular_answers(
    train_rows: Sequence[Mapping[str, Any]], test_rows: Sequence[Mapping[str, Any]], classes: Sequence[str], process: Process
) -> dict[str, Answers]:
    """Method -> a label for each test row; nothing where the records are no table, or know one label only.

    Args:
        train_rows: lines of samples/ with `inputs`.
        classes: their labels.
    """
    table, labels = Table.read(train_rows, process), sorted(set(classes))
    if table is None or len(labels) < 2:
        return {}
    train, test = table.frame(train_rows), table.frame(test_rows)
    return {name: answers_of(labels, fitted(make, train, classes).predict_proba(test)) for name, make in METHODS.items()}


def values_of(rows: Sequence[Mapping[str, Any]], paths: Iterable[str]) -> dict[str, list[str]]:
    """Path -> its value in each row as a prompt shows it; the empty text where it has none."""
    found: dict[str, list[str]] = {path: [] for path in paths}
    for index in range(len(rows)):
        inputs = json.loads(rows[index]["inputs"])
        for path in paths:
            found[path].append(as_text(inputs.get(path)).strip())
    return found


def kind_of(values: Sequence[str]) -> Kind:
    """Whether a column holds numbers, a few values that come again, or texts."""
    seen = set(values) - {""}
    if all(map(NUMBER.fullmatch, seen)):
        return "number"
    return "value" if len(seen) <= min(MOST_VALUES, len(values) // AGAIN) else "text"


def numbers_in(values: Sequence[str]) -> Chances:
    """The number of each text; NaN where it is none."""
    return np.array([float(text) if NUMBER.fullmatch(text) else math.nan for text in values])


def linear(_: int) -> Pipeline:
    """A weight for each value, and for each number in its scale."""
    scaled = make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler())
    return make_pipeline(
        make_column_transformer((scaled, make_column_selector(dtype_include="number")), (_one_hot(), _strings)),
        LogisticRegression(max_iter=1_000),
    )


def trees(classes: int) -> Pipeline:
    """Gradient boosting over histograms; the same rows give the same trees."""
    booster = HistGradientBoostingClassifier(max_iter=max(1, min(ROUNDS, TREES // classes)), early_stopping=False, random_state=0)
    return make_pipeline(make_column_transformer((_one_hot(), _strings), remainder="passthrough"), booster)


_strings = make_column_selector(dtype_exclude="number")


def _one_hot() -> OneHotEncoder:
    return OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=RARE, sparse_output=False)


METHODS: dict[str, Method] = {"logistic_regression": linear, "boosted_trees": trees}


def fitted(make: Method, frame: pd.DataFrame, classes: Sequence[str]) -> Pipeline:
    """A method that has learned a table; one that has not wholly settled is good enough."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return make(len(set(classes))).fit(frame, classes)


def answers_of(labels: Sequence[str], chances: Chances) -> Answers:
    """The likeliest label of each row, and how likely each label is, of (rows, labels)."""
    return Answers([labels[index] for index in chances.argmax(axis=1)], ranks=dict(zip(labels, chances.T.tolist(), strict=True)))
