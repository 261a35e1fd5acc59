"""Windows: the words around each token of a prompt -> how much speaks for each mark; where it helps, it marks with the model.

What stands beside a value, and of which letters it is made, says much of what it is; a linear model learns that from few samples, and a
small model from scratch learns more of the whole sentence. So both are asked, as for labels: see tasks/linear.py. Nothing depends on
blanks: a word may be a number or one Chinese character. data/kinds.md tells what it gains, and what was tried.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, Self

import numpy as np

from tasks.cleaning import fold
from tasks.linear import UNWEIGHED, Floats, Regression, frequent, looked_at, settled
from tasks.process import Process
from tasks.prompts import values_in
from tasks.spans import Region, joined, regions_at, trimmed

BUCKETS = 2**20  # of the hash of features
STRENGTH = 1.0  # C of the regression
TOKENS, WORK = 200_000, 10_000_000  # tokens to learn from, and tokens times marks: a minute or so
LONGEST, WORDS = 40, 100_000  # characters of a word that are looked at, and words that are remembered
NEAR, FAR = 2, 6  # words on both sides that count with their place, and words before that count without
SHORT, CONTEXT = 6, 24  # words of a value, such as the name of what is asked for, that count for all tokens of the others; of all such
BEHIND = "~"  # begins all features of a token that goes on with a word

Asked = tuple[str, Sequence[Region]]  # a prompt, and the characters of each of its tokens


@dataclass(frozen=True, slots=True)
class Word:
    """A word, a number, a sign or one Chinese character of a prompt's values."""

    text: str  # folded
    shape: str  # what kind of characters, and how many
    tokens: Sequence[int]  # their numbers


EDGE = Word("", "", ())  # before the first and behind the last word of a value


@dataclass(frozen=True, slots=True)
class Windows(Regression):
    """Of marks, on the words around each token."""

    @classmethod
    def learn(cls, process: Process, told: Iterable[tuple[Asked, Sequence[int]]], classes: int) -> Self | None:
        """From training prompts, as many as it takes; None where all their tokens have one mark.

        Args:
            told: prompts, and the number of each of their tokens' mark.
            classes: how many marks there are.
        """
        answers, most = list[int](), min(TOKENS, WORK // classes)

        def features() -> Iterator[list[str]]:
            for asked, numbers in told:
                for token, features in features_of(process, *asked):
                    answers.append(numbers[token])
                    yield features
                if len(answers) >= most:
                    return

        counts = _counted(features())
        if len(set(answers)) < 2:
            return None
        buckets, _ = frequent(counts, classes)
        return cls(buckets, *settled(looked_at(counts, buckets), answers, classes, STRENGTH), UNWEIGHED)

    def scores(self, process: Process, asked: Sequence[Asked]) -> list[tuple[list[int], Floats]]:
        """Of each prompt, the numbers of its tokens that may belong to a value, and their log-chances in nats, (tokens, marks)."""
        found = [list(features_of(process, *one)) for one in asked]
        chances = self.log_chances(looked_at(_counted(features for tokens in found for _, features in tokens), self.buckets))
        ends = np.cumsum([len(tokens) for tokens in found], dtype=np.int64)
        return [([token for token, _ in tokens], chances[end - len(tokens) : end]) for tokens, end in zip(found, ends, strict=True)]

    def joined(self, process: Process, asked: Sequence[Asked], chances: Sequence[Floats]) -> list[Floats]:
        """Log-chances of the marks of each prompt's tokens, (tokens, marks), as the model and the regression see them together.

        Args:
            chances: the model's.
        """
        from scipy.special import log_softmax

        found = [each.copy() for each in chances]
        for each, (tokens, scores) in zip(found, self.scores(process, asked), strict=True):
            each[tokens] = log_softmax(self.shares[0] * each[tokens] + self.shares[1] * scores, axis=1)
        return found


def features_of(process: Process, prompt: str, offsets: Sequence[Region]) -> Iterator[tuple[int, list[str]]]:
    """The number of each token that may belong to a value, in their order, and its features.

    Args:
        offsets: characters of each token.
    """
    values = values_of(process, prompt, offsets)
    short = {value: [word.text for word in words] for value, words in values.items() if len(words) <= SHORT}
    for value, words in values.items():
        context = [f"c{other}:{text}" for other, texts in short.items() if other != value for text in texts][:CONTEXT]
        for word, features in zip(words, _around(words, value, context), strict=True):
            behind = [BEHIND + each for each in features] if len(word.tokens) > 1 else features
            for token in word.tokens:
                yield token, features if token == word.tokens[0] else behind


def values_of(process: Process, prompt: str, offsets: Sequence[Region]) -> dict[int, list[Word]]:
    """The words of each value in a prompt, by its number in the template; the template's own words are none, nor are blanks."""
    tokens = trimmed(prompt, offsets)
    together, found = joined(prompt, tokens), dict[int, list[list[int]]]()
    for number, value in enumerate(regions_at(tokens, values_in(process, prompt))):
        if value is None or tokens[number][0] >= tokens[number][1]:  # of no value, or blank
            continue
        words = found.setdefault(value, [])
        if together[number] and words and words[-1][-1] == number - 1:
            words[-1].append(number)
        else:
            words.append([number])
    return {at: [_word(prompt[tokens[each[0]][0] : tokens[each[-1]][1]], each) for each in words] for at, words in found.items()}


def _word(text: str, tokens: Sequence[int]) -> Word:
    return Word(*_told(text[:LONGEST]), tokens)


@lru_cache(WORDS)
def _told(text: str) -> tuple[str, str]:
    return fold(text), shape_of(text)


def shape_of(word: str) -> str:
    """What kind of word it is, and how long, whatever it says."""
    kind = "digit" if word.isdigit() else "title" if word.istitle() else "upper" if word.isupper() else "other"
    return f"{kind}{min(len(word), 5)}"


def _around(words: Sequence[Word], value: int, context: Sequence[str]) -> Iterator[list[str]]:
    """The features of each word of one value."""
    texts = [EDGE.text] * FAR + [word.text for word in words] + [EDGE.text] * NEAR
    shapes = [EDGE.shape, *(word.shape for word in words), EDGE.shape]
    for at in range(len(words)):
        far, (second, first, own, next_, last) = texts[at : at + FAR - NEAR], texts[at + FAR - NEAR : at + FAR + NEAR + 1]
        before, shape, after = shapes[at : at + 3]
        yield [
            *(f"w{place}:{text}" for place, text in enumerate((second, first, own, next_, last))),
            *(f"b{place}:{one}|{other}" for place, (one, other) in enumerate(((second, first), (first, own), (own, next_), (next_, last)))),
            *(f"t:{first}|{own}|{next_}", f"p:{own[:3]}", f"e:{own[-3:]}"),
            *(f"s0:{before}", f"s1:{shape}", f"s2:{after}", f"s:{before}|{shape}|{after}", f"r:{value}", f"r:{value}|{shape}"),
            *(f"f:{text}" for text in far if text),
            *context,
            *(f"{each}|{shape}" for each in context),
        ]


def _counted(told: Iterable[list[str]]) -> Any:
    """(tokens, BUCKETS), sparse: 1 for each feature that a token has."""
    from scipy.sparse import csr_array
    from sklearn.feature_extraction import FeatureHasher

    rows = iter(told)
    if (first := next(rows, None)) is None:
        return csr_array((0, BUCKETS), dtype=np.float32)
    found = FeatureHasher(BUCKETS, input_type="string", alternate_sign=False, dtype=np.float32).transform(chain([first], rows)).tocsr()
    found.data[:] = 1
    return found
