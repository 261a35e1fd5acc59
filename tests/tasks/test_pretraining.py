"""A base is made of texts that measure nobody, published, and tuned from."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError
from transformers import AutoTokenizer

from infra.store import open_store
from tasks.aliases import champion_of
from tasks.artifacts import Artifact, fetch_file, store_folder
from tasks.bases import base_folder, is_own
from tasks.budget import Counts, settle
from tasks.checkpoints import Checkpoints
from tasks.cleaning import fold
from tasks.declaration import DeclarationError, load_process
from tasks.domains import Domain, load_domain
from tasks.finetuning import train_model
from tasks.ingestion import ingest
from tasks.ledger import Kind
from tasks.preparation import write_samples
from tasks.pretraining import lines_of, pretrain_base, readable, texts_of, write_texts
from tasks.process import Process
from tasks.prompts import prompt_of
from tasks.records import Record, write_lines
from tasks.runs import Run, begin
from tasks.splitting import TRAIN, side_of
from tasks.validation import validate

SMALL = {"size": {"n_layer": 1, "n_embd": 16, "n_head": 2}, "num_train_epochs": 1, "max_length": 64, "evaluations": 1}


def process(name: str, seed: int = 7, **finetuning: Any) -> Process:
    declared = {
        "name": name,
        "owner": "tests",
        "records": {"source": "a.jsonl"},
        "sample": {"prompt": "{text}", "seed": seed, "near_duplicates": None},
        "output": {"label": "queue", "labels": ["a", "b"]},
        "finetuning": {"max_length": 64} | finetuning,
        "gate": [{"metric": "accuracy", "at_least": 0}],
    }
    return Process.model_validate(declared)


def records(name: str) -> list[Record]:
    """Some labelled, some not; half of the texts are those of every process."""
    texts = [f"card {number} of {name if number % 2 else 'all'} 发票" for number in range(80)]
    return [Record(str(n), {"text": text, "queue": "ab"[n % 2] if n % 5 else None}, "a.jsonl", n) for n, text in enumerate(texts)]


def validated(run: Run, folder: Path, kind: Kind) -> Artifact:
    rows = [row for row in records(run.process.name) if bool(row.values["queue"]) == (kind == "labelled")]
    write_lines(folder / run.process.name / kind / "records.jsonl", rows)
    return store_folder(open_store(), folder / run.process.name / kind, f"{run.prefix}/{kind}/validated")


def test_a_base_is_published_and_tuned_from_and_has_read_nothing_that_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr("tasks.pretraining.own_tokenizer", _noting(read))
    runs = [begin(process(name, seed), "pretrain") for name, seed in (("one", 1), ("two", 2))]
    (tmp_path / "more.txt").write_text("a text of its own\n\n", encoding="utf-8")
    domain = Domain.model_validate(
        {
            "name": "base-toy",
            "owner": "tests",
            "processes": ["one", "two"],
            "corpus": ["more.txt"],
            "vocabulary_size": 300,
            "finetuning": SMALL,
        }
    )
    labelled, unlabelled = ([validated(run, tmp_path, kind) for run in runs] for kind in get_args(Kind))
    alias = pretrain_base.fn(domain, labelled, unlabelled, runs, tmp_path)
    assert champion_of(open_store(), "base-toy") == alias
    assert "a text of its own" in read
    for run in runs:
        measured = {
            _text(run.process, row) for row in records(run.process.name) if row.values["queue"] and _side(run.process, row) != TRAIN
        }
        unlabelled = {_text(run.process, row) for row in records(run.process.name) if not row.values["queue"]}
        assert measured
        assert not measured & set(read)
        assert unlabelled & set(read)

    tuned = process("one", 1, base="store:base-toy", num_train_epochs=1)
    assert tuned.label_tokens
    (tmp_path / "working").mkdir()
    write_samples(tuned, records("one"), tmp_path / "samples", tmp_path / "working")
    train_model(tuned, tmp_path / "samples", tmp_path / "model", Checkpoints(open_store(), "c"), lambda _: None)
    folder = base_folder(f"store:base-toy@{alias.version}")
    assert folder == base_folder("store:base-toy")
    words = [AutoTokenizer.from_pretrained(place)("card 7 of 发票").input_ids for place in (folder, tmp_path / "model")]
    assert words[0] == words[1]
    settled = json.loads((tmp_path / "model" / "training.json").read_text())["settings"]
    assert settled["label_smoothing_factor"] == settle(process("one").finetuning, "label", Counts(9, 9, 9, 9, 2)).label_smoothing_factor


def test_a_text_that_measures_is_not_read_from_another_template_or_a_corpus_and_common_values_hide_none(tmp_path: Path) -> None:
    texts = [f"card {number}" for number in range(40)] + [f"why is my card number {number} refused abroad?" for number in range(40)]
    rows = [{"text": text, "queue": "ab"[n % 2], "channel": "by e-mail", "paid": "EUR"} for n, text in enumerate(texts)]
    write_lines(tmp_path / "records.jsonl", [Record(str(n), row, "a.jsonl", n) for n, row in enumerate(rows)])
    write_lines(tmp_path / "none.jsonl", [])
    (tmp_path / "more.txt").write_text("\n".join([*texts, "by e-mail", "a text of its own"]), encoding="utf-8")
    wordy = {"prompt": "Channel: {channel}, {paid}\nMessage: {text}", "seed": 2, "near_duplicates": None}
    both = [process("one", 1), Process.model_validate(process("two").model_dump(mode="json") | {"sample": wordy})]
    found = [texts_of(each, tmp_path / "records.jsonl", tmp_path / "none.jsonl", tmp_path) for each in both]
    asked = {"name": "base-toy", "owner": "tests", "processes": ["one", "two"], "corpus": ["more.txt"]}
    everything = [*lines_of(Domain.model_validate(asked), tmp_path), *(text for own, _ in found for text in own)]
    read = {text.rpartition("Message: ")[2] for text in readable(everything, [measured for _, measured in found])}
    measuring = {row["text"] for row in rows if any(_side(each, Record("", dict(row), "", 0)) != TRAIN for each in both)}
    assert read == set(texts) - measuring | {"by e-mail", "a text of its own"}
    assert 20 < len(measuring) < 60


def _noting(read: list[str]) -> Any:
    from tasks.tokenising import own_tokenizer

    def noted(texts: list[str], *rest: Any) -> Any:
        read.extend(texts)
        return own_tokenizer(texts, *rest)

    return noted


def _text(declared: Process, record: Record) -> str:
    return prompt_of(declared, record.values)


def _side(declared: Process, record: Record) -> int:
    return side_of(declared, "", fold(_text(declared, record)))


def test_unlabelled_texts_that_would_test_are_not_read(tmp_path: Path) -> None:
    declared = process("one")
    for name, labelled in (("records.jsonl", True), ("unlabelled.jsonl", False)):
        write_lines(tmp_path / name, [row for row in records("one") if bool(row.values["queue"]) == labelled])
    texts, measured = texts_of(declared, tmp_path / "records.jsonl", tmp_path / "unlabelled.jsonl", tmp_path)
    assert {side_of(declared, "", fold(text.words)) for text in texts} == {TRAIN}
    assert len(measured.texts) == sum(_side(declared, row) != TRAIN for row in records("one") if row.values["queue"])


OUTPUTS: dict[str, dict[str, Any]] = {
    "label": {"label": "queue", "labels": ["a", "b"]},
    "fields": {"within": "form", "fields": {"queue": {"values": ["a", "b"]}}},
    "text": {"text": "queue"},
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_records_without_an_output_are_read_through_the_stages_from_sources_and_the_inbox(tmp_path: Path, kind: str) -> None:
    declared = process("one").model_dump(mode="json") | {"output": OUTPUTS[kind], "gate": [{"metric": "answered", "at_least": 0}]}
    declared |= {"expectations": [{"type": "expect_table_row_count_to_be_between", "kwargs": {"max_value": 60}}]}
    (tmp_path / "process.yaml").write_text(json.dumps(declared | {"arrivals": {"settle_seconds": 0}}), encoding="utf-8")
    rows = [{"id": str(n), "text": f"card {n} of 发票"} for n in range(60)]
    outputs = [{"form": {"queue": "ab"[n % 2]}} if kind == "fields" else {"queue": "ab"[n % 2]} for n in range(40)]
    source = [row | output for row, output in zip(rows, outputs, strict=False)] + rows[40:]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in source), encoding="utf-8")
    waiting = [f"{n},card {n} of 发票 that waits" for n in range(40)]  # with ids that the source has, too
    open_store().write("one/inbox/new.csv", "\n".join(["id,text", *waiting, "99,"]).encode())
    run = begin(load_process(str(tmp_path), tmp_path), "pretrain")
    artifacts = [validate.fn(ingest.fn(run, kind), run, kind) for kind in get_args(Kind)]
    assert [artifact.rows for artifact in artifacts] == [40, 20 + 40]
    assert artifacts[1].facts["quarantined"] == 1
    files = [fetch_file(open_store(), artifact, "records.jsonl", tmp_path / artifact.sha256) for artifact in artifacts]
    read = {text.words.removesuffix(" a").removesuffix(" b") for text in texts_of(run.process, *files, tmp_path)[0]}
    expected = [row["text"] for row in rows] + [line.partition(",")[2] for line in waiting]
    assert read == {text for text in expected if side_of(run.process, "", fold(text)) == TRAIN}
    with pytest.raises(ValueError, match="40 of 60 rows are valid"):  # a training asks for what it asked for before
        validate.fn(ingest.fn(run), run)


def test_a_process_whose_records_have_no_outputs_yet_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "process.yaml").write_text(json.dumps(process("one").model_dump(mode="json")), encoding="utf-8")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": f"card {n}"}) + "\n" for n in range(9)), encoding="utf-8")
    run = begin(load_process(str(tmp_path), tmp_path), "pretrain")
    assert [validate.fn(ingest.fn(run, kind), run, kind).rows for kind in get_args(Kind)] == [0, 9]


def test_texts_of_the_training_side_alone_have_some_that_are_held_back(tmp_path: Path) -> None:
    made = Domain.model_validate({"name": "base-toy", "owner": "tests", "processes": ["one"], "finetuning": SMALL})
    declared = process("one", seed=made.finetuning.seed)  # as by default, where both are drawn with one seed
    drawn = (f"card {number} of 发票" for number in range(2_000))
    texts = [text for text in drawn if side_of(declared, "", fold(text)) == TRAIN]
    counts = write_texts(made, texts, tmp_path)
    assert 0.9 * len(texts) < counts.samples < 0.98 * len(texts)


def test_a_base_that_nobody_has_published_is_told_with_the_command_that_makes_it() -> None:
    assert is_own("store:base-none")
    with pytest.raises(ValueError, match="no such model is published; make it: clerkflow pretrain base-none"):
        base_folder("store:base-none")


def test_mistakes_in_a_base_are_told_all_at_once(tmp_path: Path) -> None:
    (tmp_path / "base-x.yaml").write_text("name: base-y\nprocesses: []\nfinetuning: {base: gpt2}\n", encoding="utf-8")
    with pytest.raises(DeclarationError) as told:
        load_domain("base-x", tmp_path)
    for part in ("owner", "processes", "a base is made from scratch"):
        assert part in str(told.value)
    with pytest.raises(DeclarationError, match="declared are: base-x"):
        load_domain("base-z", tmp_path)


def test_a_base_has_no_paraphrases() -> None:
    asked = {"name": "base-any", "owner": "o", "processes": ["one"], "finetuning": {"paraphrases": ["Hi, {text}"]}}
    with pytest.raises(ValidationError, match=r"leave finetuning\.paraphrases out"):
        Domain.model_validate(asked)


def test_a_corpus_in_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_bytes("old notes\n订单".encode("gbk"))
    asked = {"name": "base-any", "owner": "o", "processes": ["one"], "corpus": ["notes.txt"]}
    with pytest.raises(ValueError, match=r"notes\.txt is not UTF-8 from its byte 10 on"):
        lines_of(Domain.model_validate(asked), tmp_path)
