"""A regression stands beside a model where both together foretell held-out rows better, and is published with it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, Features, List, Value, load_from_disk

from tasks.evaluation import notes_of
from tasks.generation import Predictor
from tasks.joining import join, weighed
from tasks.shards import INDEX, LINEAR, shards_of
from tests.tasks.test_generation import process, tuned

WORDS = {"card": ("card", "pin", "卡", "atm"), "bill": ("invoice", "bill", "发票", "fee")}


def texts(rows: int, seed: int) -> list[tuple[str, str]]:
    """Texts of many words that say nothing and one that decides; and its label."""
    random = np.random.default_rng(seed)
    labels = [("bill", "card")[int(random.integers(2))] for _ in range(rows)]
    filler = [" ".join(f"w{number}" for number in random.integers(40, size=4)) for _ in range(rows)]
    return [(f"{words} {WORDS[label][int(random.integers(4))]}", label) for words, label in zip(filler, labels, strict=True)]


def model(folder: Path, rows: int = 60, **finetuning: Any) -> tuple[Path, Path]:
    """samples/ with texts, and a model/ that has seen them."""
    declared = process({"label": "queue"}, **finetuning)
    train, validation = texts(rows, 1), texts(rows, 2)
    tuned(folder, declared, dict(train), ["bill", "card"])
    tokens, samples = Predictor.load(folder / "model").tokens, folder / "samples"
    ids = {"input_ids": List(Value("int32")), "prompt_tokens": Value("int32")}
    features = Features({"prompt": Value("string"), "output": Value("string")} | ids)
    for side, pairs in (("train", train), ("validation", validation)):
        data = {"prompt": [text for text, _ in pairs], "output": [json.dumps(label) for _, label in pairs]}
        data |= {"input_ids": [tokens.encode(text).ids for text, _ in pairs], "prompt_tokens": [1] * len(pairs)}
        Dataset.from_dict(data, features).save_to_disk(folder / f"{side}-told")
        (samples / side).rename(folder / f"{side}-plain")
        (folder / f"{side}-told").rename(samples / side)
    return samples, folder / "model"


def right(predictor: Predictor, pairs: list[tuple[str, str]]) -> float:
    found = predictor.predict([text for text, _ in pairs])
    return float(np.mean([each.output == label for each, (_, label) in zip(found, pairs, strict=True)]))


def test_a_weak_model_is_helped_and_answers_alike_wherever_it_is_loaded(tmp_path: Path) -> None:
    samples, folder = model(tmp_path, num_train_epochs=1)
    unseen, alone = texts(200, 3), Predictor.load(folder)
    facts = join(process({"label": "queue"}), samples, folder)
    told = json.loads((folder / "training.json").read_text(encoding="utf-8"))["linear"]
    assert facts == {"loss_alone": round(told["loss_alone"], 4), "loss_with_linear": round(told["loss"], 4)}
    assert told["loss"] < told["loss_alone"] and told["linear"] > 0
    figures = {"counts": {"train": 60}, "baseline_train_rows": 60, "champion": None}
    (note,) = (note for note in notes_of(figures, "label", {"linear": told}) if "regression" in note)
    assert f"the loss of both is {told['loss']:.3f} nats, that of the model alone {told['loss_alone']:.3f}" in note
    helped = Predictor.load(folder)
    assert right(helped, unseen) > right(alone, unseen) + 0.1
    one, (other,) = helped.predict([text for text, _ in unseen])[0], Predictor.load(folder).predict([unseen[0][0]])
    assert (one.output, one.completion) == (other.output, other.completion)
    assert one.confidence == pytest.approx(other.confidence, abs=1e-4)


def test_it_stays_a_file_of_its_own_in_a_version_and_the_model_is_cut_without_it(tmp_path: Path) -> None:
    samples, folder = model(tmp_path, num_train_epochs=1)
    before = shards_of(folder, 10_000)
    join(process({"label": "queue"}), samples, folder)
    files = shards_of(folder, 10_000)
    assert set(files) - set(before) == {LINEAR}
    assert files[LINEAR].size == (folder / LINEAR).stat().st_size
    assert files[INDEX].open().read() == before[INDEX].open().read()


@pytest.mark.parametrize("why", ["declared", "table", "few", "base", "blank"])
def test_a_model_answers_alone_where_nothing_could_help_it(why: str, tmp_path: Path) -> None:
    samples, folder = model(tmp_path, rows=10 if why == "few" else 40, num_train_epochs=1, linear=why != "declared")
    contract = json.loads((samples / "contract.json").read_text(encoding="utf-8"))
    if why == "table":
        contract |= {"columns": {"tokens": [], "parts": {}, "whole": True}}
        (samples / "contract.json").write_text(json.dumps(contract))
    if why == "blank":
        data = load_from_disk(str(samples / "train"))
        data.map(lambda row: {"prompt": " "}).save_to_disk(str(tmp_path / "blank"))
        (samples / "train").rename(tmp_path / "told")
        (tmp_path / "blank").rename(samples / "train")
    if why == "base":  # its labels are spelled
        (samples / "contract.json").write_text(json.dumps(contract | {"label_ids": None}))
    assert join(process({"label": "queue"}, linear=why != "declared"), samples, folder) == {}
    assert not (folder / LINEAR).exists()


def test_a_word_that_helps_nobody_has_little_share_and_none_grows_without_end() -> None:
    random = np.random.default_rng(5)
    answers = random.integers(3, size=400)
    believed = np.where(random.random(400) < 0.9, answers, random.integers(3, size=400))
    good = np.log(np.full((400, 3), 0.05) + 0.85 * np.eye(3)[believed])
    noise = np.log(random.dirichlet(np.ones(3), size=400))
    shares, (alone, both) = weighed(good, noise, answers)
    assert (alone - both) * 400 < 2
    assert shares[1] < 0.1 < 0.7 < shares[0] < 1.4
    shares, (alone, both) = weighed(noise, good, answers)
    assert (alone - both) * 400 > 100
    assert shares[0] < 0.1 < 0.7 < shares[1] < 1.4
    shares, (alone, both) = weighed(3 * np.eye(3)[answers], np.log(np.full((400, 3), 0.05) + 0.85 * np.eye(3)[answers]), answers)
    assert both < alone < 0.05
    assert shares.max() < 5
