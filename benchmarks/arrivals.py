"""New data arrives: a real Prefect server, a real worker, a real MinIO that tells the watcher; a tiny model and tiny objects.

Run: make bench-arrivals            (or: .venv/bin/python -m benchmarks.arrivals --objects 200)
1. Seconds from PUT to the first task of the run that it starts, median over 20 objects.
2. With all events dropped: seconds until the reconciler, on a schedule of a minute, has started what arrived.
3. 200 objects, every event doubled, 30 % dropped, the rest out of order, the worker and its runs killed (SIGKILL) three times:
   each object exactly once in the ledger and in the outputs. A killed run stays Running for Prefect until something finds it: here the
   benchmark marks it Crashed, as a watchdog would.
4. benchmarks/overhead.py: `train` through server and worker against the same stages called as plain functions.
"""

import argparse
import json
import os
import random
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from infra.ports import free_port
from infra.system import WARM

ROOT = Path(__file__).resolve().parent.parent
BAR_SECONDS, PERIOD_SECONDS = 5.0, 60
WARM_SECONDS = 30  # until the worker has imported the flows
POOL = "clerkflow"
WORKER = ("-m", "infra.worker", "--pool", POOL, "--import", *WARM)
DECLARATION = """
name: memory
owner: benchmarks
records: {source: sample.jsonl}
sample: {prompt: "Message: {text}\\nQueue:", vocabulary_size: 400}
output: {label: queue, labels: [%s]}
finetuning: {size: {n_layer: 1, n_embd: 16, n_head: 2}, max_length: 128}
gate: [{metric: accuracy, at_least: 0.5}]
schedules: {reconcile: %s}
"""


