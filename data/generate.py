"""Generate: data/phrases/<process>.toml and a seed -> data/processes/<process>/*.jsonl and flaws.json; the same bytes every time.

    python data/generate.py [process …] [--rows N] [--seed S] [--out folder]

Standard library only. flaws.json names the lines of each file that were spoiled on purpose, and what validation should do with them.
"""

import argparse
import json
import random
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from writers import Row, World, expense, order, service, ticket, weekly, weighted

HERE = Path(__file__).resolve().parent
NEAR_SHARE, COPIED_SHARE, RESENT_SHARE = 0.03, 0.006, 0.004
FLAW_SHARE = 0.0015  # of each kind of flaw
ANY_PROCESS = {"broken_line": "quarantined", "id_taken": "quarantined"}  # flaws of a line, not of a column

Spoil = Callable[[Row], None]


# --- flaws


def put(path: str, value: Any) -> Spoil:
    """A flaw: another value at a dotted path; a function makes it from the old one; None removes it."""

    def spoil(row: Row) -> None:
        *way, last = path.split(".")
        for name in way:
            row = row[name]
        row[last] = value(row[last]) if callable(value) else value
        if row[last] is None:
            del row[last]

    return spoil


def full_width(text: str) -> str:
    """The text as a Chinese keyboard writes Latin letters in its wide form."""
    return "".join(chr(ord(letter) + 0xFEE0) if "!" <= letter <= "~" else letter for letter in text)


def label_flaws(path: str, wrong: str) -> Row:
    """Flaws of a label: (what validation does with it, how the row is spoiled)."""
    return {
        "label_missing": ("quarantined", put(path, None)),
        "label_unknown": ("quarantined", put(path, wrong)),
        "label_full_width": ("repaired", put(path, full_width)),
        "label_other_case": ("repaired", put(path, lambda label: f" {label.upper()} ")),
    }


# --- files


@dataclass(frozen=True)
class File:
    """One file of a process: its rows, its time, and whether the answers are in it."""

    name: str
    rows: int
    first: datetime
    days: int
    without: tuple[str, ...] = ()  # columns to leave out: the answers
    drifted: bool = False
    flaws: bool = False


SAMPLE = File("sample.jsonl", 2000, datetime(2025, 1, 6), 175, flaws=True)


@dataclass(frozen=True)
class Recipe:
    """How the records of one process are made and spoiled."""

    prefix: str
    write: Callable[[World], Row]
    text: str  # path of the text that near-duplicates change
    flaws: Mapping[str, tuple[str, Spoil]]
    files: tuple[File, ...] = (SAMPLE,)
    languages: Mapping[str, float] = field(default_factory=lambda: {"en": 48, "zh": 38, "mixed": 14})


def arrivals(*answer: str) -> File:
    """Records of the following weeks without their answers: a batch to score."""
    return File("new.jsonl", 300, datetime(2025, 6, 30), 14, answer, flaws=True)


