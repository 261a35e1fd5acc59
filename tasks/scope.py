"""Scope: the training records' texts -> how much of a new text is made of what they are made of; 0 to 1, in any script.

A text is the set of its pieces of one to three characters. Its similarity is the share of them that some training text has, each weighted
by how rare it is there (inverse document frequency). Only how often a piece was seen is kept, under a hash: no text. Beside the largest
TF-IDF cosine to any training text it tells strange texts apart as well or better, at several times its speed and a hundredth of its size.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.cleaning import fold
from tasks.hashing import hashes

FILE = "scope.npy"
PIECES = 2**18  # buckets of the hash
LONGEST = 3  # characters of a piece
CHARACTERS = 2_000  # of a text; longer ones are cut
BATCH = 100_000  # characters at once, some 10 MB


class Scope:
    """How many training texts have each piece, and how many texts there are; the latter stands last."""

    def __init__(self, counts: NDArray[np.uint32]) -> None:
        self.counts = counts
        texts = float(counts[-1])
        seen = counts[:-1].astype(np.float64)
        self.weights = np.log((1 + texts) / (1 + seen)) + 1
        self.known = self.weights * (seen > 0)

    @classmethod
    def learn(cls, texts: Iterable[str]) -> "Scope":
        """From the texts of training records."""
        counts = np.zeros(PIECES + 1, dtype=np.uint32)
        for batch in _batches(texts):
            _, buckets = _pieces(batch)
            counts[:-1] += np.bincount(buckets, minlength=PIECES).astype(np.uint32)
            counts[-1] += len(batch)
        return cls(counts)

    def similarities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Of each text; 0 for an empty one."""
        return np.concatenate([np.empty(0), *map(self._similarities, _batches(texts))])

    def _similarities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        numbers, buckets = _pieces(texts)
        known, all = (np.bincount(numbers, weights[buckets], len(texts)) for weights in (self.known, self.weights))
        return np.asarray(known / np.maximum(all, 1e-12))

    def save(self, folder: Path) -> None:
        """As a file of the folder: (2, pieces seen), their buckets above their counts."""
        seen = np.flatnonzero(self.counts)
        np.save(folder / FILE, np.stack([seen.astype(np.uint32), self.counts[seen]]), allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> "Scope | None":
        """What was saved; None when nothing was.

        Raises:
            ValueError: the file is damaged.
        """
        file = folder / FILE
        if not file.is_file():
            return None
        kept = np.load(file, allow_pickle=False)
        if kept.ndim != 2 or len(kept) != 2 or kept.dtype != np.uint32 or not kept.size or kept[0, -1] != PIECES:
            raise ValueError(f"{file} is damaged: it has {kept.dtype} {kept.shape}, and two rows of numbers up to {PIECES} are expected")
        counts = np.zeros(PIECES + 1, dtype=np.uint32)
        counts[kept[0]] = kept[1]
        return cls(counts)


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """What is looked at of each text, so many at once as are short enough together."""
    batch, characters = list[str](), 0
    for text in texts:
        batch.append(fold(text[:CHARACTERS]))
        characters += len(batch[-1])
        if characters >= BATCH:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _pieces(texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Each piece of each text, once: the text's number, and the bucket; both ascending."""
    found = [hashes(texts, characters) for characters in range(1, LONGEST + 1)]
    pieces = np.sort(np.concatenate([numbers * PIECES + np.abs(hashed) % PIECES for numbers, hashed in found]))
    pieces = pieces[np.diff(pieces, prepend=-1) > 0]  # many times as fast as np.unique
    return pieces // PIECES, pieces % PIECES
