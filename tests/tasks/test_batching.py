from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, Features, List, Value
from hypothesis import given
from hypothesis import strategies as st

from tasks.batching import Batch, Row, TokenRows, by_length, cut, drop_tokens, evenly, left_padded, plan, reworked, right_padded

LENGTHS = np.array([3, 9, 4, 4, 120, 5, 7, 2], np.int32)


def rows_on_disk(folder: Path, rows: list[list[int]], prompt_tokens: list[int]) -> TokenRows:
    features = Features({"input_ids": List(Value("int32")), "prompt_tokens": Value("int32")})
    Dataset.from_dict({"input_ids": rows, "prompt_tokens": prompt_tokens}, features).save_to_disk(folder)
    return TokenRows(folder)


def test_no_batch_holds_more_tokens_than_allowed_unless_one_row_does() -> None:
    for batch in plan(LENGTHS, 16, seed=1, epoch=0):
        padded = len(batch) * int(LENGTHS[batch].max())
        assert padded <= 16 or len(batch) == 1


def test_every_row_is_in_exactly_one_batch_of_an_epoch() -> None:
    assert sorted(np.concatenate(plan(LENGTHS, 16, seed=1, epoch=3)).tolist()) == list(range(8))


def test_the_order_is_decided_by_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        return [batch.tolist() for batch in plan(LENGTHS, 16, seed, epoch)]

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)


def test_batches_are_as_large_as_the_limit_lets_them_be() -> None:
    assert [(run.start, run.stop) for run in cut([2, 2, 3, 4, 10], 9)] == [(0, 3), (3, 4), (4, 5)]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40).map(sorted), st.data())
def test_rows_are_cut_into_as_many_runs_as_are_wanted_none_larger_than_must_be(lengths: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(lengths)))
    runs = evenly(lengths, count)
    assert len(runs) == count
    assert [at for run in runs for at in range(run.start, run.stop)] == list(range(len(lengths)))
    largest = max((run.stop - run.start) * lengths[run.stop - 1] for run in runs)
    assert largest == lengths[-1] or len(list(cut(lengths, largest - 1))) > count


def doubled(row: Row, random: np.random.Generator) -> Row:
    return replace(row, input_ids=[*row.input_ids] * 8) if random.random() < 0.5 else row


def test_samples_that_have_become_longer_stand_beside_such_as_are_as_long(tmp_path: Path) -> None:
    rows = rows_on_disk(tmp_path / "train", [[at + 1] * (3 + at % 3) for at in range(240)], [1] * 240)
    batches = [np.arange(start, start + 12) for start in range(0, 240, 12)]
    first, again, other = (reworked(rows, batches, doubled, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert len(first) == len(batches)
    assert sorted(int(ids[0]) for batch in first for ids in batch.input_ids) == list(range(1, 241))
    real, padded = sum(int(batch.lengths.sum()) for batch in first), sum(batch.input_ids.numel() for batch in first)
    assert padded < 1.1 * real
    assert max(batch.input_ids.numel() for batch in first) < 1.3 * padded / len(batches)
    assert all(torch.equal(one.input_ids, two.input_ids) for one, two in zip(first, again, strict=True))
    assert any(one.input_ids.shape != two.input_ids.shape for one, two in zip(first, other, strict=True))
    assert [len(batch.lengths) for batch in first] != sorted(len(batch.lengths) for batch in first), "the long ones must not come last"


def test_rows_are_sorted_from_short_to_long_for_prediction() -> None:
    assert list(by_length([5, 1, 3], 6)) == [[1, 2], [0]]
    assert list(by_length([], 6)) == []


def test_a_batch_from_disk_has_its_rows_padded_on_the_right(tmp_path: Path) -> None:
    rows = rows_on_disk(tmp_path / "train", [[5, 6, 7], [8], [9, 10]], [2, 0, 1])
    batch = rows.batch(np.array([2, 0]))
    assert batch.input_ids.tolist() == [[9, 10, 0], [5, 6, 7]]
    assert batch.lengths.tolist() == [2, 3]
    assert batch.prompt_tokens.tolist() == [1, 2]
    assert rows.largest_id == 10


def test_a_split_without_rows_can_be_opened(tmp_path: Path) -> None:
    rows = rows_on_disk(tmp_path / "validation", [], [])
    assert len(rows) == 0
    assert rows.largest_id == -1


def test_padding_on_the_left_lets_all_rows_end_together() -> None:
    ids, mask = left_padded([[4, 5], [6]])
    assert ids.tolist() == [[4, 5], [0, 6]]
    assert mask.tolist() == [[1, 1], [0, 1]]


def test_only_prompt_tokens_are_dropped() -> None:
    batch = right_padded([[4] * 50 + [5] * 4] * 40, [50] * 40)
    dropped = drop_tokens(batch, 0.5, 9, torch.Generator().manual_seed(1)).input_ids
    assert bool((dropped[:, 50:] == 5).all())
    rows_touched = (dropped[:, :50] == 9).any(1).sum()
    assert 0 < rows_touched < 40
    assert bool((batch.input_ids[:, :50] == 4).all()), "the batch that was given must stay as it was"


def test_dropped_tokens_are_the_same_for_the_same_seed() -> None:
    batch: Batch = right_padded([[4] * 20], [20])
    first, second = (drop_tokens(batch, 0.3, 9, torch.Generator().manual_seed(5)).input_ids for _ in range(2))
    assert torch.equal(first, second)
