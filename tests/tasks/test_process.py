"""Process: what a declaration may say, and what follows from it."""

import math
from typing import Any

import pytest

from tasks.declaration import DeclarationError, merge, parse_process
from tasks.process import Process, digest_of, placeholders

BASE: dict[str, Any] = {
    "name": "orders",
    "owner": "sales",
    "records": {
        "source": "s.jsonl",
        "columns": {"date": "date", "n": {"type": "integer", "minimum": 0}},
        "timestamp": "date",
        "group": "customer",
    },
    "sample": {"prompt": "{input.text} {n}"},
    "output": {"fields": {"sku": "string", "count": {"type": "integer", "column": "quantity"}}, "within": "output"},
    "gate": [{"metric": "answered", "at_least": 0.5}],
}


def process(changes: dict[str, Any] | None = None) -> Process:
    return parse_process(merge(BASE, changes or {}), "test")


def test_every_path_that_is_read_is_known_once() -> None:
    assert process().columns == ("input.text", "n", "output.sku", "output.quantity", "date", "customer")
    assert process().input_columns["n"].minimum == 0
    assert process().output_columns["output.quantity"].type == "integer"


def test_declared_labels_are_the_values_of_the_label() -> None:
    labelled = process({"output": {"fields": None, "within": None, "label": "queue", "labels": ["a", "b"]}})
    assert labelled.output_columns["queue"].values == ("a", "b")
    assert labelled.completion == " {queue}"
    assert labelled.label_tokens


def test_labels_are_spelled_when_the_base_is_a_trained_model() -> None:
    label = {"output": {"fields": None, "within": None, "label": "queue"}, "finetuning": {"base": "gpt2"}}
    assert not process(label).label_tokens
    assert process(label | {"sample": {"label_tokens": True}}).label_tokens


def test_placeholders_are_told_once_each_in_order() -> None:
    assert placeholders("{b} {{c}} { a } {b}") == ("b", "a")


