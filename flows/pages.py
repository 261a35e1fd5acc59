"""Pages: a stage's artifact -> what a process owner sees of it in the Prefect UI; tables and links, never row values."""

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.states import Completed

from infra.reports import link_to
from infra.settings import settings
from infra.store import open_store
from tasks.aliases import Alias
from tasks.approvals import Standing
from tasks.artifacts import LISTING, Artifact, listing_of, read_json
from tasks.backfill import Filled
from tasks.gate import Verdict
from tasks.process import Process
from tasks.publishing import Outcome
from tasks.runs import Run

REFUSED = "refused: the champion stays"


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
    reasons = [{"expectation": name, "records": count} for name, count in Counter(report["by_expectation"]).most_common()]
    if reasons:
        create_table_artifact(
            table=reasons, key=_key(run, "quarantined"), description=f"{report['quarantined']} records in quarantine, and why"
        )
    _link(validated.facts["data_docs"].replace(LISTING, "index.html"), run, "data-docs", "Data Docs of Great Expectations")
    _link(
        validated.facts["quarantine"].replace(LISTING, "rows.jsonl"),
        run,
        "quarantine",
        "Records in quarantine, for those who may read the store",
    )


def show_compression(model: Artifact, run: Run) -> None:
    """What was tried to make the model smaller or faster, and whether its gate let it pass; nothing where nothing is declared."""
    if run.process.compression is None:
        return
    story = read_json(open_store(), model, "compression.json")
    rows = [
        {
            "compressed": name,
            "weights": f"{story['parameters_before']:,} → {tried['parameters']:,}",
            **{metric: f"{_figure(before)} → {_figure(after)}" for metric, (before, after) in tried["measures"].items()},
            "taken": "yes" if tried["passed"] else "; ".join(tried["reasons"]),
        }
        for name, tried in story["tried"].items()
    ]
    create_table_artifact(table=rows, key=_key(run, "compression"), description="Validation split; the tuned model → the compressed one")


def show_evaluation(evaluation: Artifact, run: Run) -> None:
    """Measures of the model, the champion and the baselines, side by side."""
    metrics = read_json(open_store(), evaluation, "metrics.json")
    columns = {"model": metrics["model"], "champion": metrics["champion"] or {}, **metrics["baselines"]}
    rows = [
        {"metric": name, **{column: _figure(values.get(name)) for column, values in columns.items()}} for name in sorted(metrics["model"])
    ]
    create_table_artifact(table=rows, key=_key(run, "metrics"), description="Test split; every column on the same samples")
    _show_plots(evaluation, run)
    _link(evaluation.prefix + "report.html", run, "report", "The evaluation, in full")


def _show_plots(evaluation: Artifact, run: Run) -> None:
    """The plots, within the page: it needs no network, and nobody's leave to open a bucket."""
    store = open_store()
    names = [name for name in listing_of(store, evaluation) if name.startswith("plots/")]
    pictures = {name: base64.b64encode(store.read(evaluation.prefix + name)[0]).decode() for name in names}
    lines = [f"![{Path(name).stem.replace('_', ' ')}](data:image/png;base64,{data})\n" for name, data in pictures.items()]
    if lines:
        create_markdown_artifact("\n".join(lines), key=_key(run, "plots"), description=f"{run.process.name}: {len(lines)} plots")


def show_search(found: Artifact, run: Run) -> None:
    """The best settings, as lines for process.yaml, and where the study's plots are."""
    lines = open_store().read(f"{found.prefix}best.yaml")[0].decode()
    losses = f"validation loss {_figure(found.facts['best']['loss'])}, as declared {_figure(found.facts['declared'])}"
    create_markdown_artifact(f"```yaml\n{lines}```", key=_key(run, "search"), description=f"{found.facts['trials']} trials: {losses}")
    _link(found.prefix + "page.html", run, "study", "The study, with its plots")


def show_verdict(verdict: Verdict, run: Run) -> None:
    """Every rule of the gate with its measure."""
    word = ("passed: a person decides" if run.process.gate.approval else "passed: the model is published") if verdict.passed else REFUSED
    lines = [f"# Gate {word}", "", "| rule | measured | holds | reason |", "|---|---|---|---|"]
    lines += [f"| {r.rule} | {_figure(r.measure)} | {'yes' if r.passed else '**no**'} | {r.reason} |" for r in verdict.results]
    create_markdown_artifact("\n".join(lines), key=_key(run, "verdict"), description=f"{run.process.name}: {word}")


def show_request(release: Alias | Standing | None, run: Run) -> None:
    """What waits for a person's word, who may give it, until when, and how; nothing when nothing waits."""
    if not isinstance(release, Standing) or not (request := release.request):
        return
    against = f"`{request.instead_of}`" if request.instead_of else "no champion"
    command = f"{run.process.name} {request.id} --as NAME --reason '…'"
    lines = [
        f"# {request.id} {'waits for approval' if release.state == 'waiting' else f'was {release.state}'}",
        "",
        f"Version `{request.version}`, root `{request.root}`, judged against {against}.",
        f"{' or '.join(request.by)} may decide until {request.expires[:16]}Z, with the flow `decide` or with",
        "",
        f"    clerkflow approve {command}",
        f"    clerkflow reject {command}",
        "",
        *(f"- {rule}" for rule in request.rules),
    ]
    create_markdown_artifact("\n".join(lines), key=_key(run, "approval"), description=f"{run.process.name}: {release.state}")


