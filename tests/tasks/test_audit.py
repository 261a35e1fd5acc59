"""What people find among accepted answers: who is asked, what comes of their words, and when a certificate is refuted."""

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import quick
from benchmarks.memory import publish_tiny, tiny_process
from infra.store import open_store
from tasks.artifacts import Artifact, listing_of
from tasks.audit import audit_of, differs, evidence, is_wrong, judged
from tasks.automation import keep
from tasks.batches import accounted, batch_id
from tasks.certificate import Certificate, Threshold
from tasks.evaluation import SECTIONS
from tasks.explaining import explain
from tasks.process import Process
from tasks.released import release_reviewed
from tasks.reviewing import Queue
from tasks.reviews import Reviewed, Word
from tasks.routing import AUDIT_FILE
from tasks.runs import Run
from tasks.scoring import score_batch
from tasks.terms import Automation, Batches
from tasks.waiting import Item
from tests.flows.test_review import FORM, process_of, put_batch
from tests.tasks.test_contents import Change, change, shown
from tests.tasks.test_deliveries import SHEET
from tests.tasks.test_results import many
from tests.tasks.test_scoring import lines

__all__ = ["change"]  # a fixture

CERTIFICATE = Certificate(max_error=0.1, confidence=0.9, thresholds=(Threshold(threshold=0.0, rows=50, confidence=0.9),))


def accepting(audit: float, **batch: Any) -> Process:
    """A process whose answers are all accepted, and of which people look at some."""
    terms = Automation(max_error=0.1, confidence=0.9, out_of_scope=None, audit=audit)
    found: Process = tiny_process().model_copy(update={"automation": terms, "batch": Batches.model_validate(batch)})
    return found


@pytest.fixture
def version(tmp_path: Path) -> str:
    (tmp_path / "version").mkdir()
    keep(CERTIFICATE, None, tmp_path / "version")
    return publish_tiny(tiny_process(), tmp_path / "version")


def scored(source: Path, process: Process) -> Artifact:
    batch = score_batch.fn(str(source), Run(id="now", process=process, flow="score"))
    assert isinstance(batch, Artifact)
    return batch


def rows_in(batch: Artifact, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in open_store().read(batch.prefix + name)[0].splitlines()]


def say(queue: Queue, item: Item, word: Word) -> str | None:
    """A person's word; a correction is another label."""
    other = next(label for label in quick.LABELS if label != item.proposed.output)
    return queue.decide(item, word, "Ann", other if word == "corrected" else None, "spam" if word == "rejected" else "").output


def test_the_same_records_are_drawn_again_whatever_file_they_stand_in_and_are_accepted_at_once(version: str, tmp_path: Path) -> None:
    batch = scored(many(tmp_path / "new.jsonl", 400).path, accepting(0.25))
    drawn = [row["record_id"] for row in rows_in(batch, AUDIT_FILE)]
    assert 80 <= len(drawn) == batch.facts["audit"] <= 120
    assert accounted(batch) == f"400 records in = 400 accepted ({len(drawn)} of them for an audit) + 0 to review + 0 dead letters"
    first = {name: open_store().read(batch.prefix + name)[0] for name in listing_of(open_store(), batch)}
    open_store().delete(batch.prefix + "manifest.json")  # as if it had been killed just before
    again = scored(tmp_path / "new.jsonl", accepting(0.25))
    assert again.sha256 == batch.sha256
    assert first == {name: open_store().read(again.prefix + name)[0] for name in listing_of(open_store(), again)}
    overlapping = scored(many(tmp_path / "other.jsonl", 300, first=200).path, accepting(0.25))
    late = [row["record_id"] for row in rows_in(overlapping, AUDIT_FILE)]
    assert [id for id in drawn if int(id[2:]) >= 200] == [id for id in late if int(id[2:]) < 400]
    assert len(Queue(open_store(), accepting(0.25)).waiting()) == len({*drawn, *late})
    (row, *_) = rows_in(batch, AUDIT_FILE)
    assert (row["reason"], row["threshold"], row["model_version"]) == ("audit", 0.0, version)