RECIPES = {
    "ticket_routing": Recipe(
        "TR",
        ticket,
        "text",
        {"text_empty": ("quarantined", put("text", " ")), "text_not_text": ("quarantined", put("text", lambda text: [text]))}
        | label_flaws("queue", "misc"),
        (
            SAMPLE,
            arrivals("queue"),
            File("drifted.jsonl", 400, datetime(2025, 9, 1), 14, ("queue",), drifted=True),
            File("drifted_labelled.jsonl", 800, datetime(2025, 9, 1), 28, drifted=True),
        ),
    ),
    "order_intake": Recipe(
        "OI",
        order,
        "email",
        {
            "text_empty": ("quarantined", put("email", "")),
            "form_missing": ("quarantined", put("form", None)),
            "customer_missing": ("quarantined", put("form.customer", None)),
            "unit_unknown": ("quarantined", put("form.unit", "barrel")),
            "unit_other_case": ("repaired", put("form.unit", str.upper)),
            "quantity_not_a_number": ("quarantined", put("form.quantities", ["many"])),
            "date_impossible": ("quarantined", lambda row: row["form"].update(delivery_date="2025-02-30")),
        },
        (SAMPLE, arrivals("form")),
    ),
    "expense_approval": Recipe(
        "EX",
        expense,
        "claim.purpose",
        {
            "text_empty": ("quarantined", put("claim.purpose", "")),
            "amount_missing": ("quarantined", put("claim.amount", None)),
            "amount_not_a_number": ("quarantined", put("claim.amount", "a lot")),
            "amount_negative": ("quarantined", put("claim.amount", lambda amount: -amount)),
            "amount_as_text": ("repaired", put("claim.amount", lambda amount: f"{amount + 1000:,.2f}")),
        }
        | label_flaws("decision", "ask later"),
    ),
    "weekly_report": Recipe(
        "WR",
        weekly,
        "report",
        {
            "text_empty": ("quarantined", put("report", "")),
            "report_missing": ("quarantined", put("report", None)),
            "report_unfinished": ("quarantined", put("report", "tbd")),
            "orders_not_a_number": ("quarantined", put("figures.orders", "many")),
            "on_time_above_hundred": ("quarantined", put("figures.on_time", lambda share: share * 10)),
            "orders_full_width": ("repaired", put("figures.orders", lambda count: full_width(str(count)))),
        },
        languages={"en": 45, "zh": 40, "mixed": 15},
    ),
    "service_answers": Recipe(
        "SA",
        service,
        "question",
        {
            "text_empty": ("quarantined", put("question", "　")),
            "answer_missing": ("quarantined", put("answer", None)),
            "answer_unfinished": ("quarantined", put("answer", "？")),
            "question_not_text": ("quarantined", put("question", lambda text: {"text": text})),
        },
        languages={"zh": 78, "en": 14, "mixed": 8},
    ),
}