def show_standings(found: Sequence[Standing], process: str) -> None:
    """Every request and how it stands."""
    rows = [
        {
            "request": each.id,
            "state": each.state,
            "expires": each.request.expires[:16] if each.request else "",
            "decided by": f"{each.decision.name} ({each.decision.role})" if each.decision else "",
        }
        for each in found
    ]
    create_table_artifact(table=rows, key=f"{process.replace('_', '-')}-approvals", description=f"{process}: requests for approval")


def show_backfill(filled: Sequence[Filled], failed: Mapping[str, Exception], run: Run) -> None:
    """What became of each day; of a day that failed only the kind of error, for its text may quote a record."""
    rows = [each.model_dump(mode="json") for each in filled]
    rows += [{"day": day, "why": f"failed: {type(error).__name__}"} for day, error in failed.items()]
    create_table_artifact(table=rows, key=_key(run, "backfill"), description=f"{len(filled)} days done, {len(failed)} failed")


def show_batches(batches: list[Artifact], run: Run) -> None:
    """What each batch did with its records."""
    rows = [{"rows": batch.rows} | batch.facts for batch in batches]
    create_table_artifact(table=rows, key=_key(run, "batches"), description=f"{len(batches)} batches scored")


def show_drift(drift: Artifact, run: Run) -> None:
    """Which columns drifted, and by how much; and what people found among accepted answers."""
    report = read_json(open_store(), drift, "drift.json")
    rows = [{"column": name, **values} for name, values in report["columns"].items()]
    create_table_artifact(table=rows, key=_key(run, "drift"), description=report["why"])
    if audit := report["audit"]:
        create_table_artifact(table=[audit], key=_key(run, "audit"), description=audit["told"])
    _link(drift.prefix + "evidently.html", run, "evidently", "Evidently's report")


def show_arrivals(counts: dict[str, Any], process: str) -> None:
    """What became of every version of every object of the inbox, and which flows were started for what waits."""
    rows = [{"state": name, "objects": value} for name, value in counts.items() if isinstance(value, int)]
    started = ", ".join(counts["started"]) or "nothing"
    create_table_artifact(table=rows, key=f"{process.replace('_', '-')}-arrivals", description=f"started: {started}")


def show_watch(marked: Sequence[str], again: Sequence[str], given_up: Sequence[str], process: str) -> None:
    """Runs that died, and what became of them; nothing when none did."""
    named = {"marked as crashed": marked, "tried again": again, "given up": given_up}
    rows = [{"run": name, "what": what} for what, names in named.items() for name in names]
    if rows:
        create_table_artifact(table=rows, key=f"{process.replace('_', '-')}-watchdog", description=f"{process}: runs that died")


def show_tidied(counts: Mapping[str, Mapping[str, int]], dry_run: bool, process: Process) -> None:
    """What was removed, or would be."""
    rows = [{"kind": kind, **numbers} for kind, numbers in counts.items()]
    total = sum(numbers["bytes"] for numbers in counts.values())
    description = f"{process.name}: {total / 1e6:.1f} MB {'would be' if dry_run else 'were'} removed"
    create_table_artifact(table=rows, key=f"{process.name.replace('_', '-')}-tidied", description=description)


def told_as_state(outcome: Outcome, run: Run) -> Outcome:
    """The outcome as a flow's return: what is not published ends as Completed, named Refused, AwaitingApproval or Rejected, so the UI
    shows it; callers get the outcome."""
    if outcome.became in ("published", "tried"):
        return outcome
    broken = "; ".join(result.rule for result in outcome.results if not result.passed)
    name, message = {
        "refused": ("Refused", f"does not hold: {broken}"),
        "waiting": ("AwaitingApproval", f"clerkflow approve {run.process.name} {outcome.request} --as NAME --reason …"),
        "rejected": ("Rejected", f"request {outcome.request} was rejected; the champion stays"),
    }[outcome.became]
    return cast(Outcome, Completed(name=name, message=message, data=outcome))  # Prefect unwraps it


def _link(key: str, run: Run, subject: str, description: str) -> None:
    """A link to a stored page, behind the server of reports where there is one; else its text is the address to copy, as browsers do not
    follow a page's link to a file."""
    address = open_store().address(key)
    shown = address if "://" in address else f"file://{address}"
    if (base := settings().reports_url) and key.endswith(".html"):
        shown = link_to(key, base)
        description += "; asks for the password of this page"
    create_link_artifact(link=shown, link_text=address, key=_key(run, subject), description=description)


def _figure(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)
