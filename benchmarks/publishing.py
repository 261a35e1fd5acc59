"""Publishing and loading a 500 MB model on a real MinIO server, beside `mc` and a minio-py loop: same files, interleaved.

Run: make bench-publishing          (or: .venv/bin/python -m benchmarks.publishing --rounds 5)
Ratios are medians over the rounds. What is measured is all that our publish and load do: hashing, checks and the manifest included.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LAYERS, WIDE, VOCABULARY = 12, 768, 50_257  # GPT-2, 124 M parameters
FACTS = {"created": "2024-01-31T08:00:00Z", "run": "benchmark"}


def main() -> int:
    """Make the model, run the rounds, print the tables; 1 when a bar of the README is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    from infra.minio import environment_of, make_bucket, running

    with tempfile.TemporaryDirectory(prefix="clerkflow-bench-") as name, running(build=True) as server:
        make_bucket(server, "bench")
        os.environ |= environment_of(server, "bench") | {"CLERKFLOW_CACHE": f"{name}/cache"}
        models = [make_model(Path(name) / f"model-{number}", number) for number in range(2)]
        times = [one_round(models[0], Path(name), server, number) for number in range(rounds)]
        changed = republish(models)
        stage = publish_stage(models[0], Path(name))
        memory = {what: peak(what, models[0], Path(name)) for what in ("publish", "load")}
    return report(times, changed, stage, memory)


def make_model(folder: Path, top_seed: int) -> Path:
    """GPT-2 small with random weights; two of them differ in the top two of twelve layers only."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(1)
    model = GPT2LMHeadModel(GPT2Config(n_layer=LAYERS, n_embd=WIDE, n_head=12, vocab_size=VOCABULARY))
    if top_seed:
        torch.manual_seed(1 + top_seed)
        with torch.no_grad():
            for layer in model.transformer.h[-2:]:
                for weight in layer.parameters():
                    weight.add_(torch.randn_like(weight) * 0.01)
    model.save_pretrained(folder)
    return folder


def files_of(model: Path) -> dict[str, Any]:
    """What a version of the model consists of."""
    from infra.spans import Spans
    from tasks.shards import shards_of

    others = {path.name: Spans.of(path) for path in model.iterdir() if path.suffix == ".json" and "index" not in path.name}
    return others | shards_of(model, 32 * 2**20)


def one_round(model: Path, folder: Path, server: Any, number: int) -> dict[str, float]:
    """Seconds of each way to move the model, one after the other."""
    shards = written(model, folder / "shards")
    process = f"round-{number}"
    ours = {"publish": timed(lambda: publish(model, process))}
    ways: list[tuple[str, Callable[[], Any]]] = [
        ("mc mirror up", lambda: mc("mirror", "-q", str(shards), f"m/bench/mc-{number}")),
        ("mc cp up", lambda: mc("cp", "-q", str(model / "model.safetensors"), f"m/bench/mccp-{number}/model.safetensors")),
        ("fput_object loop", lambda: fput_loop(shards, f"fput-{number}")),
        ("load", lambda: load(process, folder / "cache")),
        ("mc mirror down", lambda: mc("mirror", "-q", f"m/bench/mc-{number}", str(folder / "mirrored"))),
        ("mc cp down", lambda: mc("cp", "-q", f"m/bench/mccp-{number}/model.safetensors", str(folder / "copied"))),
        ("fget_object loop", lambda: fget_loop(f"fput-{number}", folder / "got")),
    ]
    up, down = turned(ways[:3], number), turned(ways[3:], number)
    found = ours | {name: timed(way) for name, way in (*up, *down)}
    for name in ("cache", "mirrored", "got"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "copied").unlink(missing_ok=True)
    mc("rm", "-q", "--recursive", "--force", "m/bench/")
    return found


def turned(ways: list[Any], number: int) -> list[Any]:
    """The ways in an order in which another one is first in each round."""
    return ways[number % len(ways) :] + ways[: number % len(ways)]


def timed(work: Callable[[], Any]) -> float:
    """Seconds, as the work says or as it took; begun when the disk is done with what came before: nobody pays for another's writes."""
    os.sync()
    started = time.perf_counter()
    told = work()
    return told if isinstance(told, float) else time.perf_counter() - started


