"""Console: what the command line prints. Says what was done, gives the values back, and the next command ready to copy."""

import logging
import os
import shlex
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infra.orphans import end_orphans, own_servers
from infra.settings import settings
from infra.store import Conflict
from infra.threads import calm_openmp
from tasks.declaration import DeclarationError

if TYPE_CHECKING:
    from flows.serve import Applied
    from flows.turns import Skipped
    from tasks.approvals import Standing
    from tasks.artifacts import Artifact
    from tasks.backfill import Filled
    from tasks.explaining import Link
    from tasks.publishing import Outcome

__all__ = [
    "NOT_RELEASED",
    "err",
    "escape",
    "figure",
    "mebibytes",
    "minute",
    "next_command",
    "out",
    "quiet_libraries",
    "show_arrivals",
    "show_batches",
    "show_chain",
    "show_deployments",
    "show_drift",
    "show_filled",
    "show_search",
    "show_standings",
    "show_verdict",
    "show_why",
    "told",
    "worked",
]

T = TypeVar("T")

NOT_RELEASED = ("refused", "rejected")  # what became of a model, with exit status 1

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

QUIET = {
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # a first start migrates a database
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "DO_NOT_TRACK": "1",
}


def quiet_libraries() -> None:
    """Before any heavy import: libraries keep still, stages say one line each. What the environment says already, stays."""
    calm_openmp()
    end_orphans()
    own_servers()
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", module=r"(?!flows|tasks|infra)")
    logger = logging.getLogger("tasks")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(_Lines())


class _Lines(logging.Handler):
    """A log record as one calm line."""

    def emit(self, record: logging.LogRecord) -> None:
        style = "red" if record.levelno >= logging.WARNING else "dim"
        out.print(f"  [{style}]{escape(record.getMessage())}[/]", soft_wrap=True)


