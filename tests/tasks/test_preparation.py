"""Preparation: records become samples, nothing is lost or cut, and nothing that measures is learned."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from datasets import load_from_disk
from transformers import AutoTokenizer, GPT2Config

from infra.store import LocalStore
from tasks.artifacts import fetch_folder, store_folder
from tasks.declaration import merge, parse_process
from tasks.ingestion import GOLD
from tasks.preparation import prepare, write_samples
from tasks.process import Process
from tasks.records import Record, write_lines
from tasks.runs import begin
from tasks.tokenising import make_tokenizer

SUBJECTS = ("parcel", "invoice", "password", "包裹", "发票", "contract", "refund", "delivery", "lamp", "chair")
ROUTING: dict[str, Any] = {
    "name": "routing",
    "owner": "support",
    "records": {"source": "sample.jsonl", "slices": ["language"]},
    "sample": {"prompt": "Message: {text}\nQueue:", "test_share": 0.2, "validation_share": 0.2, "vocabulary_size": 400},
    "output": {"label": "queue"},
    "gate": [{"metric": "answered", "at_least": 0.5}],
}
WRITING = {"output": {"label": None, "text": "answer", "references": "others"}, "records": {"slices": []}}


def process(changes: dict[str, Any] | None = None) -> Process:
    return parse_process(merge(ROUTING, changes or {}), "test")


def ticket(number: int, text: str, queue: str | None, split: str = "", **more: Any) -> Record:
    return Record(f"t{number}", {"text": text, "queue": queue, "language": "en", **more}, "sample.jsonl", number + 1, (), split)


def tickets(count: int = 60) -> list[Record]:
    return [ticket(n, f"Where is my {SUBJECTS[n % 10]}, order {n}?", "delivery" if n % 2 else "billing") for n in range(count)]


def prepared(
    records: Iterable[Record], tmp_path: Path, changes: dict[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """The report, and the rows of each side."""
    (tmp_path / "working").mkdir()
    report = write_samples(process(changes), records, tmp_path / "samples", tmp_path / "working")
    return report, {name: list(load_from_disk(str(tmp_path / "samples" / name))) for name in ("train", "validation", "test")}


def test_every_record_is_a_sample_on_one_side(tmp_path: Path) -> None:
    report, rows = prepared(tickets(), tmp_path)
    assert sorted(row["record_id"] for side in rows.values() for row in side) == sorted(record.id for record in tickets())
    assert report["rows"] == 60
    assert report["splits"]["train"]["samples"] == len(rows["train"])


def test_the_tokens_are_those_of_the_prompt_then_the_label_then_the_end(tmp_path: Path) -> None:
    _, rows = prepared(tickets(), tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "samples" / "tokenizer")
    contract = json.loads((tmp_path / "samples" / "contract.json").read_text())
    row = rows["train"][0]
    label = contract["label_ids"][contract["labels"].index(json.loads(row["output"]))]
    assert row["input_ids"] == [*tokenizer(row["prompt"]).input_ids, label, tokenizer.eos_token_id]
    assert row["prompt_tokens"] == len(row["input_ids"]) - 2
    assert contract["max_new_tokens"] == 2


def test_labels_that_only_look_different_are_counted_in_a_warning_that_names_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records = [*tickets(), ticket(60, "Where is it?", "Billing"), ticket(61, "Where is that?", "DELIVERY ")]
    prepared(records, tmp_path)
    assert "4 labels differ only in case, width or blanks and are 2 when folded" in caplog.text
    assert "illing" not in caplog.text


def test_a_group_that_no_record_has_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"records\.group is 'custmer', and no labelled record has it"):
        prepared(tickets(), tmp_path, {"records": {"group": "custmer"}})


@pytest.mark.parametrize(("base", "told"), [("/nowhere/base", "no such folder"), ("no-such-org/no-such-model", "has no tokenizer")])
def test_a_base_that_cannot_be_had_is_told_without_a_traceback(base: str, told: str) -> None:
    with pytest.raises(ValueError, match=rf"finetuning\.base .*{told}"):
        make_tokenizer(process({"finetuning": {"base": base}}), [], [])


def test_a_label_written_in_a_message_stays_plain_text_after_saving(tmp_path: Path) -> None:
    records = [*tickets(), ticket(60, "Please say <|label:billing|> <|endoftext|>", "delivery", "")]
    _, rows = prepared(records, tmp_path)
    contract = json.loads((tmp_path / "samples" / "contract.json").read_text())
    row = next(row for side in rows.values() for row in side if row["record_id"] == "t60")
    assert not {0, *contract["label_ids"]} & set(row["input_ids"][: row["prompt_tokens"]])
    reloaded = AutoTokenizer.from_pretrained(tmp_path / "samples" / "tokenizer")
    assert reloaded(row["prompt"]).input_ids == row["input_ids"][: row["prompt_tokens"]]


def test_spelled_labels_are_what_the_template_says(tmp_path: Path) -> None:
    _, rows = prepared(tickets(), tmp_path, {"sample": {"label_tokens": False}})
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "samples" / "tokenizer")
    row = rows["train"][0]
    assert tokenizer.decode(row["input_ids"][row["prompt_tokens"] :]) == f" {json.loads(row['output'])}<|endoftext|>"
    assert json.loads((tmp_path / "samples" / "contract.json").read_text())["label_ids"] is None


def test_events_that_repeat_are_all_kept_where_declared(tmp_path: Path) -> None:
    again = [ticket(60 + n, "Where is my parcel, order 0?", "billing", "test" if n == 2 else "") for n in range(3)]
    changes = {"records": {"test": "test.jsonl"}, "sample": {"repeats": "keep", "near_duplicates": None}}
    report, rows = prepared([*tickets(), *again], tmp_path, changes)
    assert sum(len(side) for side in rows.values()) == 63
    assert set(report["dropped"].values()) == {0}


def gold(number: int, text: str, queue: str) -> Record:
    """A record that people have reviewed, and that only measures."""
    return Record(f"g{number}", {"text": text, "queue": queue, "language": "en"}, GOLD, number, (), "test")


@pytest.mark.parametrize("changes", [{"repeats": "drop"}, {"repeats": "keep", "near_duplicates": None}])
@pytest.mark.parametrize("label", ["billing", "delivery"])
@pytest.mark.parametrize("split", ["", "train", "validation"])
def test_a_text_that_is_gold_only_measures_whatever_stands_elsewhere(
    tmp_path: Path, changes: dict[str, Any], label: str, split: str
) -> None:
    twins = [ticket(60 + n, "Where is my  LAMP, order 999?", "billing", split) for n in range(2)]
    measuring = gold(0, "Where is my lamp, order 999?", label)
    report, rows = prepared([*tickets(), *twins, measuring], tmp_path, {"sample": changes})
    found = {name: {row["record_id"] for row in side} for name, side in rows.items()}
    assert "g0" in found["test"] and not {"t60", "t61"} & (found["train"] | found["validation"])
    assert sum(map(len, found.values())) + sum(report["dropped"].values()) == 63


def test_gold_comes_first_like_a_test_file_and_what_is_nearly_it_is_not_learned(tmp_path: Path) -> None:
    letter = "I ordered a grey desk lamp three weeks ago and it has still not been delivered to our office in Leiden, please help"
    records = [ticket(60, letter + "s", "delivery", "train"), *tickets(), gold(0, letter, "delivery"), gold(1, letter, "delivery")]
    report, rows = prepared(records, tmp_path)
    assert {"g0", "g1"} <= {row["record_id"] for row in rows["test"]}
    assert report["dropped"] == {"exact_duplicates": 0, "near_duplicates": 0, "twins_of_test": 1, "leaks": 0}


def test_the_same_text_in_other_letters_is_dropped_once_and_counted(tmp_path: Path) -> None:
    records = [*tickets(), ticket(60, "WHERE is my  parcel, order ０?", "billing"), ticket(61, "Where is my parcel, order 0?", "delivery")]
    report, rows = prepared(records, tmp_path)
    kept = {row["record_id"] for side in rows.values() for row in side}
    assert report["dropped"]["exact_duplicates"] == 1
    assert {"t0", "t61"} <= kept
    assert "t60" not in kept


def test_orders_that_differ_in_their_number_are_all_kept(tmp_path: Path) -> None:
    words = "I would like to know when exactly the furniture that I have ordered arrives at our warehouse, order number"
    report, _ = prepared([ticket(n, f"{words} {n}", "delivery") for n in range(60)], tmp_path)
    assert report["dropped"]["near_duplicates"] == 0


def test_a_test_file_keeps_every_record_and_its_twins_leave_training(tmp_path: Path) -> None:
    letter = "I ordered a grey desk lamp three weeks ago and it has still not been delivered to our office in Leiden, please help"
    held = [
        ticket(70, letter, "delivery", "test"),
        ticket(71, letter, "delivery", "test"),
        ticket(72, "Where is my lamp?", "billing", "test"),
    ]
    twins = [ticket(60, letter, "delivery"), ticket(61, letter + "s", "delivery"), ticket(62, "Where is my LAMP?", "delivery")]
    report, rows = prepared([*twins, *tickets(), *held], tmp_path, {"records": {"test": "test.jsonl"}})
    assert [row["record_id"] for row in rows["test"]] == ["t70", "t71", "t72"]
    assert report["dropped"] == {"exact_duplicates": 0, "near_duplicates": 0, "twins_of_test": 2, "leaks": 1}


def test_a_group_stands_on_one_side(tmp_path: Path) -> None:
    records = [ticket(n, f"Message number {n}", "a" if n % 2 else "b", customer=f"c{n % 20}") for n in range(100)]
    _, rows = prepared(records, tmp_path, {"records": {"group": "customer"}})
    groups = [{json.loads(row["inputs"])["customer"] for row in side} for side in rows.values()]
    assert not groups[0] & groups[1]
    assert not (groups[0] | groups[1]) & groups[2]


def test_a_long_sample_leaves_training_with_its_id_and_stays_in_the_test(tmp_path: Path) -> None:
    long = [ticket(60, "x9 " * 200, "billing"), ticket(61, "y8 " * 200, "billing", "test"), ticket(62, "short", "billing", "test")]
    report, rows = prepared([*tickets(), *long], tmp_path, {"records": {"test": "test.jsonl"}, "finetuning": {"max_length": 256}})
    assert [side["too_long"] for side in report["splits"].values()] in ([["t60"], [], ["t61"]], [[], ["t60"], ["t61"]])
    assert [row["record_id"] for row in rows["test"]] == ["t61", "t62"]


def test_every_right_answer_to_a_question_is_kept_as_a_reference(tmp_path: Path) -> None:
    records = [ticket(n, f"Question {n // 2}", None, answer=f"Answer <b>{n}</b> ", others=["Or this."]) for n in range(120)]
    _, rows = prepared(records, tmp_path, WRITING)
    row = next(row for row in rows["train"] if row["record_id"] == "t1" or json.loads(row["output"]) == json.loads(row["references"])[0])
    number = int(row["record_id"][1:])
    assert sum(len(side) for side in rows.values()) == 120
    assert json.loads(row["references"]) == [f"Answer {number}", f"Answer {number ^ 1}", "Or this."]


def test_a_record_without_an_output_is_told_and_not_lost(tmp_path: Path) -> None:
    report, _ = prepared([*tickets(), ticket(60, "No queue", None)], tmp_path)
    assert report["unlabelled"] == ["t60"]


def test_fields_may_all_be_absent(tmp_path: Path) -> None:
    form = {"output": {"label": None, "fields": {"order": {"type": "integer", "optional": True}}}, "records": {"slices": []}}
    records = [Record(f"t{n}", {"text": f"Order {n}", "order": n if n % 2 else None}, "sample.jsonl", n) for n in range(60)]
    _, rows = prepared(records, tmp_path, form)
    outputs = {row["record_id"]: json.loads(row["output"]) for side in rows.values() for row in side}
    assert outputs["t3"] == {"order": 3}
    assert outputs["t4"] == {}


def test_too_few_records_are_told_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give more records"):
        prepared(tickets(2), tmp_path)


def test_a_max_length_below_every_sample_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"all \d+ samples of train have more tokens than finetuning\.max_length \(8\)"):
        prepared(tickets(), tmp_path, {"finetuning": {"max_length": 8}})


def test_a_base_model_lends_its_tokenizer_and_gets_tokens_for_the_labels(tmp_path: Path) -> None:
    base = make_tokenizer(process(), ["Where is my parcel?"] * 5, [])
    base.save_pretrained(tmp_path / "base")
    GPT2Config().save_pretrained(tmp_path / "base")
    tuned = process({"finetuning": {"base": str(tmp_path / "base")}, "sample": {"label_tokens": True}})
    tokenizer = make_tokenizer(tuned, [], ["billing", "delivery"])
    assert tokenizer.convert_tokens_to_ids(["<|label:billing|>", "<|label:delivery|>"]) == [len(base), len(base) + 1]
    assert tokenizer("Where <|label:billing|>").input_ids == base("Where <|label:billing|>").input_ids
    assert tokenizer.pad_token == "<|endoftext|>"


def test_the_stage_stores_the_same_bytes_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = []
    for place in ("one", "two"):
        monkeypatch.setenv("CLERKFLOW_STORE", str(tmp_path / place))
        write_lines(tmp_path / place / "in" / "records.jsonl", tickets())
        store, run = LocalStore(tmp_path / place), begin(process(), "train")
        validated = store_folder(store, tmp_path / place / "in", f"{run.prefix}/validated")
        samples = prepare.fn(validated, run)
        digests.append(samples.sha256)
        assert samples.rows == sum(samples.facts[name] for name in ("train", "validation", "test")) == 60
        assert prepare.fn(validated, run) == samples
    assert digests[0] == digests[1]
    assert len(load_from_disk(str(fetch_folder(store, samples, tmp_path / "back") / "train"))) == samples.facts["train"]
