"""Hashes of runs of characters, beside those of scikit-learn."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils import murmurhash3_32

from tasks.hashing import hashes

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=5)


@given(TEXTS, st.integers(1, 4))
def test_each_run_has_the_hash_that_it_has_alone(texts: list[str], characters: int) -> None:
    numbers, found = hashes(texts, characters)
    runs = [(number, text[at : at + characters]) for number, text in enumerate(texts) for at in range(len(text) - characters + 1)]
    assert numbers.tolist() == [number for number, _ in runs]
    assert found.tolist() == [murmurhash3_32(run.encode(), 0) for _, run in runs]


def test_runs_of_every_length_in_bytes_are_hashed() -> None:
    texts = ["abc", "äbc", "快递a", "😀x😀", "\U0010ffff\0é"]
    _, found = hashes(texts, 3)
    assert found.tolist() == [murmurhash3_32(text.encode(), 0) for text in texts]
    assert found.dtype == np.int64
