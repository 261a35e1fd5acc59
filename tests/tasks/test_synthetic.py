"""Synthetic samples: a table of few rows is filled up with others like them, labelled by what foretells it best; all else stays."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import load_from_disk

from infra.store import LocalStore
from tasks.artifacts import file_digest
from tasks.batching import TokenRows
from tasks.checkpoints import Checkpoints
from tasks.evaluation import notes_of
from tasks.finetuning import train_model
from tasks.generation import Predictor
from tasks.preparation import write_samples
from tasks.process import Process
from tasks.records import Record
from tasks.synthetic import NAMED, fill_up, mixed_rows, taught, teacher_of
from tasks.tabular import Table
from tasks.tokenising import write_dataset

TOWNS = ("成都", "Oslo", "Lima")


def process(prompt: str = "amount: {amount}\ntown: {town}\nDecision:", **finetuning: Any) -> Process:
    tiny = {"size": {"n_layer": 1, "n_embd": 16, "n_head": 2}, "max_length": 64, "num_train_epochs": 1, "evaluations": 1}
    declared = {
        "name": "credit",
        "owner": "tests",
        "records": {"source": "a.jsonl"},
        "sample": {"prompt": prompt, "near_duplicates": None},
        "output": {"label": "decision"},
        "finetuning": {**tiny, "synthetic_up_to": 200, **finetuning},
        "gate": [{"metric": "accuracy", "at_least": 0}],
    }
    return Process.model_validate(declared)


def rows(count: int = 120) -> list[dict[str, Any]]:
    """Small amounts are granted, in 成都 larger ones, too."""
    chance = random.Random(0)
    drawn = [(chance.randrange(1000), chance.choice(TOWNS)) for _ in range(count)]
    return [
        {"amount": amount, "town": town, "decision": "yes" if amount < (800 if town == "成都" else 300) else "no"} for amount, town in drawn
    ]


def samples(declared: Process, folder: Path, found: list[dict[str, Any]] | None = None) -> Path:
    (folder / "working").mkdir(parents=True)
    records = [Record(str(number), row, "a.jsonl", number) for number, row in enumerate(found or rows())]
    write_samples(declared, records, folder / "samples", folder / "working")
    return folder / "samples"


def bytes_of(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): file_digest(path) for path in folder.rglob("*") if path.is_file()}


def train(folder: Path) -> list[dict[str, Any]]:
    return list(load_from_disk(str(folder / "train")))


def test_a_small_table_is_filled_up_and_its_own_rows_stay(tmp_path: Path) -> None:
    declared = process()
    folder = samples(declared, tmp_path)
    before = train(folder)
    assert fill_up(declared, folder) == folder
    after = train(folder)
    made = after[len(before) :]
    assert after[: len(before)] == [row | {"chances": None} for row in before]
    assert len(after) == 200
    assert json.loads((folder / NAMED).read_text())["rows"] == len(made)
    values = [json.loads(row["inputs"]) for row in made]
    known = [json.loads(row["inputs"]) for row in before]
    assert {row["amount"] for row in values} <= {row["amount"] for row in known}
    assert {(row["amount"], row["town"]) for row in values} - {(row["amount"], row["town"]) for row in known}
    right = sum(
        (row["amount"] < (800 if row["town"] == "成都" else 300)) == (json.loads(each["output"]) == "yes")
        for row, each in zip(values, made, strict=True)
    )
    assert right > 0.75 * len(made)
    assert all(each["prompt"] == f"amount: {row['amount']}\ntown: {row['town']}\nDecision:" for row, each in zip(values, made, strict=True))
    again = bytes_of(folder / "train")
    fill_up(declared, folder)
    assert bytes_of(folder / "train") == again


def test_the_same_samples_are_filled_up_with_the_same_rows(tmp_path: Path) -> None:
    one, two = (bytes_of(fill_up(process(), samples(process(), tmp_path / name))) for name in "ab")
    assert one == two
    assert bytes_of(fill_up(process(seed=8), samples(process(), tmp_path / "c"))) != one


@pytest.mark.parametrize(
    ("declared", "found"),
    [
        (process(synthetic_up_to=0), rows()),
        (process("{amount} {town} {note}"), [row | {"note": f"a letter, {number}"} for number, row in enumerate(rows())]),
        (process(), [row | {"decision": "yes" if number else "no"} for number, row in enumerate(rows())]),
    ],
    ids=["not wanted", "texts", "a label that stands once"],
)
def test_what_is_no_table_of_two_labels_stays_as_it_is(declared: Process, found: list[dict[str, Any]], tmp_path: Path) -> None:
    folder = samples(declared, tmp_path, found)
    before = bytes_of(folder)
    fill_up(declared, folder)
    assert bytes_of(folder) == before


def test_a_model_tells_of_its_synthetic_samples(tmp_path: Path) -> None:
    declared = process()
    folder = fill_up(declared, samples(declared, tmp_path))
    train_model(declared, folder, tmp_path / "model", Checkpoints(LocalStore(tmp_path / "store"), "c"), lambda _: None)
    told = json.loads((tmp_path / "model" / "training.json").read_text())["synthetic"]
    assert told["rows"] == 200 - len(load_from_disk(str(samples(declared, tmp_path / "own") / "train")))
    assert set(told["teacher"].split(" and ")) <= {"logistic_regression", "boosted_trees"}
    figures = {"baseline_train_rows": 96, "counts": {"train": 96}, "champion": None}
    assert f"from {told['rows']} synthetic samples" in " ".join(notes_of(figures, "label", {"synthetic": told}))
    assert "synthetic" not in " ".join(notes_of(figures, "label", {}))


def test_made_rows_hold_the_chances_of_all_labels_and_known_rows_none(tmp_path: Path) -> None:
    """One label stands in the validation split only: it has a token, and no chance."""
    declared = process()
    folder = samples(declared, tmp_path)
    contract = json.loads((folder / "contract.json").read_text())
    (folder / "contract.json").write_text(json.dumps(contract | {"labels": ["maybe", *contract["labels"]]}))
    known = len(train(folder))
    found = TokenRows(fill_up(declared, folder) / "train").rows(range(200))
    assert all(row.chances == () for row in found[:known])
    chances = np.array([row.chances for row in found[known:]])
    assert chances.shape == (200 - known, 3)
    assert not chances[:, 0].any()
    assert chances.sum(axis=1) == pytest.approx(1)
    assert len(np.unique(chances)) > 20
    likeliest = [["maybe", "no", "yes"][index] for index in chances.argmax(axis=1)]
    assert [json.loads(row["output"]) for row in train(folder)[known:]] == likeliest


def test_a_model_learns_how_sure_to_be(tmp_path: Path) -> None:
    """Three of ten are granted, whatever they ask for: a model that learned the likelier label of the made rows would be surer."""
    declared = process(num_train_epochs=6, learning_rate=0.01, synthetic_up_to=2_000)
    chance = random.Random(2)
    found = [row | {"decision": "yes" if chance.random() < 0.3 else "no"} for row in rows()]
    folder = fill_up(declared, samples(declared, tmp_path, found))
    train_model(declared, folder, tmp_path / "model", Checkpoints(LocalStore(tmp_path / "store"), "c"), lambda _: None)
    predictor = Predictor.load(tmp_path / "model")
    answers = predictor.predict([f"amount: {row['amount']}\ntown: {row['town']}\nDecision:" for row in rows(20)])
    assert {answer.output for answer in answers} == {"no"}
    assert np.mean([answer.confidence for answer in answers]) == pytest.approx(0.7, abs=0.08)


def test_the_method_that_foretells_left_out_rows_is_the_teacher() -> None:
    lines = [{"inputs": json.dumps(row)} for row in rows(400)]
    table = Table.read(lines, process())
    assert table
    crossed = [row["decision"] for row in rows(400)]
    assert teacher_of(table, lines, crossed)[0] == ["boosted_trees"]  # what an amount means depends on the town
    chance = random.Random(1)
    noisy = ["yes" if chance.random() < row["amount"] / 1000 else "no" for row in rows(400)]
    names, left_out = teacher_of(table, lines, noisy)
    assert names == ["logistic_regression"]
    assert left_out.shape == (400, 2)
    assert taught(table, names, lines, noisy, lines[:3]).shape == (3, 2)


def cases(decided: Callable[[list[str], int], str]) -> list[dict[str, Any]]:
    """Cases with a history of steps, and some figures."""
    chance = random.Random(3)
    found = []
    for _ in range(160):
        steps, amount = [f"step{chance.randrange(40)}" for _ in range(6)], chance.randrange(1000)
        found.append({"history": " ".join(steps), "amount": amount, "day": chance.choice(TOWNS), "hour": chance.randrange(24)})
        found[-1]["decision"] = decided(steps, amount)
    return found


@pytest.mark.parametrize(
    ("decided", "filled"),
    [
        (lambda steps, _: "yes" if "step7" in steps or "step9" in steps or "step11" in steps else "no", False),
        (lambda _, amount: "yes" if amount < 500 else "no", True),
    ],
)
def test_where_a_text_says_more_than_the_columns_nothing_is_made(
    decided: Callable[[list[str], int], str], filled: bool, tmp_path: Path
) -> None:
    declared = process("amount: {amount}\nday: {day}\nhour: {hour}\nhistory: {history}\nDecision:")
    folder = fill_up(declared, samples(declared, tmp_path, cases(decided)))
    assert (folder / NAMED).exists() == filled


@pytest.mark.parametrize("known", [0, 1, 2])
def test_a_column_of_numbers_that_is_nearly_always_empty_stops_nothing(known: int, tmp_path: Path) -> None:
    found = [row | {"bonus": 5 * number if number < known else None} for number, row in enumerate(rows())]
    declared = process("amount: {amount}\ntown: {town}\nbonus: {bonus}\nDecision:")
    assert len(train(fill_up(declared, samples(declared, tmp_path, found)))) == 200


def test_a_base_model_is_not_given_synthetic_samples(tmp_path: Path) -> None:
    folder = samples(process(), tmp_path)
    before = bytes_of(folder)
    fill_up(process(base="store:base-office", size=None), folder)
    assert bytes_of(folder) == before


def test_what_no_prompt_shows_is_not_carried_along_and_no_sample_is_no_fault_here(tmp_path: Path) -> None:
    row = {"inputs": json.dumps({"amount": 1, "town": "Lima", "letter": "long " * 9})}
    assert json.loads(mixed_rows([row], ["amount", "town"], 1, np.random.default_rng(0))[0]["inputs"]) == {"amount": 1, "town": "Lima"}
    folder = samples(process(), tmp_path)
    shutil.rmtree(folder / "train")
    write_dataset([], folder, "train")
    fill_up(process(), folder)
    assert not (folder / NAMED).exists()