def main() -> int:
    """Print each figure with its bar; 1 when one is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=200)
    parser.add_argument("--timed", type=int, default=20)
    parser.add_argument("--parts", type=int, nargs="+", choices=(1, 2, 3, 4), default=(1, 2, 3, 4))
    parser.add_argument("--lossy", action="store_true", help=argparse.SUPPRESS)  # the watcher of part 3
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
    if asked.lossy:
        return lossy_watcher()
    with playground() as folder:
        from benchmarks.overhead import overhead

        parts = {1: lambda: timed(folder, asked.timed), 2: lambda: reconciled(folder), 3: lambda: storm(folder, asked.objects)}
        parts[4] = lambda: overhead(folder)
        passed = [parts[number]() for number in asked.parts]
    return 0 if all(passed) else 1


def timed(folder: Path, count: int) -> bool:
    """Part 1."""
    times: list[list[float]] = []
    with program(*WORKER), program("-m", "flows", "watch"):
        time.sleep(WARM_SECONDS)
        for number in range(count + 1):  # the first one warms up
            key = f"memory/inbox/timed-{number}.jsonl"
            began = put(key, number)
            times.append([time - began for time in until(lambda key=key: legs(key), 120)])
            until(lambda: not active(), 120)
            time.sleep(random.random())
    took = sorted(legs[-1] for legs in times[1:])
    median = statistics.median(took)
    made, runs, _ = (statistics.median(leg) for leg in zip(*times[1:], strict=True))
    print(f"  of which: {made:.2f} s until the run is made, {runs:.2f} s until its process runs (medians)", flush=True)
    print(
        f"PUT to first task: median {median:.2f} s, {took[0]:.2f} to {took[-1]:.2f} s over {count} objects (bar: < {BAR_SECONDS:.0f} s)",
        flush=True,
    )
    return median < BAR_SECONDS


def reconciled(folder: Path) -> bool:
    """Part 2: nobody watches."""
    declare(folder, '"* * * * *"')
    with program(*WORKER):
        time.sleep(10)
        began = put("memory/inbox/missed.jsonl", 10_000)
        seconds = until(lambda: first_task("memory/inbox/missed.jsonl"), 240) - began
        until(lambda: not active(), 120)
    declare(folder, "null")
    most = PERIOD_SECONDS + 2 * BAR_SECONDS  # two processes are started, one after the other
    print(
        f"all events dropped: started by the reconciler after {seconds:.1f} s (bar: its period of {PERIOD_SECONDS} s and two starts)",
        flush=True,
    )
    return seconds <= most


def storm(folder: Path, count: int) -> bool:
    """Part 3."""
    before = set(outputs())
    declare(folder, '"* * * * *"')
    putting = threading.Thread(
        target=lambda: [(put(f"memory/inbox/storm-{n:03}.jsonl", 20_000 + n), time.sleep(0.1)) for n in range(count)]
    )
    with program("-m", "benchmarks.arrivals", "--lossy"):
        time.sleep(10)
        putting.start()
        for kills in range(4):
            with program(*WORKER):
                wait = (lambda n=(kills + 1) * count // 5: done() >= n) if kills < 3 else (lambda: done() >= count)
                until(wait, 420)
            crash_zombies()
            print(f"  {'worker killed' if kills < 3 else 'end'}: {done()} of {count} processed", flush=True)
        putting.join()
    return told_counts(count, before)


def told_counts(count: int, before: set[str]) -> bool:
    """Each object once in the ledger and once in the outputs."""
    from infra.store import open_store
    from tasks.ledger import read_ledger

    ledger = [arrival for arrival in read_ledger(open_store(), "memory").arrivals.values() if "/storm-" in arrival.key]
    sources = Counter(source for batch, source in outputs().items() if batch not in before)
    states = Counter(arrival.state for arrival in ledger)
    tried = Counter(arrival.attempts for arrival in ledger)
    twice = [source for source, batches in sources.items() if batches > 1]
    runs = len(ask("/flow_runs/filter", {"flows": {"name": {"any_": ["score"]}}}))
    print(f"{count} objects: ledger {dict(states)}, keys once {len({a.key for a in ledger}) == len(ledger) == count}", flush=True)
    print(f"outputs: {len(sources)} objects, {sum(sources.values())} batches, {len(twice)} objects twice", flush=True)
    print(f"attempts to take an object -> objects: {dict(tried)}; {runs} score runs in all", flush=True)
    return states == {"processed": count} and len(sources) == sum(sources.values()) == count


def lossy_watcher() -> int:
    """`clerkflow watch` behind a line that doubles every hint, loses 30 %, and mixes up the rest."""
    from flows.watch import watch
    from infra.events import bucket_hints
    from infra.settings import settings
    from infra.store import open_store
    from tasks.declaration import load_process

    store, process, chance = open_store(), load_process("memory", settings().processes), random.Random(3)

    def mangled() -> Iterator[set[str]]:
        for keys in bucket_hints(store, ["memory"], settings(), threading.Event()):  # type: ignore[arg-type]
            doubled = [key for key in [*keys, *keys] if chance.random() >= 0.3]
            chance.shuffle(doubled)
            yield from ({key} for key in doubled)
            yield set()

    for _ in watch(store, [process], mangled()):
        pass
    return 0


# --- the place where it plays


@contextmanager
def playground() -> Iterator[Path]:
    """A Prefect server, a MinIO that tells the watcher, a published tiny model, its deployments; all on loopback and gone afterwards."""
    from infra.events import webhook_environment
    from infra.minio import environment_of, make_bucket, running

    address, token, port = f"127.0.0.1:{free_port()}", secrets.token_hex(16), free_port()
    with tempfile.TemporaryDirectory(prefix="clerkflow-arrivals-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        os.environ |= {
            "PREFECT_HOME": f"{name}/prefect",
            "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_UI_ENABLED": "false",
            "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "3",
            "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",
            "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
            "PREFECT_WORKER_QUERY_SECONDS": "0.5",
            "PREFECT_LOGGING_LEVEL": "WARNING",
            "DO_NOT_TRACK": "1",
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": str(ROOT),
            "CLERKFLOW_PROCESSES": f"{name}/processes",
            "CLERKFLOW_CACHE": f"{name}/cache",
            "CLERKFLOW_ARRIVALS_ADDRESS": address,
            "CLERKFLOW_ARRIVALS_TOKEN": token,
        }
        with running(build=True, environment=webhook_environment(address, token)) as server:
            make_bucket(server, "arrivals")
            os.environ |= environment_of(server, "arrivals")
            with program("-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)):
                until(lambda: healthy(port), 180)
                publish(folder)
                declare(folder, "null")
                yield folder


def publish(folder: Path) -> None:
    from benchmarks.memory import publish_tiny, tiny_process

    publish_tiny(tiny_process(), folder / "version")


def declare(folder: Path, reconcile: str) -> None:
    """Write the declaration and deploy it."""
    from benchmarks.memory import LABELS

    file = folder / "processes" / "memory" / "process.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(DECLARATION % (", ".join(LABELS), reconcile), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "flows", "deploy", "--pool", POOL], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)


@contextmanager
def program(*words: str) -> Iterator[None]:
    """A program of this Python, killed with all its children at the end."""
    child = psutil.Popen([sys.executable, *words], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        family = [*child.children(recursive=True), child]
        for one in family:
            with_patience(one.kill)
        child.wait(20)


def with_patience(kill: Callable[[], Any]) -> None:
    try:
        kill()
    except psutil.NoSuchProcess:
        return


def healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=2):
            return True
    except OSError:
        return False


def until(asked: Callable[[], Any], seconds: float) -> Any:
    """What a question answers as soon as it is true; RuntimeError when that takes too long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := asked():
            return answer
        time.sleep(0.2)
    raise RuntimeError(f"nothing after {seconds:.0f} s")