def test_a_process_without_an_audit_is_what_it_was(version: str, tmp_path: Path) -> None:
    process = accepting(0.0)
    batch = scored(many(tmp_path / "new.jsonl", 20).path, process)
    assert AUDIT_FILE not in listing_of(open_store(), batch) and batch.facts["audit"] == 0
    assert not Queue(open_store(), process).waiting()
    assert "audit" not in process.part(*SECTIONS)["automation"]
    assert process.part(*SECTIONS) == process.model_copy(update={"automation": Automation.model_validate(TERMS)}).part(*SECTIONS)
    names = [batch_id("s", "a.jsonl", accepting(share), "v", "jsonl") for share in (0.0, 0.1, 0.2)]
    assert len({*names}) == 3 and batch.facts["batch"].endswith(names[0].rpartition("-")[2])
    assert accepting(0.1).model_dump(mode="json")["automation"]["audit"] == 0.1


TERMS = {"max_error": 0.1, "confidence": 0.9, "out_of_scope": None}


def test_what_blocks_business_is_looked_at_first_and_a_batch_that_knows_no_audit_is_read() -> None:
    put_batch(open_store(), [{"inputs": {"text": "first"}, "output": "billing", "reason": "audit"}])
    for name in ("b2", "b3"):
        put_batch(open_store(), [{"record_id": name, "inputs": {"text": name}, "output": "billing"}], name)
    queue = Queue(open_store(), process_of())
    assert [item.proposed.inputs["text"] for item in queue.waiting()] == ["b2", "b3", "first"]


def test_a_correction_comes_with_the_next_delivery_and_a_rejection_as_a_dead_letter(version: str, tmp_path: Path) -> None:
    process = accepting(0.5, sheet=SHEET | {"format": "csv", "columns": ["id", "queue"]})
    scored(many(tmp_path / "new.jsonl", 20).path, process)
    queue = Queue(open_store(), process)
    right, wrong, no, *_ = queue.waiting()
    say(queue, right, "accepted")
    output = say(queue, wrong, "corrected")
    say(queue, no, "rejected")
    run = Run(id="later", process=process, flow="score")
    batch = release_reviewed.fn(run)
    assert isinstance(batch, Artifact) and release_reviewed.fn(run) is None
    assert accounted(batch) == "3 records in = 2 accepted + 0 to review + 1 dead letters"
    told = {row["record_id"]: row["output"] for row in rows_in(batch, "predictions.jsonl")}
    assert told == {right.proposed.record_id: right.proposed.output, wrong.proposed.record_id: output}
    sheet = open_store().read(batch.prefix + "sheet.csv")[0].decode("utf-8-sig").splitlines()
    assert sheet == ['"id","queue"', f'"{wrong.proposed.record_id}","{output}"']  # what was right was delivered before
    (letter,) = rows_in(batch, "dead_letters.jsonl")
    assert (letter["record_id"], letter["code"], letter["stage"]) == (no.proposed.record_id, "rejected", "review")


def test_words_on_accepted_answers_replace_their_rows_and_take_them_out_of_the_table(change: Change, database: str) -> None:
    change("INSERT INTO mails VALUES (1, 'card'), (2, 'late'), (3, 'order'), (4, 'refund')")
    before = shown(database)
    queue = put_audit(before, {"1": "card", "2": "late", "3": "order", "4": "refund"})
    first, second, third, fourth = queue.waiting()
    say(queue, first, "accepted")
    output = say(queue, second, "corrected")
    say(queue, third, "rejected")
    change("UPDATE mails SET text = 'new words' WHERE id = 4")
    newer = shown(database)["4"]
    say(queue, fourth, "rejected")  # of what it held before
    _, released = change()
    assert released.facts["outdated"] == 1
    assert shown(database) == {"1": (before["1"][0], "reviewed"), "2": (output, "reviewed"), "4": newer}
    change("UPDATE mails SET text = 'newer words' WHERE id = 4")  # all rows again: what people said stands
    found = shown(database)
    assert found == {"1": (before["1"][0], "reviewed"), "2": (output, "reviewed"), "4": found["4"]}


def test_a_correction_of_what_a_record_held_before_changes_no_row(change: Change, database: str) -> None:
    change("INSERT INTO mails VALUES (1, 'old words')")
    queue = put_audit(shown(database), {"1": "old words"})
    change("UPDATE mails SET text = 'new words'")
    before = shown(database)
    say(queue, queue.waiting()[0], "corrected")
    (_, released) = change()
    assert [released.facts[name] for name in ("done", "dead", "outdated")] == [0, 1, 1] and shown(database) == before


