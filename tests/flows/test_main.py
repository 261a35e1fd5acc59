"""The command line: what a user can cause is one message and a status."""

from pathlib import Path

import pytest

from flows import __main__ as line
from infra.store import open_store
from tasks.declaration import load_process


def answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Status, and what stood on both streams, with its line breaks as blanks."""
    monkeypatch.setattr("sys.argv", ["clerkflow", *words])
    with pytest.raises(SystemExit) as end:
        line.main()
    told = capsys.readouterr()
    return int(end.value.code or 0), " ".join((told.out + told.err).split())


@pytest.mark.parametrize(
    "words",
    [
        ("check", "toy", "--set", "records.source=[]"),
        ("check", "toy", "--set", "records.source=" + "[" * 3_000),
        ("check", "toy", "--set", "owner=" + "{a: " * 3_000 + "}" * 3_000),
        ("check", "toy", "--set", "owner=[unclosed"),
        ("check", "toy", "--set", "a" + ".a" * 3_000 + "=1", "--set", "a" + ".a" * 3_000 + "=2"),
        ("check", "toy", "--set", "owner=\udcff"),
        ("check", "n" * 300),
        ("check", "toy", "--set", "finetuning.base=/nowhere/base"),
        ("check", "toy", "--set", "records.group=nowhere"),
    ],
)
def test_what_cannot_be_checked_is_told_with_status_two(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    status, told = answer(monkeypatch, capsys, *words)
    assert status == 2
    assert told
    assert "next:" not in told


def test_what_hangs_together_is_shown_with_the_next_command(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, told = answer(monkeypatch, capsys, "check", "toy")
    assert status == 0
    assert "clerkflow train toy" in told


@pytest.mark.parametrize("below", ["", "/deeper/store"])
def test_a_file_in_the_place_of_the_store_is_told_by_every_command_that_needs_the_store(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], below: str
) -> None:
    monkeypatch.setenv("CLERKFLOW_STORE", f"{toy / 'sample.jsonl'}{below}")
    for command in ("models", "rollback", "train", "score", "monitor"):
        status, told = answer(monkeypatch, capsys, command, "toy")
        assert status == 2
        assert "sample.jsonl is no folder; name a folder, or s3://bucket" in told
    assert answer(monkeypatch, capsys, "check", "toy")[0] == 0


def test_an_input_is_a_file_here_or_else_a_key(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(toy)
    process, key = load_process("toy", toy.parent), "toy/inbox/new.jsonl"
    open_store().write(key, b"{}")
    assert [line._source(name, process) for name in ("sample.jsonl", key, None)] == [str(toy / "sample.jsonl"), key, None]


@pytest.mark.parametrize("name", ["nowhere.jsonl", "n" * 300, "../sample.jsonl", "", "sql:messages"])
def test_a_source_or_a_batch_that_is_not_there_is_a_mistake_of_the_command_and_no_run_is_begun(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    status, told = answer(monkeypatch, capsys, "score", "toy", "--input", name)
    assert status == 2
    assert "is neither a file here nor a key" in told
    assert answer(monkeypatch, capsys, "replay", "toy", name)[0] == 2
    assert not list(open_store().list("toy/runs/"))
