"""Batching: token rows of a split -> padded batches of about equal size; their order is decided by seed and epoch alone."""

import json
import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from datasets import Dataset, Features, List, Value, load_from_disk
from torch import Tensor

ROWS = Features({"input_ids": List(Value("int32")), "prompt_tokens": Value("int32"), "marks": List(Value("int32"))})
CHANCES = "chances"
DOUBTFUL = Features({CHANCES: List(Value("float32"))})  # what rows have besides, where some were made
WINDOW_BATCHES = 32  # rows are sorted by length within so many, and anew once reworked: little padding, and still a shuffled order


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of about one length, padded on the right; no mask is needed there, for a causal model never looks to the right."""

    input_ids: Tensor  # (rows, longest), int64
    lengths: Tensor  # (rows,), tokens of each row
    prompt_tokens: Tensor  # (rows,), how many of them are the prompt's
    marks: Tensor | None = None  # (rows, longest), the token that marks each token of a second reading; -1 elsewhere
    positions: Tensor | None = None  # (rows, longest), when the prompt is read twice: both readings have the same
    chances: Tensor | None = None  # (rows, labels), how likely each label is where a row has none; NaN where it has

    @property
    def answer_starts(self) -> Tensor:
        """(rows,), where the completion begins; of a prompt read twice, behind the token that begins a form."""
        return self.prompt_tokens if self.marks is None else 2 * self.prompt_tokens + 2

    def part(self, rows: slice) -> "Batch":
        """Some of its rows."""
        optional = (None if tensor is None else tensor[rows] for tensor in (self.marks, self.positions, self.chances))
        return Batch(self.input_ids[rows], self.lengths[rows], self.prompt_tokens[rows], *optional)


@dataclass(frozen=True, slots=True)
class Row:
    """One sample's tokens.

    Marks are those of the prompt when it is read twice, of all tokens when a text copies from its prompt; chances are those of all
    labels, where a row was made and nobody knows its own.
    """

    input_ids: Sequence[int]
    prompt_tokens: int
    marks: Sequence[int] = ()
    chances: Sequence[float] = ()


class Rework(Protocol):
    """Changes a sample each time it is shown."""

    def __call__(self, row: Row, random: np.random.Generator) -> Row: ...


class TokenRows:
    """One split of samples/, read from disk as batches ask for it.

    Args:
        read: the token between two readings of a prompt, when samples are marked.
    """

    def __init__(self, folder: Path, read: int | None = None) -> None:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        self.read = read
        if state["_data_files"]:
            found = load_from_disk(str(folder))
            self._rows: Any = found.select_columns([name for name in (*ROWS, *DOUBTFUL) if name in found.column_names]).with_format("arrow")
        else:  # load_from_disk fails on a split without rows
            self._rows = Dataset.from_dict({name: [] for name in ROWS}, ROWS)
        self.prompt_tokens: np.ndarray[Any, np.dtype[Any]] = self._rows.data.column("prompt_tokens").to_numpy()
        self.samples: np.ndarray[Any, np.dtype[Any]] = self._lengths()  # tokens of each sample
        self.lengths = self.shown(self.samples, self.prompt_tokens)  # tokens of each row of a batch

    def shown(
        self, samples: np.ndarray[Any, np.dtype[Any]], prompt_tokens: np.ndarray[Any, np.dtype[Any]]
    ) -> np.ndarray[Any, np.dtype[Any]]:
        """Tokens of the rows that so long samples become: a prompt that is read again counts twice, and what stands between."""
        return samples if self.read is None else samples + prompt_tokens + 1

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

    def rows(self, indices: Sequence[int] | np.ndarray[Any, np.dtype[Any]]) -> list[Row]:
        """The samples at these indices."""
        found = self._rows[list(map(int, indices))]
        optional = (
            [values or () for values in found.column(name).to_pylist()] if name in found.column_names else [()] * len(indices)
            for name in ("marks", CHANCES)
        )
        columns = found.column("input_ids").to_pylist(), self.prompt_tokens[indices].tolist(), *optional
        return [Row(*values) for values in zip(*columns, strict=True)]

    def batch(self, indices: Sequence[int] | np.ndarray[Any, np.dtype[Any]]) -> Batch:
        """The samples at these indices, padded; what stands in the padding no loss and no real token ever sees."""
        return batch_of(self.rows(indices), self.read)


def batch_of(rows: Sequence[Row], read: int | None = None) -> Batch:
    """Samples as one batch.

    Args:
        read: the token after which the prompt is read again; None when it is read once.
    """
    if read is None:
        once = right_padded([row.input_ids for row in rows], [row.prompt_tokens for row in rows])
        return replace(once, chances=_chances(rows))
    twice = [read_twice(row.input_ids, row.prompt_tokens, read) for row in rows]
    plain = right_padded(twice, [row.prompt_tokens for row in rows])
    marks = torch.full_like(plain.input_ids, -1)
    for index, row in enumerate(rows):
        marks[index, row.prompt_tokens + 1 : 2 * row.prompt_tokens + 1] = torch.tensor(row.marks)
    place = torch.arange(plain.input_ids.shape[1]).minimum(plain.lengths[:, None] - 1)  # padding stands nowhere the model cannot
    return Batch(plain.input_ids, plain.lengths, plain.prompt_tokens, marks, second_positions(place, plain.prompt_tokens[:, None]))


def _chances(rows: Sequence[Row]) -> Tensor | None:
    """Those of each row, NaN where it has none; None when no row has."""
    labels = max(len(row.chances) for row in rows)
    return torch.tensor([list(row.chances) or [math.nan] * labels for row in rows]) if labels else None


def read_twice(input_ids: Sequence[int], prompt_tokens: int, read: int) -> list[int]:
    """Prompt, `read`, the prompt again, and what follows it."""
    return [*input_ids[:prompt_tokens], read, *input_ids]


def second_positions(place: Tensor, prompt_tokens: Tensor) -> Tensor:
    """Positions of tokens in a row whose prompt is read twice: the second reading begins at 0 again.

    Args:
        place: of each token in its row, from 0; prompt_tokens is broadcast against it.
    """
    return torch.where(place <= prompt_tokens, place, place - prompt_tokens - 1)


def right_padded(rows: Sequence[Sequence[int]], prompt_tokens: Sequence[int]) -> Batch:
    """Rows of token ids as one batch."""
    longest = max(map(len, rows))
    padded = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
    return Batch(padded, torch.tensor([len(row) for row in rows]), torch.tensor(list(prompt_tokens)))


def marks_at(batch: Batch) -> Tensor:
    """(rows, longest): True where a second reading is to be marked."""
    return torch.zeros_like(batch.input_ids, dtype=torch.bool) if batch.marks is None else batch.marks >= 0


def answers_at(batch: Batch) -> Tensor:
    """(rows, longest - 1): True where a mark, or a token of the completion, is predicted."""
    following = torch.arange(1, batch.input_ids.shape[1])
    completion = (following < batch.lengths[:, None]) & (following >= batch.answer_starts[:, None])
    return completion | marks_at(batch)[:, :-1]


def wanted_in(batch: Batch) -> Tensor:
    """(rows, longest - 1): what each position is to predict, the token after it, or in a second reading the mark of its own."""
    following = batch.input_ids[:, 1:]
    return following if batch.marks is None else torch.where(batch.marks[:, :-1] >= 0, batch.marks[:, :-1], following)


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


def evenly(lengths: Sequence[int], count: int) -> list[slice]:
    """Cut rows, sorted from short to long, into so many runs, the largest of which is as small with padding as can be.

    Args:
        count: of runs, at most one for each row.
    """
    sizes = range(lengths[-1], lengths[-1] * len(lengths) + 1)  # the more a run may hold, the fewer there are
    runs = list(cut(lengths, sizes[bisect_left(sizes, True, key=lambda size: sum(1 for _ in cut(lengths, size)) <= count)]))
    while len(runs) < count:
        most = max(runs, key=lambda run: run.stop - run.start)
        at, middle = runs.index(most), (most.start + most.stop) // 2
        runs[at : at + 1] = [slice(most.start, middle), slice(middle, most.stop)]
    return runs


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


def reworked(
    rows: TokenRows, batches: Sequence[np.ndarray[Any, np.dtype[Any]]], rework: Rework, random: np.random.Generator
) -> list[Batch]:
    """The samples of some batches as they are shown this time, in as many batches, anew of about one length, for each has another now."""
    changed = [rework(row, random) for row in rows.rows(np.concatenate(batches))]
    lengths = rows.shown(np.array([len(row.input_ids) for row in changed]), np.array([row.prompt_tokens for row in changed]))
    order = np.argsort(lengths, kind="stable")
    runs = evenly(lengths[order].tolist(), len(batches))
    return [batch_of([changed[index] for index in order[runs[at]]], rows.read) for at in random.permutation(len(runs))]


def drop_tokens(batch: Batch, share: float, instead: int, generator: torch.Generator) -> Batch:
    """Replace a share of the prompt's tokens on a random half of the rows, so that no single word decides.

    Args:
        instead: the token that takes their place.
    """
    rows, width = batch.input_ids.shape
    chosen = torch.rand((rows, 1), generator=generator) < 0.5
    dropped = (torch.rand((rows, width), generator=generator) < share) & chosen
    if batch.positions is not None:  # what the first reading has lost, the second one has not
        dropped = dropped.gather(1, batch.positions)
    prompt = torch.arange(width) < batch.prompt_tokens[:, None]
    dropped &= prompt if batch.marks is None else prompt | (batch.marks >= 0)
    return replace(batch, input_ids=batch.input_ids.masked_fill(dropped, instead))
