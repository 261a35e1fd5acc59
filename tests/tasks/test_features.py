"""Monitoring rows: what of a record and its prediction can drift."""

import json
from typing import Any

from tasks.declaration import parse_process
from tasks.features import OWN, Reservoir, monitoring_row, watched_columns
from tasks.predictions import Prediction
from tasks.process import Process

SURE = Prediction("refund", " refund", 0.9, None, 12)


def process(**changes: Any) -> Process:
    declared = {
        "name": "p",
        "owner": "tests",
        "records": {"source": "a.jsonl", "columns": {"text": {}, "channel": {}}, "timestamp": "received"},
        "sample": {"prompt": "Message: {text}\nQueue:"},
        "output": {"label": "queue"},
        "gate": [{"metric": "answered", "at_least": 0.5}],
    }
    return parse_process(declared | changes, "test")


def form() -> Process:
    fields = {"customer": {}, "unit": {"values": ["box", "piece"]}, "urgent": {"type": "boolean", "optional": True}}
    sample = {"prompt": "{note}\n{claim}"}
    columns = {"note": {}, "claim": {"type": "object"}}
    return process(output={"fields": fields, "within": "form"}, sample=sample, records={"source": "a.jsonl", "columns": columns})


def test_a_label_row_holds_text_its_measures_the_label_and_side_columns() -> None:
    values = {"text": "退款 now", "channel": "email", "received": "2025-01-06T07:38:45"}
    assert monitoring_row(process(), values, "Message: 退款 now\nQueue:", SURE) == {
        "text": "退款 now",
        "text_length": 6.0,
        "non_ascii_share": 2 / 6,
        "prompt_tokens": 12.0,
        "confidence": 0.9,
        "prediction": "refund",
        "channel": "email",
    }


def test_every_column_of_a_row_is_known_before_there_is_one() -> None:
    prediction = Prediction({"customer": "Secret Ltd", "unit": "box"}, "", 0.5, None, 9)
    for watched, values in (
        (process(), {"text": "a", "channel": "email", "received": "now"}),
        (form(), {"note": "a", "claim": {"amount": 1}}),
    ):
        row = monitoring_row(watched, values, "", SURE if watched.output.label else prediction)
        there = {"claim" if name.startswith("claim.") else name for name in row}
        assert there == set(watched_columns(watched)) == set(OWN) | there


def test_cleaned_and_uncleaned_values_give_the_same_row() -> None:
    raw = monitoring_row(process(), {"text": "<p>ｃａｒｄ&nbsp;\u200blost</p>"}, "", SURE)
    assert raw == monitoring_row(process(), {"text": "card lost"}, "", SURE)


def test_a_form_counts_its_filled_fields_and_names_only_closed_ones() -> None:
    prediction = Prediction({"customer": "Secret Ltd", "unit": "box"}, "", 0.5, None, 9)
    values = {"note": "two boxes", "claim": {"amount": 12, "role": "staff", "receipt": True, "items": ["a", "b"], "empty": None}}
    row = monitoring_row(form(), values, "", prediction)
    assert (row["prediction"], row["prediction.unit"], row["prediction.urgent"]) == (2.0, "box", "(none)")
    assert (row["claim.amount"], row["claim.role"], row["claim.receipt"], row["claim.items"]) == (12.0, "staff", "yes", 2.0)
    assert "prediction.customer" not in row
    assert "claim.empty" not in row


def test_a_record_without_an_output_still_has_a_row() -> None:
    nothing = Prediction(None, "", 0.0, "too_long", 900)
    assert monitoring_row(process(), {"text": "a"}, "a", nothing)["prediction"] == "(none)"
    assert monitoring_row(form(), {"note": "a"}, "a", nothing)["prediction"] == 0.0


def test_a_row_is_short_and_can_be_written_whatever_comes() -> None:
    values = {"text": "長" * 100_000, "channel": "\ud800x" * 1_000}
    row = monitoring_row(process(), values, "", Prediction("a", "", float("nan"), None, 1))
    assert row["text_length"] == 100_000.0
    assert row["confidence"] == 0.0
    assert len(json.dumps(row, ensure_ascii=False, allow_nan=False).encode()) < 5_000


def test_names_inside_an_object_cannot_carry_markup_and_absurd_numbers_are_left_out() -> None:
    row = monitoring_row(form(), {"note": "a", "claim": {"<script>": 1, "huge": 10**400, "nan": float("nan")}}, "", SURE)
    assert [name for name in row if name.startswith("claim")] == ["claim._script_"]


def test_a_reservoir_is_a_fair_sample_and_the_same_each_time() -> None:
    def sample(seed: str) -> list[int]:
        kept = Reservoir[int](100, seed)
        for number in range(10_000):
            kept.offer(lambda number=number: number)  # type: ignore[misc]
        return kept.rows

    assert sample("a") == sample("a") != sample("b")
    assert len(set(sample("a"))) == 100
    assert 4_000 < sum(sample("a")) / 100 < 6_000


def test_a_reservoir_makes_only_the_rows_that_it_takes() -> None:
    made: list[int] = []
    kept = Reservoir[int](3, "seed")
    for number in range(1_000):
        kept.offer(lambda number=number: made.append(number) or number)  # type: ignore[misc,func-returns-value]
    assert set(kept.rows) <= set(made)
    assert len(made) < 60
