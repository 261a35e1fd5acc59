"""What orchestration costs: `train` through a Prefect server and a worker, against the same stages called as plain functions.

Part 4 of benchmarks/arrivals.py. The same records and declaration under three names, so that nothing is remembered: plain, served, plain.
Plain is a process of its own that has imported everything before its clock starts; served is from asking for the run to its end.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RATIO, SECONDS = 1.05, 15.0
ROWS = 1500
DECLARATION = """
name: %s
owner: benchmarks
records: {source: sample.jsonl, columns: [text, queue]}
sample: {prompt: "Message: {text}\\nQueue:", vocabulary_size: 400, near_duplicates: null}
output: {label: queue}
finetuning: {size: {n_layer: 2, n_embd: 64, n_head: 2}, num_train_epochs: 6, max_length: 64}
gate: [{metric: accuracy, at_least: 0.01}]
schedules: {reconcile: null, tidy: null}
"""


def overhead(folder: Path) -> bool:
    """Print seconds and ratio; whether the bar holds."""
    from benchmarks import arrivals

    names = ("plain_one", "served", "plain_two")
    for name in names:
        declare(folder / "processes" / name, name)
    arrivals.declare(folder, "null")  # deploys them, too
    with arrivals.program(*arrivals.WORKER):
        time.sleep(arrivals.WARM_SECONDS)
        first, through, second = plain(names[0]), served(names[1]), plain(names[2])
    alone = (first + second) / 2
    bar = RATIO * alone + SECONDS
    print(
        f"train through server and worker {through:.1f} s, as plain functions {first:.1f} and {second:.1f} s: "
        f"{through / alone:.2f} times, {through - alone:+.1f} s (bar: {RATIO} times and {SECONDS:.0f} s, {bar:.1f} s)",
        flush=True,
    )
    return through <= bar


def declare(folder: Path, name: str) -> None:
    from benchmarks.memory import LABELS

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "process.yaml").write_text(DECLARATION % name, encoding="utf-8")
    rows = [{"text": f"message {row} about {LABELS[row % 4]} number {row * 7919 % 1013}", "queue": LABELS[row % 4]} for row in range(ROWS)]
    (folder / "sample.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def served(name: str) -> float:
    """Seconds from asking for a run to its end."""
    from benchmarks.arrivals import ask, seconds_of, until

    [deployment] = [one for one in ask("/deployments/filter", {}) if (one["name"], one["entrypoint"]) == (name, "flows.train.train")]
    began = time.time()
    run = ask(f"/deployments/{deployment['id']}/create_flow_run", {"state": {"type": "SCHEDULED"}})

    def ended() -> Any:
        [now] = ask("/flow_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})
        return now if now["end_time"] else None

    now = until(ended, 600)
    if now["state_type"] != "COMPLETED":
        raise RuntimeError(f"train ended as {now['state_name']}: {now['state']['message']}")
    return seconds_of(now["end_time"]) - began


def plain(name: str) -> float:
    """Seconds of the stages in a process without Prefect's engine."""
    words = [sys.executable, "-c", "import sys; from benchmarks.overhead import child; child(sys.argv[1])", name]
    answer = subprocess.run(words, capture_output=True, text=True, check=False, timeout=600, cwd=Path(__file__).resolve().parent.parent)
    if answer.returncode:
        raise RuntimeError(f"the stages of {name} failed: {answer.stderr[-2000:]}")
    return float(answer.stdout.splitlines()[-1])


def child(name: str) -> None:
    """What the body of `train` says, with the functions beneath its tasks."""
    from infra.forking import import_all
    from infra.settings import settings
    from infra.system import WARM

    import_all(list(WARM))  # as the worker has
    from tasks import runs
    from tasks.declaration import load_process
    from tasks.evaluation import evaluate
    from tasks.finetuning import finetune
    from tasks.gate import pass_gate
    from tasks.ingestion import ingest
    from tasks.preparation import prepare
    from tasks.publishing import champion_to_meet, publish
    from tasks.validation import validate

    began = time.perf_counter()
    run = runs.begin(load_process(name, settings().processes), "train")
    raw = ingest.fn(run)
    validated = validate.fn(raw, run)
    samples = prepare.fn(validated, run)
    model = finetune.fn(samples, run)
    champion = champion_to_meet(model, run)
    evaluation = evaluate.fn(model, samples, champion, run)
    verdict = pass_gate.fn(evaluation, run)
    publish.fn(model, evaluation, verdict, run)
    runs.finish(run, "published", [raw, validated, samples, model, evaluation])
    print(time.perf_counter() - began)
