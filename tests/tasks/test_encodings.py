"""Files in any encoding: told by their bytes, as declared, or line by line; never garbled."""

import tracemalloc
from pathlib import Path

import pytest

from tasks import encodings
from tests.tasks.test_readers import HEAD, file_of, line, process_of, read


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_a_wide_encoding_without_a_mark_is_known_by_its_nuls(tmp_path: Path, encoding: str) -> None:
    for name, text in (("a.jsonl", line("1", "你好").decode()), ("a.csv", "id,text,queue\n1,你好,a\n")):
        good, _, report = read(file_of(tmp_path, name, text.encode(encoding)))
        assert good[0].values["text"] == "你好"
        assert (report["encoding"], report["encoding_known"]) == (encoding, "a NUL beside each of its first letters")


@pytest.mark.parametrize("encoding", ["gb18030", "cp1252", "utf-16", "utf-8-sig"])
def test_a_file_in_another_encoding_is_read_and_the_report_says_so(tmp_path: Path, encoding: str) -> None:
    french = ["Où est ma commande ? J'ai été débité deux fois ; c'est très gênant."]
    texts = 5 * (french if encoding == "cp1252" else ["我的订单还没有到，请帮我查一下。谢谢！", "你好，我想退货，商品有质量问题。"])
    rows = "".join(f"{number},{text},a\n" for number, text in enumerate(texts))
    good, bad, report = read(file_of(tmp_path, "a.csv", ("id,text,queue\n" + rows).encode(encoding)))
    assert len(good) == len(texts) and not bad
    assert good[0].values["text"].startswith(texts[0][:5])
    assert report["encoding"] == encoding.removesuffix("-sig") and report["encoding_known"]


def test_single_lines_in_another_encoding_are_rejected_and_not_guessed(tmp_path: Path) -> None:
    rows = HEAD + "1,你好,a\n2,好的,a\n".encode() + "3,管理人员请尽快处理谢谢,a\n".encode("gbk") + b"4,hello,a\n"
    good, bad, report = read(file_of(tmp_path, "a.csv", rows))
    assert [record.id for record in good] == ["1", "2", "4"] and report["encoding"] == "utf-8"
    assert bad[0].line == 4 and bad[0].content.encode("latin-1").decode("gbk") == "3,管理人员请尽快处理谢谢,a"


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_lines_of_utf8_in_a_file_of_another_encoding_are_read_as_such_and_never_garbled(tmp_path: Path, name: str) -> None:
    def row(number: int, text: str) -> str:
        return line(str(number), text).decode() if name == "a.jsonl" else f"{number},{text},a\n"

    gbk = [f"我的订单{number}还没有到，请帮我查一下。" for number in range(60)]
    utf8 = [f"订单{number}" for number in range(40)]
    head = b"" if name == "a.jsonl" else HEAD
    content = b"".join(row(number, text).encode("gbk" if number < 60 else "utf-8") for number, text in enumerate([*gbk, *utf8]))
    good, bad, report = read(file_of(tmp_path, name, head + content))
    assert [record.values["text"] for record in good] == gbk + utf8 and not bad
    assert report["encoding"] == "gb18030" and report["encoding_known"].endswith("40 lines are UTF-8")

    unclear = row(100, "10元").encode("gbk") + row(101, "Müller").encode()  # each may be either: 元 is a letter of UTF-8, and ü of GBK
    good, bad, _ = read(file_of(tmp_path, name, head + content + unclear))
    assert len(good) == 100 and [row.reason[:43] for row in bad] == ["bytes that may be gb18030 or UTF-8; declare"] * 2
    assert unclear.splitlines()[0] == bad[0].content.encode("latin-1")
    assert len(read(file_of(tmp_path, name, head + content + unclear), process_of(encoding="gbk"))[1]) == 0  # as somebody has said


def test_a_short_line_is_what_the_whole_file_is(tmp_path: Path) -> None:
    rows = "".join(f"{number},我的订单还没有到{number},a\n" for number in range(20))
    good, bad, _ = read(file_of(tmp_path, "a.csv", HEAD + (rows + "21,10元,a\n").encode("gbk") + "22,Привет,a\n".encode()))
    assert good[-1].values["text"] == "10元" and [row.line for row in bad] == [23]  # whole words of Cyrillic are none of GBK's either
    french = 9 * "1,Où est ma commande ? J'ai été débité deux fois ; c'est très gênant.,a\n"
    good, bad, report = read(file_of(tmp_path, "b.csv", HEAD + french.encode("cp1252") + "2,café,a\n".encode()))
    assert report["encoding"] == "cp1252" and good[-1].values["text"] == "café" and not bad


def test_a_declared_encoding_is_taken_and_a_wrong_one_told(tmp_path: Path) -> None:
    path = file_of(tmp_path, "a.csv", HEAD + "1,é,a\n".encode("latin-1"))
    assert read(path, process_of(encoding="latin-1"))[0][0].values["text"] == "é"
    for name in ("utf-9", "rot13", "base64", "cp037", "idna", "undefined", "a\0b"):
        with pytest.raises(ValueError, match="is no encoding of files"):
            encodings.codec_of(name)
        with pytest.raises(ValueError, match=r"records\.encoding: .* is no encoding of files"):
            process_of(encoding=name)


@pytest.mark.parametrize("shift", ["", "x"])
def test_a_file_larger_than_what_is_looked_at_is_known_wherever_that_ends(tmp_path: Path, shift: str) -> None:
    said = "退款申请客户投诉发票地址产品质量物流尽快处理谢谢您好我们公司需要采购合同"
    words = [said[place : place + 2] for place in range(0, len(said), 2)]
    lines = ("".join(words[place * step % len(words)] for step in range(1, 12)) for place in range(60_000))
    file = tmp_path / "new.csv"
    file.write_bytes((shift + "\n".join(lines)).encode("gbk"))
    assert file.stat().st_size > 2 * encodings.BLOCK_BYTES
    assert encodings.encoding_of(file, None).name == "gb18030"


def test_the_look_at_a_file_takes_little_memory(tmp_path: Path) -> None:
    file = tmp_path / "new.jsonl"
    file.write_text('{"text": "退款"}\n' * 700_000, encoding="utf-8")
    tracemalloc.start()
    assert encodings.encoding_of(file, None).name == "utf-8"
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert file.stat().st_size > 12 * 2**20 and peak < 10 * 2**20