@dataclass
class Line:
    """One line on its way into a file."""

    row: Row
    story: str = ""  # near_duplicate, copied, resent, or a flaw; "" for a plain record
    original: "Line | None" = None

    def text(self) -> str:
        """The line's JSON; of a broken one, only its first two thirds."""
        whole = json.dumps(self.row, ensure_ascii=False)
        return whole[: len(whole) * 2 // 3] if self.story == "broken_line" else whole


def make_lines(recipe: Recipe, file: File, phrases: Mapping[str, Any], rows: int, rng: random.Random) -> list[Line]:
    """The lines of a file in the order of their arrival, duplicates and flaws among them."""
    near, copied, resent = (round(rows * share) for share in (NEAR_SHARE, COPIED_SHARE, RESENT_SHARE if file.flaws else 0))
    lines = [Line(_record(recipe, file, phrases, rng)) for _ in range(rows - near - copied - resent)]
    stories = ["near_duplicate"] * near + ["copied"] * copied + ["resent"] * resent
    originals = rng.sample(lines, len(stories))
    lines += [_again(recipe, original, story, rng) for original, story in zip(originals, stories, strict=True)]
    lines.sort(key=lambda line: line.row["received"])
    first = [each.name for each in recipe.files].index(file.name) * 1_000_000 + 1  # no id is shared between files
    for number, line in enumerate(lines, first):
        line.row["id"] = f"{recipe.prefix}-{number:07d}"
    for line in lines:
        if line.story == "resent" and line.original:
            line.row = dict(line.original.row)  # the same event delivered twice: the id too
    if file.flaws:
        _spoil(recipe, lines, rng, labelled=not file.without)
    return lines


def _record(recipe: Recipe, file: File, phrases: Mapping[str, Any], rng: random.Random) -> Row:
    """One record without an id yet; most arrive in working hours."""
    when = file.first + timedelta(days=rng.randrange(file.days), seconds=int(rng.triangular(21_600, 79_200, 39_600)))
    language = weighted(rng, recipe.languages)
    content = recipe.write(World(rng, phrases, language, when, file.drifted))
    kept = {name: value for name, value in content.items() if name not in file.without}
    return {"id": "", "received": when.isoformat(), "language": language, **kept}


def _again(recipe: Recipe, original: Line, story: str, rng: random.Random) -> Line:
    """The same record once more, some minutes later; a near-duplicate has one small change in its text."""
    row = json.loads(json.dumps(original.row))
    row["received"] = (datetime.fromisoformat(row["received"]) + timedelta(seconds=rng.randint(60, 3000))).isoformat()
    if story == "near_duplicate":
        put(recipe.text, lambda text: text + rng.choice(("!", "!!", " ..", "？", " .")))(row)
    return Line(row, story, original)


def _spoil(recipe: Recipe, lines: list[Line], rng: random.Random, labelled: bool) -> None:
    """Spoil a few plain lines in each way; without answers, only the text can be wrong."""
    origins = {id(line.original) for line in lines}
    plain = [line for line in lines[len(lines) // 10 :] if not line.story and id(line) not in origins]
    names = [name for name in (*recipe.flaws, *ANY_PROCESS) if labelled or name == "text_empty"]
    count = max(1, round(len(lines) * FLAW_SHARE))
    chosen = iter(rng.sample(plain, count * len(names)))
    for name in names:
        for line in (next(chosen) for _ in range(count)):
            line.story = name
            if name in recipe.flaws:
                recipe.flaws[name][1](line.row)
            elif name == "id_taken":
                line.row["id"] = rng.choice(lines[: len(lines) // 10]).row["id"]


def story_of(recipe: Recipe, lines: Iterable[Line]) -> dict[str, Any]:
    """What was done to which lines (from 1), and what becomes of them."""
    story: dict[str, Any] = {}
    for number, line in enumerate(lines, 1):
        if line.story:
            expected = ANY_PROCESS.get(line.story) or recipe.flaws.get(line.story, ("accepted",))[0]
            story.setdefault(line.story, {"expected": expected, "lines": []})["lines"].append(number)
    return story


def _readable(stories: Mapping[str, Mapping[str, Any]]) -> str:
    """JSON with one line for each story."""
    files = [
        f'"{file}": {{\n  ' + ",\n  ".join(f'"{name}": {json.dumps(told)}' for name, told in sorted(story.items())) + "\n}"
        for file, story in stories.items()
    ]
    return "{" + ",\n".join(files) + "}\n"


def generate(process: str, out: Path, rows: int | None = None, seed: int = 7) -> dict[str, int]:
    """Write the files of one process below `out` and return how many lines each has.

    Args:
        rows: lines of each file, instead of its own number.
    """
    recipe, phrases = RECIPES[process], tomllib.loads((HERE / "phrases" / f"{process}.toml").read_text(encoding="utf-8"))
    folder, counts, stories = out / process, {}, {}
    folder.mkdir(parents=True, exist_ok=True)
    for file in recipe.files:
        lines = make_lines(recipe, file, phrases, rows or file.rows, random.Random(f"{seed}/{process}/{file.name}"))  # noqa: S311
        (folder / file.name).write_text("".join(line.text() + "\n" for line in lines), encoding="utf-8", newline="\n")
        counts[file.name], stories[file.name] = len(lines), story_of(recipe, lines)
    (folder / "flaws.json").write_text(_readable(stories), encoding="utf-8", newline="\n")
    return counts


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write the shipped processes' records.")
    parser.add_argument("process", nargs="*", help=f"of {', '.join(RECIPES)}; all when none is named")
    parser.add_argument("--rows", type=int, help="lines of each file, instead of its own number (at least 100)")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=HERE / "processes", help="folder that holds a folder for each process")
    asked = parser.parse_args()
    unknown = [name for name in asked.process if name not in RECIPES]
    if unknown or (asked.rows is not None and asked.rows < 100):
        parser.error(f"no process {', '.join(unknown)}; there are: {', '.join(RECIPES)}" if unknown else "--rows must be at least 100")
    for process in asked.process or RECIPES:
        for name, count in generate(process, asked.out, asked.rows, asked.seed).items():
            print(f"{asked.out / process / name}: {count} lines")


if __name__ == "__main__":
    main()
