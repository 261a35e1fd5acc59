"""Linear: the training texts' words and pieces of words -> how much speaks for each label; where it helps, it answers with the model.

A linear classifier learns more of single words than a small model from scratch does, and nothing of their order. So both are asked, and
how much the word of each counts was found on the validation split: "wide and deep" (Cheng et al. 2016, arXiv:1606.07792). Features are
hashed, so no text is kept, and what no training text has counts nothing. data/kinds.md tells what it gains.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from tasks.cleaning import fold
from tasks.shards import LINEAR

BUCKETS = 2**18  # of the hash of words, and of that of pieces
WORD = r"\w+|[^\w\s]"
CHARACTERS = 2_000  # of a text; longer ones are cut
WEIGHTS = 4_000_000  # at most; settling takes about 200 bytes for each
FEWEST = 2  # training texts that have a feature
STRENGTH, STEPS = 20.0, 60  # C of the regression, and how long it may take to settle

Floats = NDArray[np.float64]
UNWEIGHED: Floats = np.array([1.0, 0.0])  # shares: the model answers alone


@dataclass(frozen=True, slots=True)
class Regression:
    """A multinomial logistic regression on hashed features, and how much its word and the model's count."""

    buckets: NDArray[np.int64]  # (features,), ascending: those of the hash that are looked at
    weights: NDArray[np.float32]  # (features, classes)
    bias: NDArray[np.float32]  # (classes,)
    shares: NDArray[np.float64]  # (2,): factors of the model's logits and of its own

    def log_chances(self, features: Any) -> Floats:
        """Of the classes, (rows, classes), in nats.

        Args:
            features: (rows, features), sparse.
        """
        from scipy.special import log_softmax

        return np.asarray(log_softmax((features @ self.weights + self.bias).astype(np.float64), axis=1))

    def save(self, folder: Path) -> None:
        """As a file of a model/."""
        save_file({each.name: np.ascontiguousarray(getattr(self, each.name)) for each in fields(self)}, folder / LINEAR)

    @classmethod
    def load(cls, folder: Path, classes: int) -> Self | None:
        """That of a model/ or a version; None where the model answers alone.

        Raises:
            ValueError: the file is damaged, or of other classes.
        """
        if not (folder / LINEAR).is_file():
            return None
        try:
            held = load_file(folder / LINEAR)
        except Exception as error:  # of the format
            raise ValueError(f"{folder / LINEAR} is damaged: {str(error).splitlines()[0]}") from None
        if set(held) != (wanted := {each.name for each in fields(cls)}):
            raise ValueError(f"{folder / LINEAR} holds {', '.join(sorted(held))} where {', '.join(sorted(wanted))} belong")
        found = cls(**held)
        if problem := found._problem(classes):
            raise ValueError(f"{folder / LINEAR} {problem}")
        return found

    def _problem(self, classes: int) -> str | None:
        """What does not belong together in a file, or to so many classes."""
        shape = (*self.buckets.shape, classes)
        if self.weights.shape != shape or self.bias.shape != (classes,):
            return f"has weights {self.weights.shape} and bias {self.bias.shape}, which do not belong to {classes} classes"
        ascending = self.buckets.dtype == np.int64 and bool((np.diff(self.buckets) > 0).all())
        numbers = (self.weights, self.bias, self.shares)
        real = all(np.issubdtype(each.dtype, np.floating) and np.isfinite(each).all() for each in numbers)
        weighed = self.shares.shape == UNWEIGHED.shape and bool((self.shares >= 0).all())
        return None if ascending and real and weighed else "is damaged: its numbers are none of a regression"


