"""Tabular: the training split -> what methods made for tables answer, where prompts are columns, with few texts among them.

logistic_regression has a weight for each value of a column, each number, and each piece of a text; boosted_trees (LightGBM's kind,
scikit-learn's) split them, and what the texts are about. On most tables they are hard to beat (Grinsztajn et al. 2022), so a model of
such records has to stand beside them.
"""

import json
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.decomposition import TruncatedSVD
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler
from threadpoolctl import threadpool_limits

from tasks.columns import MOST_VALUES
from tasks.metrics import Answers
from tasks.process import Process
from tasks.records import NUMBER, are_numbers, as_text

Kind = Literal["number", "value", "text"]  # of a column
Chances = np.ndarray[Any, np.dtype[np.float64]]
Rows = Sequence[Mapping[str, Any]]  # lines of samples/, of which `inputs` are read
FORM = 4  # columns for each text among them, from which on they are a form, no letter
FORMS = 50  # rows with texts, below which these say too little
AGAIN = 2  # rows with each value of a column on average, at least; more different ones are texts
ROUNDS = 100  # of boosting, each with a tree for every label, at most
RATE, LEAVES = 0.05, 8  # of left-out rows they leave 0.50, 0.41, 0.21 and 0.23 nats (german_credit, OJ, Caravan, expense_approval), the
# library's own 0.1 and 31 leave 0.58, 0.53, 0.30 and 0.40
WORK = 4e8  # rows times columns times trees, at most: some ten seconds
RARE = 5  # rows, below which a value is one of the others
ITERATIONS = 300  # of logistic regression, at most
LEAST = 20  # of it, or it is left out
STEPS = 1e9  # characters of texts times labels times iterations, at most: some ten seconds
CHARACTERS = 2_000  # of a text
SHORT, ALL = 200, 2_000_000  # characters of a text in any case; of all texts, at most else: a second to cut them into pieces
TOPICS, PIECES = 24, 20_000  # of a text
BATCH = 10_000  # rows answered at a time


