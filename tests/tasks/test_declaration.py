"""Declaration: process.yaml and overrides become a process, or every mistake is told."""

from pathlib import Path
from typing import Any

import pytest

from tasks.declaration import DeclarationError, declared_processes, load_process, merge

GOOD = """
name: routing
owner: support
records: {source: sample.jsonl, columns: [text, queue]}
sample: {prompt: "Message: {text}\\nQueue:", seed: 3}
output: {label: queue}
finetuning: {learning_rate: 1.0e-3, size: {n_layer: 2}}
gate:
  - {metric: accuracy, at_least: 0.85}
"""


def declare(tmp_path: Path, text: str, name: str = "routing") -> Path:
    (tmp_path / name).mkdir()
    (tmp_path / name / "process.yaml").write_text(text, encoding="utf-8")
    return tmp_path


def test_a_declaration_knows_its_folder(tmp_path: Path) -> None:
    process = load_process("routing", declare(tmp_path, GOOD))
    assert process.folder == tmp_path / "routing"
    assert process.output.kind == "label"


def test_an_override_beats_the_declaration_and_the_declaration_beats_the_default(tmp_path: Path) -> None:
    process = load_process("routing", declare(tmp_path, GOOD), {"finetuning": {"size": {"n_head": 2}, "num_train_epochs": 1}})
    tuning = process.finetuning
    assert (tuning.num_train_epochs, tuning.size.n_head) == (1, 2)
    assert (tuning.learning_rate, tuning.size.n_layer, process.sample.seed) == (1e-3, 2, 3)
    assert (tuning.warmup_ratio, tuning.tokens_per_batch) == (0.1, None)  # left to the budget


def test_a_list_is_replaced_whole_and_nothing_given_is_changed() -> None:
    base = {"a": {"b": [1, 2], "c": 1}}
    assert merge(base, {"a": {"b": [3]}}) == {"a": {"b": [3], "c": 1}}
    assert base == {"a": {"b": [1, 2], "c": 1}}


def test_a_wrong_override_is_told_like_a_wrong_declaration(tmp_path: Path) -> None:
    with pytest.raises(DeclarationError, match=r"finetuning\.epochs: unknown key"):
        load_process("routing", declare(tmp_path, GOOD), {"finetuning": {"epochs": 3}})


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    wrong = GOOD.replace("seed: 3", "sead: 3, test_share: 2").replace("at_least: 0.85", "atleast: 0.85").replace("owner: support\n", "")
    with pytest.raises(DeclarationError) as told:
        load_process("routing", declare(tmp_path, wrong))
    for mistake in ("4 mistakes", "owner: Field required", "sample.sead: unknown key", "sample.test_share", "gate.rules.0.atleast"):
        assert mistake in str(told.value)


def test_mistakes_across_sections_are_told_with_those_within(tmp_path: Path) -> None:
    wrong = GOOD.replace("seed: 3", 'sead: 3, cleaning: ["magic"]').replace("Message: {text}", "{queue}")
    with pytest.raises(DeclarationError) as told:
        load_process("routing", declare(tmp_path, wrong))
    for mistake in ("sample.sead: unknown key", "sample.cleaning has magic", "shows the answer to the model: queue"):
        assert mistake in str(told.value)


def test_a_mistake_is_told_once(tmp_path: Path) -> None:
    processes = declare(tmp_path, GOOD)
    with pytest.raises(DeclarationError) as told:
        load_process("routing", processes, {"sample": {"test_share": 0.95, "cleaning": ["magic"]}})
    assert "2 mistakes" in str(told.value)
    assert str(told.value).count("something to train on") == str(told.value).count("magic") == 1
    with pytest.raises(DeclarationError, match=r": 1 mistake\n"):
        load_process("routing", processes, {"sample": {"test_share": 0.95}})


def test_mistakes_that_hide_one_another_are_all_told(tmp_path: Path) -> None:
    wrong = {"sample": {"sead": 3, "test_share": 0.95}, "finetuning": {"size": {"n_embed": 1, "n_embd": 30, "n_head": 4}}}
    with pytest.raises(DeclarationError) as told:
        load_process("routing", declare(tmp_path, GOOD), wrong)
    for mistake in ("3 mistakes", "sample.sead", "finetuning.size.n_embed", "something to train on"):
        assert mistake in str(told.value)


def test_a_key_written_twice_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(DeclarationError, match=r"line 2: written twice: owner"):
        load_process("routing", declare(tmp_path, GOOD + "owner: sales\n"))


@pytest.mark.parametrize("text", ["", "- a\n", "just words", "a: [", "a: \t\t- x: y", "!!python/object:os.system {}"])
def test_what_is_no_mapping_is_refused_with_the_file(tmp_path: Path, text: str) -> None:
    with pytest.raises(DeclarationError, match=r"process\.yaml"):
        load_process("routing", declare(tmp_path, text))


@pytest.mark.parametrize(
    "text",
    [
        "name: " + "[" * 3_000 + "]" * 3_000,
        "name: " + "{a: " * 3_000 + "}" * 3_000,
        GOOD.replace("seed: 3", "seed: 3, seeds: &again [*again]"),
        GOOD + "expectations: [{type: expect_table_row_count_to_equal, kwargs: &again {value: *again}}]\n",
        GOOD + "expectations: &again [{type: &t [*t, *again], kwargs: {value: *again}}]\n",
    ],
)
def test_what_is_nested_without_end_is_refused_with_the_file(tmp_path: Path, text: str) -> None:
    with pytest.raises(DeclarationError, match=r"process\.yaml") as told:
        load_process("routing", declare(tmp_path, text))
    assert len(str(told.value)) < 2_000


def test_overrides_nested_without_end_are_refused(tmp_path: Path) -> None:
    deep: dict[str, Any] = {}
    for _ in range(3_000):
        deep = {"a": deep}
    with pytest.raises(DeclarationError, match=r"process\.yaml"):
        load_process("routing", declare(tmp_path, GOOD), deep | {"expectations": [{"type": "a", "kwargs": deep}]})


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    declare(tmp_path, "")
    (tmp_path / "routing" / "process.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(DeclarationError, match=r"process\.yaml"):
        load_process("routing", tmp_path)


def test_an_unknown_process_names_those_that_are_declared(tmp_path: Path) -> None:
    with pytest.raises(DeclarationError, match=r"no process 'rooting'.*declared are: routing"):
        load_process("rooting", declare(tmp_path, GOOD))
    assert declared_processes(tmp_path) == ["routing"]
    with pytest.raises(DeclarationError, match="no process 'aaa"):
        load_process("a" * 300, tmp_path)


def test_name_and_folder_must_agree_unless_a_path_is_given(tmp_path: Path) -> None:
    declare(tmp_path, GOOD, "elsewhere")
    with pytest.raises(DeclarationError, match="make them equal"):
        load_process("elsewhere", tmp_path)
    assert load_process(str(tmp_path / "elsewhere"), Path("unused")).name == "routing"


def test_one_place_of_a_list_can_be_changed_for_a_run() -> None:
    gate = [{"metric": "accuracy", "at_least": 0.8}, {"metric": "macro_f1", "at_least": 0.7}]
    assert merge({"gate": gate}, {"gate": {"1": {"at_least": 0.5}}}) == {"gate": [gate[0], {"metric": "macro_f1", "at_least": 0.5}]}
    assert merge({"gate": gate}, {"gate": {"7": {"at_least": 0.5}}})["gate"] == {"7": {"at_least": 0.5}}
    assert merge({"gate": gate}, {"gate": gate[:1]}) == {"gate": gate[:1]}
