"""Windows: what the words around a token say of its mark, in any script, and what a weak model's marks gain by it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from datasets import load_from_disk
from safetensors.numpy import save_file

from infra.store import LocalStore
from tasks.checkpoints import Checkpoints
from tasks.evaluation import notes_of
from tasks.finetuning import train_model
from tasks.generation import Predictor
from tasks.joining import join
from tasks.preparation import write_samples
from tasks.process import Process
from tasks.shards import LINEAR
from tasks.windows import BEHIND, CONTEXT, Windows, features_of
from tests.tasks.test_forms import order, process

FIELDS = {"name": {"verbatim": True}, "items": {"list": True, "verbatim": True}}


def letters(text: str) -> list[tuple[int, int]]:
    """Each character as a token."""
    return [(at, at + 1) for at in range(len(text))]


def declared(template: str = "Mail: {text}\nForm:", linear: bool = True) -> Process:
    return process(FIELDS, {"prompt": template}, num_train_epochs=1, linear=linear)


@pytest.fixture(scope="module")
def weak(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """samples/ of orders, and a model/ that has seen them once."""
    folder = tmp_path_factory.mktemp("weak")
    (folder / "working").mkdir()
    records = [order(number) for number in range(50)]
    records += [order(100 + number, split) for split, start in (("validation", 0), ("test", 30)) for number in range(start, start + 30)]
    write_samples(declared(), records, folder / "samples", folder / "working")
    checkpoints = Checkpoints(LocalStore(folder / "store"), "c")
    train_model(declared(), folder / "samples", folder / "model", checkpoints, lambda _: None)
    return folder / "samples", folder / "model"


def copied(weak: tuple[Path, Path], folder: Path) -> Path:
    folder.mkdir()
    for file in weak[1].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def right(predictor: Predictor, samples: Path) -> float:
    """Share of the fields that are as they should be."""
    rows = list(load_from_disk(str(samples / "test")))
    outputs = [each.output or {} for each in predictor.predict([row["prompt"] for row in rows])]
    return float(
        np.mean([output.get(name) == json.loads(row["output"])[name] for output, row in zip(outputs, rows, strict=True) for name in FIELDS])
    )


def test_a_weak_model_marks_better_with_it_and_alike_wherever_it_is_loaded(weak: tuple[Path, Path], tmp_path: Path) -> None:
    samples, folder = weak[0], copied(weak, tmp_path / "model")
    alone = Predictor.load(folder)
    facts = join(declared(), samples, folder)
    told = json.loads((folder / "training.json").read_text(encoding="utf-8"))["linear"]
    assert facts == {"loss_alone": round(told["loss_alone"], 4), "loss_with_linear": round(told["loss"], 4)}
    assert told["loss"] < told["loss_alone"]
    both = Predictor.load(folder)
    assert right(both, samples) > right(alone, samples) + 0.2
    prompts = [row["prompt"] for row in load_from_disk(str(samples / "test"))]
    together, single = both.predict(prompts), [Predictor.load(folder).predict([prompt])[0] for prompt in prompts[:3]]
    assert [each.output for each in together[:3]] == [each.output for each in single]
    assert [each.confidence for each in together[:3]] == pytest.approx([each.confidence for each in single], abs=1e-4)
    assert all(name.encode() not in (folder / LINEAR).read_bytes() for name in ("wants", "王小明", "pens"))
    figures = {"counts": {"train": 50}, "baseline_train_rows": 50, "champion": None}
    assert any("regression" in note for note in notes_of(figures, "fields", {"linear": told}))


def test_a_model_of_which_nothing_is_to_be_helped_is_left_as_it_is(weak: tuple[Path, Path], tmp_path: Path) -> None:
    folder = copied(weak, tmp_path / "model")
    assert join(declared(linear=False), weak[0], folder) == {}
    assert not (folder / LINEAR).exists()
    assert Predictor.load(folder).windows is None


def test_one_of_other_marks_is_refused(weak: tuple[Path, Path], tmp_path: Path) -> None:
    folder = copied(weak, tmp_path / "model")
    found = taught([[0] * 6 + [1, 2] + [0] * 16])
    assert found
    found.save(folder)
    with pytest.raises(ValueError, match=r"linear\.safetensors has weights .* do not belong to 5 classes"):
        Predictor.load(folder)


def test_words_of_any_script_are_told_by_their_neighbours_and_the_template_says_nothing() -> None:
    text = "Mail: 送１２盒到上海\nForm:"
    found = dict(features_of(declared(), text, letters(text)))
    assert sorted(found) == list(range(6, 13))  # neither "Mail: " nor "\nForm:"
    near = {"w0:", "w1:送", "w2:12", "w3:盒", "w4:到", "b0:|送", "b1:送|12", "b2:12|盒", "b3:盒|到", "t:送|12|盒", "p:12", "e:12"}
    shapes = {"s0:other1", "s1:digit2", "s2:other1", "s:other1|digit2|other1", "r:0", "r:0|digit2"}
    assert set(found[7]) == near | shapes
    assert found[8] == [BEHIND + each for each in found[7]]  # the second figure goes on with the number
    assert set(found[11]) >= {"f:送", "w0:盒", "w1:到", "w2:上", "w3:海", "w4:"}


def test_what_is_asked_for_counts_for_all_words_of_a_message_but_not_without_end() -> None:
    text = "Asked: people date\nMail: two of us\nForm:"
    found = dict(features_of(declared("Asked: {asked}\nMail: {text}\nForm:"), text, letters(text)))
    assert {"c0:people", "c0:date", "c0:people|other3"} <= set(found[text.index("two")])
    assert not any(each.startswith("c1") for each in found[text.index("two")])  # it is no context of itself
    assert "c1:two" in found[text.index("people")]
    assert not {at for at, letter in enumerate(text) if letter == " "} & set(found)
    long = text.replace("people date", "a b c d e f g")
    found = dict(features_of(declared("Asked: {asked}\nMail: {text}\nForm:"), long, letters(long)))
    assert not any(each.startswith("c0") for each in found[long.index("two")])
    many = "".join(f"{at}: {{a{at}}}\n" for at in range(20)) + "Form:"
    prompt = "".join(f"{at}: x y z\n" for at in range(20)) + "Form:"
    for _, features in features_of(declared(many), prompt, letters(prompt)):
        assert sum(each.startswith("c") and "|" not in each for each in features) == CONTEXT


def test_a_column_keeps_its_number_where_one_before_it_is_empty() -> None:
    asked = declared("Asked: {asked}\nMail: {text}\nForm:")
    whole, empty = "Asked: x\nMail: Ann\nForm:", "Asked: \nMail: Ann\nForm:"
    (there, here) = (dict(features_of(asked, text, letters(text)))[text.index("Ann")] for text in (whole, empty))
    assert "r:1" in there and "r:1" in here
    assert set(there) - set(here) == {"c0:x", "c0:x|title3"}


def test_a_word_is_cut_and_one_without_end_takes_no_time() -> None:
    text = f"Mail: {'x' * 1_000_000}y\nForm:"
    ((_, features),) = features_of(declared(), text, [(0, 6), (6, 1_000_007), (1_000_007, len(text))])
    assert max(map(len, features)) < 200


def taught(marks: list[list[int]], text: str = "Mail: 李安 wants ink\nForm:") -> Windows | None:
    return Windows.learn(declared(), [((text, letters(text)), each) for each in marks], 3)


def test_both_are_joined_as_their_shares_say_and_nothing_else_is_touched() -> None:
    text = "Mail: 李安 wants ink\nForm:"
    marks = [0] * 6 + [1, 2] + [0] * (len(text) - 8)
    found = taught([marks] * 4)
    assert found
    ((tokens, scores),) = found.scores(declared(), [(text, letters(text))])
    assert scores.argmax(axis=1).tolist() == [marks[token] for token in tokens]
    chances = np.log(np.random.default_rng(1).dirichlet(np.ones(3), size=len(text)))
    for shares in ([1.0, 0.0], [0.5, 2.0]):
        (both,) = replace(found, shares=np.array(shares)).joined(declared(), [(text, letters(text))], [chances])
        wanted = np.exp(shares[0] * chances[tokens] + shares[1] * scores)
        np.testing.assert_allclose(np.exp(both[tokens]), wanted / wanted.sum(axis=1, keepdims=True))
        rest = [at for at in range(len(text)) if at not in tokens]
        np.testing.assert_array_equal(both[rest], chances[rest])
    assert found.scores(declared(), []) == []


def test_prompts_that_have_one_mark_or_no_word_teach_nothing_and_so_many_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    assert taught([[0] * 24]) is None
    assert taught([]) is None
    assert taught([[0] * 12], "Mail: \nForm:") is None
    monkeypatch.setattr("tasks.windows.WORK", 3)
    assert taught([[0] * 24, [0] * 6 + [1, 2] + [0] * 16]) is None  # the second one comes too late


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("weights", np.full((2, 3), np.nan, np.float32), "is damaged"),
        ("weights", np.ones((2, 3), np.int64), "is damaged"),
        ("shares", np.array([1.0, -1.0]), "is damaged"),
        ("buckets", np.array([5, 2]), "is damaged"),
        ("bias", np.zeros(1, np.float32), "do not belong to 3 classes"),
        ("rarity", np.zeros(2, np.float32), "holds bias, buckets, rarity, shares, weights where bias, buckets, shares, weights belong"),
    ],
)
def test_a_file_of_which_no_answer_could_be_trusted_is_refused(name: str, value: np.ndarray, why: str, tmp_path: Path) -> None:
    good = {"buckets": np.array([2, 5]), "weights": np.ones((2, 3), np.float32), "bias": np.zeros(3, np.float32), "shares": np.ones(2)}
    save_file(good, tmp_path / LINEAR)
    assert Windows.load(tmp_path, 3)
    save_file({**good, name: value}, tmp_path / LINEAR)
    with pytest.raises(ValueError, match=why):
        Windows.load(tmp_path, 3)
