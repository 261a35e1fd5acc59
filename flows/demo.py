"""Demo: the whole life of two processes in a quarter of an hour, on the embedded default: a local store, no server to start."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.settings import ROOT, settings

if TYPE_CHECKING:
    from rich.table import Table

    from tasks.artifacts import Artifact
    from tasks.gate import Verdict

FOLDER = ROOT / "data" / "demo"
PROCESSES = ("ticket_routing", "expense_approval")
DRIFTING = PROCESSES[0]


def demo() -> None:
    """Train two processes, score a batch, let the world change, catch it, train again, and show what became of it."""
    _own_store()
    from flows import console
    from flows.monitor import monitor
    from flows.score import score
    from flows.train import train

    records = settings().processes / DRIFTING
    _chapter(1, "Two processes: records are checked, a small GPT is tuned, judged, and published if its gate lets it pass")
    verdicts = {}
    for process in PROCESSES:
        console.out.print(f"[bold]{process}[/]")
        verdicts[process] = console.worked(train(process))
    console.out.print(figures_table(verdicts))
    _chapter(2, "A batch job: new messages are routed by the champion")
    console.out.print(batch_line(console.worked(score(DRIFTING, str(records / "new.jsonl")))[0]), soft_wrap=True)
    _chapter(3, "The world changes: other products, other words")
    console.out.print(batch_line(console.worked(score(DRIFTING, str(records / "drifted.jsonl")))[0]), soft_wrap=True)
    _arrive(records / "drifted_labelled.jsonl")
    console.out.print(f"  the team labels some of them; they arrive in [bold]{DRIFTING}/inbox/[/]")
    _chapter(4, "Monitoring compares recent records with what the champion was tested on, and trains again if they drifted")
    console.show_drift(console.worked(monitor(DRIFTING)), DRIFTING)
    _chapter(5, "What became of it: the champion and its challenger on the same test records")
    _ending()


def _own_store() -> None:
    """A store of the demo's own, empty at the start; yours is not touched."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    (FOLDER / ".prefect").mkdir(parents=True)
    os.environ["CLERKFLOW_STORE"] = str(FOLDER)
    os.environ["CLERKFLOW_CACHE"] = str(FOLDER / ".cache")
    os.environ.pop("CLERKFLOW_LEDGER_URL", None)  # its ledger lies beside it, where the commands that it names at its end look, too
    for file in FOLDER.parent.glob(f"{FOLDER.name}-answers.sqlite*"):
        file.unlink()
    os.environ["PREFECT_HOME"] = str(FOLDER / ".prefect")
    os.environ.pop("PREFECT_API_URL", None)


def _chapter(number: int, title: str) -> None:
    from flows import console

    console.out.print(f"\n[bold cyan]{number}[/]  [bold]{title}[/]")


def _arrive(file: Path) -> None:
    from infra.store import open_store

    open_store().upload(file, f"{DRIFTING}/inbox/{file.name}")


def figures_table(verdicts: "Mapping[str, Verdict]") -> "Table":
    """Every rule of every gate, one line each."""
    from rich.table import Table

    table = Table(title="gates", title_justify="left")
    for heading in ("process", "rule", "measured", "holds", ""):
        table.add_column(heading, justify="right" if heading == "measured" else "left")
    for process, verdict in verdicts.items():
        for result in verdict.results:
            measure = "–" if result.measure is None else f"{result.measure:.4f}"
            table.add_row(process, result.rule, measure, "[green]yes[/]" if result.passed else "[red]no[/]", result.reason)
    return table


def batch_line(batch: "Artifact") -> str:
    """A batch in a line, whose counts add up, and where its files for each queue are."""
    from infra.store import open_store
    from tasks.batches import accounted, delivered

    return "\n".join(f"  {line}" for line in (accounted(batch), *map(open_store().address, delivered(open_store(), batch))))


def _ending() -> None:
    from flows import console, listing
    from infra.store import open_store
    from tasks.aliases import aliases_of, log_of
    from tasks.registry import versions_of

    store = open_store()
    console.out.print(duel_table(_last_metrics()))
    listing.show_models(versions_of(store, DRIFTING), aliases_of(store, DRIFTING), log_of(store, DRIFTING), DRIFTING)
    console.out.print("\n[bold]reports[/]")
    for key in _reports():
        console.out.print(f"  {store.address(key)}", soft_wrap=True)
    console.out.print("\n[bold]next[/]")
    here = FOLDER.relative_to(ROOT)
    for command in (f"models {DRIFTING}", f"rollback {DRIFTING}", f"check {DRIFTING}"):
        console.out.print(f"  CLERKFLOW_STORE={here} .venv/bin/clerkflow {command}", soft_wrap=True)
    console.out.print("  .venv/bin/clerkflow check order_intake && .venv/bin/clerkflow train order_intake", soft_wrap=True)


def _last_metrics() -> dict[str, Any]:
    """What the newest evaluation of the drifting process measured."""
    from infra.store import open_store

    store = open_store()
    key = max(info.key for info in store.list(f"{DRIFTING}/runs/") if info.key.endswith("/evaluation/metrics.json"))
    found: dict[str, Any] = json.loads(store.read(key)[0])
    return found


def duel_table(metrics: dict[str, Any]) -> "Table":
    """The new model beside the champion it met and the best baseline, measure by measure."""
    from rich.table import Table

    table = Table(title=f"{DRIFTING}, all on the newest test split", title_justify="left")
    columns = {"new model": metrics["model"], "champion before": metrics["champion"] or {}, **metrics["baselines"]}
    for heading in ("metric", *columns):
        table.add_column(heading, justify="left" if heading == "metric" else "right")
    for metric in ("accuracy", "straight_through_rate", "accepted_error", "macro_f1", "perplexity", "ece"):
        table.add_row(metric, *("–" if metric not in values else f"{values[metric]:.4f}" for values in columns.values()))
    return table


def _reports() -> list[str]:
    """The pages worth opening: the newest evaluation, data docs and drift report of the drifting process."""
    from infra.store import open_store

    keys = sorted(info.key for info in open_store().list(f"{DRIFTING}/"))
    endings = ("/evaluation/report.html", "/data_docs/index.html", "/evidently.html")
    return [newest[-1] for ending in endings if (newest := [key for key in keys if key.endswith(ending)])]
