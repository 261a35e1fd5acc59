"""Batching: token rows of a split -> padded batches of about equal size; their order is decided by seed and epoch alone."""

import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Features, List, Value, load_from_disk
from torch import Tensor

ROWS = Features({"input_ids": List(Value("int32")), "prompt_tokens": Value("int32")})
WINDOW_BATCHES = 32  # rows are sorted by length within so many batches: little padding, and still a shuffled order


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of about one length, padded on the right; no mask is needed there, for a causal model never looks to the right."""

    input_ids: Tensor  # (rows, longest), int64
    lengths: Tensor  # (rows,), tokens of each row
    prompt_tokens: Tensor  # (rows,), how many of them are the prompt's


class TokenRows:
    """One split of samples/, read from disk as batches ask for it."""

    def __init__(self, folder: Path) -> None:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        if state["_data_files"]:
            self._rows: Any = load_from_disk(str(folder)).select_columns(list(ROWS)).with_format("arrow")
        else:  # load_from_disk fails on a split without rows
            self._rows = Dataset.from_dict({"input_ids": [], "prompt_tokens": []}, ROWS)
        self.prompt_tokens: np.ndarray[Any, np.dtype[Any]] = self._rows.data.column("prompt_tokens").to_numpy()
        self.lengths: np.ndarray[Any, np.dtype[Any]] = self._lengths()

    def _lengths(self) -> np.ndarray[Any, np.dtype[Any]]:
        import pyarrow.compute  # type: ignore[import-untyped]

        lengths: np.ndarray[Any, np.dtype[Any]] = pyarrow.compute.list_value_length(self._rows.data.column("input_ids")).to_numpy()
        return lengths

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def largest_id(self) -> int:
        """The largest token id of all rows, -1 when there is none; reads piece by piece."""
        pieces = (piece.flatten().to_numpy() for piece in self._rows.data.column("input_ids").chunks)
        return max((int(piece.max()) for piece in pieces if len(piece)), default=-1)

    def batch(self, indices: Sequence[int] | np.ndarray[Any, np.dtype[Any]]) -> Batch:
        """The rows at these indices; padding is token 0, which no loss and no real token ever sees."""
        column = self._rows[list(map(int, indices))].column("input_ids").combine_chunks()
        lengths = self.lengths[indices]
        padded = np.zeros((len(lengths), int(lengths.max())), np.int64)
        padded[np.arange(padded.shape[1]) < lengths[:, None]] = column.flatten().to_numpy()
        prompts = self.prompt_tokens[indices]
        return Batch(torch.from_numpy(padded), torch.from_numpy(lengths.astype(np.int64)), torch.from_numpy(prompts.astype(np.int64)))


def right_padded(rows: Sequence[Sequence[int]], prompt_tokens: Sequence[int]) -> Batch:
    """Rows of token ids as one batch."""
    longest = max(map(len, rows))
    padded = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
    return Batch(padded, torch.tensor([len(row) for row in rows]), torch.tensor(list(prompt_tokens)))


def left_padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token ids and their mask, both (rows, longest): the rows end together, so that all are continued at once."""
    longest = max(map(len, rows))
    padded = torch.tensor([[*[0] * (longest - len(row)), *row] for row in rows])
    mask = torch.tensor([[*[0] * (longest - len(row)), *[1] * len(row)] for row in rows])
    return padded, mask


def cut(lengths: Sequence[int] | np.ndarray[Any, np.dtype[Any]], tokens_per_batch: int) -> Iterator[slice]:
    """Cut rows, sorted from short to long, into runs of at most `tokens_per_batch` tokens with padding; at least one row each."""
    start, count = 0, len(lengths)
    while start < count:
        ends = range(start + 1, count + 1)  # the padded size grows with the end, so the last end that fits can be bisected
        fitting = bisect_right(ends, tokens_per_batch, key=lambda end: (end - start) * int(lengths[end - 1]))
        yield slice(start, start + max(1, fitting))
        start += max(1, fitting)


def by_length(lengths: Sequence[int], tokens_per_batch: int) -> Iterator[list[int]]:
    """Indices of all rows, from short to long, in batches."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    for run in cut([lengths[index] for index in order], tokens_per_batch):
        yield order[run]


def plan(lengths: np.ndarray[Any, np.dtype[Any]], tokens_per_batch: int, seed: int, epoch: int) -> list[np.ndarray[Any, np.dtype[Any]]]:
    """The batches of one epoch as arrays of row indices: shuffled, sorted by length within windows, and shuffled again."""
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(len(lengths))
    window = max(1, int(WINDOW_BATCHES * tokens_per_batch / max(1.0, float(lengths.mean()))))
    batches = []
    for start in range(0, len(order), window):
        rows = order[start : start + window]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        batches += [rows[run] for run in cut(lengths[rows], tokens_per_batch)]
    return [batches[index] for index in random.permutation(len(batches))]


def drop_tokens(batch: Batch, share: float, instead: int, generator: torch.Generator) -> Batch:
    """Replace a share of the prompt's tokens on a random half of the rows, so that no single word decides.

    Args:
        instead: the token that takes their place.
    """
    rows, width = batch.input_ids.shape
    chosen = torch.rand((rows, 1), generator=generator) < 0.5
    dropped = (torch.rand((rows, width), generator=generator) < share) & chosen
    dropped &= torch.arange(width) < batch.prompt_tokens[:, None]
    return Batch(batch.input_ids.masked_fill(dropped, instead), batch.lengths, batch.prompt_tokens)
