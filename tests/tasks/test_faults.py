"""Publishing and loading on a bad day, on a real MinIO server: killed, cut off, busy, without room."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from infra.bucket import MinioStore
from infra.connection import connect
from infra.minio import make_bucket, running
from infra.settings import Settings
from infra.spans import Spans
from infra.store import LocalStore, Store, open_store
from infra.transfer import THREADS
from tasks.aliases import champion_of
from tasks.manifests import Manifest, version_names
from tasks.registry import check_whole, fetch_version, publish_version, versions_of
from tests.infra.test_bucket import proxy

__all__ = ["proxy"]  # a fixture of another file

ROOT = Path(__file__).resolve().parents[2]
CI = os.environ.get("CI", "").lower() in ("1", "true")
FACTS: dict[str, Any] = {"created": "2024-01-31T08:00:00Z", "run": "r"}


def files(seed: int, count: int = 12, size: int = 300_000) -> dict[str, Spans]:
    """A version of a few megabytes in as many shards."""
    chance = random.Random(seed)
    return {f"model-{number}.safetensors": Spans((chance.randbytes(size),)) for number in range(count)}


class Counting(MinioStore):
    """A bucket that counts what is sent to it, and what is fetched."""

    sent = opened = 0

    def put(self, key: str, data: Spans, sha256: str) -> None:
        self.sent += 1
        super().put(key, data, sha256)

    def open(self, key: str) -> BinaryIO:
        self.opened += 1
        return super().open(key)


@pytest.mark.parametrize("after", [1, 4, 7])
def test_a_publisher_killed_in_the_middle_sends_only_what_is_missing_when_started_again(bucket: MinioStore, after: int) -> None:
    code = (
        "import itertools, random, sys, time; from infra.bucket import MinioStore\n"
        "from infra.spans import Spans; from infra.store import open_store\n"
        "from infra import transfer; from tasks.registry import publish_version; from tasks import registry\n"
        "real, numbers = MinioStore.put, itertools.count(1)\n"
        "def stopping(self, key, data, sha256):\n"
        "    real(self, key, data, sha256); print(key, flush=True); time.sleep(600 * (next(numbers) >= int(sys.argv[1])))\n"
        "MinioStore.put = stopping\n"
        "chance = random.Random(1)\n"
        "files = {f'model-{n}.safetensors': Spans((chance.randbytes(300_000),)) for n in range(12)}\n"
        "publish_version(open_store(), 'p', files, created='2024-01-31T08:00:00Z', run='r')"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(after)], cwd=ROOT, stdout=subprocess.PIPE)
    assert child.stdout
    for _ in range(after):
        child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=240)
    assert list(version_names(bucket, "p")) == []
    there = len(list(bucket.list("p/models/shards/")))
    assert after <= there < 12
    store = Counting(bucket.client, bucket.pool, bucket.bucket)
    check_whole(store, publish_version(store, "p", files(1), **FACTS))
    assert store.sent == 12 - there


@pytest.mark.parametrize("after", [1, 7])
def test_a_fetch_killed_in_the_middle_fetches_only_what_is_missing_when_started_again(
    bucket: MinioStore, after: int, tmp_path: Path
) -> None:
    manifest = publish_version(bucket, "p", files(1), **FACTS)
    code = (
        "import itertools, sys, time; from pathlib import Path; from infra.store import open_store; from tasks import registry\n"
        "real, numbers = registry._fetch_piece, itertools.count(1)\n"
        "def stopping(*words):\n"
        "    if next(numbers) > int(sys.argv[1]): print('stopped', flush=True); time.sleep(600)\n"
        "    real(*words)\n"
        "registry._fetch_piece = stopping\n"
        "registry.fetch_version(open_store(), 'p', sys.argv[2], Path(sys.argv[3]))"
    )
    words = [sys.executable, "-c", code, str(after), manifest.version, str(tmp_path)]
    child = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE)
    assert child.stdout
    for _ in range(THREADS):
        child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=240)
    store = Counting(bucket.client, bucket.pool, bucket.bucket)
    folder = fetch_version(store, "p", manifest.version, tmp_path)
    assert store.opened == 12 - after
    assert (folder / "model-3.safetensors").read_bytes() == b"".join(map(bytes, files(1)["model-3.safetensors"].blocks()))


def test_publishing_and_loading_get_through_a_server_that_is_busy_and_cuts_connections(proxy: Any, tmp_path: Path) -> None:
    store = open_store()
    fates = ["", "busy", "lost", "", "broken", "busy"]
    proxy.plan = fates * 4
    manifest = publish_version(store, "p", files(2), **FACTS)
    proxy.plan = fates * 4
    folder = fetch_version(store, "p", manifest.version, tmp_path / "cache")
    assert (folder / "model-3.safetensors").read_bytes() == b"".join(map(bytes, files(2)["model-3.safetensors"].blocks()))


def test_a_server_that_stays_away_is_told_in_bounded_time_and_no_version_is_seen(proxy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.bucket.time.sleep", lambda seconds: None)
    store = open_store()
    proxy.always = "busy"
    started = time.monotonic()
    with pytest.raises(OSError, match="is the server up"):
        publish_version(store, "p", files(3), **FACTS)
    assert time.monotonic() - started < 60
    proxy.always = ""
    assert list(version_names(store, "p")) == []
    publish_version(store, "p", files(3), **FACTS)


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A disk of a few megabytes."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)], capture_output=True, check=False)
    if mounted.returncode:
        assert not CI, mounted.stderr
        pytest.skip("a tiny disk needs the right to mount a tmpfs: run as root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def assert_nothing_half(store: Store) -> None:
    assert list(version_names(store, "p")) == []
    assert champion_of(store, "p") is None


def published_at_last(store: Store) -> Manifest:
    """The same publish again; the server looks at its disk every few seconds only."""
    for _ in range(60):
        try:
            return publish_version(store, "p", files(4, count=80), **FACTS)
        except OSError:
            time.sleep(0.5)
    pytest.fail("there is room now, and the server does not see it")


def test_a_full_disk_under_the_server_is_told_nothing_half_is_seen_and_the_same_publish_goes_on_later(
    tiny: Path, minio: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CLERKFLOW_S3_ENDPOINT", "CLERKFLOW_S3_ACCESS_KEY", "CLERKFLOW_S3_SECRET_KEY"):
        monkeypatch.delenv(name, raising=False)
    with running(data=tiny) as server:
        make_bucket(server, "tiny")
        store = MinioStore(*connect(server), "tiny")
        with pytest.raises(OSError, match=r"StorageFull|no good answer") as told:
            publish_version(store, "p", files(4, count=80), **FACTS)
        assert "p/models/shards/" in str(told.value)
        assert_nothing_half(store)
        subprocess.run(["mount", "-o", "remount,size=80m", str(tiny)], check=True)
        check_whole(store, published_at_last(store))


def test_a_full_disk_under_a_folder_is_told_and_the_same_publish_goes_on_later(tiny: Path) -> None:
    store = LocalStore(tiny)
    with pytest.raises(OSError, match="is full; make room there and do it again"):
        publish_version(store, "p", files(5, count=50), **FACTS)
    assert_nothing_half(store)
    assert [path.name for path in (tiny / ".incoming").iterdir()] == ["lock"]
    subprocess.run(["mount", "-o", "remount,size=80m", str(tiny)], check=True)
    publish_version(store, "p", files(5, count=50), **FACTS)
    assert len(versions_of(store, "p")) == 1


def test_a_full_disk_under_the_cache_leaves_no_half_file_and_the_same_fetch_goes_on_later(tiny: Path, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    manifest = publish_version(store, "p", files(6, count=50), **FACTS)
    with pytest.raises(OSError, match="No space left"):
        fetch_version(store, "p", manifest.version, tiny)
    kept = {path.name: path.read_bytes() for path in (tiny / "p" / manifest.version).iterdir()}
    assert kept == {name: b"".join(map(bytes, spans.blocks())) for name, spans in files(6, count=50).items() if name in kept}
    subprocess.run(["mount", "-o", "remount,size=80m", str(tiny)], check=True)
    folder = fetch_version(store, "p", manifest.version, tiny)
    assert {path.name for path in folder.iterdir()} == set(manifest.files)
