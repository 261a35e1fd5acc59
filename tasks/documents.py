"""Documents: a title, paragraphs and a table of values -> one DOCX, HTML or Markdown file; the same values give the same bytes."""

import html
import io
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tasks.sinks import CONTROL, whole_text

DAY_ONE = (1980, 1, 1, 0, 0, 0)  # the first that a ZIP can state: when a file was written would make each run's bytes others
MARKS = re.compile(r"([\\`*_{}\[\]()<>#+!|~&-])")

PAGE = """<!doctype html>
<html>
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 42rem; margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere; }}
table {{ border-collapse: collapse; }} th, td {{ border-bottom: 1px solid #d5d9e0; padding: .25rem .8rem .25rem 0; text-align: left; }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}</body>
</html>
"""


@dataclass(frozen=True, slots=True)
class Document:
    """What one document says, as plain text that is good for a file."""

    title: str
    paragraphs: Sequence[str]
    rows: Mapping[str, str]  # name -> value, of the table below the text

    @classmethod
    def of(cls, title: str, text: str, rows: Mapping[str, str]) -> "Document":
        """A text's paragraphs have a blank line between them; control characters and halves of surrogate pairs are replaced."""
        paragraphs = [line.strip() for line in re.split(r"\n\s*\n", _plain(text))]
        told = {_plain(name): _plain(value) for name, value in rows.items()}
        return cls(" ".join(_plain(title).split()), [each for each in paragraphs if each], told)


def markdown(document: Document) -> bytes:
    """CommonMark with a table; what a value says is no mark-up."""
    parts = [f"# {_unmarked(document.title)}", *(_unmarked(each) for each in document.paragraphs)]
    if document.rows:
        rows = [f"| {_in_cell(name)} | {_in_cell(value)} |" for name, value in document.rows.items()]
        parts.append("\n".join(["| | |", "|---|---|", *rows]))
    return ("\n\n".join(parts) + "\n").encode()


def page(document: Document) -> bytes:
    """One HTML page that needs nothing else."""
    body = "".join(f"<p>{_escaped(each)}</p>\n" for each in document.paragraphs)
    rows = "".join(f"<tr><th scope=row>{_escaped(name)}</th><td>{_escaped(value)}</td></tr>\n" for name, value in document.rows.items())
    return PAGE.format(title=html.escape(document.title), body=body + (f"<table>\n{rows}</table>\n" if rows else "")).encode()


def word(document: Document) -> bytes:
    """A Word document, made by python-docx."""
    from docx import Document as Word

    made = Word()
    made.core_properties.title = document.title[:255]
    made.add_heading(document.title, level=1)
    for paragraph in document.paragraphs:
        made.add_paragraph(paragraph)
    if document.rows:
        table = made.add_table(rows=0, cols=2, style="Light Grid Accent 1")
        for name, value in document.rows.items():
            cells = table.add_row().cells
            cells[0].text, cells[1].text = name, value
    stream = io.BytesIO()
    made.save(stream)
    return _undated(stream.getvalue())


FORMATS: dict[str, tuple[str, Callable[[Document], bytes]]] = {"docx": ("docx", word), "html": ("html", page), "markdown": ("md", markdown)}


def entry(name: str, compression: int = zipfile.ZIP_DEFLATED) -> zipfile.ZipInfo:
    """A place in a ZIP that does not say when it was written."""
    info = zipfile.ZipInfo(name, DAY_ONE)
    info.compress_type, info.external_attr = compression, 0o644 << 16
    return info


def _undated(archive: bytes) -> bytes:
    """A ZIP whose files do not say when they were written."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as found, zipfile.ZipFile(stream, "w") as made:
        for info in found.infolist():
            made.writestr(entry(info.filename), found.read(info))
    return stream.getvalue()


def _plain(text: str) -> str:
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", whole_text(text)).replace("\r\n", "\n").replace("\r", "\n")


def _unmarked(text: str) -> str:
    """Text whose signs mean themselves: no link, no picture, no list, no HTML."""
    return re.sub(r"^(\s*\d+)\.(?=\s)", r"\1\\.", MARKS.sub(r"\\\1", text), flags=re.MULTILINE).replace("\n", "  \n")


def _in_cell(text: str) -> str:
    return " ".join(_unmarked(text).split())


def _escaped(text: str) -> str:
    return html.escape(text).replace("\n", "<br>\n")
