"""Report: measures and plots -> one HTML page that needs nothing else; no row of the records is in it."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, StrictUndefined

from tasks.metrics import LOWER_IS_BETTER, main_metrics
from tasks.process import Process

SLICES = 60  # rows of a table that a person still reads
CLASSES = 200

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Evaluation of {{ process.name }}</title>
<style>
:root { color-scheme: light dark; --line: #d5d9e0; --soft: #f4f6f9; --text: #1c2330; --page: #fff; --accent: #1f5fa8; }
@media (prefers-color-scheme: dark) { :root { --line: #3a4250; --soft: #222935; --text: #e4e8ee; --page: #171c25; --accent: #8bbcf2; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page);
  max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .6rem 0; }
caption { text-align: left; padding-bottom: .3rem; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .8rem .25rem 0; text-align: right; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere; }
.note { background: var(--soft); border-left: 4px solid var(--accent); padding: .5rem 1rem; }
figure { margin: 1rem 0; } img { max-width: 100%; background: #fff; border-radius: 4px; }
</style>
</head>
<body>
<h1>{{ process.name }}</h1>
<p>{{ process.description }}</p>
<p>Owner {{ process.owner }}, declaration version {{ process.version }}.
Samples: {{ counts.train }} train, {{ counts.validation }} validation, {{ counts.test }} test.</p>

<h2>Model, champion and baselines</h2>
<div class="scroll"><table>
<caption>All on the same test split; the best of each row is bold.</caption>
<thead><tr><th scope="col">metric</th>{% for column in columns %}<th scope="col">{{ column }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in rows %}
<tr><th scope="row">{{ row.metric }}{% if row.lower %} (lower is better){% endif %}</th>
{%- for cell in row.cells %}<td>{% if cell.best %}<strong>{{ cell.text }}</strong>{% else %}{{ cell.text }}{% endif %}</td>{% endfor %}</tr>
{%- endfor %}</tbody>
</table></div>
<div class="note">{% for sentence in sentences %}<p>{{ sentence }}</p>{% endfor %}</div>
{% for table in tables %}
<h2>{{ table.title }}</h2>
<div class="scroll"><table>
{% if table.caption %}<caption>{{ table.caption }}</caption>{% endif %}
<thead><tr>{% for name in table.columns %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>{% for cells in table.rows %}
<tr><th scope="row">{{ cells[0] }}</th>{% for cell in cells[1:] %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</tbody>
</table></div>
{% endfor %}
{% if pictures %}<h2>Plots</h2>{% endif %}
{% for picture in pictures %}
<figure><img src="data:image/png;base64,{{ picture.data }}" alt="{{ picture.alt }}">
<figcaption>{{ picture.alt }}
{%- if picture.legend %}: {% for number, name in picture.legend.items() %}{{ number }} = {{ name }}
{%- if not loop.last %}; {% endif %}{% endfor %}{% endif %}
</figcaption></figure>
{% endfor %}
<h2>How this was measured</h2>
<ul>{% for note in notes %}<li>{{ note }}</li>{% endfor %}</ul>
</body>
</html>
"""


@dataclass(frozen=True, slots=True)
class Picture:
    """A plot, what it shows, and what its numbers stand for when its labels could not be written."""

    png: bytes
    alt: str
    legend: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text; the first cell of each is its name."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


def report(process: Process, metrics: Mapping[str, Any], pictures: Sequence[Picture], notes: Sequence[str]) -> str:
    """The page.

    Args:
        metrics: what evaluation/metrics.json holds.
        notes: sentences on how the figures came about.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    embedded = [{"data": base64.b64encode(each.png).decode(), "alt": each.alt, "legend": each.legend} for each in pictures]
    systems = systems_of(metrics)
    return environment.from_string(PAGE).render(
        process=process,
        counts=metrics["counts"],
        columns=list(systems),
        rows=[
            compared(metric, systems) for metric in main_metrics(process.output.kind) if any(metric in each for each in systems.values())
        ],
        sentences=sentences_of(process.output.kind, metrics),
        tables=[table for table in (slices_table(process.output.kind, metrics), parts_table(metrics)) if table.rows],
        pictures=embedded,
        notes=notes,
    )


def systems_of(metrics: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """Heading -> measures: the model, the champion when there is one, the baselines."""
    champion = {f"champion {metrics['champion_version']}": metrics["champion"]} if metrics["champion"] is not None else {}
    return {"model": metrics["model"], **champion, **metrics["baselines"]}


def compared(metric: str, systems: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """One line of the comparison; equal best values are all marked."""
    values = [values.get(metric) for values in systems.values()]
    known = [value for value in values if value is not None]
    lower = metric in LOWER_IS_BETTER
    best = min(known) if lower else max(known)
    cells = [{"text": figure(value), "best": value == best and len(known) > 1} for value in values]
    return {"metric": metric, "lower": lower, "cells": cells}


def sentences_of(kind: str, metrics: Mapping[str, Any]) -> list[str]:
    """Where a baseline is better than the model, and what is known of the champion, said plainly."""
    said = []
    for metric in main_metrics(kind):
        rivals = {name: values[metric] for name, values in metrics["baselines"].items() if metric in values}
        ours = metrics["model"].get(metric)
        if ours is None or not rivals:
            continue
        sign = -1 if metric in LOWER_IS_BETTER else 1
        name = max(rivals, key=lambda rival: sign * rivals[rival])
        if sign * rivals[name] > sign * ours:
            said.append(f"The baseline {name} is better than the model on {metric}: {figure(rivals[name])} against {figure(ours)}.")
    if not said:
        said.append("No baseline is better than the model on any measure they share.")
    if metrics["champion_version"] is None:
        said.append("There is no champion yet.")
    elif not metrics["champion"]:
        said.append(f"The champion {metrics['champion_version']} could not be measured on this test split.")
    return said


def slices_table(kind: str, metrics: Mapping[str, Any]) -> Table:
    """The model's main measures on each slice."""
    slices = metrics["slices"]
    names = [metric for metric in main_metrics(kind) if any(metric in values for values in slices.values())]
    rows = [[name, str(values["count"]), *(figure(values.get(metric)) for metric in names)] for name, values in slices.items()]
    return Table("Slices", ["slice", "test samples", *names], rows[:SLICES], _cut(len(rows), SLICES))


def parts_table(metrics: Mapping[str, Any]) -> Table:
    """The model's measures for each label or field, the most frequent first."""
    name = "label" if "per_class" in metrics else "field"
    parts = metrics.get("per_class") or metrics.get("per_field") or {}
    order = sorted(parts, key=lambda part: (-parts[part]["support"], part))
    rows = [
        [part, str(int(parts[part]["support"])), *(figure(parts[part].get(measure)) for measure in ("precision", "recall", "f1"))]
        for part in order
    ]
    return Table(f"Each {name}", [name, "true in test", "precision", "recall", "f1"], rows[:CLASSES], _cut(len(rows), CLASSES))


def _cut(rows: int, limit: int) -> str:
    return f"The first {limit} of {rows}; all are in metrics.json." if rows > limit else ""


def figure(value: float | None) -> str:
    """A measure with four digits behind the point, or two when it is large."""
    if value is None:
        return "–"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}"
