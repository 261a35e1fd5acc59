"""Scope: what is like the training records, in any script."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import HashingVectorizer

from tasks.cleaning import fold
from tasks.scope import CHARACTERS, FILE, PIECES, Scope

KNOWN = ["my parcel has not arrived", "where is my parcel", "我的快递还没到", "快递在哪里", "the invoice is wrong", "发票开错了"]


def test_other_words_and_other_scripts_are_less_alike() -> None:
    scope = Scope.learn(KNOWN)
    texts = ["where is the invoice", "发票在哪里", "quantum chromodynamics", "量子力学的基本假设", "привет мир", ""]
    english, chinese, *strange = scope.similarities(texts)
    assert min(english, chinese) > 0.6
    assert max(strange[1:]) < 0.2
    assert strange[0] < english
    assert strange[-1] == 0


def test_it_counts_what_scikit_learn_counts() -> None:
    hashing = HashingVectorizer(
        analyzer="char", ngram_range=(1, 3), n_features=PIECES, binary=True, norm=None, alternate_sign=False, lowercase=False
    )
    texts = [*KNOWN, "", "a", "aa aa", "ＡＢ 12", "many words " * 400]
    counts = np.asarray(hashing.transform([fold(text[:CHARACTERS]) for text in texts]).sum(axis=0)).ravel()
    assert np.array_equal(Scope.learn(texts * 30).counts, np.append(counts, len(texts)) * 30)  # in several batches


def test_it_is_the_same_after_it_was_kept(tmp_path: Path) -> None:
    scope = Scope.learn(KNOWN)
    scope.save(tmp_path)
    known = Scope.load(tmp_path)
    assert known is not None
    assert np.array_equal(known.counts, scope.counts)
    assert known.counts[-1] == len(KNOWN)
    assert Scope.load(tmp_path / "none") is None


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / FILE, np.zeros((2, 3), dtype=np.uint32))
    with pytest.raises(ValueError, match="is damaged"):
        Scope.load(tmp_path)
