"""Splitting: a record keeps its side, and nothing that measures was learned."""

from typing import Any

import numpy as np
import pytest

from tasks.declaration import parse_process
from tasks.process import Process
from tasks.splitting import SIDES, TEST, TRAIN, VALIDATION, check_sides, draw, leaks, side_of


def process(**records: Any) -> Process:
    return parse_process(
        {
            "name": "routing",
            "owner": "support",
            "records": {"source": "sample.jsonl", **records},
            "sample": {"prompt": "{text}", "test_share": 0.2, "validation_share": 0.1},
            "output": {"label": "queue"},
            "gate": [{"metric": "accuracy", "at_least": 0.5}],
        },
        "test",
    )


def sides(*names: str) -> Any:
    return np.array([SIDES.index(name) for name in names], dtype=np.int8)


def keys(*numbers: int) -> Any:
    return np.array(numbers, dtype=np.uint64)


def test_the_shares_are_kept() -> None:
    drawn = [side_of(process(), "", f"text {number}") for number in range(5000)]
    assert [drawn.count(side) / 5000 for side in (TRAIN, VALIDATION, TEST)] == pytest.approx([0.7, 0.1, 0.2], abs=0.02)


def test_a_side_depends_on_the_seed_and_the_key_alone() -> None:
    assert draw(7, "我的包裹") == draw(7, "我的包裹")
    assert draw(7, "parcel") != draw(8, "parcel")
    assert 0 <= draw(7, "") < 1


def test_nothing_is_drawn_for_a_part_that_has_a_file() -> None:
    drawn = {side_of(process(test="test.jsonl"), "", f"text {number}") for number in range(500)}
    assert drawn == {TRAIN, VALIDATION}
    assert side_of(process(test="test.jsonl"), "test", "text 1") == TEST


def test_with_both_files_the_whole_source_is_for_training() -> None:
    fixed = process(test="test.jsonl", validation="validation.jsonl")
    assert {side_of(fixed, "", f"text {number}") for number in range(100)} == {TRAIN}


def test_a_text_of_the_test_side_leaves_the_others() -> None:
    assert leaks(sides("train", "validation", "test", "train"), keys(1, 1, 1, 2)).tolist() == [True, True, False, False]


def test_a_text_of_the_validation_side_leaves_training_only() -> None:
    assert leaks(sides("train", "validation", "test"), keys(1, 1, 2)).tolist() == [True, False, False]


def test_a_group_leaks_as_a_text_does_and_no_group_is_no_group() -> None:
    assert leaks(sides("train", "train", "test"), keys(1, 2, 3), keys(9, 0, 9)).tolist() == [True, False, False]
    assert not leaks(sides("train", "test"), keys(1, 2), keys(0, 0)).any()


def test_an_empty_side_is_told_with_the_counts_and_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"nothing is left for validation \(train 2, validation 0, test 1\); give more records"):
        check_sides(process(), sides("train", "train", "test"), keys(1, 2, 3))


def test_a_leak_that_was_left_stops_the_run() -> None:
    with pytest.raises(AssertionError, match="two sides"):
        check_sides(process(), sides("train", "validation", "test"), keys(1, 2, 1))
    assert check_sides(process(), sides("train", "validation", "test"), keys(1, 2, 3)) == {"train": 1, "validation": 1, "test": 1}