@contextmanager
def told(status: int) -> Iterator[None]:
    """What a user can cause is one message and a status; CLERKFLOW_TRACEBACK=1 shows where it was raised."""
    try:
        yield
    except (DeclarationError, ValueError, OSError, Conflict) as error:
        if os.environ.get("CLERKFLOW_TRACEBACK"):
            raise
        err.print(f"[bold red]clerkflow:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(status)


def worked(found: "T | Skipped") -> "T":
    """What a flow gives that did its work; one that left it to another run says so, and the command ends well."""
    from flows.turns import Skipped

    if isinstance(found, Skipped):
        out.print(escape(found.told), soft_wrap=True)
        raise typer.Exit(0)
    return found


def next_command(command: str) -> None:
    """The next command, ready to copy, on its own line."""
    prefix = "" if Path(sys.argv[0]).name == "clerkflow" and ".venv" not in sys.argv[0] else ".venv/bin/"
    store = os.environ.get("CLERKFLOW_STORE", "")
    named = f"CLERKFLOW_STORE={shlex.quote(store)} " if store and "://" not in store else ""  # a bucket's keys are in the environment too
    out.print(f"\nnext: [bold]{escape(named + prefix + command)}[/]", soft_wrap=True)


def show_search(found: "Artifact", process: str) -> None:
    """What a search found, as lines for process.yaml."""
    from tasks.spaces import lines_of

    best, declared = found.facts["best"], found.facts["declared"]
    before = "" if declared is None else f", {declared:.4f} as declared"
    out.print(f"{process}: {found.facts['trials']} trials, validation loss {best['loss']:.4f}{before}")
    out.print(f"plots: {settings().store.rstrip('/')}/{found.prefix}page.html", soft_wrap=True)
    if best["loss"] == declared:
        out.print("nothing is better than what is declared")
        return
    out.print(f"for process.yaml:\n{lines_of(best)}", end="")
    next_command(f"clerkflow train {process}")


def show_verdict(verdict: "Outcome", process: str) -> None:
    """Every rule with its measure, then what became of the model."""
    table = Table(title=f"gate of {process}", title_justify="left")
    for column in ("rule", "measured", "holds", "reason"):
        table.add_column(column, justify="right" if column == "measured" else "left")
    for result in verdict.results:
        table.add_row(
            escape(result.rule), figure(result.measure), "[green]yes[/]" if result.passed else "[red]no[/]", escape(result.reason)
        )
    out.print(table)
    if verdict.became == "published":
        out.print(f"{process}: passed and published")
        next_command(f"clerkflow models {process}")
    elif verdict.became == "tried":
        out.print(f"{process}: would pass; this was a dry run, so nothing was published")
    elif verdict.became == "waiting":
        out.print(f"{process}: passed; the champion stays until request {verdict.request} is approved")
        next_command(f"clerkflow approve {process} {verdict.request} --as NAME --reason '…'")
    elif verdict.became == "rejected":
        out.print(f"{process}: passed, but request {verdict.request} for this very model was [red]rejected[/]; the champion stays")
        next_command(f"clerkflow approvals {process}")
    else:
        out.print(f"{process}: [red]refused[/]; nothing was published, whoever was champion stays")
        next_command(f"clerkflow models {process}")


def show_batches(batches: Sequence["Artifact"], process: str) -> None:
    """What each batch did with its records, and where its files are."""
    from infra.store import open_store
    from tasks.batches import accounted, delivered, read_batch

    store = open_store()
    for batch in batches:
        known = f"; the model was asked about {batch.facts['asked']:,}" if "asked" in batch.facts else ""
        out.print(f"{process}: {accounted(batch)}{known}")
        for key in (batch.prefix, *delivered(store, batch)):
            out.print(f"  {store.address(key)}", soft_wrap=True)
        if reasons := read_batch(store, f"{batch.prefix}manifest.json").reasons:
            counts = ", ".join(f"{code} {count:,}" for code, count in reasons.items())
            out.print(f"  dead letters: {counts}; dead_letters.jsonl says where each stood, and why", soft_wrap=True)
    asked = (batch.facts for batch in batches if "asked" in batch.facts)  # people's words are asked nobody again
    if lost := next((facts["batch"] for facts in asked if facts["dead"] > facts.get("repeated", 0)), None):
        out.print("\nwhen the source or the model is mended, what is dead can be asked about again")
        next_command(f"clerkflow replay {process} {lost}")
    if not batches:
        out.print(f"{process}: nothing waits in the inbox; name a file with --input, or put one below {store.address(process + '/inbox')}")
    else:
        next_command(f"clerkflow monitor {process}")


def show_drift(drift: "Artifact", process: str) -> None:
    """Each column's score against its threshold, the verdict, and the reports."""
    from infra.store import open_store
    from tasks.artifacts import read_json

    store = open_store()
    report = read_json(store, drift, "drift.json")
    if report["columns"]:
        out.print(columns_table(f"drift of {process}", report["columns"]))
    if report["audit"]:
        out.print(f"{process}: {escape(report['audit']['told'])}")
    verdict = "[red]drifted[/]" if report["drifted"] else "stable" if report["columns"] else "not compared"
    out.print(f"{process}: {verdict}: {escape(report['why'])}")
    out.print(f"  {store.address(drift.prefix + 'evidently.html')}", soft_wrap=True)


def columns_table(title: str, columns: Mapping[str, Mapping[str, Any]]) -> Table:
    """A table of drift scores, one row a column."""
    table = Table(title=title, title_justify="left")
    for heading in ("column", "method", "score", "threshold", "drifted"):
        table.add_column(heading, justify="right" if heading in ("score", "threshold") else "left")
    for name, found in columns.items():
        drifted = "[red]yes[/]" if found["drifted"] else "no"
        table.add_row(escape(name), escape(str(found["method"])), figure(found["score"]), figure(found["threshold"]), drifted)
    return table


MANY = 12  # reasons that a table shows of one stage
SHOWN = 2_000  # characters of a value in a table
STATES = {"waiting": "yellow", "approved": "green", "rejected": "red", "damaged": "red"}


def show_standings(found: Sequence["Standing"], process: str) -> None:
    """Requests for approval and how they stand, the newest last."""
    table = Table(title=f"approvals of {process}", title_justify="left")
    for heading in ("request", "state", "who may decide", "until", "instead of", "decided"):
        table.add_column(heading, no_wrap=heading in ("request", "state"))
    for each in found:
        request, made = each.request, each.decision
        state = f"[{STATES.get(each.state, 'dim')}]{each.state}[/]" + (
            ", not released yet" if each.state == "approved" and each.open else ""
        )
        asked = (", ".join(request.by), minute(request.expires), request.instead_of or "none") if request else ("", "", "")
        decided = f"{made.name} ({made.role}) {minute(made.decided)}: {made.reason}" if made else each.fault
        table.add_row(each.id, state, *map(escape, asked), escape(decided))
    out.print(table) if found else out.print(f"{process}: nothing ever waited for approval")
    if waiting := [each.id for each in found if each.state == "waiting"]:
        next_command(f"clerkflow approve {process} {waiting[-1]} --as NAME --reason '…'")


def show_filled(filled: Sequence["Filled"], process: str) -> None:
    """What became of each past day."""
    from tasks.batches import COUNTS

    table = Table(title=f"backfill of {process}", title_justify="left")
    numbers = ("files", "reused", *COUNTS)
    columns = ("day", "version", *numbers) + (("drift",) if any(day.why for day in filled) else ())
    for heading in columns:
        table.add_column(
            heading, justify="left" if heading in ("day", "version", "drift") else "right", no_wrap=heading in ("day", "version")
        )
    for day in filled:
        counts = (f"{getattr(day, name):,}" for name in numbers)
        table.add_row(day.day, day.version, *counts, *([escape(day.why)] if "drift" in columns else []))
    out.print(table) if filled else out.print(f"{process}: no file of the inbox belongs to these days")


def show_tidied(counts: Mapping[str, Mapping[str, int]], process: str, deleted: bool) -> None:
    """What of each kind went, or would go."""
    out.print(f"{process}: {'removed' if deleted else 'would remove'}")
    for kind, numbers in counts.items():
        out.print(f"  {kind}: {numbers['objects']} objects, {mebibytes(numbers['bytes'])}")


def show_deployments(applied: Sequence["Applied"], pool: str) -> None:
    """What became of each deployment."""
    for one in applied:
        out.print(f"{one.change:8} {escape(one.name)}")
    next_command(f"prefect worker start --pool {pool} --type process")


def show_arrivals(process: str, found: Mapping[str, Any] | str) -> None:
    """What became of everything that arrived; or the words of an alarm."""
    if isinstance(found, str):
        err.print(f"[bold red]alarm:[/] {escape(found)}", soft_wrap=True)
        return
    counts = ", ".join(f"{value} {name}" for name, value in found.items() if isinstance(value, int))
    out.print(f"{process}: {counts}; started: {', '.join(found['started']) or 'nothing'}")


def show_why(record: Mapping[str, Any], stories: Mapping[str, Mapping[str, Any]], stages: Sequence[str]) -> None:
    """What a run did at each stage, and why.

    Args:
        stages: that such a run comes to, in their order.
    """
    out.print(f"{record['declaration']['name']} {record['flow']} {record['run']}: {record.get('outcome', 'not finished')}", soft_wrap=True)
    table = Table()
    for heading in ("stage", "was", "seconds", "why"):
        table.add_column(heading, no_wrap=heading != "why", overflow="fold", justify="right" if heading == "seconds" else "left")
    last = max((place for place, stage in enumerate(stages) if stage in stories), default=-1)
    unreached = "the run ended before, or in it" if "outcome" in record else "the run is not there, or died"
    for place, stage in enumerate(dict.fromkeys([*stages, *stories])):
        story = stories.get(stage)
        if not story and place < last:
            table.add_row(escape(stage), "left out", "", "nothing is declared for it")
            continue
        was = "failed" if story and "failed" in story else "reused" if story and story["reused"] else "done" if story else "not reached"
        seconds = f"{story['seconds']:.1f}" if story and "seconds" in story else ""
        lines = list(story["why"]) if story else [unreached]
        lines = lines if len(lines) <= MANY else [*lines[:MANY], f"and {len(lines) - MANY} more"]
        table.add_row(escape(stage), was, seconds, escape("\n".join(lines)))
    out.print(table)


def show_chain(chain: Sequence["Link"]) -> None:
    """All that led to a record's output, from what went in to what came out."""
    table = Table(show_header=False)
    for style in ("bold", "dim", ""):
        table.add_column(style=style, overflow="fold", no_wrap=style == "bold")
    for link in chain:
        told = {name: value for name, value in link.facts.items() if value not in (None, "")}
        for place, (name, value) in enumerate(told.items()):
            table.add_row("" if place else escape(link.title), escape(name), escape(_beginning(figure(value))))
        table.add_section()
    out.print(table)


def _beginning(text: str) -> str:
    """What of a text is shown where it stands among others."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(text):,} characters in all; --json shows them)"


def minute(time: str) -> str:
    """2026-11-24T08:59:46Z -> 2026-11-24 08:59"""
    return time[:16].replace("T", " ")


def mebibytes(size: int) -> str:
    """Of bytes."""
    return f"{size / 2**20:.1f} MiB"


def figure(value: Any) -> str:
    """A measure, or "–" where there is none."""
    return f"{value:.4f}" if isinstance(value, float) else "–" if value is None else str(value)
