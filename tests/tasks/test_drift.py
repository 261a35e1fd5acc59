"""Drift between a champion's reference and recent batches."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra.store import open_store
from tasks.aliases import Alias, champion_of, move_alias
from tasks.artifacts import Artifact, read_json, store_folder, write_json
from tasks.declaration import parse_process
from tasks.drift import Finding, by_chance, categories, chosen_columns, compare_texts, judge, measure_drift, numbers, verdict
from tasks.features import Row
from tasks.process import Process
from tasks.registry import files_in, publish_version
from tasks.runs import Run
from tasks.terms import Automation

QUEUES = ("refund", "invoice", "delivery", "complaint")
WORDS = ("please", "card", "order", "urgent", "退款", "发票", "送货", "late", "twice", "help")


def process(**drift: Any) -> Process:
    declared = {
        "name": "p",
        "owner": "tests",
        "records": {"source": "a.jsonl", "columns": {"channel": {}, "colour": {}, "claim": "object", "a": "number", "b": "number"}},
        "sample": {"prompt": "{text}"},
        "output": {"label": "queue"},
        "gate": [{"metric": "accuracy", "at_least": 0.5}],
        "drift": {"min_records": 50} | drift,
    }
    return parse_process(declared, "test")


def rows(count: int, seed: int, words: tuple[str, ...] = WORDS, queues: tuple[str, ...] = QUEUES, length: int = 8) -> list[Row]:
    """Monitoring rows of one distribution."""
    chance = random.Random(seed)
    found: list[Row] = []
    for _ in range(count):
        text = " ".join(chance.choices(words, k=chance.randint(2, length)))
        row: Row = {"text": text, "text_length": float(len(text)), "confidence": chance.betavariate(9, 1)}
        found.append(
            row | {"prediction": chance.choice(queues), "channel": chance.choice(("email", "chat")), "prompt_tokens": len(text) // 3 + 2.0}
        )
    return found


def published(folder: Path, reference: list[Row], seed: str = "a") -> Alias:
    """A champion of process `p` with this reference; a model is not needed here."""
    folder.mkdir()
    (folder / "config.json").write_text(seed)
    (folder / "reference.jsonl").write_text("".join(json.dumps(row) + "\n" for row in reference))
    manifest = publish_version(open_store(), "p", files_in(folder), created="2024-01-31T08:00:00Z", run="r")
    before = champion_of(open_store(), "p")
    return move_alias(open_store(), "p", manifest.version, "test", instead_of=before.version if before else None)


def batch(folder: Path, name: str, version: str, found: list[Row], finished: str = "2999-01-01T00:00:00+00:00") -> None:
    """A finished batch of process `p`, as scoring leaves it."""
    (folder / name).mkdir(parents=True)
    (folder / name / "monitoring.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    artifact = store_folder(open_store(), folder / name, f"p/batches/{name}")
    manifest = {"batch": name, "version": version, "finished": finished, "artifact": artifact.model_dump(mode="json")}
    write_json(folder / "manifest.json", manifest)
    open_store().upload(folder / "manifest.json", f"p/batches/{name}/manifest.json")


def measured(**drift: Any) -> tuple[Artifact, dict[str, Any]]:
    artifact = measure_drift.fn(Run(id="now", process=process(**drift), flow="monitor"))
    return artifact, read_json(open_store(), artifact, "drift.json")


@pytest.mark.parametrize("seed", range(2))
def test_two_samples_of_one_distribution_do_not_drift(tmp_path: Path, seed: int) -> None:
    report = judge(process(), rows(300, 2 * seed), rows(300, 2 * seed + 1), tmp_path)
    assert (report["drifted"], [name for name, found in report["columns"].items() if found["drifted"]]) == (False, [])
    assert sorted(report["columns"]) == ["channel", "confidence", "prediction", "prompt_tokens", "text", "text_length"]


@pytest.mark.parametrize("sizes", [(40, 60), (40, 3_000), (3_000, 60)])
def test_few_records_do_not_raise_false_alarms(tmp_path: Path, sizes: tuple[int, int]) -> None:
    assert not judge(process(), rows(sizes[0], 7), rows(sizes[1], 8), tmp_path)["drifted"]


def test_a_clear_change_drifts_and_says_where(tmp_path: Path) -> None:
    new = rows(300, 1, words=("holiday", "salary", "请假", "工资", "leave"), queues=("refund",), length=30)
    report = judge(process(), rows(300, 0), new, tmp_path)
    assert report["drifted"]
    drifted = {name for name, found in report["columns"].items() if found["drifted"]}
    assert drifted == {"prediction", "prompt_tokens", "text", "text_length"}
    assert report["why"].startswith("4 of 6 columns drifted (prediction, prompt_tokens, text_length, text)")
    assert report["columns"]["prediction"]["method"] == "jensenshannon"


def test_evidently_and_the_thresholds_measure_the_same_distance(tmp_path: Path) -> None:
    report = judge(
        process(columns=["text_length"]),
        [{"text_length": float(n % 10)} for n in range(100)],
        [{"text_length": float(n % 10 + 1)} for n in range(100)],
        tmp_path,
    )
    assert report["columns"]["text_length"]["score"] == pytest.approx(1 / 2.8723, abs=1e-4)
    assert json.loads((tmp_path / "evidently.json").read_text())["metrics"]


def test_no_text_of_a_record_is_in_any_report(tmp_path: Path) -> None:
    canary = ("ZEBRACANARY", "金丝雀")
    old, new = rows(300, 0), rows(300, 1, words=(*WORDS, *canary))
    for side in (old, new):
        side[0]["text"] = " ".join(canary)
        side[0]["channel"] = "ZEBRACANARY alone"
    for number, row in enumerate(new):
        row["customer"] = f"ZEBRACANARY {number}"
        old[number]["customer"] = f"ZEBRACANARY {number // 2}"
    report = judge(process(), old, new, tmp_path)
    assert report["not_compared"] == {"customer": "nearly every record has a value of its own"}
    for name in ("evidently.html", "evidently.json"):
        found = (tmp_path / name).read_text(encoding="utf-8")
        assert not [word for word in (*canary, "\\u91d1\\u4e1d") if word in found]
        assert "confidence" in found
    assert "CANARY" not in json.dumps(report)


def test_declared_columns_alone_are_compared(tmp_path: Path) -> None:
    there = ["channel", "claim.amount", "claim.role", "prediction", "text"]
    assert chosen_columns(process(), there) == there
    assert chosen_columns(process(columns=["queue", "claim"]), there) == ["prediction", "claim.amount", "claim.role"]
    with pytest.raises(ValueError, match=r"'colour'; there are: channel, claim\.amount"):
        chosen_columns(process(columns=["colour"]), there)
    report = judge(process(columns=["text"]), rows(60, 0), rows(60, 1), tmp_path)
    assert list(report["columns"]) == ["text"]
    assert "columns drifted" in (tmp_path / "evidently.html").read_text()


def test_a_side_column_that_new_records_lack_is_left_out_unless_it_is_declared(tmp_path: Path) -> None:
    new = [{name: value for name, value in row.items() if name != "channel"} for row in rows(100, 1)]
    assert judge(process(), rows(100, 0), new, tmp_path)["not_compared"] == {"channel": "no recent record has a value"}
    declared = judge(process(columns=["channel"]), rows(100, 0), new, tmp_path)
    assert declared["columns"]["channel"]["drifted"]


def test_when_nothing_can_be_compared_it_is_an_error_not_a_pass(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no column can be compared: the reference is empty"):
        judge(process(), [], [{}] * 60, tmp_path)


def test_the_share_of_drifted_columns_decides() -> None:
    findings = {name: Finding("wasserstein", 1.0, 0.5, name < "c") for name in "abcd"}
    assert verdict(process(drift_share=0.5).drift, findings)[:2] == (True, 0.5)
    assert verdict(process(drift_share=0.6).drift, findings)[:2] == (False, 0.5)


def test_chance_shrinks_with_the_number_of_records_and_so_does_the_threshold() -> None:
    small, large = (
        numbers([row["text_length"] for row in rows(count, 0)], [row["text_length"] for row in rows(count, 1)]) for count in (50, 5_000)
    )
    assert 0.1 < large.threshold < 0.17 < small.threshold
    labels = categories(["a", "b"] * 2_000, ["a", "b"] * 2_000, closed=True)
    assert labels is not None
    assert 0.1 < labels.threshold < 0.15


def test_rare_names_are_not_told_unless_they_are_labels() -> None:
    before = ["email"] * 50 + ["fax of Mr Li"]
    closed, opened = (categories(before, ["email", "new"], closed=closed) for closed in (True, False))
    assert closed and opened
    assert set(closed.reference) == {"email", "fax of Mr Li"}
    assert set(opened.reference) == {"email", "(other)"}
    assert list(opened.current) == ["email", "(other)"]


def test_numbers_in_texts_always_change_and_are_no_drift() -> None:
    old, new = ([f"{word} {number + start}" for number in range(100) for word in ("card", "退款")] for start in (1_000, 8_000))
    assert not compare_texts(old, new).drifted


def test_constant_and_missing_numbers_are_compared(tmp_path: Path) -> None:
    old: list[Row] = [{"a": 1.0, "b": float(n)} if n % 2 else {"a": 1.0} for n in range(100)]
    report = judge(process(columns=["a", "b"]), old, old, tmp_path)
    assert {name: (found["score"], found["drifted"]) for name, found in report["columns"].items()} == {"a": (0.0, False), "b": (0.0, False)}


def test_distance_by_chance_is_the_same_each_time() -> None:
    import numpy

    values = numpy.arange(60, dtype=numpy.float64)
    gap: Callable[..., float] = lambda one, other: abs(float(one.mean() - other.mean()))  # noqa: E731
    assert by_chance(gap, values, values) == by_chance(gap, values, values) > 0


def test_too_few_records_are_no_drift_and_no_error(tmp_path: Path) -> None:
    champion = published(tmp_path / "version", rows(100, 0))
    batch(tmp_path, "b1", champion.version, rows(20, 1))
    artifact, report = measured()
    assert (report["drifted"], report["why"]) == (False, "not enough records: 20 of the 50 that drift.min_records asks for")
    assert (artifact.facts["drifted"], artifact.rows, artifact.facts["columns_drifted"]) == (False, 20, [])
    assert artifact.key == "p/drift/now/files.json"


def test_only_batches_that_the_champion_scored_as_champion_count(tmp_path: Path) -> None:
    former = published(tmp_path / "former", rows(100, 0), "former")
    champion = published(tmp_path / "version", rows(100, 0), "newer")
    batch(tmp_path, "of-former", former.version, rows(100, 1, queues=("refund",)))
    batch(tmp_path, "before", champion.version, rows(100, 1, queues=("refund",)), "2000-01-01T00:00:00+00:00")
    batch(tmp_path, "first", champion.version, rows(60, 1))
    batch(tmp_path, "second", champion.version, rows(60, 2))
    artifact, report = measured(max_records=100)
    assert (report["batches"], report["current_rows"], report["drifted"]) == (["second", "first"], 100, False)
    assert report["model_version"] == champion.version
    assert {"drift.json", "evidently.html", "evidently.json"} <= {
        info.key.rpartition("/")[2] for info in open_store().list(artifact.prefix)
    }


@pytest.mark.parametrize("damage", [b"{", b"{}", b'{"batch": "bad", "version": "v", "finished": "2999-01-01T00:00:00", "artifact": {}}'])
def test_a_damaged_manifest_is_left_out_by_name_and_the_other_batches_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: bytes
) -> None:
    champion = published(tmp_path / "version", rows(100, 0))
    batch(tmp_path, "good", champion.version, rows(60, 1))
    open_store().write("p/batches/bad/manifest.json", damage)
    _, report = measured()
    assert (report["batches"], report["current_rows"]) == (["good"], 60)
    assert "p/batches/bad/manifest.json is damaged" in caplog.text
    assert "score its file again, or delete it" in caplog.text


def test_a_batch_whose_rows_are_lost_or_changed_is_left_out_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    champion = published(tmp_path / "version", rows(100, 0))
    for name in ("good", "lost", "changed"):
        batch(tmp_path, name, champion.version, rows(60, 1))
    open_store().delete("p/batches/lost/monitoring.jsonl")
    open_store().write("p/batches/changed/monitoring.jsonl", b'{"text": "other"}\n')
    _, report = measured()
    assert (report["batches"], report["current_rows"]) == (["good"], 60)
    assert "batches/lost/monitoring.jsonl" in caplog.text
    assert "batches/changed/monitoring.jsonl" in caplog.text
    assert caplog.text.count("is left out") == 2


def audited(version: str, wrong: int) -> Process:
    """A declaration, and twenty words on accepted answers of a version, some of which were wrong."""
    usual = {"batch": "b1", "line": 1, "inputs": {}, "text": "t", "confidence": 1.0, "threshold": 0.5, "why": "audit", "reviewer": "Ann"}
    said = {"model_version": version, "word": "corrected", "proposed": "refund", "decided": "2026-01-01T00:00:00Z"}
    for number in range(20):
        word = {"id": f"{number:032x}", "record_id": str(number), "output": "invoice" if number < wrong else "refund"}
        open_store().write(f"p/reviews/{word['id']}.json", json.dumps(usual | said | word).encode())
    return process().model_copy(update={"automation": Automation(max_error=0.1)})


@pytest.mark.parametrize(("wrong", "refuted"), [(9, True), (1, False)])
def test_a_refuted_certificate_is_drift_whatever_the_columns_say(tmp_path: Path, wrong: int, refuted: bool) -> None:
    champion = published(tmp_path / "model", rows(300, 1))
    batch(tmp_path, "b1", champion.version, rows(300, 2))
    artifact = measure_drift.fn(Run(id="now", process=audited(champion.version, wrong), flow="monitor"))
    report = read_json(open_store(), artifact, "drift.json")
    assert (artifact.facts["refuted"], artifact.facts["drifted"], report["audit"]["looked_at"], report["audit"]["wrong"]) == (
        refuted,
        refuted,
        20,
        wrong,
    )
    told = f"{wrong} of 20 accepted answers of {champion.version} that people looked at afterwards were wrong"
    assert report["audit"]["told"].startswith(told) and (told in report["why"]) is refuted
    assert report["why"].endswith("0 of 6 columns drifted; 50% of them make a drift")


@pytest.mark.parametrize("refuted", [True, False])
def test_a_refuted_certificate_is_told_where_no_column_can_be_compared(tmp_path: Path, refuted: bool) -> None:
    champion = published(tmp_path / "model", [])
    batch(tmp_path, "b1", champion.version, [{}] * 60)
    run = Run(id="now", process=audited(champion.version, wrong=9 if refuted else 0), flow="monitor")
    if not refuted:
        with pytest.raises(ValueError, match="no column can be compared"):
            measure_drift.fn(run)
        return
    report = read_json(open_store(), measure_drift.fn(run), "drift.json")
    assert report["drifted"] and report["why"].startswith("9 of 20 accepted answers")
    assert report["why"].endswith("no column can be compared: the reference is empty")
    named = run.process.model_copy(update={"drift": run.process.drift.model_copy(update={"columns": ["channel"]})})
    artifact = measure_drift.fn(Run(id="later", process=named, flow="monitor"))
    assert artifact.facts["refuted"] and "channel" in artifact.facts["why"]


def test_without_a_champion_the_next_command_is_told() -> None:
    with pytest.raises(ValueError, match="clerkflow train p"):
        measured()
