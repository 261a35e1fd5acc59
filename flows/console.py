"""Console: what the command line prints. Says what was done, gives the values back, and the next command ready to copy."""

import logging
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infra.settings import settings
from infra.threads import calm_openmp

if TYPE_CHECKING:
    from tasks.artifacts import Artifact
    from tasks.gate import Verdict
    from tasks.registry import Alias, Manifest

__all__ = ["err", "escape", "next_command", "out", "quiet_libraries", "show_batches", "show_drift", "show_models", "show_verdict"]

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


def next_command(command: str) -> None:
    """The next command, ready to copy, on its own line."""
    prefix = "" if Path(sys.argv[0]).name == "clerkflow" and ".venv" not in sys.argv[0] else ".venv/bin/"
    out.print(f"\nnext: [bold]{prefix}{escape(command)}[/]", soft_wrap=True)


def show_verdict(verdict: "Verdict", process: str) -> None:
    """Every rule with its measure, then what became of the model."""
    table = Table(title=f"gate of {process}", title_justify="left")
    for column in ("rule", "measured", "holds", "reason"):
        table.add_column(column, justify="right" if column == "measured" else "left")
    for result in verdict.results:
        table.add_row(
            escape(result.rule), _figure(result.measure), "[green]yes[/]" if result.passed else "[red]no[/]", escape(result.reason)
        )
    out.print(table)
    if verdict.passed:
        out.print(f"{process}: passed and published")
        next_command(f"clerkflow models {process}")
    else:
        out.print(f"{process}: [red]refused[/]; nothing was published, the champion stays")


def show_batches(batches: Sequence["Artifact"], process: str) -> None:
    """What each batch did with its records, and where its files are."""
    from infra.store import open_store

    store = open_store()
    for batch in batches:
        facts = batch.facts
        out.print(f"{process}: {facts['rows']:,} records in = {facts['done']:,} done + {facts['dead']:,} dead letters")
        out.print(f"  {store.address(batch.prefix)}", soft_wrap=True)
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
    out.print(columns_table(f"drift of {process}", report["columns"]))
    out.print(f"{process}: {'[red]drifted[/]' if report['drifted'] else 'stable'}: {escape(report['why'])}")
    out.print(f"  {store.address(drift.prefix + 'evidently.html')}", soft_wrap=True)


def columns_table(title: str, columns: Mapping[str, Mapping[str, Any]]) -> Table:
    """A table of drift scores, one row a column."""
    table = Table(title=title, title_justify="left")
    for heading in ("column", "method", "score", "threshold", "drifted"):
        table.add_column(heading, justify="right" if heading in ("score", "threshold") else "left")
    for name, found in columns.items():
        drifted = "[red]yes[/]" if found["drifted"] else "no"
        table.add_row(escape(name), escape(str(found["method"])), _figure(found["score"]), _figure(found["threshold"]), drifted)
    return table


def show_models(manifests: Sequence["Manifest"], champion: "Alias | None", process: str) -> None:
    """Published versions, newest first."""
    table = Table(title=f"models of {process}", title_justify="left")
    for heading in ("version", "", "published", "size", "measures", "run"):
        table.add_column(heading)
    for manifest in manifests:
        mark = "[green]champion[/]" if champion and manifest.version == champion.version else ""
        size = f"{sum(file.size for file in manifest.files.values()) / 2**20:.1f} MiB"
        measures = ", ".join(f"{name} {_figure(value)}" for name, value in manifest.metrics.items())
        table.add_row(manifest.version, mark, manifest.created, size, escape(measures), manifest.run)
    out.print(table)
    for entry in (champion.history if champion else [])[-10:]:
        out.print(f"  {entry.since}  {entry.version}  {escape(entry.reason)}", soft_wrap=True)
    if not manifests:
        out.print(f"no version yet in {settings().store}")
        next_command(f"clerkflow train {process}")


def _figure(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "–" if value is None else str(value)
