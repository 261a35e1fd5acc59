"""Duplicates: the same again is found in any script, a record that differs in a figure or a name is not."""

from collections.abc import Sequence

import numpy as np
import pytest

from tasks.cleaning import fold
from tasks.duplicates import band_keys, digest, exact_twins, near_twins, rows_of_a_band, shingles, similarity, wording

LETTER = "Good morning, I ordered a grey desk lamp three weeks ago and it has still not been delivered to our office in Leiden. "
CHINESE = "您好，我三周前订购了一盏灰色台灯，到现在还没有送到我们在莱顿的办公室，请尽快帮我查一下物流信息，谢谢您的帮助，期待回复。"


def twins(texts: Sequence[str], outputs: Sequence[str] | None = None, kept: Sequence[bool] = (), threshold: float = 0.8) -> list[int]:
    given = [wording({"text": text}, output, fold) for text, output in zip(texts, outputs or ["a"] * len(texts), strict=True)]
    fixed = np.array(kept or [False] * len(texts))
    found = near_twins(band_keys(given, threshold), lambda sample: given[sample].prose, range(len(texts)), fixed, threshold)
    return list(found.tolist())


@pytest.mark.parametrize("text", [LETTER, CHINESE])
def test_a_typo_in_a_letter_makes_a_near_duplicate_in_any_script(text: str) -> None:
    typo = text[:30] + "x" + text[31:]
    assert twins([text, typo, text[::-1]]) == [-1, 0, -1]


@pytest.mark.parametrize(("one", "other"), [("ordered 3 lamps", "ordered 4 lamps"), ("付了三百元", "付了五百元")])
def test_two_letters_that_differ_in_a_figure_are_two_records(one: str, other: str) -> None:
    assert twins([f"{LETTER * 3}{one}", f"{LETTER * 3}{other}"]) == [-1, -1]


def test_two_forms_that_differ_in_a_name_are_two_records() -> None:
    given = [wording({"form": {"name": name, "reason": LETTER}}, "approve", fold) for name in ("Anna Li", "Anna Lu")]
    assert given[0].prose == given[1].prose
    assert given[0].rest != given[1].rest


def test_the_same_words_under_another_output_are_no_duplicate() -> None:
    assert twins([LETTER, LETTER], ["delivery", "complaint"]) == [-1, -1]


def test_a_test_sample_is_compared_with_but_never_dropped() -> None:
    assert twins([LETTER, LETTER, LETTER], kept=[True, True, False]) == [-1, -1, 0]


def test_a_thousand_alike_are_all_found() -> None:
    assert twins([LETTER] * 1000) == [-1] + [0] * 999


def test_the_first_in_the_given_order_is_the_one_that_stays() -> None:
    keys = np.array([5, 7, 5, 5, 7], dtype=np.uint64)
    assert exact_twins(keys, np.array([3, 4, 0, 1, 2])).tolist() == [3, 4, 3, -1, -1]


def test_similarity_is_the_share_of_common_shingles() -> None:
    one, other = (np.unique(shingles(text)) for text in ("abcd", "abce"))
    assert similarity(one, other) == pytest.approx(1 / 3)
    assert similarity(one, one) == 1


def test_a_text_shorter_than_a_shingle_has_one() -> None:
    assert len(shingles("")) == len(shingles("好")) == 1


def test_a_lower_threshold_asks_for_narrower_bands() -> None:
    assert [rows_of_a_band(threshold) for threshold in (0.95, 0.9, 0.7, 0.5, 0.01)] == [8, 8, 4, 2, 1]


def test_parts_of_a_digest_do_not_run_together() -> None:
    assert digest("ab", "c") != digest("a", "bc")
