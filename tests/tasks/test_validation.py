import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from infra.store import open_store
from tasks.artifacts import Artifact, fetch_file, listing_of, read_json
from tasks.declaration import load_process
from tasks.ingestion import ingest
from tasks.process import Process
from tasks.runs import Run, begin
from tasks.suites import Finding, _results, check_all, check_rows
from tasks.validation import validate

pytestmark = pytest.mark.filterwarnings("ignore:module 'sre_(constants|parse)' is deprecated:DeprecationWarning")  # imported by GX

GOOD = [{"id": str(n), "text": f"message number {n}", "queue": "billing" if n % 2 else "delivery"} for n in range(6)]


def process_of(folder: Path, rows: list[Any], **more: Any) -> Process:
    declared: dict[str, Any] = {
        "name": "tickets",
        "owner": "o",
        "records": {"source": "rows.jsonl", "columns": {"text": {"max_characters": 200}, "age": {"type": "integer", "optional": True}}},
        "min_valid_share": 0.1,
        "sample": {"prompt": "Message: {text}\nQueue:"},
        "output": {"label": "queue", "labels": ["billing", "delivery"]},
        "gate": [{"metric": "answered", "at_least": 0.5}],
    }
    folder.mkdir(exist_ok=True)
    (folder / "process.yaml").write_text(json.dumps(declared | more), encoding="utf-8")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return load_process(str(folder), folder)


def validated(process: Process) -> tuple[Artifact, Run]:
    run = begin(process, "train")
    return validate.fn(ingest.fn(run), run), run


def quarantined(run: Run) -> dict[int, dict[str, Any]]:
    data, _ = open_store().read(f"{run.prefix}/quarantine/rows.jsonl")
    return {row["line"]: row for row in map(json.loads, data.decode().splitlines())}


def valid_ids(artifact: Artifact, folder: Path) -> list[str]:
    lines = fetch_file(open_store(), artifact, "records.jsonl", folder).read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["id"] for line in lines]


def test_every_row_is_valid_or_in_quarantine_with_its_reason(tmp_path: Path) -> None:
    bad = [
        {"id": "b1", "text": "", "queue": "billing"},
        {"id": "b2", "text": "hello", "queue": "teleport"},
        {"id": "b3", "text": "hello"},
        {"id": "b4", "text": 5, "queue": "billing"},
        {"id": "b5", "text": "hello", "queue": "billing", "age": "forty"},
        {"id": "b6", "text": "x" * 300, "queue": "billing"},
    ]
    artifact, run = validated(process_of(tmp_path / "p", [*GOOD, *bad]))
    report = read_json(open_store(), artifact, "report.json")
    assert (report["rows"], report["valid"], report["quarantined"]) == (12, 6, 6)
    reasons = {row["id"]: row["reason"] for row in quarantined(run).values()}
    assert "visible characters of text" in reasons["b1"]
    assert reasons["b2"] == "queue: values must be in set"
    assert reasons["b3"] == "queue: values must not be null"
    assert "type of text" in reasons["b4"] and "type of age" in reasons["b5"] and "max_value 200" in reasons["b6"]
    assert valid_ids(artifact, tmp_path) == [row["id"] for row in GOOD]
    assert sum(report["by_expectation"].values()) >= 6


def test_rows_that_were_rejected_at_reading_are_in_quarantine_too(tmp_path: Path) -> None:
    process = process_of(tmp_path / "p", GOOD)
    with (tmp_path / "p" / "rows.jsonl").open("ab") as file:
        file.write(b'{"id": "x", "te')
    artifact, run = validated(process)
    assert quarantined(run)[7]["content"] == '{"id": "x", "te'
    assert read_json(open_store(), artifact, "report.json")["rows"] == 7


def test_one_id_that_no_file_can_hold_costs_one_row(tmp_path: Path) -> None:
    process = process_of(tmp_path / "p", GOOD)
    with (tmp_path / "p" / "rows.jsonl").open("ab") as file:
        file.write(rb'{"id": "\ud800", "text": "hello", "queue": "billing"}')
    artifact, run = validated(process)
    assert list(quarantined(run)) == [7] and artifact.rows == 6


