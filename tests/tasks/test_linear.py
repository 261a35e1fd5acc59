"""A regression on words: what it learns, that it keeps no text, and that a damaged file is told."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tasks.linear import WEIGHTS, Linear
from tasks.shards import LINEAR

TEXTS = ["my card is lost", "the card is gone", "pay the invoice", "invoice not paid", "卡丢了，请补办", "发票还没有付款"] * 4
ANSWERS = [0, 0, 1, 1, 0, 1] * 4


def learned(labels: int = 2) -> Linear:
    return Linear.learn(TEXTS, ANSWERS, labels)


def test_words_and_chinese_characters_speak_for_labels() -> None:
    found = learned().scores(["a lost card", "who paid the invoice", "我的卡丢了", "请付发票款", ""])
    assert found.argmax(axis=1).tolist()[:4] == [0, 1, 0, 1]
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1.0)
    assert abs(found[4, 0] - found[4, 1]) < 0.1  # nothing says nothing


def test_three_labels_of_which_no_text_has_one() -> None:
    found = learned(3)
    chances = np.exp(found.scores(TEXTS))
    assert chances.argmax(axis=1).tolist() == ANSWERS
    assert chances[:, 2].max() < 0.05
    np.testing.assert_allclose(chances[:, :2] / chances[:, :2].sum(axis=1, keepdims=True), np.exp(learned().scores(TEXTS)), atol=0.02)


def test_equal_texts_give_equal_bytes_and_scores_do_not_depend_on_the_others(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        learned().save(tmp_path / name)
    assert (tmp_path / "one" / LINEAR).read_bytes() == (tmp_path / "other" / LINEAR).read_bytes()
    assert not any(word.encode() in (tmp_path / "one" / LINEAR).read_bytes() for word in ("card", "invoice", "发票"))
    again = Linear.load(tmp_path / "one", 2)
    assert again
    together = again.scores(TEXTS[:6])
    for text, scores in zip(TEXTS, together, strict=False):
        np.testing.assert_array_equal(again.scores([text])[0], scores)


def test_both_are_joined_as_their_shares_say(tmp_path: Path) -> None:
    found = learned()
    logits = np.array([[3.0, 0.0]])
    np.testing.assert_array_equal(found.joined(logits, ["pay the invoice"]), logits)  # it has no share before it is weighed
    half = replace(found, shares=np.array([0.5, 2.0]))
    np.testing.assert_allclose(half.joined(logits, ["pay the invoice"]), 0.5 * logits + 2.0 * found.scores(["pay the invoice"]))
    assert half.joined(logits, ["x" * 1_000_000]).shape == (1, 2)


def test_many_labels_look_at_the_most_frequent_features_alone() -> None:
    few, all_of_them = Linear.learn(TEXTS, ANSWERS, WEIGHTS // 3), learned()
    assert few.weights.shape == (3, WEIGHTS // 3)
    assert few.rarity.max() <= np.sort(all_of_them.rarity)[2]
    with pytest.raises(ValueError, match="no word"):
        Linear.learn(["", " ", "\n"], [0, 1, 0], 2)


def test_a_model_without_one_answers_alone_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    assert Linear.load(tmp_path, 2) is None
    learned().save(tmp_path)
    with pytest.raises(ValueError, match="which do not belong to 3 classes"):
        Linear.load(tmp_path, 3)
    kept = load_file(tmp_path / LINEAR)
    save_file({name: value for name, value in kept.items() if name != "bias"}, tmp_path / LINEAR)
    with pytest.raises(ValueError, match=r"linear\.safetensors holds buckets, rarity, shares, weights where bias, buckets"):
        Linear.load(tmp_path, 2)
    (tmp_path / LINEAR).write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00nonsense")
    with pytest.raises(ValueError, match=r"linear\.safetensors is damaged"):
        Linear.load(tmp_path, 2)
    for rarity in (kept["rarity"][1:], np.full_like(kept["rarity"], np.nan)):
        save_file(kept | {"rarity": rarity}, tmp_path / LINEAR)
        with pytest.raises(ValueError, match="rarity is none of its features"):
            Linear.load(tmp_path, 2)
