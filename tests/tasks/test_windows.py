"""Windows: what the words around a token say of its mark, in any script, and what a weak model's marks gain by it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from datasets import load_from_disk

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
    assert facts == {"loss_with_linear": round(told["loss"], 4)} and told["loss"] < told["loss_alone"]
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
    found = Windows.learn(declared(), [("Mail: 李安\nForm:", letters("Mail: 李安\nForm:"))], [[0] * 6 + [1, 2] + [0] * 6], 3)
    assert found
    found.save(folder)
    with pytest.raises(ValueError, match=r"linear\.safetensors has weights .* do not belong to 5 classes"):
        Predictor.load(folder)


def test_words_of_any_script_are_told_by_their_neighbours_and_the_template_says_nothing() -> None:
    text = "Mail: 送12盒到上海\nForm:"
    found = dict(features_of(declared(), text, letters(text)))
    assert sorted(found) == list(range(6, 13))  # neither "Mail: " nor "\nForm:"
    assert "w2:12" in found[7] and "w1:送" in found[7] and "w3:盒" in found[7]
    assert found[8] == [BEHIND + each for each in found[7] if each[0] != BEHIND] or found[8][0].startswith(BEHIND)  # the 2 of 12
    assert {"f:送", "w0:盒", "w1:到", "w2:上", "w3:海"} <= set(found[11])


def test_what_is_asked_for_counts_for_all_words_of_a_message_but_not_without_end() -> None:
    text = "Asked: people date\nMail: two of us\nForm:"
    found = dict(features_of(declared("Asked: {asked}\nMail: {text}\nForm:"), text, letters(text)))
    assert {"c0:people", "c0:date"} <= set(found[text.index("two")])
    assert "c1:two" in found[text.index("people")]
    many = "".join(f"{at}: {{a{at}}}\n" for at in range(20)) + "Form:"
    prompt = "".join(f"{at}: x y z\n" for at in range(20)) + "Form:"
    assert all(
        sum(each.startswith("c") and "|" not in each for each in features) == CONTEXT
        for _, features in features_of(declared(many), prompt, letters(prompt))
    )


def test_both_are_joined_as_their_shares_say_and_nothing_else_is_touched() -> None:
    text = "Mail: 李安 wants ink\nForm:"
    asked, marks = [(text, letters(text))] * 4, [[0] * 6 + [1, 2] + [0] * (len(text) - 8)] * 4
    found = Windows.learn(declared(), asked, marks, 3)
    assert found
    ((tokens, scores),) = found.scores(declared(), asked[:1])
    assert scores.argmax(axis=1).tolist() == [marks[0][token] for token in tokens]
    chances = np.log(np.random.default_rng(1).dirichlet(np.ones(3), size=len(text)))
    (same,) = found.joined(declared(), asked[:1], [chances])
    np.testing.assert_allclose(same, chances)
    (other,) = replace(found, shares=np.array([0.0, 1.0])).joined(declared(), asked[:1], [chances])
    np.testing.assert_allclose(other[tokens], scores)
    rest = [at for at in range(len(text)) if at not in tokens]
    np.testing.assert_array_equal(other[rest], chances[rest])


def test_prompts_that_have_one_mark_teach_nothing() -> None:
    assert Windows.learn(declared(), [("Mail: a\nForm:", letters("Mail: a\nForm:"))], [[0] * 13], 3) is None
    assert Windows.learn(declared(), [], [], 3) is None
