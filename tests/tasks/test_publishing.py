"""A judged model becomes a version and champion, once; a refused one never does."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from infra.settings import settings
from infra.store import Conflict, open_store
from tasks.aliases import aliases_of, challenger_of, champion_of
from tasks.artifacts import Artifact, fetch_folder, scratch, store_folder, write_json
from tasks.audit import audit_of
from tasks.automation import keep
from tasks.budget import Counts, settle
from tasks.certificate import Certificate, Threshold
from tasks.declaration import parse_process
from tasks.gate import RuleResult, Verdict
from tasks.generation import Predictor
from tasks.manifests import Evidence, manifest_key
from tasks.models import build_model, save_model
from tasks.prompts import completion_of
from tasks.publishing import begun, champion_to_meet, main_metrics, publish
from tasks.registry import fetch_version, versions_of
from tasks.rehearsal import RehearsalError, answered, different
from tasks.reviews import Reviewed, review_key
from tasks.runs import Run, begin, once
from tasks.terms import Automation
from tasks.vocabulary import EOS, train_vocabulary

PASSED = Verdict(passed=True, results=(RuleResult(rule="accuracy at least 0.5", metric="accuracy", measure=0.9, passed=True, reason=""),))


WORDS = ["parcel", "invoice", "late", "twice", "快递", "发票"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run of a process whose shards are small."""
    declared = {
        "name": "toy",
        "owner": "tests",
        "records": {"source": "sample.jsonl", "columns": ["text", "queue"]},
        "sample": {"prompt": "{text}"},
        "output": {"label": "queue", "labels": ["billing", "shipping"]},
        "finetuning": {"size": {"n_layer": 1, "n_embd": 16, "n_head": 2}, "max_length": 32},
        "gate": [{"metric": "accuracy", "at_least": 0.5}],
        "publishing": {"shard_bytes": 4096},
    }
    return begin(parse_process(declared, "here"), "train")