def put(key: str, number: int) -> float:
    """An object of two records, and when it was there (seconds since the epoch)."""
    from infra.store import open_store

    rows = [{"id": f"{number}-{row}", "text": f"message {number} {row} about a card"} for row in range(2)]
    open_store().write(key, "".join(json.dumps(row) + "\n" for row in rows).encode())
    return time.time()


def ask(path: str, body: dict[str, Any]) -> Any:
    words = json.dumps(body).encode()
    request = urllib.request.Request(os.environ["PREFECT_API_URL"] + path, words, {"Content-Type": "application/json"})
    for pause in (1, 2, 4, 8):  # a busy SQLite lets one wait, and then says 503
        with suppress(urllib.error.HTTPError), urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)
        time.sleep(pause)
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def first_task(key: str) -> float | None:
    """When the first task of the run that a key started began (seconds since the epoch)."""
    return legs(key)[-1] if legs(key) else None


def legs(key: str) -> list[float]:
    """When the run that a key started was made, began to run, and began its first task; empty until then."""
    runs = ask("/flow_runs/filter", {"flows": {"name": {"any_": ["score"]}}, "limit": 20, "sort": "EXPECTED_START_TIME_DESC"})
    ids = [run["id"] for run in runs if run["parameters"].get("arrived") == key]
    tasks = ask("/task_runs/filter", {"flow_runs": {"id": {"any_": ids}}, "limit": 50}) if ids else []
    began = [seconds_of(task["start_time"]) for task in tasks if task["start_time"]]
    if not began:
        return []
    run = next(run for run in runs if run["id"] == tasks[0]["flow_run_id"])
    return [seconds_of(run["created"]), seconds_of(run["start_time"]), min(began)]


def seconds_of(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()


def active() -> list[Any]:
    """Runs under way, and those that wait for them."""
    state = {"type": {"any_": ["RUNNING", "PENDING"]}}
    return [*ask("/flow_runs/filter", {"flow_runs": {"state": state}})]


def crash_zombies() -> None:
    """What a watchdog does: runs whose processes were killed are Crashed."""
    time.sleep(2)  # what the killed worker asked last may still be under way
    for run in active():
        state = {"type": "CRASHED", "name": "Crashed", "message": "its worker was killed"}
        ask(f"/flow_runs/{run['id']}/set_state", {"state": state, "force": True})


def done() -> int:
    """Objects of the storm that the ledger says are processed."""
    from infra.store import open_store
    from tasks.ledger import read_ledger

    arrivals = read_ledger(open_store(), "memory").arrivals.values()
    return sum(arrival.state == "processed" for arrival in arrivals if "/storm-" in arrival.key)


def outputs() -> dict[str, str]:
    """Batch -> the source that it says it scored."""
    from infra.store import open_store

    store = open_store()
    manifests = [info.key for info in store.list("memory/batches/") if info.key.endswith("/manifest.json")]
    return {key: json.loads(store.read(key)[0])["source"] for key in manifests}


if __name__ == "__main__":
    sys.exit(main())
