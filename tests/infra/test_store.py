"""The promises of the object store, kept by a folder and by a real MinIO server alike."""

import fcntl
import hashlib
import os
import resource
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra.settings import settings
from infra.store import INCOMING, STALE_SECONDS, Conflict, LocalStore, MissingObject, Store, copy_to, open_store

ROOT = Path(__file__).resolve().parents[2]
KEYS = ["process/inbox/订单 2024.csv", "process/a b/100%.json", "process/c+d&e=f?g#h.txt", "process/ü/«x».jsonl"]
NO_KEYS = ["", "/etc/passwd", "a//b", "a/", "../up", "a/../b", "a/./b", "a\\b", "a\nb", "a\0b", ".incoming/x", "x" * 256, "a/" * 600 + "a"]


def keys_of(store: Store, prefix: str) -> list[str]:
    return [info.key for info in store.list(prefix)]


def test_what_is_written_is_read_back_with_its_etag(store: Store) -> None:
    etag = store.write("p/run.json", b"{}")
    assert store.read("p/run.json") == (b"{}", etag)
    info = store.stat("p/run.json")
    assert info is not None
    assert (info.key, info.size, info.etag) == ("p/run.json", 2, etag)
    assert abs(info.modified.timestamp() - time.time()) < 3600


def test_a_stopped_writer_keeps_others_waiting_for_a_bounded_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.store.PATIENCE_SECONDS", 0.1)
    store = LocalStore(tmp_path)
    store.write("a", b"1")
    with (tmp_path / INCOMING / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(TimeoutError, match=r"lock has been held for 0\.1 s; fuser tells who holds it"):
            store.write("a", b"2")
    assert store.read("a")[0] == b"1"
    store.write("a", b"3")
    assert store.read("a")[0] == b"3"


def test_an_empty_object_is_an_object(store: Store) -> None:
    store.write("p/empty", b"")
    assert store.read("p/empty")[0] == b""
    assert keys_of(store, "p/") == ["p/empty"]


def test_a_missing_object_is_none_to_stat_and_an_error_that_names_it_to_a_reader(store: Store) -> None:
    store.write("p/there", b"x")
    for key in ("p/none", "none/none", "p", "p/there/below"):
        assert store.stat(key) is None
        for reader in (store.open, store.read):
            with pytest.raises(MissingObject, match=key):
                reader(key)


def test_deleting_twice_is_deleting_once(store: Store) -> None:
    store.write("p/a", b"x")
    store.delete("p/a")
    store.delete("p/a")
    store.delete("p")
    assert keys_of(store, "") == []


@pytest.mark.parametrize("key", KEYS)
def test_keys_may_be_chinese_or_hold_blanks_and_signs(store: Store, key: str) -> None:
    store.write(key, key.encode())
    store.write(key, key.encode() + b"!", if_match=store.read(key)[1])
    assert store.read(key)[0] == key.encode() + b"!"
    assert keys_of(store, "process/") == [key]
    store.delete(key)
    assert store.stat(key) is None


@pytest.mark.parametrize("key", NO_KEYS)
def test_what_is_no_plain_path_below_the_store_is_refused(store: Store, key: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(ValueError, match="key"):
        store.write(key, b"x")
    with pytest.raises(ValueError, match="key"):
        store.upload(tmp_path / "file", key)
    for use in (store.stat, store.open, store.read, store.delete):
        with pytest.raises(ValueError, match="key"):
            use(key)


@pytest.mark.parametrize("prefix", ["/", "../", "a/../", "/etc/"])
def test_a_listing_never_leaves_the_store(store: Store, prefix: str) -> None:
    with pytest.raises(ValueError, match="key"):
        keys_of(store, prefix)


def test_a_listing_is_sorted_by_key_and_a_prefix_may_end_within_a_name(store: Store) -> None:
    names = ["a-b", "a/b", "a/bc", "a0", "ab/x", "b", "数/据", "é"]
    for name in reversed(names):
        store.write(f"p/{name}", b"x")
    store.write("q", b"x")
    assert keys_of(store, "p/") == sorted(f"p/{name}" for name in names)
    assert keys_of(store, "p/a") == ["p/a-b", "p/a/b", "p/a/bc", "p/a0", "p/ab/x"]
    assert keys_of(store, "p/a/") == ["p/a/b", "p/a/bc"]
    assert keys_of(store, "p/数") == ["p/数/据"]
    assert keys_of(store, "") == [*keys_of(store, "p/"), "q"]
    assert keys_of(store, "none/") == keys_of(store, "p/abc") == keys_of(store, "q/") == []


def test_writing_when_absent_is_refused_once_it_is_there(store: Store) -> None:
    store.write("p/a", b"first", if_absent=True)
    with pytest.raises(Conflict, match="p/a"):
        store.write("p/a", b"second", if_absent=True)
    assert store.read("p/a")[0] == b"first"


def test_writing_over_what_was_read_is_refused_once_it_has_changed_or_gone(store: Store) -> None:
    etag = store.write("p/a", b"first")
    newer = store.write("p/a", b"second", if_match=etag)
    with pytest.raises(Conflict, match="p/a"):
        store.write("p/a", b"third", if_match=etag)
    store.delete("p/a")
    with pytest.raises(Conflict, match="p/a"):
        store.write("p/a", b"third", if_match=newer)
    assert store.stat("p/a") is None


def test_the_etag_of_a_folder_never_comes_back_however_fast_one_writes(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    etags = [store.write("p/a", bytes([n % 2])) for n in range(200)]
    assert len(set(etags)) == 200


def test_of_many_threads_exactly_one_creates_and_no_change_is_lost(store: Store) -> None:
    barrier = threading.Barrier(8)

    def create(number: int) -> bool:
        barrier.wait()
        try:
            store.write("p/new", b"%d" % number, if_absent=True)
        except Conflict:
            return False
        return True

    def count(_: int) -> None:
        while True:
            data, etag = store.read("p/count")
            try:
                store.write("p/count", b"%d" % (int(data) + 1), if_match=etag)
            except Conflict:
                continue
            return

    store.write("p/count", b"0")
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(create, range(8)))
        list(pool.map(count, range(8)))
    assert won.count(True) == 1
    assert store.read("p/new")[0] == b"%d" % won.index(True)
    assert store.read("p/count")[0] == b"8"


def test_of_several_processes_exactly_one_moves_an_object(store: Store) -> None:
    etag = store.write("p/alias", b"start")
    code = (
        "import sys; from infra.store import *\n"
        "sys.stdin.readline()\n"
        f"try: open_store().write('p/alias', sys.argv[1].encode(), if_match={etag!r}); print('won')\n"
        "except Conflict: print('lost')"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", code, name], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name in "abcd"
    ]
    time.sleep(1)
    for child in children:
        child.stdin.write("\n")  # type: ignore[union-attr]
        child.stdin.flush()  # type: ignore[union-attr]
    answers = [child.communicate(timeout=240)[0].strip() for child in children]
    assert sorted(answers) == ["lost", "lost", "lost", "won"]
    assert store.read("p/alias")[0].decode() == "abcd"[answers.index("won")]


def test_a_large_file_is_streamed_in_and_out(store: Store, tmp_path: Path) -> None:
    block = os.urandom(2**20)
    source = tmp_path / "large"
    source.write_bytes(block * 20)
    store.upload(source, "p/large")
    info = store.stat("p/large")
    assert info is not None
    assert info.size == 20 * 2**20
    assert copy_to(store, "p/large", tmp_path / "out" / "large") == hashlib.sha256(block * 20).hexdigest()
    assert (tmp_path / "out" / "large").read_bytes() == source.read_bytes()


def test_a_stream_gives_lines(store: Store) -> None:
    store.write("p/lines", "一\ntwo\nthree".encode())
    with store.open("p/lines") as stream:
        assert [line.decode() for line in stream] == ["一\n", "two\n", "three"]


def test_a_reader_sees_the_old_bytes_or_the_new_and_never_a_mixture(store: Store) -> None:
    versions = [bytes([n]) * 300_000 for n in range(4)]
    store.write("p/a", versions[0])
    seen = []
    with ThreadPoolExecutor(2) as pool:
        writing = pool.submit(lambda: [store.write("p/a", versions[n % 4]) for n in range(30)])
        while not writing.done():
            seen.append(store.read("p/a")[0])
    assert seen
    assert all(data in versions for data in seen)


def test_a_copy_whose_digest_is_wrong_is_refused_and_leaves_nothing(store: Store, tmp_path: Path) -> None:
    store.write("p/a", b"damaged")
    with pytest.raises(ValueError, match="restore"):
        copy_to(store, "p/a", tmp_path / "out" / "a", sha256=hashlib.sha256(b"whole").hexdigest())
    assert list((tmp_path / "out").iterdir()) == []


def test_many_copies_to_one_place_at_once_are_all_whole(store: Store, tmp_path: Path) -> None:
    store.write("p/a", b"x" * 100_000)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: copy_to(store, "p/a", tmp_path / "out" / "a"), range(16)))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]
    assert (tmp_path / "out" / "a").read_bytes() == b"x" * 100_000


