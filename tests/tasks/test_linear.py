"""A regression on words: what it learns, that it keeps no text, and that a damaged file is told."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tasks.linear import LABEL, WEIGHTS, Head, Linear
from tasks.shards import LINEAR

TEXTS = ["my card is lost", "the card is gone", "pay the invoice", "invoice not paid", "卡丢了，请补办", "发票还没有付款"] * 4
ANSWERS = np.array([0, 0, 1, 1, 0, 1] * 4)


def learned(labels: int = 2) -> Linear:
    bare, features = Linear.learn(TEXTS, labels)
    return replace(bare, heads={LABEL: Head.learn(features, ANSWERS, labels)})


def test_words_and_chinese_characters_speak_for_labels() -> None:
    found = learned().scores(["a lost card", "who paid the invoice", "我的卡丢了", "请付发票款", ""])[LABEL]
    assert found.argmax(axis=1).tolist()[:4] == [0, 1, 0, 1]
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1.0)
    assert abs(found[4, 0] - found[4, 1]) < 0.1  # nothing says nothing


def test_three_labels_of_which_no_text_has_one() -> None:
    chances = np.exp(learned(3).scores(TEXTS)[LABEL])
    assert chances.argmax(axis=1).tolist() == ANSWERS.tolist()
    assert chances[:, 2].max() < 0.05
    known = chances[:, :2] / chances[:, :2].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(known, np.exp(learned().scores(TEXTS)[LABEL]), atol=0.02)


def test_equal_texts_give_equal_bytes_and_scores_do_not_depend_on_the_others(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        learned().save(tmp_path / name)
    assert (tmp_path / "one" / LINEAR).read_bytes() == (tmp_path / "other" / LINEAR).read_bytes()
    assert not any(word.encode() in (tmp_path / "one" / LINEAR).read_bytes() for word in ("card", "invoice", "发票"))
    again = Linear.load(tmp_path / "one", {LABEL: 2, "other": 3})
    assert again
    together = again.scores(TEXTS[:6])[LABEL]
    for text, scores in zip(TEXTS, together, strict=False):
        np.testing.assert_array_equal(again.scores([text])[LABEL][0], scores)


def test_both_are_joined_as_their_shares_say() -> None:
    head, logits, scores = learned().heads[LABEL], np.array([[3.0, 0.0]]), np.array([[-2.0, -0.1]])
    np.testing.assert_array_equal(head.joined(logits, scores), logits)  # it has no share before it is weighed
    half = replace(head, shares=np.array([0.5, 2.0]))
    np.testing.assert_allclose(half.joined(logits, scores), [[-2.5, -0.2]])


def test_many_classes_look_at_the_most_frequent_features_alone() -> None:
    few, _ = Linear.learn([*TEXTS, "a card"], WEIGHTS // 3)
    assert len(few.buckets) == 3
    assert few.rarity.max() <= min(Linear.learn([*TEXTS, "a card"], 2)[0].rarity.max(), few.rarity.min() + 0.5)
    none, features = Linear.learn(["", " ", "\n"], 2)
    assert (len(none.buckets), features.shape) == (0, (3, 0))


def test_a_text_of_a_megabyte_costs_no_more_than_its_beginning() -> None:
    np.testing.assert_array_equal(learned().scores(["card " * 400 + "invoice " * 200_000])[LABEL], learned().scores(["card " * 400])[LABEL])


def test_a_model_without_one_answers_alone_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    assert Linear.load(tmp_path, {LABEL: 2}) is None
    learned().save(tmp_path)
    for classes in ({LABEL: 3}, {"queue": 2}):
        with pytest.raises(ValueError, match="do not belong to"):
            Linear.load(tmp_path, classes)
    kept = load_file(tmp_path / LINEAR)
    save_file({name: value for name, value in kept.items() if name != "weights.label"}, tmp_path / LINEAR)
    with pytest.raises(ValueError, match=r"linear\.safetensors is damaged"):
        Linear.load(tmp_path, {LABEL: 2})
    (tmp_path / LINEAR).write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00nonsense")
    with pytest.raises(ValueError, match=r"linear\.safetensors is damaged"):
        Linear.load(tmp_path, {LABEL: 2})