def written(model: Path, folder: Path) -> Path:
    """The very files that we publish, for the others to move."""
    if not folder.exists():
        folder.mkdir()
        for name, spans in files_of(model).items():
            with (folder / name).open("wb") as stream:
                stream.writelines(spans.blocks())
    return folder


def publish(model: Path, process: str) -> Any:
    from infra.store import open_store
    from tasks.registry import publish_version

    return publish_version(open_store(), process, files_of(model), **FACTS)


def load(process: str, cache: Path) -> float:
    """Seconds for all of a version into an empty cache, every byte checked, in a process of its own as mc is one; its imports apart."""
    code = "import sys; from benchmarks.publishing import load_here; load_here(*sys.argv[1:])"
    words = [sys.executable, "-c", code, process, str(cache)]
    return float(subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True, timeout=600).stdout)


def load_here(process: str, cache: str) -> None:
    """What the process does; it prints its seconds."""
    import rich.progress  # noqa: F401

    import infra.connection  # noqa: F401
    from infra.store import open_store
    from tasks.registry import fetch_version, versions_of

    started = time.perf_counter()
    store = open_store()
    fetch_version(store, process, versions_of(store, process)[0].version, Path(cache))
    print(time.perf_counter() - started)


def mc(*words: str) -> None:
    """MinIO's own client, on the same server."""
    from infra.minio import find_client
    from infra.settings import settings

    where = settings()
    keys = f"{where.s3_access_key.get_secret_value()}:{where.s3_secret_key.get_secret_value()}"
    environment = os.environ | {"MC_HOST_m": f"http://{keys}@{where.s3_endpoint}", "MC_CONFIG_DIR": tempfile.gettempdir() + "/clerkflow-mc"}
    subprocess.run([str(find_client(build=True)), *words], env=environment, check=True, stdout=subprocess.DEVNULL, timeout=600)


def fput_loop(folder: Path, prefix: str) -> None:
    """What a script with minio-py does, file by file."""
    client = plain_client()
    for path in sorted(folder.iterdir()):
        client.fput_object("bench", f"{prefix}/{path.name}", str(path))


def fget_loop(prefix: str, folder: Path) -> None:
    client = plain_client()
    for found in client.list_objects("bench", prefix=f"{prefix}/"):
        client.fget_object("bench", found.object_name, str(folder / Path(found.object_name).name))


def plain_client() -> Any:
    from minio import Minio

    from infra.settings import settings

    where = settings()
    keys = {"access_key": where.s3_access_key.get_secret_value(), "secret_key": where.s3_secret_key.get_secret_value()}
    return Minio(where.s3_endpoint, **keys, secure=where.s3_secure)


def publish_stage(model: Path, folder: Path) -> dict[str, float]:
    """Seconds of the flow's stage for the same model artifact, the first time and again."""
    from infra.store import open_store
    from tasks.artifacts import store_folder, write_json
    from tasks.declaration import parse_process
    from tasks.gate import Verdict
    from tasks.publishing import version_of_model
    from tasks.runs import begin

    declared = {
        "name": "stage",
        "owner": "benchmarks",
        "records": {"source": "sample.jsonl"},
        "sample": {"prompt": "{text}"},
        "output": {"label": "queue", "labels": ["a", "b"]},
        "gate": [{"metric": "accuracy", "at_least": 0.5}],
    }
    store, run = open_store(), begin(parse_process(declared, "benchmarks/publishing.py"), "train")
    write_json(folder / "evaluation" / "metrics.json", {"model": {"accuracy": 0.9}})
    (folder / "evaluation" / "reference.jsonl").write_text("")
    evaluation = store_folder(store, folder / "evaluation", f"{run.prefix}/evaluation")
    artifact = store_folder(store, model, f"{run.prefix}/model")
    work = partial(version_of_model, store, artifact, evaluation, Verdict(passed=True, results=()), run)
    store.write(f"{run.prefix}/stages/finetuning.json", json.dumps({"artifact": artifact.model_dump(mode="json")}).encode())
    return {"first": timed(work), "again": timed(work)}


