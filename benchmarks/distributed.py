"""One model tuned by one process with all cores, by two with half of them each, and by two that share it (FSDP), on the same samples.

Run: make bench-distributed         (or: .venv/bin/python -m benchmarks.distributed --rounds 3)
Prints the loss and the pace of each. Bar: the same loss curve within 1 %. The ratio says what a machine of this kind gains; it is no bar.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

TOLERANCE = 0.01
SIZE = {"n_layer": 4, "n_embd": 256, "n_head": 4}
WAYS: dict[str, dict[str, Any]] = {
    "one process": {},
    "two processes": {"num_processes": 2},
    "two processes that share the model": {"num_processes": 2, "fsdp": True},
}


def main() -> int:
    """Print both curves and the ratio of paces; 1 when the curves differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    from infra.threads import calm_openmp

    calm_openmp()
    with tempfile.TemporaryDirectory(prefix="clerkflow-bench-") as name:
        os.environ["CLERKFLOW_STORE"] = f"{name}/store"
        samples = prepared(Path(name) / "samples")
        found = [
            [tuned(samples, Path(name) / f"{at}-{number}", declared(**more)) for at, more in enumerate(WAYS.values())]
            for number in range(rounds)
        ]
    curves = [facts["curve"] for facts in found[0]]
    paces = [statistics.median(each["tokens"] / each["seconds"] for each in runs) for runs in zip(*found, strict=True)]
    apart = max(abs(b / a - 1) for curve in curves for a, b in zip(curves[0], curve, strict=True))
    for way, curve, pace in zip(WAYS, curves, paces, strict=True):
        losses = [round(loss, 4) for loss in curve]
        print(f"{way}: validation loss {losses}, {pace:,.0f} tokens/s, {pace / paces[0]:.2f} times one process")
    print(f"curves differ by {apart:.2%} at most (bar: {TOLERANCE:.0%})")
    return 0 if apart <= TOLERANCE else 1


def declared(**more: Any) -> Any:
    """A process whose model is large enough that its steps, not the sums between them, take the time."""
    from benchmarks import quick

    finetuning = {"size": SIZE, "num_train_epochs": 2, "evaluations": 4, "dropout": 0.0, "tokens_per_batch": 2048, "precision": "fp32"}
    return quick.process(finetuning=finetuning | more)


def prepared(folder: Path) -> Path:
    """Samples of made-up messages."""
    from tasks.preparation import write_samples
    from tasks.records import Record

    texts = (f"message {number % 97} about card {number % 13} and invoice {number}, please answer soon" for number in range(2_000))
    labels = ("complaint", "delivery", "invoice", "refund")
    rows = [Record(str(at), {"text": text, "queue": labels[at % 97 % 4]}, "a", at, (), "") for at, text in enumerate(texts)]
    with tempfile.TemporaryDirectory() as working:
        write_samples(declared(), rows, folder, Path(working))
    return folder


def tuned(samples: Path, folder: Path, process: Any) -> dict[str, Any]:
    """Facts of one tuning, and its validation losses."""
    from infra.store import open_store
    from tasks.checkpoints import Checkpoints
    from tasks.finetuning import trainer_of

    facts = trainer_of(process)(process, samples, folder, Checkpoints(open_store(), f"quick/checkpoints/{folder.name}"))
    story = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    return facts | {"curve": [entry["validation_loss"] for entry in story["history"]]}


if __name__ == "__main__":
    sys.exit(main())
