"""The whole train flow on the public data sets of ../shared/data: measure, baseline, published figure and minutes in one table.

Run: make bench-real          (or: .venv/bin/python -m benchmarks.real banking77 --seeds 0 --samples 1500)

Every set is trained with the defaults (tasks/budget.py), once for each of the seeds 0, 1 and 2; mean and spread are printed. What was
measured stays in benchmarks/results/ while nothing that made it changes, so that hours of work that were stopped go on. What was tried
for the sets, and what did not help, stands in data/kinds.md.
"""

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.kept import kept_or
from benchmarks.measuring import last_training, work_in

WIDTH = 180  # a table that is cut says nothing
HERE = Path(__file__).parent
SHARED = HERE.parent.parent / "shared" / "data"


@dataclass(frozen=True)
class Figure:
    """One measure of a set: the bar it must reach, what was published, and what a classical method reached on the same split."""

    metric: str
    bar: float | None = None  # of the model; at most for a rate of errors
    published: str = "–"
    classical: float | None = None  # of the set's README, where evaluation has no such baseline


# Published and classical figures as ../shared/data/<set>/README.md gives them; BLEU there is another tokenisation than sacrebleu's.
SETS: dict[str, tuple[Figure, ...]] = {
    "banking77": (Figure("accuracy", 0.90, "0.937 BERT-large"), Figure("macro_f1")),
    "atis": (
        Figure("slot_pair_f1", 0.92, "0.956 BERT", 0.9119),
        Figure("intent_accuracy", 0.965, "0.979 BERT", 0.9563),
        Figure("exact_match", 0.77, "0.882 BERT", 0.7626),
    ),
    "restaurant8k": (Figure("field_f1", 0.85, "0.96 Span-ConveRT"), Figure("exact_match")),
    "helpdesk_flow": (Figure("accuracy", 0.82), Figure("accuracy@meta.slice=tax_eval", 0.70, "0.712 LSTM", 0.6944)),
    "e2e_nlg": (Figure("slot_error_rate", 0.05), Figure("bleu", 60, "65.9 TGen"), Figure("chrf")),
    "german_credit": (Figure("auc", 0.74, "0.78 boosted trees"), Figure("accuracy")),
}
ERRORS = ("slot_error_rate",)
LABEL_FIELD = "intent"  # the field of atis that is no slot


def main(names: list[str], seeds: list[int], samples: int | None = None) -> int:
    """Train each set in a store of its own, once a seed, then print the table; 1 when a mean is below its bar."""
    from flows import console

    console.out.width = max(console.out.width, WIDTH)
    with tempfile.TemporaryDirectory(prefix="clerkflow-bench-") as folder:
        work_in(Path(folder))
        console.quiet_libraries()
        declared = {name: str(cut(name, samples, Path(folder)) if samples else HERE / "processes" / name) for name in names}
        rows = [row for name in names for row in over_seeds([measured(name, declared[name], seed, samples) for seed in seeds])]
    console.out.print(table_of(rows, seeds, samples))
    return 0 if rows and not any(below(row) for row in rows) else 1