@pytest.mark.parametrize("name", ["rows.jsonl", "more.csv"])
def test_a_number_beyond_all_bounds_costs_one_row(tmp_path: Path, name: str) -> None:
    columns = {"text": {}, "age": {"type": "number", "optional": True, "minimum": 0, "maximum": 120}}
    records = {"source": ["rows.jsonl", "more.csv"], "columns": columns}
    process = process_of(tmp_path / "p", GOOD, records=records)
    (tmp_path / "p" / "more.csv").write_text("id,text,queue,age\n9,hello,billing,40\n")
    with (tmp_path / "p" / name).open("a") as file:
        value = f"{10**400:,}"
        file.write(f'8,hello,billing,"{value}"' if name == "more.csv" else json.dumps(GOOD[0] | {"id": "8", "age": 10**400}))
    artifact, run = validated(process)
    assert [row["file"] for row in quarantined(run).values()] == [name] and artifact.rows == 7


def test_of_equal_records_one_stays_and_of_records_that_differ_none(tmp_path: Path) -> None:
    rows = [*GOOD, GOOD[0], {"id": "1", "text": GOOD[1]["text"], "queue": "delivery"}]
    artifact, run = validated(process_of(tmp_path / "p", rows))
    refused = quarantined(run)
    assert sorted(refused) == [2, 7, 8]
    assert refused[2]["reason"] == refused[8]["reason"] == "2 records have this id and differ"
    assert "the same record" in refused[7]["reason"]
    assert valid_ids(artifact, tmp_path) == ["0", "2", "3", "4", "5"]


def test_a_record_of_the_test_file_stays_before_its_twin(tmp_path: Path) -> None:
    records = {"source": "rows.jsonl", "test": "test.jsonl", "columns": ["text"]}
    process = process_of(tmp_path / "p", GOOD, records=records)
    (tmp_path / "p" / "test.jsonl").write_text(json.dumps(GOOD[2]) + "\n", encoding="utf-8")
    _, run = validated(process)
    assert [row["file"] for row in quarantined(run).values()] == ["rows.jsonl"]


def test_the_run_stops_when_too_few_rows_are_valid_and_what_was_found_is_kept(tmp_path: Path) -> None:
    process = process_of(tmp_path / "p", [*GOOD, {"id": "b", "text": "hello", "queue": "teleport"}], min_valid_share=0.9)
    run = begin(process, "train")
    raw = ingest.fn(run)
    with pytest.raises(ValueError, match=r"6 of 7 rows are valid, min_valid_share is 0.9.*be_in_set\(queue\) 1"):
        validate.fn(raw, run)
    assert list(quarantined(run)) == [7]
    keys = [info.key.removeprefix(run.prefix) for info in open_store().list(f"{run.prefix}/")]
    assert "/data_docs/index.html" in keys and "/quarantine/report.json" in keys
    assert not any(key.startswith("/validated") for key in keys)


@pytest.mark.parametrize(
    "expectation",
    [
        {"type": "expect_table_row_count_to_be_between", "kwargs": {"min_value": 100}},
        {"type": "expect_column_mean_to_be_between", "kwargs": {"column": "age", "max_value": 10}},
        {"type": "expect_column_distinct_values_to_equal_set", "kwargs": {"column": "queue", "value_set": ["billing"]}},
    ],
)
def test_the_run_stops_when_an_expectation_of_the_whole_set_fails(tmp_path: Path, expectation: dict[str, Any]) -> None:
    rows = [row | {"age": 40 + place} for place, row in enumerate(GOOD)]
    with pytest.raises(ValueError, match="an expectation of the whole set does not hold"):
        validated(process_of(tmp_path / "p", rows, expectations=[expectation]))


def test_the_run_stops_when_an_expectation_cannot_be_computed(tmp_path: Path) -> None:
    expectation = {"type": "expect_column_values_to_be_between", "kwargs": {"column": "shop", "min_value": 1}}
    rows, records = [row | {"shop": "north"} for row in GOOD], {"source": "rows.jsonl", "slices": ["shop"]}  # its type is not declared
    with pytest.raises(ValueError, match=r"between\(shop\) cannot be computed"):
        validated(process_of(tmp_path / "p", rows, records=records, expectations=[expectation]))


def regex(pattern: str, **more: Any) -> dict[str, Any]:
    return {"type": "expect_column_values_to_match_regex", "kwargs": {"column": "text", "regex": pattern, **more}}