def republish(models: list[Path]) -> dict[str, float]:
    """Bytes that travel when the top two of twelve layers changed, and those of the changed tensors."""
    from infra.store import open_store
    from tasks.shards import tensors_of

    store = open_store()
    publish(models[0], "changed")
    before = {info.key: info.size for info in store.list("changed/models/shards/")}
    publish(models[1], "changed")
    after = {info.key: info.size for info in store.list("changed/models/shards/")}
    tensors = tensors_of(models[0] / "model.safetensors")
    top = sum(tensor.extent.size for tensor in tensors if tensor.layer in ("transformer.h.10", "transformer.h.11"))
    return {"sent": sum(size for key, size in after.items() if key not in before), "changed": top, "whole": sum(before.values())}


def peak(what: str, model: Path, folder: Path) -> dict[str, float]:
    """Peak memory of a process of its own that publishes or loads, above the same process before it begins."""
    words = [sys.executable, "-c", "from benchmarks.publishing import child; child()", what, str(model), str(folder / "memory")]
    answer = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    if answer.returncode:
        raise RuntimeError(f"{what} failed: {answer.stderr[-2000:]}")
    found: dict[str, float] = json.loads(answer.stdout.splitlines()[-1])
    return found


def child() -> None:
    """Publish, or fetch and open with transformers; print memory before and at its peak."""
    import torch
    from transformers import AutoModelForCausalLM, GPT2LMHeadModel  # noqa: F401

    from benchmarks.measuring import peak_bytes
    from infra.store import open_store
    from tasks.registry import fetch_version, versions_of

    what, model, cache = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    store = open_store()
    before = peak_bytes()
    if what == "publish":
        publish(model, "memory")
    else:
        folder = fetch_version(store, "memory", versions_of(store, "memory")[0].version, cache)
        loaded = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
        loaded(torch.arange(8)[None])  # weights that are only mapped are read when they are used
    print(json.dumps({"before": before, "peak": peak_bytes()}))


def report(times: list[dict[str, float]], changed: dict[str, float], stage: dict[str, float], memory: dict[str, dict[str, float]]) -> int:
    """Print what was measured and whether each bar holds."""
    from rich.console import Console
    from rich.table import Table

    console, size = Console(width=120), changed["whole"] / 1e6
    table = Table(title=f"a model of {size:.0f} MB, medians of {len(times)} interleaved rounds", title_justify="left")
    for heading in ("", "seconds", "MB/s"):
        table.add_column(heading, justify="right" if heading else "left")
    for name in sorted(times[0]):
        seconds = statistics.median(found[name] for found in times)
        table.add_row(name, f"{seconds:.2f}", f"{size / seconds:.0f}")
    console.print(table)

    def ratio(other: str, ours: str) -> float:
        return statistics.median(found[other] / found[ours] for found in times)

    above = {what: (found["peak"] - found["before"]) / 1e6 for what, found in memory.items()}
    bars = [
        ("publish against mc mirror", ratio("mc mirror up", "publish"), 0.9, True),
        ("publish against mc cp", ratio("mc cp up", "publish"), 0.9, True),
        ("publish against a fput_object loop", ratio("fput_object loop", "publish"), 1.0, True),
        ("load against mc mirror", ratio("mc mirror down", "load"), 0.9, True),
        ("load against mc cp", ratio("mc cp down", "load"), 0.9, True),
        ("load against a fget_object loop", ratio("fget_object loop", "load"), 1.0, True),
        ("publish stage again, against the first time, seconds", stage["again"] / stage["first"], 0.1, False),
        ("top 2 of 12 layers changed: sent against changed bytes", changed["sent"] / changed["changed"], 1.1, False),
        ("peak memory of publish above the start, MB", above["publish"], 700, False),
        ("peak memory of load and from_pretrained above the start, MB", above["load"], 700, False),
    ]
    table = Table(title="bars", title_justify="left")
    for heading in ("", "measured", "bar", "holds"):
        table.add_column(heading, justify="left" if not heading else "right")
    held = [figure >= bar if upwards else figure <= bar for _, figure, bar, upwards in bars]
    for (name, figure, bar, upwards), holds in zip(bars, held, strict=True):
        table.add_row(name, f"{figure:.3g}", f"{'≥' if upwards else '≤'} {bar:g}", "[green]yes[/]" if holds else "[red]no[/]")
    console.print(table)
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
