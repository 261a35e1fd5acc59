"""The shipped processes: their declarations load, and their records are what their READMEs say."""

import json
from collections import Counter
from pathlib import Path

import pytest

from infra.store import open_store
from tasks.declaration import declared_processes, load_process
from tasks.ingestion import ingest
from tasks.prompts import completion_of, output_of, parse, prompt_of
from tasks.runs import begin
from tasks.validation import validate

PROCESSES = Path(__file__).resolve().parents[2] / "data" / "processes"
NAMES = ("expense_approval", "order_intake", "service_answers", "ticket_routing", "weekly_report")
KINDS = {
    "expense_approval": "label",
    "order_intake": "fields",
    "service_answers": "text",
    "ticket_routing": "label",
    "weekly_report": "text",
}


def stories(name):
    return json.loads((PROCESSES / name / "flaws.json").read_text(encoding="utf-8"))


def lines(name, file="sample.jsonl"):
    return (PROCESSES / name / file).read_text(encoding="utf-8").splitlines()


def sound(name, file="sample.jsonl"):
    """The records of a file that were not spoiled."""
    spoiled = {line for story in stories(name)[file].values() if story["expected"] != "accepted" for line in story["lines"]}
    return [json.loads(text) for number, text in enumerate(lines(name, file), 1) if number not in spoiled]


def test_the_five_processes_are_declared():
    assert declared_processes(PROCESSES) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_declaration_loads_and_has_a_gate_schedules_and_slices(name):
    process = load_process(name, PROCESSES)
    assert process.output.kind == KINDS[name]
    assert len(process.gate.rules) >= 4
    assert "language" in process.records.slices
    assert None not in (process.schedules.train, process.schedules.score, process.schedules.monitor)


def test_no_two_flows_start_in_the_same_minute():
    declared = [load_process(name, PROCESSES).schedules for name in NAMES]
    assert len({each.train for each in declared}) == len({each.monitor for each in declared}) == len({each.score for each in declared}) == 5


@pytest.mark.parametrize("name", NAMES)
def test_every_sound_record_gives_a_prompt_and_a_completion_that_can_be_read_back(name):
    process = load_process(name, PROCESSES)
    for record in sound(name):
        output = output_of(process, record)
        assert "None" not in prompt_of(process, record)
        if process.output.kind == "label":
            assert output in process.output.labels
        else:
            assert parse(process, completion_of(process, output)) == output


@pytest.mark.parametrize("name", NAMES)
def test_a_process_has_about_two_thousand_records_and_no_file_above_a_megabyte(name):
    assert len(lines(name)) == 2000
    assert max(path.stat().st_size for path in (PROCESSES / name).iterdir()) <= 1_000_000


@pytest.mark.parametrize("name", NAMES)
def test_languages_are_mixed_and_written_as_they_are_called(name):
    records = sound(name)
    languages = Counter(record["language"] for record in records)
    assert min(languages.values()) > 0.06 * len(records)
    for record in records:
        text = json.dumps({key: value for key, value in record.items() if key != "id"}, ensure_ascii=False)
        assert any("一" <= letter <= "鿿" for letter in text) == (record["language"] != "en")


def test_service_answers_is_mainly_chinese():
    records = sound("service_answers")
    assert sum(record["language"] == "zh" for record in records) >= 0.7 * len(records)


@pytest.mark.parametrize("name", NAMES)
def test_bad_rows_and_duplicates_are_as_many_as_claimed(name):
    told = stories(name)["sample.jsonl"]
    bad = sum(len(story["lines"]) for story in told.values() if story["expected"] == "quarantined")
    assert 0.008 * 2000 <= bad <= 0.02 * 2000
    assert [len(told[story]["lines"]) for story in ("near_duplicate", "copied", "resent")] == [60, 12, 8]
    assert all(len(story["lines"]) >= 3 for story in told.values())


