"""What a run may be told to read, by whoever started it."""

from pathlib import Path

import pytest

from flows.opening import check_own, open_run
from tasks.declaration import load_process


def test_a_run_of_a_deployment_reads_no_file_outside_of_the_folder_of_its_process(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = load_process("toy", toy.parent)
    (outside := tmp_path / "passwords.csv").write_text("id,text\n")
    (inside := toy / "link.csv").symlink_to(outside)
    check_own(process, [str(outside)])  # on the command line
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "of-a-worker")
    check_own(process, [str(toy / "sample.jsonl"), "toy/inbox/new.csv", "sql:orders", "n" * 300])
    for path in (outside, inside, toy / ".." / ".." / "passwords.csv"):
        with pytest.raises(ValueError, match=r"runs of a deployment read keys of the store and files of toy/, and no other file"):
            check_own(process, [str(path)])
    with pytest.raises(ValueError, match="no other file"):
        open_run("toy", "train", {"records": {"source": str(outside)}})
    assert open_run("toy", "train", {"records": {"encoding": "utf-8"}}).process.records.encoding == "utf-8"
