"""Preview: what `clerkflow check` shows of a declaration and its first records."""

import io
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from tasks.declaration import load_process
from tasks.preview import Preview, preview, show

DECLARATION = """
name: routing
owner: support
records: {source: sample.jsonl}
expectations:
  - {type: expect_column_value_lengths_to_be_between, kwargs: {column: text, min_value: 12}}
sample: {prompt: "Message: {text}\\nQueue:"}
output: {label: queue, labels: [billing, delivery]}
finetuning: {max_length: 60}
gate: [{metric: accuracy, at_least: 0.5}]
"""
TICKETS = [("t1", "Where is my parcel [12]?", "delivery"), ("t2", "发票在哪里？", "billing"), ("t3", "¿Que? " * 40, "delivery")]


def looked_at(tmp_path: Path, lines: list[str] | None = None, **overrides: Any) -> Preview:
    folder = tmp_path / "routing"
    folder.mkdir()
    (folder / "process.yaml").write_text(DECLARATION, encoding="utf-8")
    rows = [json.dumps({"id": id, "text": text, "queue": queue}, ensure_ascii=False) for id, text, queue in TICKETS]
    (folder / "sample.jsonl").write_text("\n".join(lines or rows) + "\n", encoding="utf-8")
    return preview(load_process("routing", tmp_path, overrides))


def shown(found: Preview) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    show(found, console)
    return console.export_text()


def test_the_first_sample_is_what_the_model_sees(tmp_path: Path) -> None:
    found = looked_at(tmp_path)
    assert (found.record_id, found.prompt, found.completion) == ("t1", "Message: Where is my parcel [12]?\nQueue:", "<|label:delivery|>")
    assert "'Message: Where is my parcel [12]?\\nQueue:'" in shown(found)


def test_tokens_are_counted_with_the_end_and_long_records_are_told(tmp_path: Path) -> None:
    tokens = looked_at(tmp_path).tokens
    assert tokens is not None
    assert tokens.completion == 2
    assert tokens.too_long == 1
    assert tokens.longest > 60


def test_declared_and_derived_expectations_speak_about_the_first_records(tmp_path: Path) -> None:
    found = looked_at(tmp_path)
    first = found.findings[0]
    assert (first.origin, first.about, first.failed) == ("declared", "text", 1)
    assert {finding.origin for finding in found.findings} == {"declared", "derived"}
    assert "1 of 3 fail" in shown(found)


def test_labels_are_counted_the_most_frequent_first(tmp_path: Path) -> None:
    assert list(looked_at(tmp_path).labels.items()) == [("delivery", 2), ("billing", 1)]


def test_labels_that_only_look_different_are_told_until_they_are_declared(tmp_path: Path) -> None:
    rows = [
        json.dumps({"id": n, "text": f"Where is it, {n}?", "queue": queue})
        for n, queue in enumerate(["billing", "billing ", "BILLING", "b"])
    ]
    found = looked_at(tmp_path, rows, output={"labels": None})
    assert "'billing', 'billing ', 'BILLING'; declare output.labels" in shown(found)
    (tmp_path / "other").mkdir()
    assert not looked_at(tmp_path / "other", rows).doubts


def test_rows_that_cannot_be_read_are_counted_with_their_reason(tmp_path: Path) -> None:
    found = looked_at(tmp_path, ['{"id": "t1", "text": "Where?", "queue": "delivery"}', "{broken"])
    assert (found.readable, sum(found.unreadable.values())) == (1, 1)
    assert "1 unreadable" in shown(found)


def test_a_file_without_one_good_record_is_shown_as_such(tmp_path: Path) -> None:
    found = looked_at(tmp_path, ["{broken"])
    assert found.tokens is None
    assert "no record could be made into a prompt" in shown(found)


def test_a_base_that_cannot_be_had_leaves_the_rest_to_see(tmp_path: Path) -> None:
    found = looked_at(tmp_path, finetuning={"base": str(tmp_path)})
    assert "tokenizer.json is missing" in shown(found)
    assert found.prompt


def test_what_only_the_records_and_the_disk_can_tell_is_told_with_the_rest(tmp_path: Path) -> None:
    records = {"slices": ["language", "text"], "group": "customer", "timestamp": "sent"}
    found = looked_at(tmp_path, records=records, finetuning={"base": str(tmp_path / "nowhere")})
    told = " ".join(shown(found).split())
    for name in ("records.slices names 'language'", "records.group names 'customer'", "records.timestamp names 'sent'"):
        assert f"{name}, which records.columns does not declare and none of the first records has" in told
    assert told.count("there is no such folder") == 1
    assert len(found.mistakes) == 4
    assert found.prompt


def test_every_declared_file_is_looked_into(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text('{"id": "x", "text": "a", "queue": "billing", "language": "en"}\n')
    (tmp_path / "table.csv").write_text("id,text\n1,a\n")
    records = {"source": ["sample.jsonl", "../table.csv", "gone.jsonl"], "test": "../test.jsonl", "slices": ["language"]}
    found = looked_at(tmp_path, records=records)
    assert [mistake.partition(",")[0] for mistake in found.mistakes] == [
        "records.source: ../table.csv: no column queue; columns found: 2",
        "records.source names 'gone.jsonl'",
    ]


def test_a_column_that_is_declared_may_be_missing_from_the_first_records(tmp_path: Path) -> None:
    found = looked_at(tmp_path, records={"slices": ["language"], "columns": {"language": {"optional": True}}})
    assert found.mistakes == ()


def test_spelled_labels_are_shown_spelled(tmp_path: Path) -> None:
    found = looked_at(tmp_path, sample={"label_tokens": False})
    assert found.completion == " delivery"
    assert "' delivery' <|endoftext|>" in shown(found)


def test_what_is_accepted_without_a_person_and_looked_at_afterwards_is_told(tmp_path: Path) -> None:
    told = " ".join(shown(looked_at(tmp_path, automation={"max_error": 0.05, "audit": 0.02})).split())
    assert "at most 0.05 of them are wrong, with confidence 0.95; a person looks at 0.02 of them afterwards" in told
    (tmp_path / "other").mkdir()
    assert "looks at" not in shown(looked_at(tmp_path / "other", automation={"max_error": 0.05}))
