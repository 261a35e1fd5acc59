"""Linear: the training texts' words and pieces of words -> how much speaks for each label, or value of a field that is chosen.

A linear classifier learns more of single words than a small model from scratch does, and nothing of their order. So both are asked, and
how much the word of each counts was found on the validation split: "wide and deep" (Cheng et al. 2016, arXiv:1606.07792). Features are
hashed, so no text is kept, and what no training text has counts nothing. It answers where that helps; data/kinds.md tells what it gains.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
WEIGHTS = 4_000_000  # of a head at most; settling takes about 200 bytes for each
FEWEST = 2  # training texts that have a feature
STRENGTH, STEPS = 20.0, 60  # C of the regression, and how long it may take to settle

LABEL = "label"  # the head of a process whose output is one

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Head:
    """What speaks for the labels, or for the values of a field, and how much its word and the model's count."""

    weights: NDArray[np.float32]  # (features, classes)
    bias: NDArray[np.float32]  # (classes,)
    shares: Floats  # (2,): factors of the model's logits and of its own

    @classmethod
    def learn(cls, features: Any, answers: NDArray[np.int64], classes: int) -> Self:
        """From the features of training texts; it has no share before it is weighed.

        Args:
            features: (texts, features), sparse.
            answers: the number of each text's class; not all the same.
            classes: how many there are; one that no text has is held to be as likely as half a text.
        """
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # what has not wholly settled is good enough
            found = LogisticRegression(C=STRENGTH, max_iter=STEPS, tol=1e-3).fit(features, answers)
        weights, bias = np.zeros((features.shape[1], classes), np.float32), np.full(classes, np.log(0.5 / len(answers)), np.float32)
        both = len(found.classes_) == 2
        weights[:, found.classes_] = (np.vstack([-found.coef_, found.coef_]) / 2 if both else found.coef_).T
        bias[found.classes_] = np.append(-found.intercept_, found.intercept_) / 2 if both else found.intercept_
        return cls(weights, bias, np.array([1.0, 0.0]))

    def scores(self, features: Any) -> Floats:
        """Log-chances of the classes, (texts, classes), in nats."""
        from scipy.special import log_softmax

        return np.asarray(log_softmax((features @ self.weights + self.bias).astype(np.float64), axis=1))

    def joined(self, logits: Floats, scores: Floats) -> Floats:
        """Logits as the model and the regression see them together.

        Args:
            logits: the model's, (…, classes).
            scores: its own, likewise.
        """
        return np.asarray(self.shares[0] * logits + self.shares[1] * scores)


@dataclass(frozen=True, slots=True)
class Linear:
    """Multinomial logistic regressions on TF-IDF."""

    buckets: NDArray[np.int64]  # (features,), ascending: those of the hash that are looked at
    rarity: NDArray[np.float32]  # (features,): inverse document frequency
    heads: Mapping[str, Head]  # of the labels, as LABEL, or of fields by their names

    @classmethod
    def learn(cls, texts: Sequence[str], classes: int) -> tuple[Self, Any]:
        """What training texts are made of, still without heads; and their features, (texts, features), sparse.

        Args:
            classes: of the largest head: the more there are, the fewer features are looked at, the most frequent ones.
        """
        counts = _counted(texts)
        often = np.asarray((counts > 0).sum(axis=0)).ravel()
        frequent = np.argsort(-often, kind="stable")[: WEIGHTS // classes]
        buckets = np.sort(frequent[often[frequent] >= min(FEWEST, len(texts))]).astype(np.int64)
        rarity = (np.log((1 + len(texts)) / (1 + often[buckets])) + 1).astype(np.float32)
        return cls(buckets, rarity, {}), _weighted(counts, buckets, rarity)

    def features(self, texts: Sequence[str]) -> Any:
        """(texts, features), sparse."""
        return _weighted(_counted(texts), self.buckets, self.rarity)

    def scores(self, texts: Sequence[str]) -> dict[str, Floats]:
        """What each head says."""
        found = self.features(texts)
        return {name: head.scores(found) for name, head in self.heads.items()}

    def save(self, folder: Path) -> None:
        """As a file of a model/."""
        parts = {f"{part}.{name}": getattr(head, part) for name, head in self.heads.items() for part in head.__slots__}
        kept = parts | {"buckets": self.buckets, "rarity": self.rarity}
        save_file({name: np.ascontiguousarray(value) for name, value in kept.items()}, folder / LINEAR)

    @classmethod
    def load(cls, folder: Path, classes: Mapping[str, int]) -> "Linear | None":
        """That of a model/ or a version; None where the model answers alone.

        Args:
            classes: how many each head may choose among; some may have no head.

        Raises:
            ValueError: the file is damaged, or of other labels or fields.
        """
        if not (folder / LINEAR).is_file():
            return None
        try:
            kept = load_file(folder / LINEAR)
            names = [name.removeprefix("bias.") for name in kept if name.startswith("bias.")]
            heads = {name: Head(*(kept[f"{part}.{name}"] for part in ("weights", "bias", "shares"))) for name in names}
            found = cls(kept["buckets"], kept["rarity"], heads)
        except Exception as error:  # of the format
            raise ValueError(f"{folder / LINEAR} is damaged: {str(error).splitlines()[0]}") from None
        for name, head in heads.items():
            if head.weights.shape != (len(found.buckets), classes.get(name, 0)) or head.shares.shape != (2,):
                raise ValueError(f"{folder / LINEAR}: weights {head.weights.shape} do not belong to {classes.get(name, 0)} of {name}")
        return found


def _counted(texts: Sequence[str]) -> Any:
    """(texts, 2 * BUCKETS), sparse: how often each text has each word, two words one after the other, or two to four characters."""
    from scipy.sparse import hstack
    from sklearn.feature_extraction.text import HashingVectorizer

    hashing = partial(HashingVectorizer, n_features=BUCKETS, alternate_sign=False, norm=None, lowercase=False, dtype=np.float32)
    read = [fold(text[:CHARACTERS]) for text in texts]
    words = hashing(ngram_range=(1, 2), token_pattern=WORD).transform(read)
    return hstack([words, hashing(analyzer="char_wb", ngram_range=(2, 4)).transform(read)], format="csr")


def _weighted(counts: Any, buckets: NDArray[np.int64], rarity: NDArray[np.float32]) -> Any:
    """(texts, features), sparse: TF-IDF, each text of length 1."""
    from scipy.sparse import diags_array
    from sklearn.preprocessing import normalize

    chosen = counts[:, buckets]
    chosen.data = 1 + np.log(chosen.data)
    return normalize((chosen @ diags_array(rarity)).tocsr()) if len(buckets) else chosen  # of blank texts there are none