@pytest.mark.parametrize(
    ("changes", "mistake"),
    [
        ({"colour": 1}, "colour: unknown key"),
        ({"name": "../up"}, "lower-case"),
        ({"gate": []}, "gate.rules: Tuple should have at least 1 item"),
        ({"gate": [{"metric": "a", "at_least": 1, "at_most": 2}]}, "exactly one bound"),
        ({"output": {"label": "queue"}}, "exactly one of label, fields, text; got label, fields"),
        ({"output": {"fields": None, "within": None}}, "got none"),
        ({"output": {"labels": ["a", "b"]}}, "labels belongs to label, this output is fields"),
        ({"sample": {"prompt": "Hello"}}, "names no column"),
        ({"sample": {"prompt": "{text} {}"}}, "empty {}"),
        ({"sample": {"prompt": "{output}"}}, "shows the answer to the model: output"),
        ({"sample": {"prompt": "{output.sku}"}}, "shows the answer to the model: output.sku"),
        ({"output": {"fields": {"sku": {"column": "row.sku"}}, "within": None}, "sample": {"prompt": "{row}"}}, "shows the answer"),
        ({"sample": {"completion": "{sku}"}}, "fields are written in a form of their own"),
        ({"sample": {"label_tokens": True}}, "label_tokens needs output.label"),
        ({"sample": {"test_share": 0.6, "validation_share": 0.5}}, "something to train on"),
        ({"sample": {"cleaning": ["os.system"]}}, "sample.cleaning has os.system"),
        ({"records": {"columns": {"n": {"pattern": "("}}}}, "not a regular expression"),
        ({"records": {"columns": {"n": {"values": ["1", "2"]}}}}, "values belongs to string and date, this type is integer"),
        ({"records": {"columns": {"date": {"minimum": 3}}}}, "records.columns.date: minimum belongs to"),
        ({"records": {"columns": {"n": {"minimum": 5, "maximum": 1}}}}, "records.columns.n: minimum 5 is above maximum 1"),
        ({"records": {"columns": {"t": {"values": []}}}}, "values is empty"),
        ({"records": {"source": []}}, "records.source: expected a file or a list of files, got []"),
        ({"records": {"source": ["a.jsonl", 5]}}, "records.source: expected a file or a list of files"),
        ({"records": {"source": ""}}, "records.source: '' is no file's name"),
        ({"records": {"test": "x" * 300}}, "records.test: "),
        ({"records": {"source": "a\0b"}}, "is no file's name"),
        ({"finetuning": {"learning_rate": math.inf}}, "finetuning.learning_rate: Input should be a finite number"),
        ({"finetuning": {"lora": {"lora_alpha": math.inf}, "base": "gpt2"}}, "lora_alpha: Input should be a finite number"),
        ({"gate": [{"metric": "field_f1", "at_least": math.nan}]}, "gate.rules.0.at_least: Input should be a finite number"),
        ({"finetuning": {"lora": {"r": 8}}}, "lora needs a base model to adapt; with base: scratch leave it out"),
        ({"finetuning": {"seed": 2**70}}, "finetuning.seed"),
        ({"drift": {"min_records": 200, "max_records": 10}}, "max_records (10) is below min_records (200)"),
        (
            {"gate": [{"metric": "field_f", "at_least": 1}]},
            "gate.rules.0: metric 'field_f' is none of fields; did you mean field_f1? there are: field_f1",
        ),
        ({"gate": [{"metric": "accuracy", "at_least": 1}]}, "gate.rules.0: metric 'accuracy' is none of fields"),
        ({"gate": [{"metric": "field_f1.size", "at_least": 1}]}, "gate.rules.0: metric 'field_f1.size' is none of fields"),
        ({"gate": [{"metric": "ece", "below_baseline_at_most": 1}]}, "no baseline has ece"),
        ({"gate": [{"metric": "field_f1", "slice": "date=1", "at_least": 1}]}, "records.slices is empty"),
        ({"drift": {"columns": []}}, "drift.columns"),
        ({"drift": {"columns": ["confidnce"]}}, "did you mean confidence? there are: text, text_length"),
        ({"schedules": {"train": "daily"}}, "not a cron string"),
        ({"schedules": {"train": "R * * * *"}}, "not a cron string"),
        ({"schedules": {"train": "0 0 31 2 *"}}, "never comes"),
        ({"finetuning": {"size": {"n_embd": 30, "n_head": 4}}}, "multiple of n_head"),
    ],
)
def test_a_mistake_is_told_in_words(changes: dict[str, Any], mistake: str) -> None:
    with pytest.raises(DeclarationError) as told:
        process(changes)
    assert mistake in str(told.value)


def label_gate(metric: str, slice: str | None = None, **output: Any) -> Process:
    columns = {"language": {"values": ["en", "zh"]}, "paid": "boolean"}
    rule = {"metric": metric, "slice": slice, "at_least": 0.5}
    output = {"fields": None, "within": None, "label": "queue"} | output
    return process({"output": output, "records": {"columns": columns, "slices": ["language", "paid", "shop"]}, "gate": [rule]})


@pytest.mark.parametrize("name", ["nope", "input.text", "prediction.sku", "customer", "date", "confidence.x", "n.x"])
def test_drift_watches_only_columns_that_a_row_can_have(name: str) -> None:
    slices = {"slices": ["meta", "shop"], "columns": {"input.form": "object"}}
    good = ["text", "prediction", "output", "n", "input", "input.form", "input.form.size", "meta.channel", "shop", "prediction.count"]
    drift = {"columns": [*good, name]}
    fields = {"fields": {"count": {"type": "string", "column": None, "values": ["1", "2"]}}}
    with pytest.raises(DeclarationError, match=r": 1 mistake\n") as told:
        process({"records": slices, "output": fields, "drift": drift, "sample": {"prompt": "{input.text} {n} {input.form}"}})
    assert f"drift.columns names '{name}', which is not watched" in str(told.value)


@pytest.mark.parametrize("metric", ["f1.c", "f1", "bleu", "facts_stated", "accuracyy"])
def test_a_gate_names_a_measure_that_evaluation_can_give(metric: str) -> None:
    assert label_gate("f1.a", labels=["a", "b"]).gate
    with pytest.raises(DeclarationError, match=rf"gate\.rules\.0: metric '{metric}' is none of label"):
        label_gate(metric, labels=["a", "b"])


