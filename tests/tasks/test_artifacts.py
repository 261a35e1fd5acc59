"""Stored folders: whole or not there, checked when they are read, on a folder and on a real MinIO server."""

import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra.store import MissingObject, Store
from tasks.artifacts import Artifact, fetch_file, fetch_folder, is_whole, listing_of, read_json, store_folder, write_json

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files, one of them in a folder with a Chinese name."""
    write_json(tmp_path / "in" / "报告" / "report.json", {"rows": 3})
    (tmp_path / "in" / "records.jsonl").write_bytes(b"1\n2\n3\n")
    return tmp_path / "in"


def test_a_folder_comes_back_as_it_was_stored(store: Store, folder: Path, tmp_path: Path) -> None:
    artifact = store_folder(store, folder, "p/runs/1/raw", rows=3, rejected=1)
    assert (artifact.rows, artifact.facts, artifact.prefix) == (3, {"rejected": 1}, "p/runs/1/raw/")
    out = fetch_folder(store, artifact, tmp_path / "out")
    assert (out / "records.jsonl").read_bytes() == b"1\n2\n3\n"
    assert read_json(store, artifact, "报告/report.json") == {"rows": 3}
    only = fetch_folder(store, artifact, tmp_path / "only", below="报告/")
    assert [path.name for path in only.rglob("*") if path.is_file()] == ["report.json"]


def test_equal_folders_have_equal_digests_wherever_they_are_stored(store: Store, folder: Path) -> None:
    first, second = store_folder(store, folder, "p/runs/1/raw"), store_folder(store, folder, "p/runs/2/raw")
    assert first.sha256 == second.sha256
    (folder / "records.jsonl").write_bytes(b"other")
    assert store_folder(store, folder, "p/runs/3/raw").sha256 != first.sha256


def test_a_file_that_the_artifact_has_not_is_named_beside_those_it_has(store: Store, folder: Path, tmp_path: Path) -> None:
    artifact = store_folder(store, folder, "p/raw")
    with pytest.raises(KeyError, match=r"no 'none.txt'; it has: records.jsonl"):
        fetch_file(store, artifact, "none.txt", tmp_path)


@pytest.mark.parametrize("harm", ["missing file", "short file", "flipped file", "missing listing", "changed listing"])
def test_an_artifact_that_lost_something_is_not_whole(store: Store, folder: Path, harm: str) -> None:
    artifact = store_folder(store, folder, "p/raw")
    assert is_whole(store, artifact)
    key = artifact.key if "listing" in harm else "p/raw/records.jsonl"
    store.delete(key)
    if "missing" not in harm:
        store.write(key, b"1\n2\n4\n" if harm == "flipped file" else b"{}")
    assert not is_whole(store, artifact)


def test_a_changed_byte_is_found_when_the_file_is_read(store: Store, folder: Path, tmp_path: Path) -> None:
    artifact = store_folder(store, folder, "p/raw")
    store.write("p/raw/records.jsonl", b"1\n2\n4\n")
    with pytest.raises(ValueError, match="SHA-256"):
        fetch_file(store, artifact, "records.jsonl", tmp_path / "out")
    assert not (tmp_path / "out" / "records.jsonl").exists()


def test_a_listing_that_was_changed_is_refused(store: Store, folder: Path) -> None:
    artifact = store_folder(store, folder, "p/raw")
    store.write(artifact.key, b"{}")
    with pytest.raises(ValueError, match="was changed after it was written"):
        listing_of(store, artifact)


def test_a_listing_cannot_name_a_file_outside_the_folder(store: Store, tmp_path: Path) -> None:
    listing = json.dumps({"../../climbed": {"sha256": "0" * 64, "size": 1}}).encode()
    store.write("p/raw/files.json", listing)
    artifact = Artifact(key="p/raw/files.json", sha256=hashlib.sha256(listing).hexdigest())
    with pytest.raises(ValueError, match="not a key"):
        fetch_folder(store, artifact, tmp_path / "out" / "deep")


def test_a_file_with_the_name_of_the_listing_is_refused(store: Store, folder: Path) -> None:
    (folder / "files.json").write_bytes(b"{}")
    with pytest.raises(ValueError, match="another name"):
        store_folder(store, folder, "p/raw")


def test_an_undefined_number_is_never_written_as_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "metrics.json", {"accuracy": float("nan")})


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_writer_leaves_no_listing_or_a_whole_artifact(store: Store, tmp_path: Path, seed: int) -> None:
    for number in range(60):
        (tmp_path / f"file-{number}").write_bytes(bytes([number]) * 1000)
    code = (
        "import sys; from pathlib import Path; from infra.store import open_store; from tasks.artifacts import *\n"
        "(Path(sys.argv[1]) / 'store').exists(); print('ready', flush=True); store_folder(open_store(), Path(sys.argv[2]), 'p/raw')"
    )
    source = tmp_path / "files"
    source.mkdir()
    for path in tmp_path.glob("file-*"):
        path.rename(source / path.name)
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(source)], cwd=ROOT, stdout=subprocess.PIPE)
    assert child.stdout
    child.stdout.readline()
    time.sleep(random.Random(seed).uniform(0, 0.2))
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=240)
    try:
        listing, _ = store.read("p/raw/files.json")
    except MissingObject:
        return
    assert is_whole(store, Artifact(key="p/raw/files.json", sha256=hashlib.sha256(listing).hexdigest()))