def put_audit(rows: dict[str, tuple[str, str]], texts: dict[str, str]) -> Queue:
    """A queue in which these rows of the table of results wait for an audit."""
    usual = {"reason": "audit", "confidence": 0.5, "threshold": 0.1, "fields": None, "similarity": None}
    drawn = [
        usual | {"record_id": id, "line": int(id), "output": rows[id][0], "model_version": rows[id][1], "inputs": {"text": text}}
        for id, text in texts.items()
    ]
    store, process = open_store(), tiny_process()
    store.write("memory/batches/drawn/audit.jsonl", "\n".join(map(json.dumps, drawn)).encode())
    store.write("memory/batches/drawn/manifest.json", json.dumps({"audit": len(drawn), "finished": "2026-01-01T00:00:00Z"}).encode())
    return Queue(store, process)


def test_a_refuted_certificate_accepts_nothing_any_more_and_says_why(
    version: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    process, source = accepting(0.5), many(tmp_path / "new.jsonl", 40).path
    before = scored(source, process)
    queue, store = Queue(open_store(), process), open_store()
    for number, item in enumerate(queue.waiting()):
        found = audit_of(store, process, version)
        if found and found.refuted:
            break
        assert scored(lines(tmp_path / f"{number}.jsonl", {"id": "x", "text": "card"}), process).facts["done"] == 1
        say(queue, item, "corrected")
    assert found and found.refuted and found.wrong == found.looked_at < 10
    caplog.set_level(logging.WARNING)
    after = scored(source, process)  # another batch now, though it is the same file
    assert [after.facts[count] for count in ("done", "audit", "review")] == [found.looked_at, 0, 40 - found.looked_at]
    assert after.facts["reviewed"] == found.looked_at  # people's words stand
    assert before.facts["done"] == 40
    doubts = json.loads(store.read(after.prefix + "manifest.json")[0])["doubts"]
    assert doubts == {"uncertified": 40 - found.looked_at}
    assert caplog.messages.count(f"scoring: all answers of {version} go to review: {found.told}; train again") == 1
    assert audit_of(store, process, "another") is None
    looser = process.model_copy(update={"automation": Automation(max_error=0.99, confidence=0.9)})
    assert (other := audit_of(store, looser, version)) and not other.refuted


def test_an_audited_record_says_so_in_its_batch_and_in_the_one_that_corrects_it(version: str, tmp_path: Path) -> None:
    process = accepting(0.5)
    batch = scored(many(tmp_path / "new.jsonl", 10).path, process)
    queue = Queue(open_store(), process)
    first, second, *_ = queue.waiting()
    output = say(queue, first, "corrected")
    say(queue, second, "rejected")

    def told(name: str, id: str) -> dict[str, dict[str, Any]]:
        (chain,) = explain(open_store(), process, name, id)
        return {link.title: dict(link.facts) for link in chain}

    found = told(batch.facts["batch"], first.proposed.record_id)
    assert (found["answer"]["became"], found["answer"]["output"]) == ("accepted", first.proposed.output)
    assert [found["audit"][name] for name in ("drawn", "who", "word", "output")] == ["for a person", "Ann", "corrected", output]
    (unseen, *_) = queue.waiting()
    found = told(batch.facts["batch"], unseen.proposed.record_id)
    assert found["audit"] == {"drawn": "for a person, who has not looked at it yet"}
    ids = {f"r-{number}" for number in range(10)} - {row["record_id"] for row in rows_in(batch, AUDIT_FILE)}
    assert "audit" not in told(batch.facts["batch"], min(ids))
    released = release_reviewed.fn(Run(id="later", process=process, flow="score"))
    assert isinstance(released, Artifact)
    found = told(released.facts["batch"], first.proposed.record_id)
    assert found["answer"]["became"] == "accepted, and looked at by a person afterwards"
    found = told(released.facts["batch"], second.proposed.record_id)
    assert (found["answer"]["code"], found["reviewer"]["reason"]) == ("rejected", "spam")


def word_of(output: Any, proposed: Any, **more: Any) -> Reviewed:
    usual = {"id": "a", "batch": "b", "line": 1, "record_id": "a", "inputs": {}, "text": "t", "confidence": 1.0, "threshold": None}
    said = {"word": "corrected", "why": "audit", "model_version": "v", "reviewer": "Ann", "decided": "2026-01-01T00:00:00Z"}
    return Reviewed.model_validate(usual | said | {"output": output, "proposed": proposed} | more)


@pytest.mark.parametrize(
    ("output", "proposed", "wrong"),
    [
        ("billing", "billing", False),
        ("billing", "shipping", True),
        (None, "billing", True),  # rejected
        ({"item": "pen", "count": 2}, {"item": "pen ", "count": 2, "unit": None, "tags": []}, False),
        ({"item": "pen", "count": 2}, {"item": "pen", "count": 3}, True),
        ({"item": "pen"}, "pen", True),
        ("Dear  Ann", "Dear Ann\n", False),
        ("", "", False),
    ],
)
def test_an_answer_was_wrong_when_something_else_is_right(output: Any, proposed: Any, wrong: bool) -> None:
    assert differs(word_of(output, proposed)) is wrong
    assert is_wrong(word_of(output, proposed), process_of(FORM)) is wrong


def test_a_text_was_wrong_when_it_lacks_a_fact_in_whatever_words_as_the_certificate_has_it() -> None:
    process = process_of({"text": "answer", "facts": ["order"]}, records={"source": "a.jsonl", "columns": ["text", "order"]})
    told = {"inputs": {"order": "A-12"}}
    right, better, lacking = "Order A-12 ships today.", "Your order A-12 ships today.", "Your order ships today."
    assert not is_wrong(word_of(better, right, **told), process)
    assert differs(word_of(better, right, **told))  # so it is delivered again
    assert is_wrong(word_of(better, lacking, **told), process)
    assert is_wrong(word_of(None, right, **told), process)
    assert is_wrong(word_of(better, right), process)  # without facts its words count


def test_only_words_on_drawn_answers_of_the_version_count() -> None:
    process = process_of(FORM, automation={"max_error": 0.1})
    usual = {"output": {"item": "pen", "count": 2}}
    put_batch(open_store(), [usual | {"inputs": {"text": text}, "reason": "audit"} for text in ("one", "two", "three")])
    put_batch(open_store(), [usual | {"record_id": "other", "inputs": {"text": "four"}, "reason": "audit", "model_version": "v2"}], "b2")
    put_batch(open_store(), [usual | {"inputs": {"text": "one", "seen": "twice"}, "reason": "audit"}], "b4")
    put_batch(open_store(), [usual | {"record_id": f"u{text}", "inputs": {"text": text}} for text in ("five", "six")], "b3")
    queue = Queue(open_store(), process)
    assert audit_of(open_store(), process, "v1") is None
    for item in queue.waiting():
        queue.decide(item, "rejected" if item.proposed.inputs["text"] in ("two", "four", "five") else "accepted", "Ann", reason="spam")
    found = audit_of(open_store(), process, "v1")
    assert found and (found.looked_at, found.wrong, found.refuted) == (3, 1, False)
    assert found.told == (
        "1 of 3 accepted answers of v1 that people looked at afterwards were wrong: "
        "with 95% confidence between 0.8% and 90.6% are; max_error is 0.1"
    )
    assert audit_of(open_store(), process_of(FORM), "v1") is None  # nothing is promised


def refuted_at(wrong: Sequence[bool], terms: Automation) -> int | None:
    """How many words it takes, when every one is looked at as it comes; None where all of them refute nothing."""
    return next((count for count in range(1, len(wrong) + 1) if judged("v", wrong[:count], terms).refuted), None)


@pytest.mark.parametrize(("max_error", "confidence"), [(0.05, 0.95), (0.1, 0.9)])
def test_a_certificate_that_holds_is_seldom_refuted_however_often_it_is_looked_at(max_error: float, confidence: float) -> None:
    level, seeds = -math.log1p(-confidence), 400
    streams = np.random.default_rng(7).random((seeds, 3_000)) < max_error
    refuted = sum(evidence(stream.tolist(), max_error) >= level for stream in streams)  # the most that there has been at any word
    assert 0 < refuted <= (1 - confidence) * seeds


def test_the_evidence_that_there_has_been_is_the_most_at_any_word() -> None:
    terms, stream = Automation(max_error=0.1), [True, False, True, True, False, True] + [False] * 40
    assert refuted_at(stream, terms) == 6
    assert judged("v", stream, terms).refuted and not judged("v", stream[:5], terms).refuted
    assert judged("v", stream, terms).lower < 0.1
    assert evidence([], 0.1) == evidence([False] * 1000, 0.1) == 0


def test_a_certificate_of_a_bad_model_is_refuted_soon() -> None:
    terms = Automation(max_error=0.05)
    counts = [refuted_at((np.random.default_rng(seed).random(300) < 0.15).tolist(), terms) for seed in range(200)]
    found = [count for count in counts if count]
    assert len(found) >= 195 and np.median(found) <= 60
