"""Kill -9 at random moments during a batch from and into PostgreSQL: each record stands in the results exactly once.

Run: make bench-kills          (or: .venv/bin/python -m benchmarks.kills --records 20000 --kills 50)
The whole job is real but for the model, which answers at once: a table is read, the ledger asked and written, rows are put beside the table
of results and moved into it, files and the manifest are stored. A job that is done before its time has its manifest removed, so that
kills meet the end of a batch, too.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

SECTIONS = {
    "batch": {
        "source": {"database": "BENCH_DATABASE", "table": "messages", "key": "id"},
        "sink": {"database": "BENCH_DATABASE", "table": "routed"},
    }
}


def main() -> int:
    """Fill a table, kill jobs, let the last one end, and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=7)
    asked = parser.parse_args()
    from infra.postgres import running

    with running() as url, tempfile.TemporaryDirectory(prefix="clerkflow-kills-") as name:
        os.environ |= {"BENCH_DATABASE": url, "CLERKFLOW_STORE": f"{name}/store", "CLERKFLOW_CACHE": f"{name}/cache"}
        os.environ |= {"PREFECT_HOME": f"{name}/prefect"}
        fill(url, asked.records)
        prepare(Path(name))
        kills = kill_jobs(asked.kills, random.Random(asked.seed), Path(name))
        while end_of(run_job(), None) != "done":
            pass
        return report(url, asked.records, kills, Path(name))


def fill(url: str, records: int) -> None:
    """The table that is scored, one record in a hundred of which the model says nothing."""
    import psycopg

    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE messages (id BIGINT PRIMARY KEY, text TEXT)")
        rows = f"SELECT n, CASE WHEN n % 100 = 0 THEN 'nothing to say ' ELSE 'card ' END || n FROM generate_series(1, {records}) AS n"
        connection.execute(f"INSERT INTO messages {rows}")  # type: ignore[arg-type]


def prepare(folder: Path) -> None:
    """Import and change once what each job, a fork of this process, runs: the model, and a word on disk of what it is at."""
    from benchmarks import quick
    from tasks import answering, answers, results, scoring

    quick.install(quick.process(**SECTIONS))
    quick.Predictor.asked_log, quick.Predictor.seconds_a_record = folder / "asked", 0.0003
    steps = ((quick.Predictor, "predict"), (answers.Answers, "known"), (results.ResultTable, "stage"), (results.ResultTable, "publish"))
    for owner, name in (*steps, (answering.Job, "_write"), (scoring, "store_folder"), (scoring, "opened"), (scoring, "_manifest")):
        tell(folder / "at", owner, name)


def kill_jobs(kills: int, chance: random.Random, folder: Path) -> Counter[str]:
    """So many killed jobs, each at a random moment; what each was at."""
    found: Counter[str] = Counter()
    while found.total() - found["done before"] < kills:
        (folder / "at").write_text("begin")
        ended = end_of(run_job(), chance.uniform(0, 6))
        if ended == "failed":
            raise RuntimeError("a job failed by itself; its words are above")
        found[(folder / "at").read_text().strip("_") or "begin" if ended == "killed" else "done before"] += 1
        if ended == "done":
            for manifest in (folder / "store").glob("quick/batches/*/manifest.json"):
                manifest.unlink()
    return found


def run_job() -> int:
    """The id of a process that scores the table."""
    if job := os.fork():
        return job
    from benchmarks import quick
    from tasks.runs import Run
    from tasks.scoring import score_batch

    status = 1
    try:
        score_batch.fn("sql:messages", Run(id=str(os.getpid()), process=quick.process(**SECTIONS), flow="score"))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def end_of(job: int, seconds: float | None) -> str:
    """Wait for a job, or kill it after so many seconds: done, failed or killed."""
    limit = None if seconds is None else time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(job, 0 if limit is None else os.WNOHANG)
        if ended:
            return "done" if status == 0 else "failed" if os.WIFEXITED(status) else "killed"
        if limit is not None and time.monotonic() > limit:
            os.kill(job, signal.SIGKILL)
            limit = None
        time.sleep(0.005)


def tell(at: Path, owner: Any, name: str) -> None:
    """Leave a step's name on disk when it begins."""
    body = getattr(owner, name)

    def told(*words: Any, **named: Any) -> Any:
        at.write_text(name)
        return body(*words, **named)

    setattr(owner, name, told)


def report(url: str, records: int, kills: Counter[str], folder: Path) -> int:
    """Print the counts; 1 when a record is missing, doubled, or wrong."""
    import json

    import psycopg

    from benchmarks.quick import label_of

    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT record_id, queue FROM routed").fetchall()
        answers = connection.execute("SELECT count(*), count(DISTINCT key) FROM clerkflow_answers").fetchone()
        staged = connection.execute("SELECT count(*) FROM pg_tables WHERE tablename LIKE 'clerkflow_staged_%'").fetchone()
    (manifest,) = [json.loads(path.read_text()) for path in (folder / "store").glob("quick/batches/*/manifest.json")]
    asked = Counter((folder / "asked").read_text().splitlines())
    wanted = {str(n): label_of(f"Message: card {n}\nQueue:") for n in range(1, records + 1) if n % 100}
    print(f"{kills.total() - kills['done before']} jobs killed, at: {', '.join(f'{name} {count}' for name, count in kills.most_common())}")
    print(f"batch: {manifest['rows']:,} records in = {manifest['done']:,} done + {manifest['dead']:,} dead letters")
    print(f"table of results: {len(rows):,} rows, {len({id for id, _ in rows}):,} records; staging tables: {staged}")
    print(f"ledger: {answers} answers, distinct keys")
    print(f"the model was asked {asked.total():,} times about {len(asked):,} records")
    whole = dict(rows) == wanted and len(rows) == len(wanted) and answers == (records, records)
    whole = whole and manifest["rows"] == records == manifest["done"] + manifest["review"] + manifest["dead"]
    print("each record exactly once" if whole else "NOT each record exactly once")
    return 0 if whole else 1


if __name__ == "__main__":
    started = time.time()
    status = main()
    print(f"{time.time() - started:,.0f} s")
    sys.exit(status)
