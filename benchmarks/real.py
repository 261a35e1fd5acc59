"""The whole train flow on the public data sets of ../shared/data: measure, baseline, published figure and minutes in one table.

Run: make bench-real          (or: .venv/bin/python -m benchmarks.real banking77)
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WIDTH = 150  # a table that is cut says nothing
HERE = Path(__file__).parent
SHARED = HERE.parent.parent / "shared" / "data"

# Published figures as ../shared/data/<set>/README.md gives them; BLEU there is another tokenisation than sacrebleu's.
SETS: dict[str, tuple[tuple[str, str], ...]] = {
    "banking77": (("accuracy", "0.937 BERT-large"), ("macro_f1", "–")),
    "restaurant8k": (("field_f1", "0.96 Span-ConveRT"), ("exact_match", "–")),
    "e2e_nlg": (("bleu", "65.9 TGen"), ("chrf", "–"), ("facts_stated", "–")),
}


def main(names: list[str]) -> int:
    """Train each set in a store of its own, then print the table; 1 when a run was not whole."""
    from flows import console

    console.out.width = max(console.out.width, WIDTH)
    with tempfile.TemporaryDirectory(prefix="clerkflow-bench-") as folder:
        os.environ |= {"CLERKFLOW_STORE": f"{folder}/store", "CLERKFLOW_CACHE": f"{folder}/cache", "PREFECT_HOME": f"{folder}/prefect"}
        console.quiet_libraries()
        rows = [row for name in names for row in measure(name)]
    console.out.print(table_of(rows))
    return 0 if rows else 1


def measure(name: str) -> list[dict[str, Any]]:
    """Train one set through the flow and read what its evaluation says."""
    from flows import console
    from flows.train import train
    from infra.store import open_store
    from tasks.artifacts import Artifact, read_json

    console.out.print(f"[bold]{name}[/]")
    started = time.perf_counter()
    verdict = train(str(HERE / "processes" / name))
    minutes = (time.perf_counter() - started) / 60
    store = open_store()
    run = json.loads(store.read(max(info.key for info in store.list(f"{name}/runs/") if info.key.endswith("/run.json")))[0])
    model, evaluation = (Artifact.model_validate(found) for found in run["artifacts"][-2:])
    metrics, training = read_json(store, evaluation, "metrics.json"), read_json(store, model, "training.json")
    return [
        {
            "set": name,
            "metric": metric,
            "model": metrics["model"].get(metric),
            "baseline": best_baseline(metrics["baselines"], metric),
            "published": published,
            "minutes": minutes,
            "training": model.facts.get("seconds", 0) / 60,
            "parameters": training["parameters"],
            "gate": "passed" if verdict.passed else "refused",
        }
        for metric, published in SETS[name]
    ]


def best_baseline(baselines: dict[str, dict[str, float]], metric: str) -> tuple[str, float] | None:
    """The strongest baseline of a metric, on the same split."""
    found = {name: values[metric] for name, values in baselines.items() if metric in values}
    return max(found.items(), key=lambda pair: pair[1]) if found else None


def table_of(rows: list[dict[str, Any]]) -> Any:
    """One line a set and metric; where the baseline wins, the line says so."""
    from rich.table import Table

    notes = (
        "published figures as the data's own READMEs give them: TGen's BLEU is of another tokenisation, Span-ConveRT's was not re-checked"
    )
    table = Table(title="real data, official test splits, one seed", title_justify="left", caption=notes, caption_justify="left")
    for heading in ("set", "metric", "model", "baseline on the same split", "published", "parameters", "training min", "flow min", "gate"):
        table.add_column(heading)
    for row in rows:
        name, figure = row["baseline"] or ("–", None)
        better = figure is not None and row["model"] is not None and figure > row["model"]
        table.add_row(
            row["set"],
            row["metric"],
            "–" if row["model"] is None else f"{row['model']:.4f}",
            "–" if figure is None else f"{figure:.4f} {name}" + (" [yellow]better[/]" if better else ""),
            row["published"],
            f"{row['parameters'] / 1e6:.1f} M",
            f"{row['training']:.1f}",
            f"{row['minutes']:.1f}",
            row["gate"],
        )
    return table


if __name__ == "__main__":
    if not SHARED.is_dir():
        sys.exit(f"{SHARED} is missing: it holds the public data sets, which are not part of this repository")
    sys.exit(main(sys.argv[1:] or list(SETS)))