def bounds(type: str, **limits: Any) -> dict[str, Any]:
    return {"type": type, "kwargs": limits}


@pytest.mark.parametrize(
    ("expectations", "lines"),
    [
        ([regex("[0-3]$"), regex(".")], [5, 6]),
        ([regex("."), regex("[0-3]$")], [5, 6]),
        ([regex("[0-3]$"), regex("[2-5]$")], [1, 2, 5, 6]),
        ([regex("[0-3]$"), regex("[0-3]$")], [5, 6]),
        ([regex("[0-3]$"), regex("[0-3]$", mostly=0.1)], [5, 6]),
        ([regex("[0-3]$", mostly=0.1), regex("[0-3]$")], [5, 6]),
        ([bounds("expect_column_values_to_be_in_set", column="age", value_set=[value]) for value in (1, 1.0)], [1, 3, 4, 5, 6]),
    ],
)
def test_each_of_several_expectations_of_one_type_and_column_is_asked(
    tmp_path: Path, expectations: list[dict[str, Any]], lines: list[int]
) -> None:
    rows = [row | {"age": place} for place, row in enumerate(GOOD)]
    _, run = validated(process_of(tmp_path / "p", rows, expectations=expectations))
    assert list(quarantined(run)) == lines


@pytest.mark.parametrize(
    ("declared", "line"),
    [
        (bounds("expect_column_value_lengths_to_be_between", column="text", min_value=1), 7),
        (bounds("expect_column_values_to_be_in_set", column="queue", value_set=["billing", "delivery", "teleport"]), 8),
        (bounds("expect_column_values_to_be_between", column="age", max_value=1_000), 9),
    ],
)
def test_what_follows_from_the_declaration_holds_beside_what_is_declared(tmp_path: Path, declared: dict[str, Any], line: int) -> None:
    long, odd, young = (
        GOOD[0] | {"id": "7", "text": "x" * 201},
        GOOD[0] | {"id": "8", "queue": "teleport"},
        GOOD[0] | {"id": "9", "age": -1},
    )
    columns = {"text": {"max_characters": 200}, "age": {"type": "integer", "optional": True, "minimum": 0}}
    rows = [*GOOD, long, odd, young]
    process = process_of(tmp_path / "p", rows, expectations=[declared], records={"source": "rows.jsonl", "columns": columns})
    _, run = validated(process)
    assert line in quarantined(run)


@pytest.mark.parametrize("type", ["expect_table_row_count_to_be_between", "expect_column_mean_to_be_between"])
def test_the_run_stops_when_the_first_of_two_expectations_of_the_whole_set_fails(tmp_path: Path, type: str) -> None:
    column = {"column": "age"} if "column" in type else {}
    rows = [row | {"age": 40 + place} for place, row in enumerate(GOOD)]
    expectations = [bounds(type, **column, min_value=1_000), bounds(type, **column, max_value=1_000)]
    with pytest.raises(ValueError, match="an expectation of the whole set does not hold"):
        validated(process_of(tmp_path / "p", rows, expectations=expectations))


def test_a_row_that_fails_two_expectations_of_one_name_is_counted_once(tmp_path: Path) -> None:
    artifact, _ = validated(process_of(tmp_path / "p", GOOD, expectations=[regex("[0-3]$"), regex("[0-2]$")]))
    assert read_json(open_store(), artifact, "report.json")["by_expectation"] == {"expect_column_values_to_match_regex(text)": 3}


def test_an_expectation_without_an_answer_is_never_taken_for_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = [Finding("expect_column_values_to_be_between", {"column": "age", "min_value": n}, "declared") for n in range(2)]
    assert not any(finding.success for finding in findings)
    monkeypatch.setattr("tasks.suites._results", lambda *_: _results(findings[:1], pd.DataFrame({"age": [1]})))
    with pytest.raises(RuntimeError, match=r"no answer to expect_column_values_to_be_between\(age\)"):
        check_rows(findings, [{"age": 1}], 0)


def test_mostly_lets_a_share_of_the_rows_pass(tmp_path: Path) -> None:
    def expectation(mostly: float) -> list[dict[str, Any]]:
        return [{"type": "expect_column_values_to_match_regex", "kwargs": {"column": "text", "regex": "[1-5]", "mostly": mostly}}]

    _, run = validated(process_of(tmp_path / "p", GOOD, expectations=expectation(0.8)))
    assert not quarantined(run)
    _, run = validated(process_of(tmp_path / "p", GOOD, expectations=expectation(0.9)))
    assert list(quarantined(run)) == [1]


