"""Pages: a stage's artifact -> what a process owner sees of it in the Prefect UI; tables and links, never row values."""

from typing import Any, cast

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.states import Completed

from infra.store import open_store
from tasks.artifacts import LISTING, Artifact, read_json
from tasks.gate import Verdict
from tasks.runs import Run


def _key(run: Run, subject: str) -> str:
    """Artifact keys are lower-case letters, digits and dashes; one key keeps the history of one subject."""
    return f"{run.process.name.replace('_', '-')}-{subject}"


def show_validation(validated: Artifact, run: Run) -> None:
    """Expectations and how many records broke each, and where the quarantine and the Data Docs are."""
    report = read_json(open_store(), validated, "report.json")
    rows = [
        {
            "expectation": item["type"],
            "column": item["kwargs"].get("column", ""),
            "from": item["source"],
            "holds": "yes" if item["success"] else "no",
            "records that broke it": item.get("unexpected", ""),
        }
        for item in report["expectations"]
    ]
    counts = f"{report['rows']} records = {report['valid']} valid + {report['quarantined']} quarantined"
    create_table_artifact(table=rows, key=_key(run, "validation"), description=counts)
    _link(validated.facts["data_docs"].replace(LISTING, "index.html"), run, "data-docs")
    _link(validated.facts["quarantine"].replace(LISTING, "rows.jsonl"), run, "quarantine")


def show_evaluation(evaluation: Artifact, run: Run) -> None:
    """Measures of the model, the champion and the baselines, side by side."""
    metrics = read_json(open_store(), evaluation, "metrics.json")
    columns = {"model": metrics["model"], "champion": metrics["champion"] or {}, **metrics["baselines"]}
    rows = [
        {"metric": name, **{column: _figure(values.get(name)) for column, values in columns.items()}} for name in sorted(metrics["model"])
    ]
    create_table_artifact(table=rows, key=_key(run, "metrics"), description="Test split; every column on the same samples")
    _link(evaluation.prefix + "report.html", run, "report")


def show_verdict(verdict: Verdict, run: Run) -> None:
    """Every rule of the gate with its measure."""
    word = "passed: the model is published" if verdict.passed else "refused: the champion stays"
    lines = [f"# Gate {word}", "", "| rule | measured | holds | reason |", "|---|---|---|---|"]
    lines += [f"| {r.rule} | {_figure(r.measure)} | {'yes' if r.passed else '**no**'} | {r.reason} |" for r in verdict.results]
    create_markdown_artifact("\n".join(lines), key=_key(run, "verdict"), description=f"{run.process.name}: {word}")


def show_batches(batches: list[Artifact], run: Run) -> None:
    """What each batch did with its records."""
    rows = [{"rows": batch.rows} | batch.facts for batch in batches]
    create_table_artifact(table=rows, key=_key(run, "batches"), description=f"{len(batches)} batches scored")


def show_drift(drift: Artifact, run: Run) -> None:
    """Which columns drifted, and by how much."""
    report = read_json(open_store(), drift, "drift.json")
    rows = [{"column": name, **values} for name, values in report["columns"].items()]
    create_table_artifact(table=rows, key=_key(run, "drift"), description=report["why"])
    _link(drift.prefix + "evidently.html", run, "evidently")


def show_arrivals(counts: dict[str, Any], process: str) -> None:
    """What became of every version of every object of the inbox, and which flows were started for what waits."""
    rows = [{"state": name, "objects": value} for name, value in counts.items() if isinstance(value, int)]
    started = ", ".join(counts["started"]) or "nothing"
    create_table_artifact(table=rows, key=f"{process.replace('_', '-')}-arrivals", description=f"started: {started}")


def told_as_state(verdict: Verdict) -> Verdict:
    """The verdict as a flow's return: a refusal ends as Completed, named Refused, so the UI shows it; callers get the verdict."""
    if verdict.passed:
        return verdict
    broken = "; ".join(result.rule for result in verdict.results if not result.passed)
    return cast(Verdict, Completed(name="Refused", message=f"does not hold: {broken}", data=verdict))  # Prefect unwraps it


def _link(key: str, run: Run, subject: str) -> None:
    """A link to a stored file; browsers do not follow a page's link to a file, so its text is the address to copy."""
    address = open_store().address(key)
    shown = address if "://" in address else f"file://{address}"
    create_link_artifact(link=shown, link_text=address, key=_key(run, subject))


def _figure(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)
