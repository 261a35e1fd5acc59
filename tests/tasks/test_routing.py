"""What a batch accepts and what it leaves to people, by the certificate of the version that answered."""

import json
from pathlib import Path

import pytest

from benchmarks.memory import publish_tiny, tiny_process
from infra.store import open_store
from tasks.artifacts import Artifact, fetch_folder
from tasks.automation import keep
from tasks.batches import accounted
from tasks.certificate import Certificate, Measured, Threshold
from tasks.predictions import Prediction
from tasks.records import Record
from tasks.routing import Router
from tasks.runs import Run
from tasks.scope import FILE, Scope
from tasks.scoring import score_batch
from tasks.terms import Automation

CERTIFICATE = Certificate(max_error=0.1, confidence=0.9, thresholds=(Threshold(threshold=0.0, rows=50, confidence=0.9),), scope=0.5)
TERMS = Automation(max_error=0.1, confidence=0.9)
TEXTS = ["card lost", "my card is gone", "银行卡丢了"]


def score(file: Path, version: Path, certificate: Certificate | None, terms: Automation | None = TERMS) -> Artifact:
    """A batch of an untrained champion with this certificate, under today's terms."""
    process = tiny_process()
    version.mkdir()
    if certificate:
        keep(certificate, Scope.learn(TEXTS), version)
    publish_tiny(process, version)
    today = process.model_copy(update={"automation": terms})
    batch = score_batch.fn(str(file), Run(id="now", process=today, flow="score"))
    assert isinstance(batch, Artifact)
    return batch


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rows = [{"id": "a", "text": "my card is lost"}, {"id": "b", "text": "卡丢了"}, {"id": "c", "text": "квантовая физика"}, {"id": "d"}]
    (tmp_path / "new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "new.jsonl"


def test_in_is_accepted_and_review_and_dead_and_strange_records_are_left_to_people(file: Path, tmp_path: Path) -> None:
    batch = score(file, tmp_path / "version", CERTIFICATE)
    assert accounted(batch) == "4 records in = 2 accepted + 1 to review + 1 dead letters"
    fetch_folder(open_store(), batch, tmp_path / "batch")
    (left,) = [json.loads(line) for line in (tmp_path / "batch" / "review.jsonl").read_text().splitlines()]
    assert (left["record_id"], left["line"], left["reason"], left["inputs"]) == ("c", 3, "out_of_scope", {"text": "квантовая физика"})
    assert left["similarity"] < CERTIFICATE.scope
    done = [json.loads(line)["record_id"] for line in (tmp_path / "batch" / "predictions.jsonl").read_text().splitlines()]
    assert done == ["a", "b"]
    manifest = json.loads(open_store().read(batch.prefix + "manifest.json")[0])
    assert manifest["doubts"] == {"out_of_scope": 1}


@pytest.mark.parametrize(("terms", "counts"), [(TERMS, (0, 3, 1)), (None, (3, 0, 1))])
def test_without_a_certificate_nothing_is_accepted_once_one_is_asked_for(
    file: Path, tmp_path: Path, terms: Automation | None, counts: tuple[int, int, int]
) -> None:
    batch = score(file, tmp_path / "version", None, terms)
    assert (batch.facts["done"], batch.facts["review"], batch.facts["dead"]) == counts


@pytest.mark.parametrize("terms", [Automation(max_error=0.09, confidence=0.9), Automation(max_error=0.1, confidence=0.91)])
def test_a_declaration_that_became_stricter_than_the_certificate_leaves_all_to_people_and_says_so_once(
    file: Path, tmp_path: Path, terms: Automation, caplog: pytest.LogCaptureFixture
) -> None:
    batch = score(file, tmp_path / "version", CERTIFICATE, terms)
    assert (batch.facts["done"], batch.facts["review"], batch.facts["dead"]) == (0, 3, 1)
    assert json.loads(open_store().read(batch.prefix + "manifest.json")[0])["doubts"] == {"uncertified": 3}
    (told,) = [line for line in caplog.messages if "go to review" in line]
    assert f"max_error {terms.max_error:g} with confidence {terms.confidence:g} is declared, and it was certified for 0.1 with 0.9" in told
    looser = score_batch.fn(str(file), Run(id="now", process=tiny_process().model_copy(update={"automation": TERMS}), flow="score"))
    assert isinstance(looser, Artifact) and looser.facts["done"] == 2  # another batch, not the one that is there


def test_records_that_chose_no_threshold_certify_anew_what_is_declared_today() -> None:
    measured = CERTIFICATE.model_copy(update={"measured": Measured(rows=100, accepted=90, errors=1)})
    assert measured.vouches_for(Automation(max_error=0.06, confidence=0.95))  # Clopper and Pearson: at most 5.2 %
    assert not measured.vouches_for(Automation(max_error=0.05, confidence=0.95))
    assert not measured.vouches_for(Automation(max_error=0.06, confidence=0.99))
    assert measured.vouches_for(Automation(max_error=0.2, confidence=0.9)) and CERTIFICATE.vouches_for(TERMS)
    assert not CERTIFICATE.vouches_for(Automation(max_error=0.06, confidence=0.9))


def test_a_proposal_tells_how_sure_each_field_is_and_from_where_on_it_would_have_been_accepted() -> None:
    unsure = CERTIFICATE.model_copy(update={"thresholds": (Threshold(threshold=0.9, rows=50, confidence=0.9),), "scope": None})
    router = Router(tiny_process(), "v1", unsure, None, False)
    record = Record("r", {"text": "card"}, "new.jsonl", 7)
    found = router.proposed(record, Prediction("billing", "", 0.89, None, 3, {"unit": 0.4}), None)
    assert found is not None
    assert (found.reason, found.threshold, found.fields, found.line) == ("unsure", 0.9, {"unit": 0.4}, 7)
    assert router.proposed(record, Prediction("billing", "", 0.9, None, 3), None) is None
    assert router.proposed(record, Prediction(None, "", 0.0, "too_long", 3), None) is None


def test_a_certificate_without_what_it_compares_with_is_refused(tmp_path: Path) -> None:
    keep(CERTIFICATE, Scope.learn(TEXTS), tmp_path)
    (tmp_path / FILE).unlink()
    with pytest.raises(ValueError, match="out of scope"):
        Router.of(tmp_path, tiny_process(), "v1", tiny_process())
