"""One document: what a value says stays text, in every format; the same values give the same bytes."""

import io
import time
from html.parser import HTMLParser
from typing import Any

import docx
import pytest

from tasks.documents import FORMATS, Document, markdown, page, word

EVIL = '<script>alert("x")</script> [a](http://b) ![c](d) | `e` *f*'


def document(**given: Any) -> Document:
    return Document.of(
        **{"title": "周报 Week 3\nA", "text": "第一段\0\n\nSecond\ud800 line\nthird", "rows": {"订单": "12", "note": EVIL}} | given
    )


def test_word_reads_title_paragraphs_and_table_as_they_were_given() -> None:
    found = docx.Document(io.BytesIO(word(document())))
    assert [paragraph.text for paragraph in found.paragraphs] == ["周报 Week 3 A", "第一段\N{REPLACEMENT CHARACTER}", "Second? line\nthird"]
    assert [[cell.text for cell in row.cells] for row in found.tables[0].rows] == [["订单", "12"], ["note", EVIL]]


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_a_value_brings_no_tag_into_a_page() -> None:
    with_text, plain = Tags(), Tags()
    with_text.feed(page(document(title=EVIL, text=EVIL, rows={EVIL: EVIL})).decode())
    plain.feed(page(document(title="a", text="a", rows={"a": "a"})).decode())
    assert with_text.tags == plain.tags
    assert with_text.texts.count(EVIL) == 5  # title, heading, paragraph, two cells


def test_a_value_brings_no_mark_into_markdown() -> None:
    text = markdown(document(title=EVIL, text="1. one\n- two\n# three", rows={"a|b": "c\nd"})).decode()
    assert text.startswith(r"# \<script\>alert\(\"x\"\)".replace(r"\"", '"'))
    assert "1\\. one  \n\\- two  \n\\# three" in text
    assert r"| a\|b | c d |" in text
    assert r"\[a\]\(http://b\) \!\[c\]" in text


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_values_give_the_same_bytes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, make = FORMATS[name]
    first = make(document())
    later = time.gmtime(time.time() + 86_400)
    monkeypatch.setattr("time.localtime", lambda *_: later)
    assert make(document()) == first


def test_a_document_without_values_has_no_table() -> None:
    assert "table" not in page(document(rows={})).decode().partition("</style>")[2]
    assert not docx.Document(io.BytesIO(word(document(rows={})))).tables