@pytest.fixture(autouse=True)
def here(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rehearsal without a process of its own, which takes seconds; tests marked `fresh` have it as it is."""
    if request.node.get_closest_marker("fresh"):
        return

    def rehearse(process: str, version: str, proof: Path) -> int:
        lines = [json.loads(line) for line in proof.read_text(encoding="utf-8").splitlines()]
        with scratch() as folder:
            now = answered(Predictor.load(fetch_version(open_store(), process, version, folder)), [line["prompt"] for line in lines])
        assert different(lines, now) == 0
        return len(lines)

    monkeypatch.setattr("tasks.publishing.rehearse", rehearse)


def made(run: Run, folder: Path, seed: int) -> Path:
    """A real model of the process, untrained, as fine-tuning writes it."""
    if not folder.exists():
        tokens = [completion_of(run.process, label) for label in run.process.output.labels or ()]
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=train_vocabulary(WORDS, 400, tokens), eos_token=EOS)
        save_model(
            build_model(settle(run.process.finetuning.model_copy(update={"seed": seed}), "label", Counts(2, 20, 16, 400)), tokenizer, 32),
            folder,
        )
        tokenizer.save_pretrained(folder)
        ids = tokenizer.convert_tokens_to_ids(tokens)
        write_json(folder / "contract.json", {"kind": "label", "labels": ["billing", "shipping"], "label_ids": ids, "max_new_tokens": 1})
        write_json(folder / "declaration.json", run.process.model_dump(mode="json"))
    return folder


def model_of(run: Run, folder: Path, seed: int = 1, **files: str) -> Artifact:
    """A stored model/ with further files."""
    model = made(run, folder / f"model-{seed}", seed)
    for name, text in files.items():
        (model / name).write_text(text)
    return store_folder(open_store(), model, f"{run.prefix}/model-{seed}")


def evaluation_of(run: Run, folder: Path, champion: str | None = None, seed: int = 1) -> Artifact:
    """A stored evaluation/ of a model against a champion, with what the model really answers."""
    name = f"evaluation-{random.randrange(10**9)}"
    metrics: dict[str, Any] = {"model": {"accuracy": 0.9, "f1.billing": 0.8, "ece": None}, "champion_version": champion}
    write_json(folder / name / "metrics.json", metrics)
    (folder / name / "reference.jsonl").write_text('{"text": "发票"}\n', encoding="utf-8")
    proof = answered(Predictor.load(made(run, folder / f"model-{seed}", seed)), ["parcel late", "发票 twice", "invoice"])
    (folder / name / "proof.jsonl").write_text("".join(json.dumps(line) + "\n" for line in proof))
    return store_folder(open_store(), folder / name, f"{run.prefix}/{name}")


def test_a_model_that_passed_is_champion_and_can_be_fetched_with_its_proof(run: Run, tmp_path: Path) -> None:
    model = once(run, "finetuning", "model", [], {}, lambda *_: model_of(run, tmp_path))
    assert champion_to_meet(model, run) is None
    alias = publish.fn(model, evaluation_of(run, tmp_path), PASSED, run)
    assert (alias.previous, alias.run) == (None, run.id)
    folder = fetch_version(open_store(), "toy", alias.version, settings().cache)
    assert {"config.json", "tokenizer.json", "contract.json", "reference.jsonl", "metrics.json"} <= {path.name for path in folder.iterdir()}
    assert json.loads((folder / "declaration.json").read_text()) == run.process.model_dump(mode="json")
    assert json.loads((folder / "verdict.json").read_text())["passed"] is True
    assert all(info.size <= 4096 for info in open_store().list("toy/models/shards/"))


def certify(run: Run, evaluation: Artifact, folder: Path, rows: int) -> Artifact:
    """The same evaluation with a certificate that so many records vouch for."""
    fetch_folder(open_store(), evaluation, folder)
    thresholds = (Threshold(threshold=0.5, rows=rows, confidence=0.95),)
    keep(Certificate(max_error=0.05, confidence=0.95, thresholds=thresholds), None, folder)
    return store_folder(open_store(), folder, f"{run.prefix}/{folder.name}")


def test_the_same_model_is_published_again_where_its_certificate_was_refuted_and_it_has_another(run: Run, tmp_path: Path) -> None:
    terms = Automation(max_error=0.05, confidence=0.95, out_of_scope=None, audit=0.5)
    run = run.model_copy(update={"process": run.process.model_copy(update={"automation": terms})})
    model = once(run, "finetuning", "model", [], {}, lambda *_: model_of(run, tmp_path))
    plain = evaluation_of(run, tmp_path)
    old, new = (certify(run, plain, tmp_path / f"certified-{rows}", rows) for rows in (50, 90))
    first = publish.fn(model, old, PASSED, run).version
    assert publish.fn(model, new, PASSED, run).version == first  # nothing is wrong with it
    usual = {"batch": "b", "line": 1, "inputs": {"text": "x"}, "text": "t", "proposed": "billing", "confidence": 0.9, "threshold": 0.5}
    said = {"why": "audit", "model_version": first, "word": "corrected", "output": "shipping", "reviewer": "Ann"}
    for number in range(8):
        own = {"id": f"{number:032x}", "record_id": str(number), "decided": f"2026-01-01T00:00:0{number}Z"}
        word = Reviewed.model_validate(usual | said | own)
        open_store().write(review_key("toy", word.id), word.model_dump_json().encode())
    assert publish.fn(model, old, PASSED, run).version == first  # a run that was killed ends as it did
    again = publish.fn(model, new, PASSED, run)
    assert (again.version != first, again.previous) == (True, first)
    assert publish.fn(model, new, PASSED, run).version == again.version
    audits = [audit_of(open_store(), run.process, version) for version in (first, again.version)]
    assert audits[0] and audits[0].refuted and audits[1] is None


def test_another_model_meets_the_champion_and_the_champion_itself_the_one_before_it(run: Run, tmp_path: Path) -> None:
    first = once(run, "finetuning", "model", [], {"seed": 1}, lambda *_: model_of(run, tmp_path, 1))
    alias = publish.fn(first, evaluation_of(run, tmp_path), PASSED, run)
    assert champion_to_meet(first, run) is None
    second = once(run, "finetuning", "model", [], {"seed": 2}, lambda *_: model_of(run, tmp_path, 2))
    assert champion_to_meet(second, run) == alias.version
    publish.fn(second, evaluation_of(run, tmp_path, alias.version, 2), PASSED, run)
    assert champion_to_meet(second, run) == alias.version


def test_the_manifest_says_where_the_version_came_from(run: Run, tmp_path: Path) -> None:
    model = once(run, "finetuning", "model", [], {}, lambda *_: model_of(run, tmp_path))
    publish.fn(model, evaluation_of(run, tmp_path), PASSED, run)
    manifest = versions_of(open_store(), "toy")[0]
    assert (manifest.run, manifest.created, manifest.metrics) == (run.id, begun(run), {"accuracy": 0.9})
    assert manifest.data == {"finetuning": Evidence(key=model.key, sha256=model.sha256)}
    assert manifest.verdict == PASSED.model_dump(mode="json")


def test_a_refused_model_is_not_published_even_when_asked_to(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the gate refused"):
        publish.fn(model_of(run, tmp_path), evaluation_of(run, tmp_path), Verdict(passed=False, results=()), run)
    assert list(open_store().list("toy/models/")) == []


def test_an_older_version_that_is_damaged_does_not_stand_in_the_way_of_a_new_one(run: Run, tmp_path: Path) -> None:
    open_store().write(manifest_key("toy", "0" * 12), b"{")
    model = once(run, "finetuning", "model", [], {}, lambda *_: model_of(run, tmp_path))
    assert publish.fn(model, evaluation_of(run, tmp_path), PASSED, run).run == run.id


def test_the_same_model_again_changes_nothing(run: Run, tmp_path: Path) -> None:
    model = model_of(run, tmp_path)
    first = publish.fn(model, evaluation_of(run, tmp_path), PASSED, run)
    before = {info.key: info.etag for info in open_store().list("toy/models/")}
    assert publish.fn(model, evaluation_of(run, tmp_path, first.version), PASSED, run) == first
    after = {info.key: info.etag for info in open_store().list("toy/models/")}
    assert {key: after[key] for key in before} == before
    assert len(versions_of(open_store(), "toy")) == 1


def test_a_better_model_takes_the_champions_place(run: Run, tmp_path: Path) -> None:
    first = publish.fn(model_of(run, tmp_path, 1), evaluation_of(run, tmp_path), PASSED, run)
    second = publish.fn(model_of(run, tmp_path, 2), evaluation_of(run, tmp_path, first.version, 2), PASSED, run)
    assert (second.previous, [move.version for move in second.history]) == (first.version, [first.version, second.version])


def test_a_model_judged_against_an_old_champion_is_not_made_champion(run: Run, tmp_path: Path) -> None:
    first = publish.fn(model_of(run, tmp_path, 1), evaluation_of(run, tmp_path), PASSED, run)
    with pytest.raises(Conflict, match=f"champion is {first.version}"):
        publish.fn(model_of(run, tmp_path, 2), evaluation_of(run, tmp_path, None, 2), PASSED, run)
    assert champion_of(open_store(), "toy") == first


def test_a_known_model_is_not_even_fetched_again(run: Run, tmp_path: Path) -> None:
    model = once(run, "finetuning", "model", [], {}, lambda *_: model_of(run, tmp_path))
    first = publish.fn(model, evaluation_of(run, tmp_path), PASSED, run)
    open_store().delete(f"{model.prefix}model.safetensors")
    assert publish.fn(model, evaluation_of(run, tmp_path, first.version), PASSED, run) == first


def test_a_known_model_is_not_sent_again_when_it_comes_back_after_another(run: Run, tmp_path: Path) -> None:
    def lead(seed: int, champion: str | None) -> str:
        model = once(run, "finetuning", "model", [], {"seed": seed}, lambda *_: model_of(run, tmp_path, seed))
        return publish.fn(model, evaluation_of(run, tmp_path, champion, seed), PASSED, run).version

    def kept() -> dict[str, str]:
        return {info.key: info.etag for folder in ("shards", "files", "versions") for info in open_store().list(f"toy/models/{folder}/")}

    first = lead(1, None)
    second = lead(2, first)
    before = kept()
    assert lead(1, second) == first
    assert kept() == before


def test_a_version_challenges_the_champion_while_it_is_rehearsed(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks import publishing

    first = publish.fn(model_of(run, tmp_path, 1), evaluation_of(run, tmp_path), PASSED, run)
    rehearse, seen = publishing.rehearse, []

    def looked_at(process: str, version: str, proof: Path) -> int:
        seen.append((version, aliases_of(open_store(), "toy")))
        return rehearse(process, version, proof)

    monkeypatch.setattr(publishing, "rehearse", looked_at)
    second = publish.fn(model_of(run, tmp_path, 2), evaluation_of(run, tmp_path, first.version, 2), PASSED, run)
    assert seen == [(second.version, {"champion": first.version, "challenger": second.version})]
    assert aliases_of(open_store(), "toy") == {"champion": second.version, "previous": first.version}


def test_a_version_that_was_damaged_before_its_rehearsal_is_mended_when_it_is_published_again(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks import publishing

    rehearse = publishing.rehearse

    def damaging(process: str, version: str, proof: Path) -> int:
        monkeypatch.setattr(publishing, "rehearse", rehearse)
        piece = max((piece for _, piece, _ in versions_of(open_store(), "toy")[0].pieces()), key=lambda piece: piece.size)
        open_store().write(piece.key, bytes(piece.size))
        return rehearse(process, version, proof)

    model = once(run, "finetuning", "model", [], {}, lambda *_: model_of(run, tmp_path))
    monkeypatch.setattr(publishing, "rehearse", damaging)
    with pytest.raises(ValueError, match="cannot be used"):
        publish.fn(model, evaluation_of(run, tmp_path), PASSED, run)
    assert champion_of(open_store(), "toy") is None
    alias = publish.fn(model, evaluation_of(run, tmp_path), PASSED, run)
    assert fetch_version(open_store(), "toy", alias.version, settings().cache).is_dir()


@pytest.mark.fresh
def test_a_fresh_process_that_gets_the_same_answers_lets_the_alias_move(run: Run, tmp_path: Path) -> None:
    alias = publish.fn(model_of(run, tmp_path), evaluation_of(run, tmp_path), PASSED, run)
    assert alias.reason == "passed its gate; downloaded again, it gave the same 3 answers"
    assert challenger_of(open_store(), "toy") is None


@pytest.mark.fresh
def test_other_answers_than_those_of_the_evaluation_keep_a_version_from_being_champion(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RehearsalError, match=r"answers [123] of 3 test prompts differently than when it was evaluated; it is not released"):
        publish.fn(model_of(run, tmp_path, 1), evaluation_of(run, tmp_path, None, 2), PASSED, run)
    assert champion_of(open_store(), "toy") is None
    assert challenger_of(open_store(), "toy") == versions_of(open_store(), "toy")[0].version


@pytest.mark.fresh
def test_a_version_that_cannot_be_downloaded_is_not_released(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks import publishing

    real = publishing.version_of_model

    def damaged(*words: Any) -> str:
        version = real(*words)
        manifest = versions_of(open_store(), "toy")[0]
        piece = max((piece for _, piece, _ in manifest.pieces()), key=lambda piece: piece.size)
        open_store().write(piece.key, bytes(piece.size))
        return version

    monkeypatch.setattr(publishing, "version_of_model", damaged)
    with pytest.raises(RehearsalError, match="cannot be used"):
        publish.fn(model_of(run, tmp_path), evaluation_of(run, tmp_path), PASSED, run)
    assert champion_of(open_store(), "toy") is None


@pytest.mark.parametrize("name", ["pytorch_model.bin", "modeling_toy.py", "optimizer.pt"])
def test_a_file_that_could_run_code_is_never_published(run: Run, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} cannot be published"):
        publish.fn(model_of(run, tmp_path, **{name: "x"}), evaluation_of(run, tmp_path), PASSED, run)
    assert list(open_store().list("toy/models/")) == []


def test_measures_that_are_undefined_or_of_one_label_are_not_the_main_ones() -> None:
    assert main_metrics({"model": {"accuracy": 1, "f1.a": 0.5, "perplexity": float("inf"), "ece": None}}) == {"accuracy": 1.0}


def test_a_run_is_as_old_as_its_id_says(run: Run) -> None:
    assert begun(run.model_copy(update={"id": "20240131T080910-abc123"})) == "2024-01-31T08:09:10Z"
