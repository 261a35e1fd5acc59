"""A search tries settings, stops what is worse, goes on after a kill, and tells what to declare."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.trial import TrialState

from infra.here import here
from infra.store import Conflict, open_store
from tasks.artifacts import listing_of, read_json, store_folder
from tasks.budget import Counts, settle
from tasks.declaration import DeclarationError, merge, parse_process
from tasks.preparation import write_samples
from tasks.process import Process
from tasks.records import Record
from tasks.runs import begin
from tasks.search import Hunt, as_settled, fail_stale, search, search_settings, shared, space_around, study_of, suggested
from tasks.spaces import Choices, lines_of
from tasks.studies import page_of, story_of

SPACE = {"learning_rate": {"low": 0.001, "high": 0.03, "log": True}, "dropout": {"low": 0.0, "high": 0.2}}


def process(**finetuning: Any) -> Process:
    tiny = {
        "size": {"n_layer": 1, "n_embd": 16, "n_head": 2},
        "max_length": 32,
        "num_train_epochs": 3,
        "tokens_per_batch": 256,
        "evaluations": 3,
        "learning_rate": 0.01,
    }
    declared = {
        "name": "tickets",
        "owner": "tests",
        "records": {"source": "a.jsonl"},
        "sample": {"prompt": "{text}", "vocabulary_size": 300, "near_duplicates": None},
        "output": {"label": "queue"},
        "finetuning": merge(tiny, finetuning),
        "gate": [{"metric": "accuracy", "at_least": 0}],
    }
    return parse_process(declared, "here")


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """samples/ of short messages."""
    folder = tmp_path_factory.mktemp("made")
    rows = [{"text": f"{word} {number}", "queue": queue} for number in range(30) for word, queue in (("card", "a"), ("发票", "b"))]
    (folder / "working").mkdir()
    records = [Record(str(number), row, "a.jsonl", number) for number, row in enumerate(rows)]
    write_samples(process(), records, folder / "samples", folder / "working")
    return folder / "samples"


def hunt(samples: Path, folder: Path, trials: int, seconds: float = 300, **settings: Any) -> Hunt:
    return Hunt(process(search={"space": SPACE}, **settings), samples, folder / "study.log", "one", trials, time.time() + seconds)


def states(journal: Path) -> list[str]:
    return [trial.state.name for trial in study_of(journal, "one").get_trials()]


def test_the_first_trial_is_what_is_declared_and_a_second_search_goes_on_with_the_study(samples: Path, tmp_path: Path) -> None:
    first = search_settings(hunt(samples, tmp_path, trials=2), workers=1)
    assert [trial["number"] for trial in first["trials"]] == [0, 1]
    assert first["trials"][0]["settings"] == {
        "learning_rate": 0.01,
        "dropout": settle(process().finetuning, "label", Counts(1, 1, 1, 1)).dropout,
    }
    assert first["declared"] == first["trials"][0]["loss"] == min(first["trials"][0]["losses"].values())
    again = search_settings(hunt(samples, tmp_path, trials=3), workers=1)
    assert again["trials"][:2] == first["trials"]
    assert len({trial["settings"]["learning_rate"] for trial in again["trials"]}) == 3
    assert search_settings(hunt(samples, tmp_path, trials=3), workers=1) == again


def test_a_first_trial_of_which_something_was_drawn_is_not_told_as_declared(samples: Path, tmp_path: Path) -> None:
    elsewhere = SPACE | {"learning_rate": {"low": 0.02, "high": 0.03, "log": True}}
    asked = replace(hunt(samples, tmp_path, trials=1), process=process(search={"space": elsewhere}))
    told = search_settings(asked, workers=1)
    assert told["trials"][0]["settings"]["learning_rate"] > 0.01 == asked.process.finetuning.learning_rate
    assert told["declared"] is None
    page = page_of(study_of(tmp_path / "study.log", "one"), told, "tickets", lines_of(told["best"]))
    assert "as declared" not in page


def test_the_declared_trial_of_a_process_that_is_gone_is_told_as_declared_when_it_is_tried_again(tmp_path: Path) -> None:
    study = study_of(tmp_path / "study.log", "one")
    study.enqueue_trial({"learning_rate": 0.01}, {"declared": True})
    left = study.ask()
    left.set_user_attr("settings", {"learning_rate": left.suggest_float("learning_rate", 0.001, 0.03)})
    assert fail_stale(study) == 1
    again = study.ask()
    assert again.suggest_float("learning_rate", 0.001, 0.03) == 0.01
    study.tell(again, 1.5)
    assert story_of(study)["declared"] == 1.5


def test_a_trial_whose_process_is_gone_is_failed_and_tried_again_by_processes_that_share_the_study(samples: Path, tmp_path: Path) -> None:
    code = "from infra.here import here; print(here())"
    gone = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    study = study_of(tmp_path / "study.log", "one")
    left, alive = study.ask(), study.ask()
    left.suggest_float("learning_rate", 0.001, 0.03, log=True)
    rate = left.params["learning_rate"]
    left.set_user_attr("place", gone)
    alive.set_user_attr("place", here())
    found = search_settings(hunt(samples, tmp_path, trials=5), workers=2)
    assert states(tmp_path / "study.log")[:2] == ["FAIL", "RUNNING"]
    places = {trial.user_attrs["place"] for trial in study_of(tmp_path / "study.log", "one").get_trials()[2:]}
    assert here() not in places
    assert rate in [trial["settings"].get("learning_rate") for trial in found["trials"][2:]]
    assert fail_stale(study_of(tmp_path / "study.log", "one")) == 0


def test_what_is_worse_than_most_is_stopped_and_the_best_is_not(tmp_path: Path) -> None:
    study = study_of(tmp_path / "study.log", "one")
    read: dict[int, int] = {}
    for quality in (3.0, 2.0, 4.0, 9.0, 1.0, 5.0):
        trial = study.ask()
        for step in range(1, 5):
            trial.report(quality - step / 10, step)
            read[trial.number] = step
            if trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, quality)
    assert read == {0: 4, 1: 4, 2: 4, 3: 2, 4: 4, 5: 2}
    assert story_of(study)["best"]["number"] == 4


def test_time_that_is_over_stops_a_trial_only_when_another_one_has_come_to_its_end(samples: Path, tmp_path: Path) -> None:
    alone = search_settings(hunt(samples, tmp_path, trials=9, seconds=-1), workers=1)
    assert [trial["state"] for trial in alone["trials"]] == ["complete"]


def test_the_stage_writes_the_study_what_to_declare_and_a_page_without_a_network(samples: Path, tmp_path: Path) -> None:
    run = begin(process(search={"space": SPACE, "trials": 3}), "tune")
    found = search.fn(store_folder(open_store(), samples, "tickets/runs/earlier/samples"), run, minutes=5)
    assert {"study.json", "best.yaml", "page.html"} == set(listing_of(open_store(), found))
    lines = yaml.safe_load(open_store().read(found.prefix + "best.yaml")[0])
    assert (
        parse_process(merge(run.process.model_dump(mode="json"), lines), "again").finetuning.learning_rate
        == lines["finetuning"]["learning_rate"]
    )
    assert yaml.safe_load(lines_of(found.facts["best"])) == lines
    page = open_store().read(found.prefix + "page.html")[0].decode()
    assert page.count('class="plotly-graph-div"') == 3
    assert "<script src=" not in page


def test_a_search_goes_on_with_the_study_on_another_machine(samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = store_folder(open_store(), samples, "tickets/runs/earlier/samples")
    told = []
    for trials, machine in ((1, "one"), (2, "other"), (3, "one")):
        monkeypatch.setenv("CLERKFLOW_CACHE", str(tmp_path / machine))
        run = begin(process(search={"space": SPACE, "trials": trials}), "tune")
        told.append(read_json(open_store(), search.fn(stored, run, minutes=5), "study.json")["trials"])
    assert [len(each) for each in told] == [1, 2, 3]
    assert told[2][:2] == told[1]
    assert told[1][:1] == told[0]


@pytest.mark.parametrize(("left", "goes_on"), [("a\nb\nc\n", "a\nb\nc\n"), ("a\nb", "a\nb\n"), ("a\nother\n", "a\nb\n")])
def test_a_journal_that_was_not_copied_is_gone_on_with_unless_another_machine_has_gone_on(tmp_path: Path, left: str, goes_on: str) -> None:
    store, journal = open_store(), tmp_path / "study.log"
    store.write("tickets/studies/one.log", b"a\nb\n")
    journal.write_text(left)
    with shared(store, "tickets/studies/one.log", journal, None):
        assert journal.read_text() == goes_on
    assert store.read("tickets/studies/one.log")[0].decode() == goes_on
    with pytest.raises(Conflict), shared(store, "tickets/studies/one.log", journal, None):
        store.write("tickets/studies/one.log", b"a\nb\nd\n")
        journal.write_text(goes_on + "c\n")


def test_without_a_declared_space_it_is_around_the_settled_settings_and_within_the_minutes(samples: Path, tmp_path: Path) -> None:
    declared, counts = process(size=None, num_train_epochs=None, budget_minutes=0.5), Counts(5_000, 400_000, 360_000, 2_000)
    settled = settle(declared.finetuning, "label", counts)
    space = space_around(declared, settled, counts)
    assert set(as_settled(space, settled)) == set(space)
    assert isinstance(space["size"], Choices)
    assert settled.size.model_dump() in space["size"].choices
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    drawn = [suggested(study.ask(), space, declared, counts) for _ in range(30)]
    work = [found["num_train_epochs"] * found["size"]["n_layer"] * found["size"]["n_embd"] ** 2 for found in drawn]
    largest = max(space["size"].choices, key=lambda size: size["n_embd"])
    assert max(work) <= 1.5 * settled.num_train_epochs * max(largest["n_layer"] * largest["n_embd"] ** 2, 1)
    assert len({found["size"]["n_embd"] for found in drawn}) > 1


@pytest.mark.parametrize(
    ("space", "told"),
    [
        ({"seed": {"low": 1, "high": 2}}, "seed cannot be searched for"),
        ({}, "nothing cannot be searched for"),
        ({"dropout": {"low": 0.2, "high": 0.1}}, "low 0.2 must be below high 0.1"),
        ({"dropout": {"low": 0.2, "high": 1.5}}, "finetuning.search.space.dropout: 1.5"),
        ({"size": {"choices": [{"n_embd": 10, "n_head": 4}, {"n_embd": 16}]}}, "must be a multiple of n_head"),
    ],
)
def test_a_space_that_no_training_could_take_is_a_mistake(space: Any, told: str) -> None:
    with pytest.raises(DeclarationError, match=told):
        process(search={"space": space})
