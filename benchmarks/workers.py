"""A batch by one process and by several workers on Ray, from a MinIO store: the same outputs, and how many times as fast.

Run: make bench-workers         (or: .venv/bin/python -m benchmarks.workers --rows 1000 --rounds 3 --workers 2)

Both have all cores: one process with so many threads, or workers that share them. Jobs are timed in turn, round by round, ledger and
files included; what it costs to start is told apart, for it is the same however long a batch is. The label model has 5 M parameters and
answers from one forward pass, the text model is that of `make bench-score` with 2 M and writes through CTranslate2.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.score import asked_by, learned, random, shipped_prompts

LABELS = {"n_layer": 4, "n_embd": 256, "n_head": 4, "vocab_size": 8192, "n_positions": 512, "initializer_range": 0.1}
QUEUES = ("complaint", "delivery", "invoice", "refund")
PROMPTS = 256  # different ones; records have ids of their own


def main() -> int:
    """Measure both models, print a line for each round and the ratios; 0 when all outputs are the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1000, help="records of the text model; four times as many are labelled")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    from infra.minio import environment_of, make_bucket, running
    from infra.threads import calm_openmp

    calm_openmp()
    with running() as server, tempfile.TemporaryDirectory(prefix="clerkflow-bench-") as name:
        make_bucket(server, "workers")
        os.environ |= environment_of(server, "workers") | {"CLERKFLOW_CACHE": f"{name}/cache", "PREFECT_HOME": f"{name}/prefect"}
        found = [compared(kind, rows, asked, Path(name)) for kind, rows in (("label", 4 * asked.rows), ("text", asked.rows))]
    return 0 if all(found) else 1


def compared(kind: str, rows: int, asked: argparse.Namespace, folder: Path) -> bool:
    """Both ways in turn; whether they gave the same."""
    from tasks.process import Process
    from tasks.workers import hired

    version, process = published(kind, folder / kind)
    source, count = write_prompts(folder / f"{kind}.jsonl", rows), asked.workers
    several = Process.model_validate(process | {"scoring": {"workers": count}})
    began = time.perf_counter()
    with hired(Process.model_validate(process), folder / kind, version) as one:
        loaded = time.perf_counter()
        with hired(several, folder / kind, version) as workers:
            seconds = loaded - began, time.perf_counter() - loaded
            found = [[job(who, source, several, folder) for who in (one, workers)] for _ in range(asked.rounds)]
    print(f"{kind}: ready in {seconds[0]:.1f} s, {count} workers in {seconds[1]:.1f} s")
    for (here, _), (there, _) in found:
        print(f"{kind}: {rows / here:,.0f} records/s, {count} workers {rows / there:,.0f}: {here / there:.2f} times as fast")
    ratio = statistics.median(here / there for (here, _), (there, _) in found)
    same = all(told(here) == told(there) for (_, here), (_, there) in found)
    off = max(abs(x["confidence"] - y["confidence"]) for (_, here), (_, there) in found for x, y in zip(here, there, strict=True))
    outputs = f"outputs {'are the same' if same else 'DIFFER'}, confidences by at most {off:g}"
    print(f"{kind}, {rows:,} records: {count} workers are {ratio:.2f} times as fast; {outputs}", flush=True)
    return same


def job(who: Any, source: Path, process: Any, folder: Path) -> tuple[float, list[dict[str, Any]]]:
    """Seconds that a job takes with a ledger of its own, and its predictions."""
    from infra.database import sqlite_url
    from tasks.answering import Champion, Terms, score_file
    from tasks.answers import opened_ledger
    from tasks.routing import Router
    from tasks.sources import Source, modified_at

    with tempfile.TemporaryDirectory(dir=folder) as name, opened_ledger(sqlite_url(Path(name) / "ledger.sqlite"), "") as ledger:
        file = Source(source, source.name, "0" * 64, modified_at(source), str(source))
        champion = Champion(who, "1", "0" * 64, Router(process, "1", None, None, False))
        began = time.perf_counter()
        score_file(file, champion, process, Terms(ledger, "batch", "jsonl"), Path(name))
        seconds = time.perf_counter() - began
        return seconds, [json.loads(line) for line in (Path(name) / "predictions.jsonl").read_bytes().splitlines()]


def told(predictions: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    """What was said to whom."""
    return [(row["record_id"], row["output"]) for row in predictions]


def published(kind: str, folder: Path) -> tuple[str, dict[str, Any]]:
    """The version of a model, in the store, and its process."""
    from infra.store import open_store
    from tasks.artifacts import write_json
    from tasks.declaration import parse_process
    from tasks.registry import files_in, publish_version

    prompts = shipped_prompts(PROMPTS)
    predictor = asked_by(folder, prompts, *(learned(prompts) if kind == "text" else random(prompts, LABELS)))
    process = predictor.process.model_dump(mode="json")
    if kind == "label":
        process |= {"output": {"label": "queue", "labels": QUEUES}}
        write_json(folder / "contract.json", {"labels": QUEUES, "label_ids": [1, 2, 3, 4], "max_new_tokens": 1})
    process = parse_process(process, "benchmarks/workers.py").model_dump(mode="json")
    write_json(folder / "declaration.json", process)
    write_json(folder / "metrics.json", {"engine": {"name": "ctranslate2"}})
    facts = {"created": "2024-01-31T08:00:00Z", "run": "workers"}
    return publish_version(open_store(), process["name"], files_in(folder), **facts).version, process


def write_prompts(path: Path, rows: int) -> Path:
    """Records that are nothing but a prompt of a shipped process."""
    prompts = shipped_prompts(PROMPTS)
    with path.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps({"id": str(row), "prompt": prompts[row % len(prompts)]}) + "\n" for row in range(rows))
    return path


if __name__ == "__main__":
    sys.exit(main())
