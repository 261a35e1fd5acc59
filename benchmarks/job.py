"""A whole batch job beside the engine alone: what reading, checking, routing, the ledger, sheets and writing cost.

Run: make bench-job             (or: .venv/bin/python -m benchmarks.job ticket_routing --rows 100000)

A shipped process is trained with its own defaults, so the job has what a released model brings along: a certificate, the look for records
that are unlike the training data, a sheet for each queue. Then the records are scored: by the job, from a file to a finished batch, and by
the engine, which is given all prompts ready made. Each in a process of its own, with one thread, in turn; imports are left out on both
sides, and the job loads its model. Counted in CPU-seconds, and on the clock.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.measuring import ROOT, told_by, work_in

BAR = 0.8  # of the engine's pace


def main() -> int:
    """Train, make records, measure both, print the ratio; 0 when the bar holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("process", nargs="?", default="ticket_routing", help="a shipped process")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="clerkflow-bench-") as folder:
        work_in(Path(folder))
        os.environ["BENCH_PROCESS"] = asked.process
        train(asked.process)
        os.environ["CLERKFLOW_THREADS"] = "1"
        found = [one_round(records(Path(folder), asked.process, asked.rows, seed)) for seed in range(asked.rounds)]
    ratios = [statistics.median(each[name] for each in found) for name in ("cpu", "clock")]
    print(f"whole job against the engine alone: {ratios[0]:.2f} by CPU-seconds, {ratios[1]:.2f} by the clock; bar {BAR}")
    return 0 if ratios[0] >= BAR else 1


def train(name: str) -> None:
    """A champion of the process."""
    from flows import console

    console.quiet_libraries()
    from flows.train import train as work

    outcome = work(name)
    if outcome.became != "published":
        raise RuntimeError(f"{name}: {outcome.became}; there is no champion to score with")


def records(folder: Path, process: str, rows: int, seed: int) -> Path:
    """New records, each with an id and a text of its own."""
    out = folder / f"seed-{seed}"
    words = [sys.executable, "data/generate.py", process, "--rows", str(rows), "--seed", str(100 + seed), "--out", str(out)]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
    return out / process / "new.jsonl"


def one_round(source: Path) -> dict[str, float]:
    """Engine, job, and engine again, for a machine's pace changes; the engine's seconds as a share of the job's."""
    found = []
    for way in ("engine", "job", "engine"):
        os.environ["BENCH_WAY"] = way
        found.append(told := told_by("benchmarks.job", source))
        print(f"{way}: {told['told']}, {told['cpu']:.1f} CPU-seconds, {told['clock']:.1f} s", flush=True)
    before, job, after = found
    return {name: (before[name] + after[name]) / 2 / job[name] for name in ("cpu", "clock")}


def child() -> None:
    """What one way takes for the file on the command line, as JSON."""
    from infra.threads import calm_openmp

    calm_openmp()
    ways = {"engine": engine, "job": job}
    print(json.dumps(ways[os.environ["BENCH_WAY"]](Path(sys.argv[1]))))


@contextmanager
def timed() -> Iterator[dict[str, Any]]:
    """Seconds of the body."""
    found: dict[str, Any] = {}
    cpu, clock = time.process_time(), time.perf_counter()
    yield found
    found |= {"cpu": time.process_time() - cpu, "clock": time.perf_counter() - clock}


def engine(source: Path) -> dict[str, Any]:
    """The model alone, a chunk at a time as the job does; of records that the job asks about."""
    from infra.settings import settings
    from infra.store import open_store
    from tasks.aliases import champion_of
    from tasks.answering import CHUNK_RECORDS
    from tasks.faults import fault_in
    from tasks.readers import Reader
    from tasks.records import Record
    from tasks.registry import fetch_version
    from tasks.repairs import repair
    from tasks.workers import hired

    process, store = declared(), open_store()
    champion = champion_of(store, process.name)
    assert champion
    with hired(process, fetch_version(store, process.name, champion.version, settings().cache), champion.version) as predictor:
        rows = (repair(process, row, None) for row in Reader(source, source.name, process, labelled=False) if isinstance(row, Record))
        prompts = [predictor.prompt_of(row.values) for row in rows if not fault_in(process, row)]
        with timed() as found:
            for start in range(0, len(prompts), CHUNK_RECORDS):
                predictor.predict(prompts[start : start + CHUNK_RECORDS])
    return found | {"told": f"{len(prompts):,} records answered"}


def job(source: Path) -> dict[str, Any]:
    """From the file to a finished batch; one record is scored before, so that everything is imported."""
    from tasks.runs import Run
    from tasks.scoring import score_batch

    run = Run(id="job", process=declared(), flow="score")
    first = source.with_name("first.jsonl")
    with source.open("rb") as stream:
        first.write_bytes(next(stream))
    score_batch.fn(str(first), run)
    with timed() as found:
        batch = score_batch.fn(str(source), run)
    counts = {name: batch.facts[name] for name in ("rows", "done", "review", "dead", "asked")}
    return found | {"told": ", ".join(f"{name} {count:,}" for name, count in counts.items())}


def declared() -> Any:
    """The declaration of the process that is measured."""
    from infra.settings import ROOT as HOME
    from tasks.declaration import load_process

    return load_process(os.environ["BENCH_PROCESS"], HOME / "data" / "processes")


if __name__ == "__main__":
    sys.exit(main())