def test_the_f1_of_any_label_may_be_asked_for_when_the_records_tell_the_labels() -> None:
    assert label_gate("f1.whatever").gate


@pytest.mark.parametrize("slice", ["foo=1", "language", "queue=a", "language=fr", "paid=true"])
def test_a_gate_names_a_slice_that_some_record_can_be_in(slice: str) -> None:
    for good in ("language=zh", "language=(none)", "paid=yes", "shop=any", "shop=a=b"):
        assert label_gate("accuracy", good).gate
    with pytest.raises(DeclarationError, match=rf"gate\.rules\.0: slice '{slice}'"):
        label_gate("accuracy", slice)


@pytest.mark.parametrize(
    ("labels", "mistake"),
    [
        (["a", "b", "b"], "output.labels names 'b' more than once"),
        (["a", "a"], "output.labels needs at least two different labels"),
        (["a", "", "b"], "blanks before, after or instead of a label: ''"),
        (["a", "b "], "instead of a label: 'b '"),
        (["a", "\u200b"], "instead of a label"),
        (["billing", "Billing", "BILLING", "a"], "only in case, width or blanks: 'billing', 'Billing', 'BILLING'; keep one"),
        (["a\u3000b", "a b"], "keep one"),
        ([f"l{number}" for number in range(200)], "sample.vocabulary_size is 400; 256 bytes, the end of the text and 200 labels need 457"),
    ],
)
@pytest.mark.parametrize("declared", ["labels", "values"])
def test_labels_can_be_told_apart_and_fit_into_the_vocabulary(labels: list[str], mistake: str, declared: str) -> None:
    output = {"fields": None, "within": None, "label": "queue", "labels": labels if declared == "labels" else None}
    records = {"columns": {"queue": {"values": labels}}} if declared == "values" else {}
    with pytest.raises(DeclarationError) as told:
        process({"output": output, "records": records, "sample": {"vocabulary_size": 400}})
    assert mistake.replace("output.labels", "output.labels" if declared == "labels" else "records.columns.queue.values") in str(told.value)


def test_spelled_labels_need_no_place_in_the_vocabulary() -> None:
    output = {"fields": None, "within": None, "label": "queue", "labels": [f"l{number}" for number in range(200)]}
    assert process({"output": output, "sample": {"vocabulary_size": 400, "label_tokens": False}}).labels


@pytest.mark.parametrize(("kind", "option", "path"), [("label", "completion", "{other}"), ("text", "completion", "{answer} {text}")])
def test_a_completion_names_the_output_and_nothing_else(kind: str, option: str, path: str) -> None:
    with pytest.raises(DeclarationError, match=r"must name \{answer\} and nothing else"):
        process({"output": {"fields": None, "within": None, kind: "answer"}, "sample": {option: path}})


def test_a_reference_answer_in_the_prompt_shows_the_answer() -> None:
    output = {"fields": None, "within": None, "text": "answer", "references": "others"}
    with pytest.raises(DeclarationError, match="shows the answer to the model: others"):
        process({"output": output, "sample": {"prompt": "{question} {others}"}})


def test_facts_must_be_columns_of_the_record() -> None:
    output = {"fields": None, "within": None, "text": "answer", "facts": ["n", "input.text", "secret"]}
    with pytest.raises(DeclarationError, match=r"facts names 'secret', which is not a column$"):
        process({"output": output})


def test_the_digest_changes_with_a_default_that_is_overridden_and_with_nothing_else() -> None:
    assert process().digest == process({"version": 1}).digest
    assert process().digest != process({"finetuning": {"seed": 8}}).digest
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})


def test_a_process_comes_back_from_its_own_dump() -> None:
    assert parse_process(process().model_dump(mode="json"), "dump") == process()


def test_a_process_without_a_folder_says_so() -> None:
    with pytest.raises(ValueError, match="no folder"):
        _ = process().folder
