"""Prompts in other tokens say the same, their marks stay where they are, and the same draw gives the same tokens."""

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from tasks.batching import Row
from tasks.subwords import Subwords
from tasks.vocabulary import train_vocabulary

TEXTS = ["my card is lost, please help", "the card is gone", "pay the invoice 4711 today", "卡丢了,请帮忙", "Ünlü  müşteri\n\tüber"] * 3


@pytest.fixture(scope="module")
def tokens() -> Tokenizer:
    return train_vocabulary(TEXTS, 420, ["<|label:card|>"])


@pytest.fixture(autouse=True)
def every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.subwords.ROWS", 1.0)


def row_of(tokens: Tokenizer, text: str, marks: bool = False) -> Row:
    ids = tokens.encode(text).ids
    return Row([*ids, 1, 0], len(ids), [7] * len(ids) if marks else ())


@pytest.mark.parametrize("text", [*TEXTS[:5], "", " ", "never seen: ñandú 𝄞 卡 <|label:card|>"])
def test_the_text_and_the_completion_stay(tokens: Tokenizer, text: str) -> None:
    subwords, row = Subwords(tokens, 0.5, 500), row_of(tokens, text)
    found = [subwords.split(row, np.random.default_rng(seed)) for seed in range(20)]
    assert all(tokens.decode(list(each.input_ids[: each.prompt_tokens]), skip_special_tokens=False) == text for each in found)
    assert all(list(each.input_ids[each.prompt_tokens :]) == [1, 0] for each in found)
    if text in TEXTS:
        assert len({tuple(each.input_ids) for each in found}) > 5


def test_without_dropout_words_are_split_as_ever(tokens: Tokenizer) -> None:
    row = row_of(tokens, " ".join(TEXTS))
    assert Subwords(tokens, 0.0, 500).split(row, np.random.default_rng(1)) == Row(list(row.input_ids), row.prompt_tokens, [])


def test_what_is_drawn_is_decided_by_the_generator_alone(tokens: Tokenizer) -> None:
    row, one, other = row_of(tokens, TEXTS[0]), Subwords(tokens, 0.3, 500), Subwords(tokens, 0.3, 500)
    other.split(row_of(tokens, TEXTS[3]), np.random.default_rng(9))  # what another one has seen before changes nothing
    assert [one.split(row, np.random.default_rng(seed)) for seed in range(9)] == [
        other.split(row, np.random.default_rng(seed)) for seed in range(9)
    ]


def test_marked_words_stay_and_the_others_take_their_mark_along(tokens: Tokenizer) -> None:
    row = row_of(tokens, "pay the invoice 4711 today", marks=True)
    value = [index for index, token in enumerate(row.input_ids[: row.prompt_tokens]) if tokens.decode([token]).strip() in set("4711")]
    marks = [3 if index in value else 7 for index in range(row.prompt_tokens)]
    found = Subwords(tokens, 1.0, 500, nothing=7).split(Row(row.input_ids, row.prompt_tokens, marks), np.random.default_rng(1))
    assert len(found.marks) == found.prompt_tokens > row.prompt_tokens
    kept = [found.input_ids[index] for index, mark in enumerate(found.marks) if mark == 3]
    assert kept == [row.input_ids[index] for index in value]


def test_tokens_of_their_own_are_never_split_and_what_would_be_too_long_stays(tokens: Tokenizer) -> None:
    label = tokens.token_to_id("<|label:card|>")
    ids = [*tokens.encode("the card").ids, label, *tokens.encode(" is gone").ids]
    row = Row([*ids, 0], len(ids))
    found = Subwords(tokens, 1.0, 500).split(row, np.random.default_rng(1))
    assert found.input_ids.index(label) == len("the card")
    assert Subwords(tokens, 1.0, len(ids) + 2).split(row, np.random.default_rng(1)) is row


def test_half_of_the_samples_are_shown_as_they_will_be_asked(tokens: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.subwords.ROWS", 0.5)
    row, subwords = row_of(tokens, TEXTS[0]), Subwords(tokens, 1.0, 500)
    assert 70 < sum(subwords.split(row, np.random.default_rng(seed)) is row for seed in range(200)) < 130


def test_another_kind_of_tokenizer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"finetuning\.bpe_dropout needs a tokenizer with byte-pair encoding; this one is WordLevel"):
        Subwords(Tokenizer(models.WordLevel({"a": 0}, "a")), 0.1, 10)