def frequent(counts: Any, classes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The buckets that are looked at, ascending, and how many rows have each: the most frequent ones, fewer where there are more classes.

    Args:
        counts: (rows, buckets), sparse; not all 0.
    """
    often = np.asarray((counts > 0).sum(axis=0)).ravel()
    most = np.argsort(-often, kind="stable")[: WEIGHTS // classes]
    buckets = np.sort(most[often[most] >= min(FEWEST, often.max())]).astype(np.int64)
    return buckets, often[buckets]


def looked_at(counts: Any, buckets: NDArray[np.int64]) -> Any:
    """Of all buckets those that are looked at: (rows, features), sparse; what others count is nothing.

    Args:
        counts: (rows, buckets of the hash), sparse by rows.
    """
    from scipy.sparse import csr_array

    places = np.searchsorted(buckets, counts.indices)
    known = np.append(buckets, -1)[places] == counts.indices
    starts = np.append(0, np.cumsum(known))[counts.indptr]
    return csr_array((counts.data[known], places[known], starts), shape=(counts.shape[0], len(buckets)))


def settled(features: Any, answers: Sequence[int], classes: int, strength: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weights (features, classes) and bias (classes,); a class that no row has is held to be as likely as half a row.

    Args:
        features: (rows, features), sparse.
        answers: the number of each row's class; not all the same.
        strength: C of the regression.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # what has not wholly settled is good enough
        found = LogisticRegression(C=strength, max_iter=STEPS, tol=1e-3).fit(features, answers)
    weights = np.zeros((features.shape[1], classes), np.float32)
    bias = np.full(classes, np.log(0.5 / features.shape[0]), np.float32)
    both = len(found.classes_) == 2
    weights[:, found.classes_] = (np.vstack([-found.coef_, found.coef_]) / 2 if both else found.coef_).T
    bias[found.classes_] = np.append(-found.intercept_, found.intercept_) / 2 if both else found.intercept_
    return weights, bias


@dataclass(frozen=True, slots=True)
class Linear(Regression):
    """Of labels, on the TF-IDF of words and of pieces of words."""

    rarity: NDArray[np.float32]  # (features,): inverse document frequency

    @classmethod
    def learn(cls, texts: Sequence[str], answers: Sequence[int], labels: int) -> Self:
        """From training texts.

        Args:
            answers: the number of each text's label; not all the same.
            labels: how many there are.

        Raises:
            ValueError: the texts are blank.
        """
        counts = counted(texts)
        if not counts.nnz:
            raise ValueError("there is no word in any of the texts")
        buckets, rarity = vocabulary_of(counts, labels)
        weights, bias = settled(weighted(counts, buckets, rarity), answers, labels, STRENGTH)
        return cls(buckets, weights, bias, UNWEIGHED, rarity)

    def _problem(self, classes: int) -> str | None:
        fits = self.rarity.shape == self.buckets.shape and bool(np.isfinite(self.rarity).all())
        return Regression._problem(self, classes) or (None if fits else "is damaged: its words' rarity is none of its features")

    def features(self, texts: Sequence[str]) -> Any:
        """What is looked at of texts, (texts, features), sparse."""
        return weighted(counted(texts), self.buckets, self.rarity)

    def scores(self, texts: Sequence[str]) -> Floats:
        """Log-chances of the labels, (texts, labels), in nats."""
        return self.log_chances(self.features(texts))

    def joined(self, logits: Floats, texts: Sequence[str]) -> Floats:
        """Logits of the labels as the model and the regression see them together.

        Args:
            logits: the model's, (texts, labels).
        """
        return np.asarray(self.shares[0] * logits + self.shares[1] * self.scores(texts))


def read(text: str) -> str:
    """What is looked at of a text."""
    return fold(text[:CHARACTERS])


def vocabulary_of(counts: Any, classes: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The buckets that are looked at, and how rare each is: its inverse document frequency.

    Args:
        counts: (texts, buckets), sparse; not all 0.
    """
    buckets, often = frequent(counts, classes)
    return buckets, (np.log((1 + counts.shape[0]) / (1 + often)) + 1).astype(np.float32)


def counted(texts: Sequence[str]) -> Any:
    """(texts, 2 * BUCKETS), sparse: how often each text has each word, two words one after the other, or two to four characters."""
    from scipy.sparse import hstack
    from sklearn.feature_extraction.text import HashingVectorizer

    hashing = partial(HashingVectorizer, n_features=BUCKETS, alternate_sign=False, norm=None, lowercase=False, dtype=np.float32)
    asked = [read(text) for text in texts]
    words = hashing(ngram_range=(1, 2), token_pattern=WORD).transform(asked)
    return hstack([words, hashing(analyzer="char_wb", ngram_range=(2, 4)).transform(asked)], format="csr")


def weighted(counts: Any, buckets: NDArray[np.int64], rarity: NDArray[np.float32]) -> Any:
    """(texts, features), sparse: TF-IDF of what was counted, each text of length 1."""
    from scipy.sparse import diags_array
    from sklearn.preprocessing import normalize

    chosen = looked_at(counts, buckets)
    chosen.data = 1 + np.log(chosen.data)
    return normalize((chosen @ diags_array(rarity)).tocsr())
