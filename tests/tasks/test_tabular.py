"""Methods made for tables: they answer where a prompt is columns only, whatever is missing or new in them, and nowhere else."""

import json
import random
from typing import Any

import pytest

from tasks.baselines import Row, baseline_answers
from tasks.metrics import Answers, Case, measure
from tasks.process import Process
from tasks.tabular import Table, kind_of, rounds_for, tabular_answers

PROMPT = "amount: {amount}\ntown: {town}\nDecision:"


def process(prompt: str = PROMPT) -> Process:
    declared = {
        "name": "tiny",
        "owner": "tests",
        "records": {"source": "a.jsonl"},
        "sample": {"prompt": prompt},
        "output": {"label": "d"},
        "gate": [{"metric": "auc", "above_baseline_at_least": 0}],
    }
    return Process.model_validate(declared)


def row(amount: Any, town: Any, output: str = "") -> Row:
    inputs = {"amount": amount, "town": town}
    return {"prompt": f"amount: {amount}\ntown: {town}\nDecision:", "output": json.dumps(output), "inputs": json.dumps(inputs)}


def table(count: int, seed: int = 0) -> list[Row]:
    """Small amounts are granted, in 成都 larger ones, too."""
    chance = random.Random(seed)
    drawn = [(chance.randrange(1000), chance.choice(["成都", "Oslo", "Lima"])) for _ in range(count)]
    return [row(amount, town, "yes" if amount < (800 if town == "成都" else 300) else "no") for amount, town in drawn]


def outputs(rows: list[Row]) -> list[str]:
    return [json.loads(row["output"]) for row in rows]


def test_labels_of_a_table_are_told_by_its_columns() -> None:
    train, test = table(600), table(200, 1)
    found = baseline_answers("label", train, test, process())
    assert set(found) == {"majority", "tfidf_linear", "logistic_regression", "boosted_trees"}
    measured = {name: measure("label", [Case(output) for output in outputs(test)], answers) for name, answers in found.items()}
    assert measured["boosted_trees"]["accuracy"] > 0.95
    assert min(measured["boosted_trees"]["auc"], measured["logistic_regression"]["auc"]) > 0.9
    assert measured["tfidf_linear"]["auc"] > 0.5
    assert "auc" not in measured["majority"]
    assert not any("ece" in values for values in measured.values())
    again = baseline_answers("label", train, test, process())
    assert again == found


def test_what_is_missing_new_or_no_number_is_answered_too() -> None:
    train = [*table(60), row(None, None, "no"), row("", "", "no")]
    test = [row(None, "Rom"), row("a lot", None), row("12", "成都"), row(10**14, "Oslo")]
    for answers in tabular_answers(train, test, outputs(train), process()).values():
        assert set(answers.outputs) <= {"yes", "no"}
        assert answers.outputs[2:] == ["yes", "no"]


@pytest.mark.parametrize("town", ["", None])
def test_a_column_that_is_always_empty_takes_no_part(town: Any) -> None:
    train = [row(amount, town, "yes" if amount < 50 else "no") for amount in range(100)]
    for answers in tabular_answers(train, [row(3, town), row(90, town)], outputs(train), process()).values():
        assert answers.outputs == ["yes", "no"]


def test_texts_are_no_table_nor_is_a_single_label() -> None:
    texts = [row(number, f"a letter of its own, {number}", "yes" if number % 2 else "no") for number in range(100)]
    assert tabular_answers(texts, texts, outputs(texts), process()) == {}
    alone = [row(number, "Oslo", "yes") for number in range(9)]
    assert tabular_answers(alone, alone, outputs(alone), process()) == {}


def test_a_form_with_a_text_is_a_table_and_the_text_counts() -> None:
    declared = process("amount: {amount}\ntown: {town}\nkind: {kind}\nfor: {note}\nDecision:")
    chance = random.Random(2)

    def forms(count: int, first: int) -> list[Row]:
        found = []
        for number in range(first, first + count):
            party = chance.random() < 0.5
            note = f"{chance.choice(['生日聚会', 'a party']) if party else chance.choice(['the trip', '出差'])} no. {number}"
            inputs = {"amount": chance.randrange(100), "town": chance.choice("ab"), "kind": chance.choice("xy"), "note": note}
            found.append({"prompt": "", "output": json.dumps("no" if party else "yes"), "inputs": json.dumps(inputs)})
        return found

    train, test = forms(200, 0), forms(100, 1000)
    for answers in tabular_answers(train, test, outputs(train), declared).values():
        assert measure("label", [Case(output) for output in outputs(test)], answers)["accuracy"] > 0.9
    assert tabular_answers(train[:40], test, outputs(train[:40]), declared) == {}


def test_many_labels_of_which_some_are_rare() -> None:
    train = [row(number, "Oslo", f"label {number // 10}") for number in range(391)]
    for answers in tabular_answers(train, train[:50], outputs(train), process()).values():
        assert len(answers.outputs) == 50


def test_a_column_of_few_values_is_no_text() -> None:
    assert kind_of(["1", "-2.5", ""]) == "number"
    assert kind_of(["1", "two", "two", ""]) == "value"
    assert kind_of([*map(str, range(60)), "1" + "0" * 30, "1.5e-120", "unknown"]) == "number"
    assert kind_of(["my card is lost", "pay the bill", ""]) == "text"
    assert kind_of([f"text {number % 65}" for number in range(650)]) == "text"


def test_ranks_of_some_cases_are_theirs() -> None:
    answers = Answers(["a", "b"], ranks={"a": [0.9, 0.2], "b": [0.1, 0.8]}).of([1])
    assert answers.ranks == {"a": [0.2], "b": [0.8]}


def test_a_far_number_spoils_no_tree() -> None:
    train = [*table(300), row("1e90", "Lima", "no"), row("-1e90", "Lima", "yes")]
    test = table(100, 1)
    answers = tabular_answers(train, test, outputs(train), process())["boosted_trees"]
    assert measure("label", [Case(output) for output in outputs(test)], answers)["auc"] > 0.9


def test_long_texts_are_read_in_part_and_of_many_labels_trees_alone_learn_them() -> None:
    declared = process("amount: {amount}\na: {a}\nb: {b}\nfor: {note}\nDecision:")
    inputs = [{"amount": number, "a": "x", "b": "y", "note": f"{number} {'long text ' * 150}"} for number in range(4_000)]
    read = Table.read([{"inputs": json.dumps(values)} for values in inputs], declared)
    assert read
    assert (read.longest, read.characters) == (500, 2_000_000)
    assert read.frame([{"inputs": json.dumps(inputs[0])}])["note"].str.len().tolist() == [500]
    assert set(read.methods(4_000, 2)) == {"logistic_regression", "boosted_trees"}
    assert set(read.methods(4_000, 40)) == {"boosted_trees"}


def test_texts_of_few_different_pieces_are_answered() -> None:
    declared = process("amount: {amount}\na: {a}\nb: {b}\nfor: {note}\nDecision:")
    inputs = [{"amount": number % 7, "a": "x", "b": "y", "note": "a" * (1 + number)} for number in range(97)]
    train = [
        {"prompt": "", "output": json.dumps("no" if number % 7 < 3 else "yes"), "inputs": json.dumps(inputs[number])}
        for number in range(97)
    ]
    found = tabular_answers(train, train, outputs(train), declared)
    assert found["boosted_trees"].outputs == outputs(train)


def test_wide_tables_of_many_labels_get_fewer_trees() -> None:
    assert rounds_for(800, 20, 2) == 100
    assert rounds_for(8_000, 60, 20) == 41
    assert rounds_for(20_000, 1_000, 200) == 1