def test_a_prompt_that_is_longer_in_tokens_than_the_model_takes_is_refused(tmp_path: Path) -> None:
    rows = [*GOOD, {"id": "long", "text": " ".join(str(n) for n in range(60)), "queue": "billing"}]
    _, run = validated(process_of(tmp_path / "p", rows, finetuning={"max_length": 60}))
    assert quarantined(run)[7]["reason"] == "tokens of prompt and completion: values must be between (min_value 1, max_value 60)"


@pytest.mark.parametrize("limit", ["minimum", "maximum"])
def test_a_column_called_tokens_is_judged_by_its_values(tmp_path: Path, limit: str) -> None:
    columns = {"text": {}, "tokens": {"type": "integer", limit: 1_000}}
    rows = [row | {"tokens": 999 if place < 3 else 1_001} for place, row in enumerate(GOOD)]
    _, run = validated(process_of(tmp_path / "p", rows, records={"source": "rows.jsonl", "columns": columns}))
    assert sorted(quarantined(run)) == ([1, 2, 3] if limit == "minimum" else [4, 5, 6])


def test_the_key_may_be_called_tokens(tmp_path: Path) -> None:
    rows = [{"tokens": f"t{row['id']}", "text": row["text"], "queue": row["queue"]} for row in [*GOOD, GOOD[0]]]
    artifact, run = validated(process_of(tmp_path / "p", rows, records={"source": "rows.jsonl", "columns": ["text"], "key": "tokens"}))
    assert artifact.rows == 6 and list(quarantined(run)) == [7]


def test_a_field_called_output_is_judged_by_its_values(tmp_path: Path) -> None:
    output = {"fields": {"output": {"values": ["x", "y"]}, "queue": {"optional": True}}}
    rows = [row | {"output": "x" if place else "z"} for place, row in enumerate(GOOD)] + [{"id": "7", "text": "hello"}]
    _, run = validated(process_of(tmp_path / "p", rows, output=output))
    assert sorted(quarantined(run)) == [1, 7]


def test_nothing_of_a_row_stands_in_reports_docs_or_logs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    canary = {"id": "canary-id-7171", "text": "canary-text-8282", "queue": "canary-queue-9393", "age": 947362}
    expectations = [
        {"type": "expect_column_max_to_be_between", "kwargs": {"column": "age", "max_value": 1e9}},
        {"type": "expect_column_values_to_be_unique", "kwargs": {"column": "text"}},
        {"type": "expect_column_values_to_not_match_regex", "kwargs": {"column": "text", "regex": "can"}},
    ]
    artifact, run = validated(process_of(tmp_path / "p", [*GOOD, canary, canary], expectations=expectations))
    store = open_store()
    told = caplog.text + "".join(fetch_file(store, artifact, "report.json", tmp_path).read_text(encoding="utf-8"))
    told += store.read(f"{run.prefix}/data_docs/index.html")[0].decode()
    assert not [value for value in ("7171", "8282", "9393", "947362") if value in told]
    assert "expect" in told and len(quarantined(run)) == 2


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    process = process_of(tmp_path / "p", [*GOOD, {"id": "b", "text": "hello", "queue": "?"}])
    first, run = validated(process)
    files = listing_of(open_store(), first)
    (tmp_path / "store").rename(tmp_path / "store before")
    second, again = validated(process)
    assert listing_of(open_store(), second) == files and second.sha256 == first.sha256
    before = (tmp_path / "store before" / run.prefix / "data_docs" / "index.html").read_bytes()
    assert open_store().read(f"{again.prefix}/data_docs/index.html")[0] == before


def test_uniqueness_of_several_columns_is_judged_over_the_whole_set() -> None:
    finding = Finding("expect_compound_columns_to_be_unique", {"column_list": ["a", "b"]}, "declared")
    check_all([finding], {"a": [1, 1, 1, None], "b": [1, 2, 1, None]}, {}, 4)
    finding.judge()
    assert list(finding.unexpected) == [0, 2] and not finding.success