def test_the_environment_names_the_store_and_its_prefix(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write("team/p/a", b"x")
    assert open_store().read("team/p/a")[0] == b"x"
    monkeypatch.setenv("CLERKFLOW_STORE", f"{settings().store}/team")
    below = open_store()
    assert below.read("p/a")[0] == b"x"
    assert keys_of(below, "") == ["p/a"]
    assert below.address("p/a") == f"{below.uri}/p/a"


def test_a_write_that_finds_no_room_leaves_nothing_to_be_seen(tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk: the write fails half way, for real."""
    store = LocalStore(tmp_path / "store")
    store.write("p/a", b"old")

    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    code = "import sys; from pathlib import Path; from infra.store import *\nLocalStore(Path(sys.argv[1])).write('p/a', b'n' * 100_000)"
    child = subprocess.run(
        [sys.executable, "-B", "-c", code, str(store.root)], cwd=ROOT, preexec_fn=little_room, capture_output=True, text=True, timeout=300
    )
    assert "OSError" in child.stderr
    assert store.read("p/a")[0] == b"old"
    assert keys_of(store, "") == ["p/a"]
    assert [path.name for path in (store.root / ".incoming").iterdir()] == ["lock"]


def test_what_a_killed_writer_left_is_swept_after_a_day_and_a_running_writer_is_left_alone(tmp_path: Path) -> None:
    incoming = tmp_path / ".incoming"
    incoming.mkdir()
    for name, age in (("killed", STALE_SECONDS + 60), ("running", 60), ("lock", STALE_SECONDS + 60)):
        (incoming / name).write_bytes(b"half")
        os.utime(incoming / name, (time.time() - age, time.time() - age))
    LocalStore(tmp_path).write("p/a", b"x")
    assert sorted(path.name for path in incoming.iterdir()) == ["lock", "running"]


def test_a_link_that_leads_out_of_the_store_is_refused(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    store.write("p/a", b"x")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_bytes(b"secret")
    (store.root / "p" / "out").symlink_to(tmp_path / "secret")
    for use in (store.stat, store.open, store.read, store.delete):
        with pytest.raises(ValueError, match="leads out"):
            use("p/out/key")
    with pytest.raises(ValueError, match="leads out"):
        store.write("p/out/key", b"x")
    assert (tmp_path / "secret" / "key").read_bytes() == b"secret"


def test_a_listing_leaves_out_links_that_lead_out_of_the_store_or_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = LocalStore(tmp_path / "store")
    store.write("p/a", b"x")
    store.write("p/z", b"x")
    (tmp_path / "secret").write_bytes(b"secret")
    links = {"file": tmp_path / "secret", "folder": tmp_path, "circle": "circle", "gone": "none", "b\\c": "a", "within": "a"}
    for name, target in links.items():
        (store.root / "p" / name).symlink_to(target)
    assert keys_of(store, "p/") == ["p/a", "p/within", "p/z"]
    assert all(f"p/{name}" in caplog.text for name in ("file", "folder", "circle", r"b\\c"))


def test_a_part_of_a_key_cannot_be_an_object(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.write("p/a", b"x")
    with pytest.raises(ValueError, match="object already"):
        store.write("p/a/b", b"x")


def test_a_large_folder_is_listed_lazily(tmp_path: Path) -> None:
    """What comes into a later folder while the listing is under way is seen."""
    store = LocalStore(tmp_path)
    store.write("p/a/1", b"x")
    store.write("p/b/1", b"x")
    listing = iter(store.list("p/"))
    assert next(listing).key == "p/a/1"
    store.write("p/b/2", b"x")
    assert [info.key for info in listing] == ["p/b/1", "p/b/2"]


def test_pipes_and_folders_are_no_objects_and_nobody_waits_for_them(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    (tmp_path / "p" / "inbox" / "folder.csv").mkdir(parents=True)
    os.mkfifo(tmp_path / "p" / "inbox" / "pipe.csv")
    store.write("p/inbox/a.csv", b"a")
    assert [info.key for info in store.list("p/")] == ["p/inbox/a.csv"]
    for name in ("pipe.csv", "folder.csv"):
        assert store.stat(f"p/inbox/{name}") is None
        with pytest.raises(MissingObject):
            store.open(f"p/inbox/{name}")
