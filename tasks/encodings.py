"""Encodings: a file of text -> its encoding and how it is known, then its lines; never a silent guess, no lost line."""

import codecs
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, cast

SAMPLE_BYTES = 16 * 2**20
BLOCK_BYTES = 2**20
MAX_ROW_BYTES = 64 * 2**20  # of one row; a longer one is rejected with its first MiB, for memory's sake
KEPT_BYTES = 2**20
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
CANDIDATES = ["gb18030", "big5", "shift_jis", "euc_jp", "cp949", "cp1252", "cp1251"]  # what business files are still written in
MARKUP = '{"a": 1}\r\n,;\t|'  # what lines and cells are cut by: at its ASCII bytes
ENOUGH = 16  # bytes beyond ASCII from which a detection can be trusted
ONE_BYTE = ("cp1252", "cp1251")  # of the candidates
FEW = 3  # letters of two bytes each that a line of another encoding may hold by accident


@dataclass(frozen=True, slots=True)
class Encoding:
    """A codec's name, and in words how it is known."""

    name: str
    known: str
    detected: bool = False  # by what its letters look like; then a line may still be UTF-8, see `codec_for`
    mixed: bool = False  # lines of it are surely UTF-8


def encoding_of(path: Path, declared: str | None) -> Encoding:
    """The encoding of a file: declared, else by its byte order mark or its NULs, else UTF-8, else detected where detection is sure.

    Where single lines are not UTF-8 and the file as a whole is nothing else, it is UTF-8: those lines are rejected one by one.

    Raises:
        ValueError: the declared encoding is none, see `codec_of`.
    """
    with path.open("rb") as stream:
        start = stream.read(8)
    marked = next((name for mark, name in MARKS.items() if start.startswith(mark)), None)
    if declared:
        return Encoding(codec_of(declared), "declared")
    if marked:
        return Encoding(marked, "byte order mark")
    if wide_one := _unmarked(start):
        return Encoding(wide_one, "a NUL beside each of its first letters")
    wide, broken, shown = 0, 0, b""
    for line in _beyond_ascii(path):
        wide += 1
        if not _is_utf8(line):
            broken += 1
            if not shown or len(shown) + len(line) <= BLOCK_BYTES:  # whole lines: half a character is of no encoding
                shown += line[:BLOCK_BYTES]
    if not broken:
        return Encoding("utf-8", "every line read so far is UTF-8")
    if 2 * broken <= wide or not (found := _detected(shown)):
        return Encoding("utf-8", f"{broken} lines are not UTF-8 and no other encoding is sure")
    detected = Encoding(found, "detected; declare records.encoding to settle it", detected=True)
    several = sum(codec_for(line, detected) == "utf-8" for line in _beyond_ascii(path))
    return replace(detected, known=f"{detected.known}; {several} lines are UTF-8", mixed=True) if several else detected


def _beyond_ascii(path: Path) -> Iterator[bytes]:
    """Lines of a file's sample that are not ASCII; of one that is too long nothing is told."""
    read = 0
    for line, size in byte_lines(path, Encoding("utf-8", "")):
        if size == len(line) and not line.isascii():
            yield line
        read += size
        if read >= SAMPLE_BYTES:
            return


def codec_for(line: bytes, encoding: Encoding) -> str | None:
    """The codec of a line that `byte_lines` gives; None where two would do, and which one was meant cannot be told.

    In a file whose encoding was detected, a line that is UTF-8 is read as such: no other text is that by accident, but for short ones.
    Nearly one in five Chinese characters of GBK is the two bytes of an accented, Greek or Cyrillic letter, too. A line of a few of
    these and no others is what the file is, unless lines of it are surely UTF-8; of more of them, nothing can be told. Chinese in UTF-8
    has three bytes a letter: in GBK those would be characters that nobody writes.
    """
    codec = text_codec(encoding)
    if not encoding.detected or line.isascii() or not _is_utf8(line):
        return codec
    letters = [letter for letter in line.decode("utf-8") if letter > "\x7f"]
    if encoding.name in ONE_BYTE or max(letters) > "\u07ff":
        return "utf-8"
    return None if encoding.mixed or len(letters) > FEW else codec


