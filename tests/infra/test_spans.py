"""Bytes put together from parts of files and of memory: one stream, whatever they lie in."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.spans import BLOCK_BYTES, Extent, Spans, digest_of, write_at

ROOT = Path(__file__).resolve().parents[2]


def content(spans: Spans) -> bytes:
    return b"".join(map(bytes, spans.blocks()))


@pytest.fixture
def alphabet(tmp_path: Path) -> Path:
    """A file of the bytes a to z."""
    path = tmp_path / "alphabet"
    path.write_bytes(bytes(range(97, 123)))
    return path


def test_parts_of_files_and_of_memory_are_read_in_their_order(alphabet: Path) -> None:
    spans = Spans((b"<", Extent(alphabet, 0, 3), b"", Extent(alphabet, 23, 3), Extent(alphabet, 5, 0), b">"))
    assert spans.size == 8
    assert content(spans) == b"<abcxyz>"
    with spans.open() as stream:
        assert stream.read() == b"<abcxyz>"


def test_a_part_of_another_file_between_two_of_the_same_file_is_no_trap(alphabet: Path, tmp_path: Path) -> None:
    (tmp_path / "digits").write_bytes(b"0123456789")
    spans = Spans((Extent(alphabet, 0, 2), Extent(tmp_path / "digits", 4, 2), Extent(alphabet, 2, 2)))
    assert content(spans) == b"ab45cd"


def test_nothing_is_one_empty_piece_and_no_block() -> None:
    assert [piece.size for piece in Spans(()).pieces(10)] == [0]
    assert list(Spans((b"",)).blocks()) == []
    assert digest_of(Spans(())).sha256 == hashlib.sha256().hexdigest()
    assert digest_of(Spans(())).blocks == ()


@given(parts=st.lists(st.binary(max_size=12), max_size=8), most=st.integers(1, 20), start=st.integers(0, 60), length=st.integers(0, 60))
def test_cut_and_pieces_are_what_slicing_gives(parts: list[bytes], most: int, start: int, length: int) -> None:
    spans, whole = Spans(tuple(parts)), b"".join(parts)
    assert content(spans.cut(start, start + length)) == whole[start : start + length]
    pieces = spans.pieces(most)
    assert b"".join(map(content, pieces)) == whole
    assert all(piece.size == most for piece in pieces[:-1])


def test_a_cut_of_a_cut_still_names_the_right_place_of_the_file(alphabet: Path) -> None:
    assert content(Spans.of(alphabet).cut(3, 20).cut(2, 6).cut(1, 99)) == b"ghi"


def test_blocks_are_whole_ones_whatever_the_parts_are_like(tmp_path: Path) -> None:
    data = bytes(range(256)) * 9_000  # 2.2 MiB
    (tmp_path / "file").write_bytes(data)
    spans = Spans((b"head", Extent(tmp_path / "file", 0, 1_000_001), Extent(tmp_path / "file", 1_000_001, len(data) - 1_000_001)))
    assert [len(block) for block in spans.blocks()] == [BLOCK_BYTES, BLOCK_BYTES, len(data) + 4 - 2 * BLOCK_BYTES]
    assert content(spans) == b"head" + data


def test_a_digest_is_that_of_the_bytes_and_each_block_has_its_own_sum(tmp_path: Path) -> None:
    data = bytes(BLOCK_BYTES) + b"\1" * BLOCK_BYTES + b"\2"
    (tmp_path / "file").write_bytes(data)
    before = digest_of(Spans.of(tmp_path / "file"))
    after = digest_of(Spans((data[: BLOCK_BYTES + 7], b"x", data[BLOCK_BYTES + 8 :])))
    assert before.sha256 == hashlib.sha256(data).hexdigest()
    assert [old == new for old, new in zip(before.blocks, after.blocks, strict=True)] == [True, False, True]


def test_a_file_that_became_shorter_is_an_error_and_never_fewer_bytes(alphabet: Path) -> None:
    spans = Spans((b"head", Extent(alphabet, 10, 16)))
    alphabet.write_bytes(b"a" * 12)
    with pytest.raises(ValueError, match="alphabet is shorter than it was; make it again"):
        digest_of(spans)


def test_a_file_that_became_longer_gives_the_bytes_it_had(alphabet: Path) -> None:
    spans = Spans.of(alphabet)
    alphabet.write_bytes(bytes(range(97, 123)) + b"more")
    assert content(spans) == bytes(range(97, 123))


def test_many_empty_tensors_in_a_row_are_no_deep_recursion(alphabet: Path) -> None:
    spans = Spans((b"<", *(Extent(alphabet, 0, 0) for _ in range(5_000)), b">"))
    assert content(spans) == b"<>"


def test_large_bytes_are_hashed_in_little_memory(tmp_path: Path) -> None:
    """200 MiB of a file with holes; the process grows by a few blocks."""
    with (tmp_path / "large").open("wb") as stream:
        stream.truncate(200 * 2**20)
    code = (
        "import resource, sys; from pathlib import Path; from infra.spans import Spans, digest_of\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak(); digest_of(Spans.of(Path(sys.argv[1]))); print(peak() - before)"
    )
    answer = subprocess.run([sys.executable, "-c", code, str(tmp_path / "large")], cwd=ROOT, capture_output=True, text=True, check=True)
    grown = int(answer.stdout) * (1 if sys.platform == "darwin" else 1024)
    assert grown < 20 * 2**20


def test_a_disk_that_takes_a_part_is_asked_for_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written is hashed as it comes: a hole left by a short write would be noticed only when the file is read again."""
    whole, path = os.pwrite, tmp_path / "file"
    monkeypatch.setattr(os, "pwrite", lambda handle, data, at: whole(handle, data[:1000], at))
    handle = os.open(path, os.O_WRONLY | os.O_CREAT)
    write_at(handle, memoryview(bytes(range(256)) * 400), 7)
    os.close(handle)
    assert path.read_bytes() == bytes(7) + bytes(range(256)) * 400
