"""Dead letters of a finished batch that are asked about again, from their source as it is then."""

import json
from pathlib import Path

import pytest

from benchmarks.memory import publish_tiny, tiny_process
from infra.store import open_store
from tasks.artifacts import Artifact, file_digest
from tasks.batches import finished_batch
from tasks.reasons import Reason
from tasks.runs import Run
from tasks.scoring import replay_batch
from tests.tasks.test_scoring import files_of, lines, score, tolerant


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run of a process whose champion was never trained."""
    publish_tiny(tiny_process(), tmp_path / "version")
    return Run(id="now", process=tolerant(), flow="score")


def replay(batch: Artifact, run: Run, reason: Reason | None = None) -> Artifact:
    found = replay_batch.fn(batch.facts["batch"], run, reason)
    assert isinstance(found, Artifact)
    return found


def letters_in(batch: Artifact, folder: Path) -> list[tuple[str, str, int]]:
    return [(row["record_id"], row["code"], row["attempt"]) for row in files_of(batch, folder)["dead_letters.jsonl"]]


def test_dead_letters_are_asked_about_again_in_a_mended_file(run: Run, tmp_path: Path) -> None:
    good = {"id": "a", "text": "card"}
    first = score(lines(tmp_path / "new.jsonl", good, {"id": "b"}, '{"id": "c"', {"id": "d"}, {"id": "e"}), run)
    assert letters_in(first, tmp_path / "1") == [
        ("b", "input_missing", 1),
        ("new.jsonl:3", "unreadable", 1),
        ("d", "input_missing", 1),
        ("e", "input_missing", 1),
    ]
    mended = ({"id": "new", "text": "x"}, {"id": "b", "text": "late"}, {"id": "c", "text": "late"}, {"id": "d"}, good)
    lines(tmp_path / "new.jsonl", *mended)
    second = replay(first, run)
    assert [row["record_id"] for row in files_of(second, tmp_path / "2")["predictions.jsonl"]] == ["b", "c"]
    assert letters_in(second, tmp_path / "2") == [("d", "input_missing", 2), ("e", "gone", 2)]
    assert (second.facts["rows"], second.facts["done"], second.facts["dead"]) == (4, 2, 2)
    assert letters_in(replay(second, run, Reason.INPUT_MISSING), tmp_path / "3") == [("d", "input_missing", 3)]
    assert replay(first, run) == second


def test_a_replay_of_the_same_bytes_finds_records_by_their_lines(run: Run, tmp_path: Path) -> None:
    first = score(lines(tmp_path / "new.jsonl", {"id": "a"}, {"id": "a", "text": "card"}, {"text": "card " * 200}, "{"), run)
    found = replay(first, run, Reason.TOO_LONG)
    assert (found.facts["rows"], found.facts["dead"], found.facts["asked"]) == (1, 1, 0)
    assert json.loads(open_store().read(found.prefix + "manifest.json")[0])["replay_of"] == first.facts["batch"]
    assert finished_batch(open_store(), run.process, file_digest(tmp_path / "new.jsonl"), "new.jsonl") == first.facts["batch"]


def test_what_cannot_be_replayed_is_told(run: Run, tmp_path: Path) -> None:
    batch = score(lines(tmp_path / "new.jsonl", {"id": "a"}, {"id": "b", "text": "card"}), run)
    with pytest.raises(ValueError, match="no dead letters to replay of reason too_long; it has: input_missing 1"):
        replay(batch, run, Reason.TOO_LONG)
    for name in ("none", "../batches/none", "..", ""):
        with pytest.raises(ValueError, match="memory has no batch"):
            replay_batch.fn(name, run)
    (tmp_path / "new.jsonl").unlink()
    with pytest.raises(ValueError, match="neither a file here nor a key"):
        replay(batch, run)


@pytest.mark.parametrize("output_format", ["jsonl", "csv", "parquet", "xlsx"])
def test_a_letter_without_an_id_is_gone_when_rows_have_moved_and_no_other_record_stands_in_for_it(
    run: Run, tmp_path: Path, output_format: str
) -> None:
    a, d = {"id": "=a", "text": "card"}, {"id": "d", "text": "退款"}
    first = score(lines(tmp_path / "new.jsonl", a, '{"id": "c"', d), run, output_format)
    lines(tmp_path / "new.jsonl", {"id": "new", "text": "x"}, a, {"id": "c", "text": "late"}, d)
    second = replay(first, run)
    assert (second.facts["rows"], second.facts["asked"]) == (1, 0)
    assert letters_in(second, tmp_path / "2") == [("new.jsonl:2", "gone", 2)]
    third = {"id": "c", "text": "late"}
    lines(tmp_path / "new.jsonl", d, a, third)  # what the first batch knew counts in a replay of its replay
    assert letters_in(replay(second, run), tmp_path / "3") == [("new.jsonl:2", "gone", 3)]
    lines(tmp_path / "new.jsonl", a, third, d)
    found = files_of(replay(first, run), tmp_path / "4")
    assert [row["record_id"] for row in found["predictions.jsonl"]] == ["c"] and not found["dead_letters.jsonl"]


def test_a_replay_answers_no_record_beside_one_that_came_before_it(run: Run, tmp_path: Path) -> None:
    good = {"id": "a", "text": "card"}
    first = score(lines(tmp_path / "new.jsonl", good, {"id": "a"}, good, {"id": "a", "text": "order"}), run)
    assert [letter[1] for letter in letters_in(first, tmp_path / "1")] == ["doubled_id", "repeated", "doubled_id"]
    assert letters_in(replay(first, run), tmp_path / "2") == [("a", "doubled_id", 2)] * 2
    with pytest.raises(
        ValueError, match=r"no dead letters to replay of reason repeated; it has: doubled_id 2, repeated 1 .repeated: answered where"
    ):
        replay(first, run, Reason.REPEATED)
    lines(tmp_path / "new.jsonl", {"id": "new", "text": "x"}, good, {"id": "a", "text": "second"}, {"id": "b", "text": "order"})
    second = replay(first, run)
    assert letters_in(second, tmp_path / "3") == [("a", "gone", 2)]
    assert [(row["record_id"], row["line"]) for row in files_of(second, tmp_path / "4")["predictions.jsonl"]] == [("b", 4)]


OTHER = {"id": "g", "text": "order"}


@pytest.mark.parametrize(
    ("mended", "answered"),
    [
        ([{"id": "g", "text": "card"}, {"id": "h", "text": "order"}], [("h", 2)]),
        ([OTHER], [("g", 1)]),
        ([{"id": "f", "text": "card"}, OTHER], [("g", 2)]),
        ([OTHER, {"id": "g", "text": "card"}], [("g", 1)]),
        ([{"id": "g", "text": "card"}, {"id": "new", "text": "late"}], []),
        ([{"id": "new", "text": "late"}, {"id": "g", "text": "card"}, OTHER], []),
    ],
)
def test_one_whose_id_another_had_is_found_by_what_it_held(
    run: Run, tmp_path: Path, mended: list[dict[str, str]], answered: list[tuple[str, int]]
) -> None:
    first = score(lines(tmp_path / "new.jsonl", {"id": "g", "text": "card"}, OTHER), run)
    lines(tmp_path / "new.jsonl", *mended)
    second = replay(first, run)
    assert [(row["record_id"], row["line"]) for row in files_of(second, tmp_path / "2")["predictions.jsonl"]] == answered
    assert second.facts["rows"] == 1


def test_a_record_that_no_batch_was_about_stands_for_no_other_one(run: Run, tmp_path: Path) -> None:
    held = {"id": "h", "text": "late"}
    first = score(lines(tmp_path / "new.jsonl", {"id": "g", "text": "card"}, '{"id": "q",', held), run)
    lines(tmp_path / "new.jsonl", {"id": "q", "text": "x"}, {"id": "q", "text": "x"}, {"id": "g", "text": "card"}, held)
    assert [row["record_id"] for row in files_of(replay(first, run), tmp_path / "2")["predictions.jsonl"]] == ["q"]
    lines(tmp_path / "new.jsonl", {"id": "q", "text": "y"}, {"id": "q", "text": "x"}, {"id": "g", "text": "card"}, held)
    assert letters_in(replay(first, run), tmp_path / "3") == [("q", "doubled_id", 2)]


def test_of_letters_without_an_id_of_their_own_each_is_found_again(run: Run, tmp_path: Path) -> None:
    first = score(lines(tmp_path / "new.jsonl", {"text": "card " * 200}, {"text": "card"}, {"text": "card " * 200}), run)
    lines(tmp_path / "new.jsonl", {"text": "x"}, {"text": "card"}, {"text": "card " * 200}, {"text": "card " * 200})
    assert [row["line"] for row in files_of(replay(first, run), tmp_path / "2")["dead_letters.jsonl"]] == [3, 4]


def test_a_letter_whose_record_is_gone_never_hides_another_one_at_its_line(run: Run, tmp_path: Path) -> None:
    blank = {"text": " "}
    first = score(lines(tmp_path / "new.jsonl", {"id": "a"} | blank, {"id": "b"} | blank), run)
    lines(tmp_path / "new.jsonl", {"id": "b"} | blank)
    second = replay(first, run)
    assert letters_in(second, tmp_path / "2") == [("b", "input_blank", 2), ("a", "gone", 2)]
    assert letters_in(replay(second, run), tmp_path / "3") == [("b", "input_blank", 3), ("a", "gone", 3)]