@pytest.mark.parametrize("name", NAMES)
def test_broken_lines_and_taken_ids_stand_where_flaws_json_says(name):
    told, texts = stories(name)["sample.jsonl"], lines(name)
    for number in told["broken_line"]["lines"]:
        with pytest.raises(json.JSONDecodeError):
            json.loads(texts[number - 1])
    broken = {number - 1 for number in told["broken_line"]["lines"]}
    ids = Counter(json.loads(text)["id"] for at, text in enumerate(texts) if at not in broken)
    twice = {json.loads(texts[number - 1])["id"] for story in ("id_taken", "resent") for number in told[story]["lines"]}
    assert {each for each, count in ids.items() if count > 1} == twice


@pytest.mark.parametrize("name", NAMES)
def test_validation_treats_every_flaw_as_flaws_json_says(name):
    run = begin(load_process(name, PROCESSES), "train")
    validated, store = validate.fn(ingest.fn(run), run), open_store()
    keys = (f"{validated.prefix}records.jsonl", f"{run.prefix}/quarantine/rows.jsonl")
    good, bad = ({row["line"]: row for row in map(json.loads, store.read(key)[0].decode().splitlines())} for key in keys)
    told = {line: story["expected"] for story in stories(name)["sample.jsonl"].values() for line in story["lines"]}
    taken = {line for line, row in bad.items() if "same record" in row["reason"] or "have this id" in row["reason"]}
    found = {line: "quarantined" if line in bad else "repaired" if good[line]["repairs"] else "accepted" for line in told}
    assert {line: found[line] for line in told if line not in taken} == {line: way for line, way in told.items() if line not in taken}
    assert bad.keys() <= told.keys() | taken
    assert len(good) + len(bad) == 2000


@pytest.mark.parametrize("name", ["ticket_routing", "order_intake"])
def test_no_id_is_shared_between_files_and_new_records_have_no_answer(name):
    process = load_process(name, PROCESSES)
    ids = [{record["id"] for record in sound(name, path.name)} for path in sorted((PROCESSES / name).glob("*.jsonl"))]
    assert len(set.union(*ids)) == sum(map(len, ids))
    assert [output_of(process, record) for record in sound(name, "new.jsonl") if output_of(process, record)] == []
    assert len(lines(name, "new.jsonl")) == 300


def test_the_drifted_tickets_come_by_telephone_and_are_longer():
    usual, drifted = sound("ticket_routing"), sound("ticket_routing", "drifted.jsonl")
    assert len(drifted) == 400
    assert len(sound("ticket_routing", "drifted_labelled.jsonl")) == 800
    for records, share in ((usual, 0), (drifted, 0.5)):
        assert sum(record["channel"] == "voice" for record in records) >= share * len(records)
    length = [sum(len(record["text"]) for record in records) / len(records) for records in (usual, drifted)]
    assert length[1] > 1.3 * length[0]


def test_ticket_queues_are_uneven_and_all_used():
    queues = Counter(record["queue"] for record in sound("ticket_routing"))
    assert len(queues) == 8
    assert max(queues.values()) > 5 * min(queues.values())


def test_what_is_declared_verbatim_stands_in_the_email():
    for record in sound("order_intake"):
        form = record["form"]
        assert all(value in record["email"] for value in (form["customer"], form["order_number"], *form["products"]))
        assert len(form["products"]) == len(form["quantities"])


def test_every_weekly_report_states_its_figures():
    for record in sound("weekly_report"):
        assert [name for name, value in record["figures"].items() if name != "change" and str(value) not in record["report"]] == []


def test_every_answer_states_its_fact():
    for record in sound("service_answers"):
        assert record["must_state"] in record["answer"]
        assert all(record["must_state"] in other for other in record["other_answers"])


def test_near_all_expense_decisions_follow_the_policy_that_the_readme_tells():
    records = sound("expense_approval")
    wrong = sum(
        record["decision"] == "approve" and record["claim"]["percent_of_limit"] > 150 and not record["claim"]["pre_approved"]
        for record in records
    )
    assert 0 < wrong < 0.04 * len(records)
