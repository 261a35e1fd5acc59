"""A whole batch job beside the engine alone: what reading, checking, routing, the ledger, sheets and writing cost.

Run: make bench-job             (or: .venv/bin/python -m benchmarks.job ticket_routing --rows 100000 --size)

A shipped process is trained, with 2 M parameters, or with `--size` alone by its own defaults, so that the job has what a released model
brings along: a certificate, the look for records that are unlike the training data, a sheet for each queue. Then the records are scored
by the job, from a file to a finished batch, and by the engine, which is given all prompts ready made, and begins anew when it has
answered them. Each is a process with one thread; imports are left out on both sides, and the job loads its model. They take turns of some
seconds, one stopped while the other works, so that a machine whose pace changes is as fast for both. Counted in CPU-seconds for each
record that the model was asked about.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import cycle
from pathlib import Path
from typing import Any

from benchmarks.measuring import ROOT, last_training, work_in

BAR = 0.8  # of the engine's pace, with a model of 2 M parameters as in `make bench-score`
SIZE = (4, 192, 4)  # layers, width, heads: 2 M parameters
TURN_SECONDS = 2.0
LONGEST_SECONDS = 3600.0
READY = "ready"


def main() -> int:
    """Train, make records, measure both, print the ratio; 0 when the bar holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("process", nargs="?", default="ticket_routing", help="a shipped process")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--size", type=int, nargs="*", default=SIZE, help="layers, width and heads of the model; none: as by default")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="clerkflow-bench-") as folder:
        work_in(Path(folder))
        os.environ["BENCH_PROCESS"] = asked.process
        train(asked.process, asked.size)
        os.environ["CLERKFLOW_THREADS"] = "1"
        found = [one_round(records(Path(folder), asked.process, asked.rows, seed)) for seed in range(asked.rounds)]
    ratio = statistics.median(found)
    print(f"whole job against the engine alone: {ratio:.2f} by CPU-seconds; bar {BAR}")
    return 0 if ratio >= BAR else 1


def train(name: str, size: Sequence[int] | None) -> None:
    """A champion of the process."""
    from flows import console

    console.quiet_libraries()
    from flows.parameters import Overrides
    from flows.train import train as work
    from infra.store import open_store
    from tasks.artifacts import read_json

    overrides = {"finetuning": {"size": dict(zip(("n_layer", "n_embd", "n_head"), size, strict=True))}} if size else {}
    outcome = work(name, Overrides.model_validate(overrides))
    if outcome.became != "published":
        raise RuntimeError(f"{name}: {outcome.became}; there is no champion to score with")
    print(f"{name}: {read_json(open_store(), last_training(name)[0], 'training.json')['parameters'] / 1e6:.1f} M parameters", flush=True)


def records(folder: Path, process: str, rows: int, seed: int) -> Path:
    """New records, each with an id and a text of its own."""
    out = folder / f"seed-{seed}"
    words = [sys.executable, "data/generate.py", process, "--rows", str(rows), "--seed", str(100 + seed), "--out", str(out)]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
    return out / process / "new.jsonl"


def one_round(source: Path) -> float:
    """The engine's CPU-seconds for the records that the job asks about, as a share of the job's."""
    with at_work("job", source) as job, at_work("engine", source) as engine:
        take_turns(job, engine)
    told = {way: json.loads(lines_of(way, source)[-1]) for way in WAYS}
    for way, found in told.items():
        print(f"{way}: {found['told']}, {found['asked']:,} asked about, {found['cpu']:.1f} CPU-seconds", flush=True)
    return float(told["engine"]["cpu"] / told["engine"]["asked"] * told["job"]["asked"] / told["job"]["cpu"])


@contextmanager
def at_work(way: str, source: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that is ready to begin, and stopped."""
    words = [sys.executable, "-c", "from benchmarks.job import child; child()", way, str(source)]
    with told_in(way, source).open("wb") as told, subprocess.Popen(words, cwd=ROOT, stdout=told) as process:
        try:
            ends = time.monotonic() + LONGEST_SECONDS
            while READY not in lines_of(way, source):
                if process.poll() is not None or time.monotonic() > ends:
                    raise RuntimeError(f"{way} did not begin: exit status {process.poll()}")
                time.sleep(0.02)
            process.send_signal(signal.SIGSTOP)
            yield process
        finally:
            process.kill()


def take_turns(job: "subprocess.Popen[bytes]", engine: "subprocess.Popen[bytes]") -> None:
    """Let one work while the other is stopped, until the job is done."""
    ends = time.monotonic() + LONGEST_SECONDS
    while job.poll() is None:
        for process in (job, engine):
            process.send_signal(signal.SIGCONT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(TURN_SECONDS)
            process.send_signal(signal.SIGSTOP)
        if engine.poll() is not None or time.monotonic() > ends:
            raise RuntimeError(f"the engine ended ({engine.poll()}), or the job took more than {LONGEST_SECONDS:g} s")
    if job.returncode:
        raise RuntimeError(f"the job ended with status {job.returncode}; its words are above")


def told_in(way: str, source: Path) -> Path:
    """The file that a process writes what it has to say into."""
    return source.with_name(f"{way}.txt")


def lines_of(way: str, source: Path) -> list[str]:
    """The whole lines that a process has written until now."""
    return told_in(way, source).read_text(encoding="utf-8").split("\n")[:-1]


def child() -> None:
    """Do what the command line says, a way and a file."""
    from infra.threads import calm_openmp

    calm_openmp()
    WAYS[sys.argv[1]](Path(sys.argv[2]))


def engine(source: Path) -> None:
    """The model alone, a chunk at a time as the job does, of records that the job asks about; after each, how many and how long."""
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
        predictor.predict(prompts[:1])
        print(READY, flush=True)
        began, asked = time.process_time(), 0
        for start in cycle(range(0, len(prompts), CHUNK_RECORDS)):
            asked += len(predictor.predict(prompts[start : start + CHUNK_RECORDS]))
            told = {"told": f"{len(prompts):,} prompts", "asked": asked, "cpu": time.process_time() - began}
            print(json.dumps(told), flush=True)


def job(source: Path) -> None:
    """From the file to a finished batch; one record is scored before, so that everything is imported."""
    from tasks.runs import Run
    from tasks.scoring import score_batch

    run = Run(id="job", process=declared(), flow="score")
    first = source.with_name("first.jsonl")
    with source.open("rb") as stream:
        first.write_bytes(next(stream))
    score_batch.fn(str(first), run)
    print(READY, flush=True)
    began = time.process_time()
    batch = score_batch.fn(str(source), run)
    cpu = time.process_time() - began
    counts = ", ".join(f"{name} {batch.facts[name]:,}" for name in ("rows", "done", "review", "dead"))
    print(json.dumps({"told": counts, "asked": batch.facts["asked"], "cpu": cpu}), flush=True)


def declared() -> Any:
    """The declaration of the process that is measured."""
    from infra.settings import ROOT as HOME
    from tasks.declaration import load_process

    return load_process(os.environ["BENCH_PROCESS"], HOME / "data" / "processes")


WAYS = {"engine": engine, "job": job}


if __name__ == "__main__":
    sys.exit(main())
