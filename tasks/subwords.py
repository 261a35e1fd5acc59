"""Subwords: a training prompt -> the same text in other tokens each time it is shown (BPE-dropout, Provilkov et al., arXiv:1910.13267).

A word that is split now one way, now another, is learned from its parts, too: rare words and slips of the pen are then less strange.
What is drawn is decided by the sample's own generator, and the ways to split a word by the word: a tuning that was killed goes on alike.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from tokenizers import Tokenizer

from tasks.batching import Row

ROWS = 0.5  # of the samples, as token dropout; the others are shown as they will be asked
WAYS = 16  # to split a word, drawn once; likely ones stand there more than once
MOST_WORDS = 200_000  # whose ways are kept


class Subwords:
    """Splits the words of prompts otherwise.

    Args:
        tokens: a byte-level BPE tokenizer.
        dropout: of the merges of a word, the share that is left out, 0-1.
        longest: tokens of a sample; one that became longer stays as it was.
        nothing: the mark of what is no value; words with another one stay as they are.

    Raises:
        ValueError: the tokenizer is no BPE.
    """

    def __init__(self, tokens: Tokenizer, dropout: float, longest: int, nothing: int | None = None) -> None:
        model = json.loads(tokens.to_str())["model"]
        if model["type"] != "BPE":
            raise ValueError(f"finetuning.bpe_dropout needs a tokenizer with byte-pair encoding; this one is {model['type']}: leave it out")
        pairs = (pair if isinstance(pair, list) else pair.split(" ") for pair in model["merges"])
        self._ranks = {(first, second): rank for rank, (first, second) in enumerate(pairs)}
        self._ids: dict[str, int] = model["vocab"]
        self._added = set(tokens.get_added_tokens_decoder())
        self._tokens, self._dropout, self._longest, self._nothing = tokens, dropout, longest, nothing
        self._ways: dict[str, list[tuple[int, ...]]] = {}

    def split(self, row: Row, random: np.random.Generator) -> Row:
        """A sample whose prompt says the same, half of the time in other tokens."""
        if random.random() >= ROWS:
            return row
        prompt, marks, ids, kept = list(row.input_ids[: row.prompt_tokens]), list(row.marks), list[int](), list[int]()
        for first, end, word in self._words(prompt):
            plain = not marks or all(mark == self._nothing for mark in marks[first:end])
            ways = self.ways(word) if word and plain else None
            new = ways[int(random.integers(len(ways)))] if ways else prompt[first:end]
            ids += new
            kept += [marks[first]] * len(new) if ways and marks else marks[first:end]
        if len(ids) + len(row.input_ids) - len(prompt) > self._longest:
            return row
        return replace(row, input_ids=[*ids, *row.input_ids[len(prompt) :]], prompt_tokens=len(ids), marks=kept)

    def _words(self, prompt: Sequence[int]) -> Iterator[tuple[int, int, str]]:
        """First token, behind the last one, and the word; the word is empty where nothing is to be split."""
        start = 0
        while start < len(prompt):
            end = start
            while end < len(prompt) and prompt[end] not in self._added:
                end += 1
            yield from self._words_of(prompt[start:end], start)
            if end < len(prompt):
                yield end, end + 1, ""
            start = end + 1

    def _words_of(self, ids: Sequence[int], start: int) -> Iterator[tuple[int, int, str]]:
        if not ids:
            return
        encoding = self._tokens.encode(self._tokens.decode(list(ids), skip_special_tokens=False), add_special_tokens=False)
        if encoding.ids != list(ids):  # a value that was put in its place was cut otherwise, or half a character stands here
            yield start, start + len(ids), ""
            return
        words, first = encoding.word_ids, 0
        for index in range(1, len(words) + 1):
            if index == len(words) or words[index] != words[first]:
                yield start + first, start + index, "".join(encoding.tokens[first:index])
                first = index

    def ways(self, word: str) -> list[tuple[int, ...]]:
        """Ways to split a word, as token ids.

        Args:
            word: in the alphabet of byte-level BPE.
        """
        found = self._ways.get(word)
        if found is None:
            random = np.random.default_rng(list(word.encode()))
            found = [tuple(self._ids[part] for part in self._parts(word, random)) for _ in range(WAYS if len(word) > 1 else 1)]
            if len(self._ways) < MOST_WORDS:
                self._ways[word] = found
        return found

    def _parts(self, word: str, random: np.random.Generator) -> list[str]:
        """Merge the earliest pair again and again, as BPE does, but overlook some each time."""
        parts = list(word)
        while True:
            seen = [
                (rank, place)
                for place, pair in enumerate(pairwise(parts))
                if (rank := self._ranks.get(pair)) is not None and random.random() >= self._dropout
            ]
            if not seen:
                return parts
            place = min(seen)[1]
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