def _unmarked(sample: bytes) -> str | None:
    """UTF-16 or UTF-32 without a byte order mark, when the file begins with ASCII, as a brace and a column's name are; else None."""
    nuls = "".join("0" if byte == 0 else "x" if 32 < byte < 127 else "?" for byte in sample[:8])
    forms = {"x0x0x0x0": "utf-16-le", "0x0x0x0x": "utf-16-be", "x000x000": "utf-32-le", "000x000x": "utf-32-be"}
    return forms.get(nuls)


def codec_of(declared: str) -> str:
    """The codec of a declared encoding.

    Raises:
        ValueError: no codec has the name, it is none of text (rot13, base64), or its lines cannot be told by their bytes (EBCDIC).
    """
    try:
        name = codecs.lookup(declared).name
        markup = MARKUP.encode(name)
        markup.decode(name, errors="surrogateescape")  # idna is a codec of text, but no file was ever written in it
        readable = is_wide(Encoding(name, "")) or markup.removeprefix(codecs.BOM_UTF8) == MARKUP.encode("ascii")
    except (LookupError, ValueError):
        readable = False
    if not readable:
        raise ValueError(f"{declared!r} is no encoding of files; give one such as utf-8, gb18030, cp1252")
    return name


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _detected(text: bytes) -> str | None:
    """The encoding of bytes that are not UTF-8, when one candidate is clearly best."""
    import charset_normalizer

    if sum(byte > 127 for byte in text) < ENOUGH:
        return None
    found = list(charset_normalizer.from_bytes(text, cp_isolation=CANDIDATES))
    if not found or found[0].chaos > 0.05:
        return None
    rivals = [other for other in found[1:] if (other.chaos, -other.coherence) <= (found[0].chaos, -found[0].coherence)]
    return None if rivals else found[0].encoding


def byte_lines(path: Path, encoding: Encoding) -> Iterator[tuple[bytes, int]]:
    """Lines with their line ends, without the byte order mark, and the bytes each had: more than are given when it is too long.

    Wide encodings (UTF-16, UTF-32) come as UTF-8, see `text_codec`.

    Raises:
        ValueError: a wide file is broken in the middle, so that no line of it can be trusted.
    """
    with _utf8(path, encoding) if is_wide(encoding) else path.open("rb") as stream:
        if stream.read(3) != codecs.BOM_UTF8:
            stream.seek(0)
        rest, dropped = b"", 0
        while block := stream.read(BLOCK_BYTES):
            while block.endswith(b"\r") and (more := stream.read(1)):  # \r\n is one line end
                block += more
            lines = (rest + block).splitlines(keepends=True)
            rest = b"" if lines[-1].endswith((b"\n", b"\r")) else lines.pop()
            for line in lines:
                yield (line, len(line)) if not dropped else (line[:KEPT_BYTES], len(line) + dropped)
                dropped = 0
            if len(rest) > MAX_ROW_BYTES:
                rest, dropped = rest[:KEPT_BYTES], dropped + len(rest) - KEPT_BYTES
        if rest or dropped:
            yield rest[:KEPT_BYTES] if dropped else rest, len(rest) + dropped


def is_wide(encoding: Encoding) -> bool:
    """Whether a line end is more than one byte."""
    return encoding.name.replace("_", "-").startswith(("utf-16", "utf-32"))


def text_codec(encoding: Encoding) -> str:
    """The codec of the bytes that `byte_lines` gives."""
    return "utf-8" if is_wide(encoding) else encoding.name


class UndecodableError(ValueError):
    """A line is no text; the message is the reason, without values."""


def text_of(line: bytes, encoding: Encoding) -> str:
    """The text of a line that `byte_lines` gives.

    Raises:
        UndecodableError: it is none, or of two texts it cannot be told which one was meant.
    """
    codec = codec_for(line, encoding)
    if codec is None:
        raise UndecodableError(f"bytes that may be {encoding.name} or UTF-8; declare records.encoding, or save the file in one encoding")
    try:
        return line.decode(codec)
    except UnicodeDecodeError:
        raise UndecodableError(f"bytes that are not {codec}") from None


def _utf8(path: Path, encoding: Encoding) -> BinaryIO:
    """A wide file as UTF-8, in a file without a name."""
    copy = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 - closed by the caller
    try:
        with path.open(encoding=encoding.name, newline="") as text:
            while block := text.read(BLOCK_BYTES):
                copy.write(block.encode("utf-8"))
    except UnicodeError:
        copy.close()
        raise ValueError(f"{path.name} is not whole {encoding.name}; save it as UTF-8, or declare records.encoding") from None
    copy.seek(0)
    return copy