@dataclass(frozen=True, slots=True)
class Table:
    """What kind of column each input is that is not always empty."""

    kinds: Mapping[str, Kind]  # path -> kind
    longest: int = CHARACTERS  # characters of a text that are read
    characters: int = 0  # of all texts of the training rows, so far as they are read

    @classmethod
    def read(cls, rows: Rows, process: Process) -> Self | None:
        """The table that training rows are; None where a prompt is a text, or nothing."""
        known = {path: values for path, values in values_of(rows, process.input_columns).items() if any(values)}
        kinds = {path: kind_of(values) for path, values in known.items()}
        texts = sum(kind == "text" for kind in kinds.values())
        few = bool(texts) and len(rows) < FORMS
        if not kinds or len(kinds) < FORM * texts or few:
            return None
        longest = min(CHARACTERS, max(SHORT, ALL // max(1, texts * len(rows))))
        characters = sum(min(longest, len(text)) for path, kind in kinds.items() if kind == "text" for text in known[path])
        return cls(kinds, longest, characters)

    def frame(self, rows: Rows) -> pd.DataFrame:
        """Columns of floats (NaN where no number is) and of strings."""
        values = values_of(rows, self.kinds, self.longest)
        return pd.DataFrame({path: numbers_in(values[path]) if kind == "number" else values[path] for path, kind in self.kinds.items()})

    def methods(self, rows: int, labels: int) -> dict[str, Pipeline]:
        """What is good at such tables and quick enough, before it has learned anything.

        Args:
            rows: and labels: of the training split.
        """
        numbers, values, texts = self._of("number"), self._of("value"), self._of("text")
        rounds = rounds_for(rows, self.width, labels)
        iterations = iterations_for(self.characters, labels)
        found = {"logistic_regression": linear(numbers, values, texts, iterations)} if iterations >= LEAST else {}
        return found | {"boosted_trees": trees(numbers, values, texts, rounds)}

    @property
    def has_text(self) -> bool:
        """Whether a column holds texts."""
        return bool(self._of("text"))

    def _of(self, kind: Kind) -> list[str]:
        return [path for path, other in self.kinds.items() if other == kind]

    @property
    def width(self) -> int:
        """Columns of numbers that trees split."""
        return sum(TOPICS if kind == "text" else 1 for kind in self.kinds.values())

    def chances(self, method: Pipeline, rows: Rows) -> Chances:
        """How likely each label is in each row (rows, labels in their order), by a method that has learned them."""
        parts = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
        with quietly():
            return np.concatenate([method.predict_proba(self.frame(part)) for part in parts])


def tabular_answers(train_rows: Rows, test_rows: Rows, classes: Sequence[str], process: Process) -> dict[str, Answers]:
    """Method -> a label for each test row; nothing where the records are no table, or know one label only.

    Args:
        classes: the labels of the training rows.
    """
    table, labels = Table.read(train_rows, process), sorted(set(classes))
    if table is None or len(labels) < 2:
        return {}
    train, test = table.frame(train_rows), [test_rows[index] for index in range(len(test_rows))]
    methods = table.methods(len(train), len(labels))
    return {name: answers_of(labels, table.chances(fitted(method, train, classes), test)) for name, method in methods.items()}


def values_of(rows: Rows, paths: Iterable[str], longest: int = CHARACTERS) -> dict[str, list[str]]:
    """Path -> its value in each row as a prompt shows it; the empty text where it has none."""
    found: dict[str, list[str]] = {path: [] for path in paths}
    for index in range(len(rows)):
        inputs = json.loads(rows[index]["inputs"])
        for path in found:
            found[path].append(as_text(inputs.get(path)).strip()[:longest])
    return found


def kind_of(values: Sequence[str]) -> Kind:
    """Whether a column holds numbers, a few values that come again, or texts."""
    seen = set(values) - {""}
    if are_numbers(seen):
        return "number"
    return "value" if len(seen) <= min(MOST_VALUES, len(values) // AGAIN) else "text"


def numbers_in(values: Sequence[str]) -> Chances:
    """The number of each text; NaN where it is none."""
    return np.array([float(text) if NUMBER.fullmatch(text) else math.nan for text in values])


def linear(numbers: list[str], values: list[str], texts: list[str], iterations: int = ITERATIONS) -> Pipeline:
    """A weight for each value and piece of a text, and for each number in its scale."""
    one_hot = OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=RARE)
    columns = [(make_pipeline(_whole(), StandardScaler()), numbers), (one_hot, values), *[(_pieces(), path) for path in texts]]
    return make_pipeline(make_column_transformer(*columns), LogisticRegression(max_iter=iterations))


def trees(numbers: list[str], values: list[str], texts: list[str], rounds: int) -> Pipeline:
    """Gradient boosting over histograms; the same rows give the same trees."""
    codes = OrdinalEncoder(min_frequency=RARE, handle_unknown="use_encoded_value", unknown_value=math.nan)
    topics = [(make_pipeline(_pieces(), Topics(TOPICS, random_state=0)), path) for path in texts]
    columns = make_column_transformer((codes, values), (_whole(), numbers), *topics, sparse_threshold=0)
    categories = range(len(values))
    sizes = {"max_iter": rounds, "learning_rate": RATE, "max_leaf_nodes": LEAVES}
    booster = HistGradientBoostingClassifier(**sizes, categorical_features=categories, early_stopping=False, random_state=0)
    return make_pipeline(columns, booster)


class Topics(TruncatedSVD):  # type: ignore[misc]
    """What texts are about; less of it where they have fewer different pieces."""

    n_components: int

    def fit_transform(self, X: Any, y: Any = None) -> Any:  # noqa: N803 - scikit-learn's name
        """The topics (rows, topics) of pieces (rows, pieces)."""
        self.n_components = min(self.n_components, X.shape[1])
        return super().fit_transform(X, y)


def _pieces() -> TfidfVectorizer:
    """TF-IDF of pieces of words, which carry languages that are written without blanks, too."""
    return TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True, max_features=PIECES)


def rounds_for(rows: int, columns: int, labels: int) -> int:
    """Rounds of boosting that fit into WORK; one at least."""
    each = rows * columns * _told_apart(labels)
    return int(max(1, min(ROUNDS, WORK // max(1, each))))


def iterations_for(characters: int, labels: int) -> int:
    """Iterations of logistic regression that fit into STEPS.

    Args:
        characters: of all texts it learns from; without any it is quick.
    """
    return int(min(ITERATIONS, STEPS // max(1, characters * _told_apart(labels))))


def _told_apart(labels: int) -> int:
    """How many labels a method has figures of its own for; of two, what speaks for one speaks against the other."""
    return labels if labels > 2 else 1


def _whole() -> SimpleImputer:
    """The middle one in the place of a number that is missing, and whether it was; nothing where all are, as in a part of the rows."""
    return SimpleImputer(strategy="median", keep_empty_features=True, add_indicator=True)


def fitted(method: Pipeline, frame: pd.DataFrame, classes: Sequence[str]) -> Pipeline:
    """A method that has learned a table."""
    with quietly():
        return method.fit(frame, classes)


@contextmanager
def quietly() -> Iterator[None]:
    """One thread and no warnings.

    Several threads wait for each other on a busy machine, thirteen times as long; a method that has not wholly settled, or has not met a
    rare label in every fold, is good enough.
    """
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def answers_of(labels: Sequence[str], chances: Chances) -> Answers:
    """The likeliest label of each row, and how likely each label is, of (rows, labels)."""
    return Answers([labels[index] for index in chances.argmax(axis=1)], ranks=dict(zip(labels, chances.T.tolist(), strict=True)))