def cut(name: str, samples: int, folder: Path) -> Path:
    """The declaration of a set of which only so many of its records are learned from, spread over the file; it is tested on all."""
    import yaml

    folder, own = folder / "few" / name, HERE / "processes" / name
    folder.mkdir(parents=True)
    declared = yaml.safe_load((own / "process.yaml").read_text(encoding="utf-8"))
    records = declared["records"]
    records |= {key: str((own / records[key]).resolve()) for key in ("source", "validation", "test") if key in records}
    rows = [row for row in Path(records["source"]).read_text(encoding="utf-8").splitlines() if row.strip()]
    kept = [rows[at * len(rows) // samples] for at in range(samples)] if samples < len(rows) else rows
    records["source"] = "train.jsonl"
    (folder / "train.jsonl").write_text("\n".join(kept) + "\n", encoding="utf-8")
    (folder / "process.yaml").write_text(yaml.safe_dump(declared, allow_unicode=True), encoding="utf-8")
    return folder


def over_seeds(runs: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The rows of several trainings of one set as one: means, and how far the measures lie apart."""
    found = []
    for rows in zip(*runs, strict=True):
        measured = [row["model"] for row in rows if row["model"] is not None]
        means = {name: statistics.mean(row[name] for row in rows) for name in ("minutes", "training", "parameters")}
        gates = {row["gate"] for row in rows}
        model = statistics.mean(measured) if len(measured) == len(rows) else None
        spread = max(measured) - min(measured) if len(measured) > 1 else None
        found.append(rows[0] | means | {"model": model, "spread": spread, "gate": gates.pop() if len(gates) == 1 else "passed, refused"})
    return found


def measured(name: str, declared: str, seed: int, samples: int | None) -> list[dict[str, Any]]:
    """What one training reaches of each figure of its set, measured now or before."""
    from flows import console

    console.out.print(f"[bold]{name}[/], seed {seed}")
    key = [name, seed, samples, [figure.metric for figure in SETS[name]]]
    found, before = kept_or(lambda: measure(name, declared, seed, not samples), "real", key, Path(declared))
    if before:
        console.out.print(f"  measured {before} UTC, by the same code from the same records")
    return [row | {"figure": figure} for row, figure in zip(found, SETS[name], strict=True)]


def measure(name: str, declared: str, seed: int, whole: bool = True) -> list[dict[str, Any]]:
    """Train one set through the flow with one seed and read what its evaluation says: a row for each figure of the set.

    Args:
        declared: folder of its declaration.
        whole: whether it learns from all records, as the methods of the set's README did.
    """
    from benchmarks.slots import of_model_and_people
    from flows.parameters import Overrides
    from flows.train import train
    from infra.store import open_store
    from tasks.artifacts import fetch_file, read_json, scratch

    started = time.perf_counter()
    verdict = train(declared, Overrides.model_validate({"finetuning": {"seed": seed}}), dry_run=True)
    minutes = (time.perf_counter() - started) / 60
    store, (model_stored, evaluation) = open_store(), last_training(name)
    metrics, training = read_json(store, evaluation, "metrics.json"), read_json(store, model_stored, "training.json")
    model, baselines = side_of(metrics, "model"), [side_of(metrics, name) for name in metrics["baselines"]]
    if name == "e2e_nlg":
        with scratch() as folder:
            ours, people = of_model_and_people(SHARED / name, fetch_file(store, evaluation, "predictions.jsonl", folder))
        model, baselines = model | {"slot_error_rate": ours}, [*baselines, {"name": "people", "slot_error_rate": people, "per_field": {}}]
    common = {
        "set": name,
        "minutes": minutes,
        "training": model_stored.facts.get("seconds", 0) / 60,
        "parameters": training["parameters"],
        "gate": "passed" if verdict.passed else "refused",
    }
    return [
        common | {"model": figure_of(model, figure.metric), "baseline": best_baseline(baselines, figure, whole)} for figure in SETS[name]
    ]


def side_of(metrics: dict[str, Any], name: str) -> dict[str, Any]:
    """All measures of the model or of one baseline, by one name each; those of a slice are measure@column=value."""
    ours = name == "model"
    slices = metrics["slices"] if ours else metrics["baseline_slices"][name]
    found = dict(metrics["model"] if ours else metrics["baselines"][name])
    found |= {f"{metric}@{part}": value for part, values in slices.items() for metric, value in values.items()}
    return found | {"name": name, "per_field": metrics.get("per_field", {}) if ours else {}}


def figure_of(side: dict[str, Any], metric: str) -> float | None:
    """A measure, or what is made of several: slot pairs without the intent."""
    fields = side["per_field"]
    if metric == "intent_accuracy":
        return fields[LABEL_FIELD]["recall"] if LABEL_FIELD in fields else None  # always one true intent
    if metric == "slot_pair_f1":
        slots = [scores for name, scores in fields.items() if name != LABEL_FIELD]
        return pair_f1(slots) if slots else None
    found: float | None = side.get(metric)
    return found


def pair_f1(slots: list[dict[str, float]]) -> float:
    """F1 over all (slot, value) pairs, from the recall and the counts of each slot."""
    hits = sum(scores.get("recall", 0.0) * scores["support"] for scores in slots)
    return 2 * hits / sum(scores["support"] + scores["predicted"] for scores in slots)


def best_baseline(baselines: list[dict[str, Any]], figure: Figure, whole: bool = True) -> tuple[str, float] | None:
    """The strongest baseline of a measure on the same split; what the set's README says, too, where evaluation has none."""
    found = {side["name"]: value for side in baselines if (value := figure_of(side, figure.metric)) is not None}
    if figure.classical is not None and whole:
        found["README"] = figure.classical
    choose = min if figure.metric in ERRORS else max
    return choose(found.items(), key=lambda pair: pair[1]) if found else None


def table_of(rows: list[dict[str, Any]], seeds: list[int], samples: int | None = None) -> Any:
    """One line a set and metric; where the baseline wins, the line says so."""
    from rich.table import Table

    notes = (
        "published figures as the data's own READMEs give them: TGen's BLEU is of another tokenisation, Span-ConveRT's was not re-checked"
    )
    told = f"seed {seeds[0]}" if len(seeds) == 1 else f"means of seeds {', '.join(map(str, seeds))} ± half of what lies between them"
    few = f"{samples:,} samples of each, " if samples else ""
    table = Table(title=f"real data, official test splits, {few}{told}", title_justify="left", caption=notes, caption_justify="left")
    headings = (
        "set",
        "metric",
        "model",
        "bar",
        "baseline on the same split",
        "published",
        "parameters",
        "training min",
        "flow min",
        "gate",
    )
    for heading in headings:
        table.add_column(heading)
    for row in rows:
        table.add_row(*cells_of(row))
    return table


def below(row: dict[str, Any]) -> bool:
    """Whether a measure misses its bar, or could not be taken."""
    figure: Figure = row["figure"]
    sign = -1 if figure.metric in ERRORS else 1
    return figure.bar is not None and (row["model"] is None or sign * row["model"] < sign * figure.bar)


def cells_of(row: dict[str, Any]) -> list[str]:
    """One row of the table as text."""
    figure: Figure = row["figure"]
    name, baseline = row["baseline"] or ("–", None)
    sign = -1 if figure.metric in ERRORS else 1
    better = baseline is not None and row["model"] is not None and sign * baseline > sign * row["model"]
    spread = "" if row["spread"] is None else f" ± {row['spread'] / 2:.4f}"
    return [
        row["set"],
        figure.metric,
        "–" if row["model"] is None else f"{row['model']:.4f}{spread}" + (" [red]below[/]" if below(row) else ""),
        "–" if figure.bar is None else f"{figure.bar:g}",
        "–" if baseline is None else f"{baseline:.4f} {name}" + (" [yellow]better[/]" if better else ""),
        figure.published,
        f"{row['parameters'] / 1e6:.1f} M",
        f"{row['training']:.1f}",
        f"{row['minutes']:.1f}",
        row["gate"],
    ]


if __name__ == "__main__":
    if not SHARED.is_dir():
        sys.exit(f"{SHARED} is missing: it holds the public data sets, which are not part of this repository")
    parser = argparse.ArgumentParser(description="Train on public data sets and print measures.")
    parser.add_argument("sets", nargs="*", default=list(SETS), metavar="SET", help=f"of: {', '.join(SETS)}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--samples", type=int, help="learn from only so many of the training records")
    asked = parser.parse_args()
    if unknown := set(asked.sets) - set(SETS):
        parser.error(f"no such set: {', '.join(sorted(unknown))}")
    sys.exit(main(asked.sets, asked.seeds, asked.samples))
