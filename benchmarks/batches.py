"""A batch job around a model that answers at once: memory must not grow with the records, and what is done costs nothing.

Run: make bench-batches        (or: .venv/bin/python -m benchmarks.batches --rows 10000 1000000)
Each job runs in a process of its own. The same file again is found by its manifest; with the manifest gone, as after a kill, all answers
come from the ledger.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measuring import told_by, work_in
from benchmarks.memory import MEBIBYTE, write_records

JOB = "benchmarks.batches"  # whose child() scores a file


def main() -> int:
    """Score each file three times, print a table and what is promised of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000], help="records of each batch")
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory(prefix="clerkflow-bench-") as name:
        folder = Path(name)
        work_in(folder)
        found = {}
        for count in rows:
            file = write_records(folder / f"{count}.jsonl", count)
            first, again = told_by(JOB, file), told_by(JOB, file)
            (folder / "store" / "quick" / "batches" / first["batch"] / "manifest.json").unlink()
            found[count] = first, again, told_by(JOB, file)
            print_jobs(count, *found[count])
    first, again, _ = found[rows[-1]]
    ratio = first["peak_bytes"] / found[rows[0]][0]["peak_bytes"]
    print(f"{rows[-1] / rows[0]:g} times the records, {ratio:.2f} times the memory (bar: 1.2)")
    share = again["job_seconds"] / first["job_seconds"]
    print(f"the finished batch of {rows[-1]:,} again: {share:.1%} of the first time (bar: 5 %)")
    return 0 if ratio <= 1.2 and share < 0.05 else 1


def print_jobs(count: int, *jobs: dict[str, Any]) -> None:
    """One line for each job."""
    for name, found in zip(("first", "again", "after a kill"), jobs, strict=True):
        peak, pace = found["peak_bytes"] / MEBIBYTE, count / found["job_seconds"]
        told = f"{count:,} records, {name}: {found['done']:,} done + {found['dead']:,} dead, model asked about {found['asked']:,}"
        print(f"{told}; {found['job_seconds']:,.1f} s, {pace:,.0f} records/s, peak {peak:,.0f} MiB", flush=True)


def child() -> None:
    """Score the file named on the command line; print counts, seconds and this process's peak memory as JSON."""
    import time

    from benchmarks import quick
    from benchmarks.measuring import peak_bytes
    from tasks.runs import Run
    from tasks.scoring import score_batch

    process = quick.process()
    quick.install(process)
    started = time.perf_counter()
    batch = score_batch.fn(sys.argv[1], Run(id="batches", process=process, flow="score"))
    print(json.dumps(batch.facts | {"peak_bytes": peak_bytes(), "job_seconds": time.perf_counter() - started}))


if __name__ == "__main__":
    sys.exit(main())
