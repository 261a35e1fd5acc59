"""Linear: the training texts' words and pieces of words -> how much speaks for each label; where it helps, it answers with the model.

A linear classifier learns more of single words than a small model from scratch does, and nothing of their order. So both are asked, and
how much the word of each counts was found on the validation split: "wide and deep" (Cheng et al. 2016, arXiv:1606.07792). Features are
hashed, so no text is kept, and what no training text has counts nothing. data/kinds.md tells what it gains.
"""

import warnings
from collections.abc import Sequence
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
WEIGHTS = 4_000_000  # at most; settling takes about 200 bytes for each
FEWEST = 2  # training texts that have a feature
STRENGTH, STEPS = 20.0, 60  # C of the regression, and how long it may take to settle

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Linear:
    """A multinomial logistic regression on TF-IDF, and how much its word and the model's count."""

    buckets: NDArray[np.int64]  # (features,), ascending: those of the hash that are looked at
    rarity: NDArray[np.float32]  # (features,): inverse document frequency
    weights: NDArray[np.float32]  # (features, labels)
    bias: NDArray[np.float32]  # (labels,)
    shares: NDArray[np.float64]  # (2,): factors of the model's logits and of its own

    @classmethod
    def learn(cls, texts: Sequence[str], answers: Sequence[int], labels: int) -> Self:
        """From training texts.

        Args:
            answers: the number of each text's label; not all the same.
            labels: how many there are; one that no text has is held to be as likely as half a text. The more there are, the fewer
                features are looked at, the most frequent ones.

        Raises:
            ValueError: the texts are blank.
        """
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        counts = _counted(texts)
        often = np.asarray((counts > 0).sum(axis=0)).ravel()
        frequent = np.argsort(-often, kind="stable")[: WEIGHTS // labels]
        buckets = np.sort(frequent[often[frequent] >= min(FEWEST, often.max())])
        if not often.max():
            raise ValueError("there is no word in any of the texts")
        rarity = (np.log((1 + len(texts)) / (1 + often[buckets])) + 1).astype(np.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # what has not wholly settled is good enough
            found = LogisticRegression(C=STRENGTH, max_iter=STEPS, tol=1e-3).fit(_weighted(counts, buckets, rarity), answers)
        weights, bias = np.zeros((len(buckets), labels), np.float32), np.full(labels, np.log(0.5 / len(texts)), np.float32)
        both = len(found.classes_) == 2
        weights[:, found.classes_] = (np.vstack([-found.coef_, found.coef_]) / 2 if both else found.coef_).T
        bias[found.classes_] = np.append(-found.intercept_, found.intercept_) / 2 if both else found.intercept_
        return cls(buckets.astype(np.int64), rarity, weights, bias, np.array([1.0, 0.0]))

    def scores(self, texts: Sequence[str]) -> Floats:
        """Log-chances of the labels, (texts, labels), in nats."""
        from scipy.special import log_softmax

        found = _weighted(_counted(texts), self.buckets, self.rarity) @ self.weights + self.bias
        return np.asarray(log_softmax(found.astype(np.float64), axis=1))

    def joined(self, logits: Floats, texts: Sequence[str]) -> Floats:
        """Logits of the labels as the model and the regression see them together.

        Args:
            logits: the model's, (texts, labels).
        """
        return np.asarray(self.shares[0] * logits + self.shares[1] * self.scores(texts))

    def save(self, folder: Path) -> None:
        """As a file of a model/."""
        save_file({name: np.ascontiguousarray(getattr(self, name)) for name in self.__slots__}, folder / LINEAR)

    @classmethod
    def load(cls, folder: Path, labels: int) -> "Linear | None":
        """That of a model/ or a version; None where the model answers alone.

        Raises:
            ValueError: the file is damaged, or of other labels.
        """
        if not (folder / LINEAR).is_file():
            return None
        try:
            found = cls(**load_file(folder / LINEAR))
            fits = found.weights.shape == (*found.buckets.shape, labels) and found.shares.shape == (2,)
        except Exception as error:  # of the format
            raise ValueError(f"{folder / LINEAR} is damaged: {str(error).splitlines()[0]}") from None
        if not fits:
            raise ValueError(f"{folder / LINEAR} has weights {found.weights.shape}, which do not belong to {labels} labels")
        return found


def read(text: str) -> str:
    """What is looked at of a text."""
    return fold(text[:CHARACTERS])


def _counted(texts: Sequence[str]) -> Any:
    """(texts, 2 * BUCKETS), sparse: how often each text has each word, two words one after the other, or two to four characters."""
    from scipy.sparse import hstack
    from sklearn.feature_extraction.text import HashingVectorizer

    hashing = partial(HashingVectorizer, n_features=BUCKETS, alternate_sign=False, norm=None, lowercase=False, dtype=np.float32)
    asked = [read(text) for text in texts]
    words = hashing(ngram_range=(1, 2), token_pattern=WORD).transform(asked)
    return hstack([words, hashing(analyzer="char_wb", ngram_range=(2, 4)).transform(asked)], format="csr")


def _weighted(counts: Any, buckets: NDArray[np.int64], rarity: NDArray[np.float32]) -> Any:
    """(texts, features), sparse: TF-IDF, each text of length 1."""
    from scipy.sparse import diags_array
    from sklearn.preprocessing import normalize

    chosen = counts[:, buckets]
    chosen.data = 1 + np.log(chosen.data)
    return normalize((chosen @ diags_array(rarity)).tocsr())
