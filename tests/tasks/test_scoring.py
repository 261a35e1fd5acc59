"""Batches scored by a real, published, tiny model."""

import csv
import hashlib
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pandas
import pytest

from benchmarks.memory import LABELS, publish_tiny, tiny_process
from flows.console import show_batches
from infra.store import MissingObject, Store, open_store
from tasks.answering import EVERYTHING, Asked, chunks
from tasks.arrivals import Scored, score_waiting
from tasks.artifacts import Artifact, fetch_folder, file_digest
from tasks.batches import batch_id, finished_batch, recall
from tasks.process import Process
from tasks.records import Record
from tasks.runs import Run
from tasks.scoring import score_batch
from tasks.terms import Batches


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run of a process whose champion was never trained."""
    publish_tiny(tiny_process(), tmp_path / "version")
    return Run(id="now", process=tolerant(), flow="score")


def tolerant() -> Process:
    """A process whose batches may be dead letters and nothing else."""
    return tiny_process().model_copy(update={"batch": EVERYTHING})


def score(source: Path | str, run: Run, output_format: str = "jsonl") -> Artifact:
    return score_batch.fn(str(source), run, output_format)


def files_of(batch: Artifact, folder: Path) -> dict[str, list[dict[str, Any]]]:
    fetch_folder(open_store(), batch, folder)
    return {path.name: [json.loads(line) for line in path.read_bytes().splitlines()] for path in folder.glob("*.jsonl")}


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
    return path


def bytes_below(store: Store, prefix: str) -> dict[str, bytes]:
    return {info.key: store.read(info.key)[0] for info in store.list(prefix) if not info.key.endswith("manifest.json")}


def test_every_record_is_done_or_a_dead_letter_with_its_reason(run: Run, tmp_path: Path) -> None:
    rows = [
        {"id": "a", "text": "退款 please"},
        {"id": "b", "text": " <p></p>\u200b"},
        '{"id": "c", "text"',
        {"id": "d"},
        "",
        {"id": "e", "text": 5},
    ]
    rows += [{"id": "f", "text": "card " * 200}, {"text": "no id"}]
    batch = score(lines(tmp_path / "new.jsonl", *rows), run)
    found = files_of(batch, tmp_path / "batch")
    assert (batch.facts["rows"], batch.facts["done"], batch.facts["dead"]) == (7, 2, 5)
    assert [(row["line"], row["stage"], row["reason"].split(",")[0]) for row in found["dead_letters.jsonl"]] == [
        (2, "inputs", "required input text is blank"),
        (3, "reading", "not whole JSON"),
        (4, "inputs", "required input text is missing"),
        (6, "inputs", "input text is of type integer"),
        (7, "prediction", "too_long"),
    ]
    assert found["dead_letters.jsonl"][1]["content"] == '{"id": "c", "text"'
    first, last = found["predictions.jsonl"]
    assert list(first) == ["record_id", "output", "confidence", "model_version", "line"]
    assert first["record_id"] == "a"
    assert first["output"] in LABELS
    assert 0.25 <= first["confidence"] <= 1
    assert first["model_version"] == batch.facts["version"]
    assert last["record_id"].startswith("sha256-")
    assert [row["prediction"] for row in found["monitoring.jsonl"]] == [first["output"], "(none)", last["output"]]


def test_the_manifest_comes_last_and_accounts_for_the_batch(run: Run, tmp_path: Path) -> None:
    batch = score(lines(tmp_path / "new.jsonl", {"id": "a", "text": "card"}, {"id": "b"}), run)
    manifest = json.loads(open_store().read(batch.prefix + "manifest.json")[0])
    assert (manifest["rows"], manifest["done"], manifest["dead"], manifest["source"]) == (2, 1, 1, "new.jsonl")
    assert manifest["reasons"] == {"input_missing": 1}
    assert len(manifest["source_sha256"]) == 64
    times = {info.key: info.modified for info in open_store().list(batch.prefix)}
    assert max(times, key=lambda key: times[key]) == batch.prefix + "manifest.json"


@pytest.mark.parametrize("output_format", ["jsonl", "csv", "parquet", "xlsx"])
def test_every_format_holds_the_same_rows(run: Run, tmp_path: Path, output_format: str) -> None:
    import openpyxl
    import pyarrow.parquet

    batch = score(lines(tmp_path / "new.jsonl", *({"id": f"=r{n}", "text": f"card {n}"} for n in range(3))), run, output_format)
    folder = fetch_folder(open_store(), batch, tmp_path / "batch")
    if output_format == "parquet":
        found = pyarrow.parquet.read_table(folder / "predictions.parquet").to_pylist()
    elif output_format == "xlsx":
        header, *rows = openpyxl.load_workbook(folder / "predictions.xlsx").active.iter_rows(values_only=True)
        found = [dict(zip(header, row, strict=True)) for row in rows]
    elif output_format == "csv":
        found = list(csv.DictReader((folder / "predictions.csv").read_text(encoding="utf-8-sig").splitlines()))
    else:
        found = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    lead = "'" if output_format == "csv" else ""
    assert [row["record_id"] for row in found] == [f"{lead}=r{n}" for n in range(3)]
    assert {row["output"] for row in found} <= set(LABELS)


def test_a_finished_batch_is_returned_and_a_killed_one_ends_the_same(run: Run, tmp_path: Path) -> None:
    source = lines(tmp_path / "new.jsonl", *({"id": str(n), "text": f"card {n}"} for n in range(20)))
    first, store = score(source, run), open_store()
    assert score(source, run) == first
    whole = bytes_below(store, first.prefix)
    for key in (first.prefix + "manifest.json", first.prefix + "predictions.jsonl"):
        store.delete(key)
    assert recall(store, first.prefix.rstrip("/")) is None
    assert score(source, run).sha256 == first.sha256
    assert bytes_below(store, first.prefix) == whole


@pytest.mark.parametrize("damage", [b"{", b"{}", b"[]", b"\xff", b'{"batch": 1, "artifact": null}'])
def test_a_damaged_manifest_counts_as_none_and_the_file_waits_again(run: Run, tmp_path: Path, damage: bytes) -> None:
    store = open_store()
    store.upload(lines(tmp_path / "new.jsonl", {"id": "a", "text": "card"}), "memory/inbox/new.jsonl")
    batch = score("memory/inbox/new.jsonl", run)
    store.write(batch.prefix + "manifest.json", damage)
    assert recall(store, batch.prefix.rstrip("/")) is None
    digest = file_digest(tmp_path / "new.jsonl")
    assert finished_batch(store, run.process, digest, "memory/inbox/new.jsonl") is None
    assert score("memory/inbox/new.jsonl", run).sha256 == batch.sha256
    assert finished_batch(store, run.process, digest, "memory/inbox/new.jsonl") == batch.facts["batch"]


def test_a_batch_that_lost_a_file_is_made_again(run: Run, tmp_path: Path) -> None:
    source = lines(tmp_path / "new.jsonl", {"id": "a", "text": "card"})
    batch = score(source, run)
    open_store().delete(batch.prefix + "dead_letters.jsonl")
    assert recall(open_store(), batch.prefix.rstrip("/")) is None
    assert score(source, run).sha256 == batch.sha256
    assert recall(open_store(), batch.prefix.rstrip("/")) is not None


def test_a_batch_is_named_after_what_decides_its_bytes() -> None:
    process = tiny_process()
    names = {batch_id("a", "x.csv", process, "v1", "csv"), batch_id("b", "x.csv", process, "v1", "csv")}
    names |= {
        batch_id("a", "x.txt", process, "v1", "csv"),
        batch_id("a", "x.csv", process, "v2", "csv"),
        batch_id("a", "x.csv", process, "v1", "jsonl"),
    }
    assert len(names) == 5
    assert batch_id("a", "y/z.csv", process, "v1", "csv") in names


def test_the_prompt_is_made_with_the_models_own_declaration(run: Run, tmp_path: Path) -> None:
    declared = run.process.model_dump(mode="json")
    declared["sample"]["prompt"] = "Somebody wrote {body}"
    changed = run.model_copy(update={"process": Process.model_validate(declared)})
    source = lines(tmp_path / "new.jsonl", {"id": "a", "text": "card"})
    assert score(source, changed).sha256 == score(source, run).sha256


def test_csv_in_another_encoding_is_read_as_todays_declaration_says(run: Run, tmp_path: Path) -> None:
    declared = run.process.model_dump(mode="json")
    declared["records"]["encoding"] = "gb18030"
    source = tmp_path / "new.csv"
    source.write_bytes("id,text\na,退款\n".encode("gb18030"))
    batch = score(source, run.model_copy(update={"process": Process.model_validate(declared)}))
    assert files_of(batch, tmp_path / "batch")["monitoring.jsonl"][0]["text"] == "退款"
    manifest = json.loads(open_store().read(batch.prefix + "manifest.json")[0])
    assert (manifest["encoding"], manifest["encoding_known"]) == ("gb18030", "declared")
    source.write_bytes("id,text\na,我的订单还没有到请查一下谢谢\n".encode("gb18030"))
    assert score(source, run).facts["encoding_known"].startswith("detected")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("new.jsonl", '{"id": "a", "canary-7171": "x", "Text": "y"}\n', "columns found: 3, like declared ones: id, Text"),
        ("new.jsonl", '{"canary-7171": "x"}\n', "columns found: 1, none like a declared one"),
        ("new.csv", "id,body,canary-7171\na,x,y\n", "columns found: 3, like declared ones: id"),
    ],
)
def test_a_file_with_none_of_the_columns_is_refused_and_only_declared_names_are_told(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, content: str, told: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=f"columns? text.*; {told}") as error:
        score(tmp_path / name, run)
    assert not any(True for _ in open_store().list("memory/batches/"))
    assert "7171" not in caplog.text + str(error.value)


def test_what_cannot_be_scored_is_told_with_the_remedy(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither a file here nor a key"):
        score("nowhere.jsonl", run)
    with pytest.raises(ValueError, match="neither a file here nor a key"):
        score("../nowhere.jsonl", run)
    for name in ("n" * 300, "n" * 300 + "/a.jsonl", "a\0b.jsonl"):
        with pytest.raises(ValueError, match="neither a file here nor a key"):
            score(name, run)
    with pytest.raises(ValueError, match="there are: jsonl, csv, parquet"):
        score("nowhere.jsonl", run, "xml")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ValueError, match="empty"):
        score(tmp_path / "empty.jsonl", run)


@pytest.mark.parametrize("ending", ["xlsx", "parquet"])
def test_a_dead_letter_of_a_sheet_is_kept_with_its_cells(run: Run, tmp_path: Path, ending: str) -> None:
    table = pandas.DataFrame({"id": ["a", "b"], "text": ["card", " "], "note": ["x", "only here"]})
    table.to_excel(tmp_path / "new.xlsx", index=False) if ending == "xlsx" else table.to_parquet(tmp_path / "new.parquet")
    found = files_of(score(tmp_path / f"new.{ending}", run), tmp_path / "batch")
    (letter,) = found["dead_letters.jsonl"]
    kept = json.loads((tmp_path / "batch" / "dead_letters.raw").read_bytes())
    read = {"id": "b", "text": " "}  # of Parquet only what is declared
    assert (letter["record_id"], kept) == ("b", read | {"note": "only here"} if ending == "xlsx" else read)


def test_bad_rows_are_dead_letters_from_which_the_original_bytes_are_found(run: Run, tmp_path: Path) -> None:
    long, deep = b'{"id": "long", "text": "' + b"card " * 200_000 + b'"}', b'{"text": ' * 100_000
    rows = [b'{"id": "1", "text": "card"}', '{"id": "2", "text": "退款"}'.encode("gbk"), b'{"id": "3", "text": "a\0b"}', long, deep]
    rows += [b'{"id": "1", "text": "other"}', b'{"id": "6", "text": ["card"]}', b"", b'{"id": "7", "text": 1e999}', b'{"id": "8"}']
    ends = [b"\n", b"\r\n", b"\r"]
    source = tmp_path / "new.jsonl"
    source.write_bytes(b"".join(row + ends[place % 3] for place, row in enumerate(rows)))
    batch, digest = score(source, run), file_digest(source)
    found = files_of(batch, tmp_path / "batch")
    assert (batch.facts["rows"], batch.facts["done"], batch.facts["dead"]) == (9, 1, 8)
    assert [row["record_id"] for row in found["predictions.jsonl"]] == ["1"]
    assert [row["line"] for row in found["dead_letters.jsonl"]] == [2, 3, 4, 5, 6, 7, 9, 10]
    came = source.read_bytes().splitlines()
    source.write_text("overwritten")
    kept = (tmp_path / "batch" / "dead_letters.raw").read_bytes()
    for letter in found["dead_letters.jsonl"]:
        place = letter["original"]
        original = kept[place["offset"] : place["offset"] + place["bytes"]]
        assert original == came[letter["line"] - 1] and place["sha256"] == hashlib.sha256(original).hexdigest()
        assert letter["code"] != "unreadable" or original == letter["content"].encode("latin-1", errors="ignore")
    assert {letter["source_sha256"] for letter in found["dead_letters.jsonl"]} == {digest}


@pytest.mark.parametrize("name", ["pipe.csv", "folder.csv", "../out.csv", "memory/inbox/link.csv", "memory/inbox/pipe.csv"])
def test_what_is_no_file_or_leads_out_of_the_store_is_no_source(
    run: Run, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "folder.csv").mkdir(parents=True)
    (tmp_path / "store" / "memory" / "inbox").mkdir(parents=True)
    for pipe in (tmp_path / "here", tmp_path / "store" / "memory" / "inbox"):
        os.mkfifo(pipe / "pipe.csv")
    (tmp_path / "secret.csv").write_text("id,text\n1,card\n")
    (tmp_path / "store" / "memory" / "inbox" / "link.csv").symlink_to(tmp_path / "secret.csv")
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ValueError, match="neither a file here nor a key"):
        score(name, run)


def test_a_file_whose_name_is_no_text_is_refused_in_words(run: Run, tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/new\xff.jsonl"))
    with pytest.raises(ValueError, match=r"new\\udcff\.jsonl has a name that is not UTF-8"):
        score(lines(path, {"id": "a", "text": "card"}), run)


def test_without_a_champion_the_next_command_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="clerkflow train memory"):
        score("new.jsonl", Run(id="now", process=tiny_process(), flow="score"))


def test_chunks_end_at_a_number_of_records_or_of_characters() -> None:
    def sizes(prompts: list[str]) -> list[int]:
        return [len(chunk) for chunk in chunks(Asked(Record("a", {}, "", 1), prompt, None, "") for prompt in prompts)]

    assert sizes(["a"] * 2_050) == [1_024, 1_024, 2]
    assert sizes(["a" * 3_000_000] * 3) == [2, 1]
    assert sizes([]) == []


def test_a_long_batch_is_whole_and_its_monitoring_sample_bounded(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.answering.MONITORING_ROWS", 50)
    monkeypatch.setattr("tasks.answering.CHUNK_RECORDS", 64)
    batch = score(lines(tmp_path / "new.jsonl", *({"id": str(n), "text": f"card {n}"} for n in range(300))), run)
    found = files_of(batch, tmp_path / "batch")
    assert Counter(row["record_id"] for row in found["predictions.jsonl"]) == Counter(str(n) for n in range(300))
    assert len(found["monitoring.jsonl"]) == 50


def test_a_key_is_scored_on_every_kind_of_store(store: Store, tmp_path: Path) -> None:
    version = publish_tiny(tiny_process(), tmp_path / "version")
    store.upload(lines(tmp_path / "new.jsonl", {"id": "a", "text": "退款"}, {"id": "b"}), "memory/inbox/new.jsonl")
    run = Run(id="now", process=tiny_process(), flow="score")
    batch = score("memory/inbox/new.jsonl", run)
    assert (batch.facts["done"], batch.facts["dead"], batch.facts["version"]) == (1, 1, version)
    assert score("memory/inbox/new.jsonl", run) == batch


def test_a_missing_manifest_means_no_batch() -> None:
    with pytest.raises(MissingObject):
        open_store().read("memory/batches/none/manifest.json")
    assert recall(open_store(), "memory/batches/none") is None


def test_a_rerun_of_a_killed_batch_and_overlapping_files_pay_once(run: Run, tmp_path: Path) -> None:
    first = score(lines(tmp_path / "a.jsonl", *({"id": str(n), "text": f"card {n}"} for n in range(6))), run)
    open_store().delete(first.prefix + "manifest.json")
    again = score(tmp_path / "a.jsonl", run)
    overlapping = score(lines(tmp_path / "b.jsonl", *({"id": str(n), "text": f"card {n}"} for n in range(4, 9))), run)
    assert [batch.facts["asked"] for batch in (first, again, overlapping)] == [6, 0, 3]
    assert again.sha256 == first.sha256


def test_what_stands_in_two_chunks_on_their_way_is_asked_once(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.answering.CHUNK_RECORDS", 2)
    batch = score(lines(tmp_path / "new.jsonl", *({"text": f"card {n // 5}"} for n in range(10))), run)
    assert (batch.facts["asked"], batch.facts["done"]) == (2, 10)


def test_of_records_with_one_id_the_first_is_answered_and_each_other_one_told_with_its_line(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = (("a", "card"), ("b", "late"), ("a", "order"), ("b", "late"), ("c", ""), ("c", "late"))
    batch = score(lines(tmp_path / "new.jsonl", *({"id": id, "text": text} for id, text in said)), run)
    assert [batch.facts[name] for name in ("rows", "done", "dead", "repeated", "asked")] == [6, 3, 3, 1, 3]
    letters = [(row["line"], row["code"], row["reason"]) for row in files_of(batch, tmp_path / "out")["dead_letters.jsonl"]]
    assert letters == [
        (3, "doubled_id", "another record, in line 1, has its id"),
        (4, "repeated", "the same record, in line 2, has its id"),
        (5, "input_blank", "required input text is blank"),
    ]
    show_batches([batch], "memory")
    told = " ".join(capsys.readouterr().out.split())
    assert "3 accepted + 0 to review + 3 dead letters (1 of them the same rows again)" in told
    assert "dead letters: doubled_id 1, input_blank 1, repeated 1; dead_letters.jsonl says where each stood" in told
    assert "clerkflow replay memory" in told


def test_records_that_come_again_are_no_fault_of_the_batch_and_nothing_to_replay(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strict = run.model_copy(update={"process": run.process.model_copy(update={"batch": Batches(max_dead=0.01)})})
    row = {"id": "a", "text": "card"}
    batch = score(lines(tmp_path / "new.jsonl", *[row] * 300, {"text": "card", "id": "b"}), strict)
    assert [batch.facts[name] for name in ("rows", "done", "dead", "repeated")] == [301, 2, 299, 299]
    show_batches([batch], "memory")
    assert "clerkflow replay" not in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"300 records are dead letters|of the first 200 records are dead letters"):
        score(lines(tmp_path / "b.jsonl", *({"id": "a", "text": f"card {n}"} for n in range(300))), strict)


def test_what_is_the_same_but_for_columns_that_are_not_declared_is_another_record(run: Run, tmp_path: Path) -> None:
    rows = [{"id": "a", "text": "card"}, {"id": "a", "text": "card", "day": "2026-11-29"}, {"id": "a", "text": "card"}]
    letters = files_of(score(lines(tmp_path / "new.jsonl", *rows), run), tmp_path / "out")["dead_letters.jsonl"]
    assert [(row["line"], row["code"]) for row in letters] == [(2, "doubled_id"), (3, "repeated")]


def test_equal_rows_without_an_id_may_be_two_records_and_each_has_its_answer(run: Run, tmp_path: Path) -> None:
    batch = score(lines(tmp_path / "new.jsonl", {"text": "card"}, {"text": "card"}), run)
    made = files_of(batch, tmp_path / "out")["predictions.jsonl"]
    assert [row["line"] for row in made] == [1, 2]
    assert [batch.facts[name] for name in ("done", "asked")] == [2, 1]
    known = {"text": "card", "id": made[0]["record_id"]}
    again = score(lines(tmp_path / "b.jsonl", {"text": "card"}, known, known), run)
    assert [again.facts[name] for name in ("done", "repeated", "asked")] == [2, 1, 0]


def between_tables(run: Run) -> Run:
    """A run whose process reads one table and fills another."""
    declared = run.process.model_dump(mode="json")
    declared["batch"] = {name: {"database": "ORDERS_DATABASE", "table": table} for name, table in (("source", "mails"), ("sink", "routed"))}
    return run.model_copy(update={"process": Process.model_validate(declared)})


def test_rows_of_a_table_are_scored_into_a_table(run: Run, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sqlalchemy import text

    from infra.database import connected, writing

    monkeypatch.setenv("ORDERS_DATABASE", database)
    with_tables = between_tables(run)
    with connected(database, "TEST") as engine:
        with writing(engine) as connection:
            connection.execute(text("CREATE TABLE mails (id INTEGER PRIMARY KEY, text TEXT)"))
        assert score_waiting([], with_tables, "jsonl") == Scored()
        with writing(engine) as connection:
            connection.execute(text("INSERT INTO mails VALUES (2, 'card'), (1, '退款'), (3, NULL)"))
        (batch,) = score_waiting([], with_tables, "jsonl").batches
        with writing(engine) as connection:
            rows = connection.execute(text("SELECT record_id, queue, batch FROM routed ORDER BY record_id")).all()
            connection.execute(text("INSERT INTO mails VALUES (4, 'late')"))
        again = score_waiting([], with_tables, "jsonl").batches[0]
    found = files_of(batch, tmp_path / "batch")
    assert [(row["record_id"], row["output"], batch.facts["batch"]) for row in found["predictions.jsonl"]] == [tuple(row) for row in rows]
    letter = found["dead_letters.jsonl"][0]
    assert (letter["record_id"], letter["code"], letter["source"], letter["attempt"]) == ("3", "input_missing", "sql:mails", 1)
    assert (batch.facts["rows"], batch.facts["done"], batch.facts["dead"], batch.facts["asked"]) == (3, 2, 1, 2)
    assert (again.facts["rows"], again.facts["asked"]) == (4, 1)


def test_rows_that_change_back_are_shown_again(run: Run, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from sqlalchemy import text

    from infra.database import connected, writing

    monkeypatch.setenv("ORDERS_DATABASE", database)
    with_tables = between_tables(run)

    def told(engine: Any, words: str) -> tuple[float, Artifact]:
        """How sure the answer is that stands in the table of results once a row has changed, and the batch that was made of it."""
        with writing(engine) as connection:
            connection.execute(text("UPDATE mails SET text = :words"), {"words": words})
        (batch,) = score_waiting([], with_tables, "jsonl").batches
        with writing(engine) as connection:
            ((confidence, name),) = connection.execute(text("SELECT confidence, batch FROM routed")).all()
        assert name == batch.facts["batch"]
        return confidence, batch

    with connected(database, "TEST") as engine:
        with writing(engine) as connection:
            connection.execute(text("CREATE TABLE mails (id INTEGER PRIMARY KEY, text TEXT)"))
            connection.execute(text("INSERT INTO mails VALUES (1, '')"))
        first, second, back, same, forth = (told(engine, words) for words in ("card", "退款", "card", "card", "退款"))
        assert first[0] == back[0] != second[0] == forth[0]
        assert len({batch.facts["batch"] for _, batch in (first, second, back, forth)}) == 4
        assert same == back
        assert [batch.facts["asked"] for _, batch in (first, second, back, forth)] == [1, 1, 0, 0]
        open_store().delete(forth[1].prefix + "manifest.json")  # as if it had been killed once its rows were moved
        assert told(engine, "退款")[1].facts["batch"] == forth[1].facts["batch"]


# --- replays
