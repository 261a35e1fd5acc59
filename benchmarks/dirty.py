"""Faulty files through ingestion and validation, scored line by line: python -m benchmarks.dirty [folder of banking77/ and german_credit/].

Every fault of the manifests must be treated as they say, every clean line must come through equal to its source, nothing may be
lost. The folder is the argument, else CLERKFLOW_DIRTY_DATA, else ../shared/data beside the checkout.
"""

import json
import os
import re
import shutil
import sys
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from infra.settings import ROOT
from infra.store import open_store
from tasks.artifacts import fetch_file
from tasks.cleaning import strip_control
from tasks.declaration import load_process
from tasks.ingestion import ingest
from tasks.prompts import clean_value
from tasks.runs import begin
from tasks.validation import validate

SETS = {"banking77": "dirty.jsonl", "german_credit": "dirty.csv"}


def compared(value: Any) -> Any:
    """The manifests' comparison: NFKC, nothing invisible, blanks folded."""
    if isinstance(value, dict):
        return {name: compared(inner) for name, inner in value.items()}
    return " ".join(unicodedata.normalize("NFKC", strip_control(value)).split()) if isinstance(value, str) else value


def outcome(name: str, data: Path) -> tuple[dict[int, dict[str, Any]], dict[int, dict[str, Any]], dict[str, Any]]:
    """Valid records and quarantined rows of one dirty file by line, the valid ones cleaned as the model would see them; and the report."""
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["CLERKFLOW_STORE"] = f"{scratch}/store"
        folder = Path(scratch) / f"{name}_dirty"
        shutil.copytree(ROOT / "benchmarks" / "processes" / folder.name, folder)
        shutil.copyfile(data / SETS[name], folder / SETS[name])
        process = load_process(str(folder), Path(scratch))
        run = begin(process, "train")
        raw = ingest.fn(run)
        validated = validate.fn(raw, run)
        store = open_store()
        lines = fetch_file(store, validated, "records.jsonl", Path(scratch)).read_text(encoding="utf-8").splitlines()
        report = json.loads(fetch_file(store, validated, "report.json", Path(scratch)).read_text(encoding="utf-8"))
        valid = {row["line"]: row | {"values": clean_value(process, row["values"])} for row in map(json.loads, lines)}
        rows, _ = store.read(f"{run.prefix}/quarantine/rows.jsonl")
        refused = {row["line"]: row for row in map(json.loads, rows.decode().splitlines())}
    return valid, refused, report


def flat(record: dict[str, Any]) -> dict[str, Any]:
    """A manifest's or a source's record as the values of a declaration: the inputs of a table are its columns."""
    inner = record["input"]
    return {**inner, "class": record["output"]} if isinstance(inner, dict) else {"input": inner, "output": record["output"]}


def as_it_came(entry: dict[str, Any], sources: dict[str, Any]) -> dict[str, Any] | None:
    """The record that a line with no repair is to give: what stands in it, where that is JSON; else its source."""
    try:
        return json.loads(entry["bytes"])  # type: ignore[no-any-return]
    except ValueError:
        source = sources.get(entry["source_id"])
        return source | {"id": "*"} if source and entry["fault"] == "csv_formula_in_id" else source


def judge(entry: dict[str, Any], valid: dict[int, dict[str, Any]], refused: dict[int, dict[str, Any]], sources: dict[str, Any]) -> str:
    """What was done with a faulty line, "wrong" with the reason when the manifest does not allow it."""
    line, welcome = entry["line"], {entry["expected"], *entry.get("also_ok", [])}
    if line in refused:
        return "quarantine" if "quarantine" in welcome else "wrong: quarantined"
    if line not in valid:
        return "repair" if "repair" in welcome and "repaired_record" not in entry else "wrong: lost"
    record = valid[line]
    if "\ufffd" in json.dumps(record["values"], ensure_ascii=False):
        return "wrong: mojibake kept as data"
    wanted = entry.get("repaired_record") or as_it_came(entry, sources)
    right = wanted is None or (compared(record["values"]) == compared(flat(wanted)) and wanted["id"] in ("*", record["id"]))
    if not right:
        return "wrong: another record than it should be"
    mended = "repair" in welcome and ("repaired_record" in entry or record["repairs"])
    return "repair" if mended else "accept" if "accept" in welcome else "wrong: accepted"


def twins_of(manifest: dict[str, Any], fault: str) -> dict[int, int]:
    """Faulty line -> the clean line that has the same id."""
    lines = {source: int(line) for line, source in manifest["clean_line_to_source_id"].items()}
    return {entry["line"]: lines[entry["source_id"]] for entry in manifest["entries"] if entry["fault"] == fault}


def verdicts(name: str, data: Path) -> Iterator[tuple[str, str, str]]:
    """Kind of line, what is allowed, and what was done, for every line of a dirty file."""
    valid, refused, report = outcome(name, data)
    manifest, content = json.loads((data / "dirty_manifest.json").read_text(encoding="utf-8")), (data / SETS[name]).read_bytes()
    files = [line for file in ("train.jsonl", "test.jsonl") for line in (data / file).read_text(encoding="utf-8").splitlines()]
    sources = {row["id"]: row for row in map(json.loads, files)}
    equal = twins_of(manifest, "duplicate_record_exact")
    conflicting = set(twins_of(manifest, "duplicate_id_conflicting_output").values())
    for entry in manifest["entries"]:
        entry["bytes"] = content[entry["byte_start"] : entry["byte_end"]]
        line, allowed = entry["line"], "/".join([entry["expected"], *entry.get("also_ok", [])])
        one_kept = line in equal and (line in valid) != (equal[line] in valid)
        yield entry["fault"], allowed, "one kept, one refused" if one_kept else judge(entry, valid, refused, sources)
    for line, source in ((int(line), source) for line, source in manifest["clean_line_to_source_id"].items()):
        record = valid.get(line)
        right = record is not None and record["id"] == source and compared(record["values"]) == compared(flat(sources[source]))
        twin = line in refused and (line in conflicting or line in equal.values())
        yield "clean line", "accept", "accept" if right else "one of two with its id" if twin else "wrong: refused or changed"
    whole = report["rows"] == report["valid"] + report["quarantined"] == len(valid) + len(refused)
    yield "all rows", "add up", "add up" if whole else "wrong: they do not"


def main() -> int:
    """Score both files; 1 when a line is lost or wrongly treated, 2 when the data are not there."""
    console = Console()
    console.width = max(console.width, 120)  # a table that is cut says nothing
    where = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("CLERKFLOW_DIRTY_DATA") or ROOT.parent / "shared" / "data"
    missing = [str(Path(where) / name / file) for name, file in SETS.items() if not (Path(where) / name / file).is_file()]
    if missing:
        console.print(f"missing: {', '.join(missing)}; give the folder that holds banking77/ and german_credit/ as argument")
        return 2
    table = Table("file", "line", "allowed", "done", "lines", title="Faulty files through ingestion and validation")
    right = total = 0
    for name in SETS:
        for (fault, allowed, done), count in Counter(verdicts(name, Path(where) / name)).items():
            wrong = bool(re.match("wrong", done))
            table.add_row(name, fault, allowed, f"[red]{done}" if wrong else done, str(count))
            total, right = total + count, right + (0 if wrong else count)
    console.print(table)
    console.print(f"{right} of {total} lines treated as the manifests say")
    return 0 if right == total else 1


if __name__ == "__main__":
    sys.exit(main())
