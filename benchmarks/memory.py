"""Peak memory of a batch of few and of many short records: it must not grow with their number.

Run: make bench-memory          (or: .venv/bin/python -m benchmarks.memory --rows 2000 200000)
Each batch runs in a process of its own, with a tiny label model that is made here and published through the real registry.
"""

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measuring import told_by, work_in

LABELS = ("complaint", "delivery", "invoice", "refund")
WORDS = ("please", "card", "order", "urgent", "退款", "发票", "送货", "late", "twice", "help")
MEBIBYTE = 2**20


def main() -> int:
    """Make the model and the records, score each file in a child, print peaks and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[2_000, 200_000], help="records of each batch")
    rows = parser.parse_args().rows
    from rich.console import Console

    console = Console()
    with tempfile.TemporaryDirectory(prefix="clerkflow-bench-") as name:
        folder = Path(name)
        work_in(folder)
        publish_tiny(tiny_process(), folder / "version")
        found = []
        for count in rows:
            with console.status(f"scoring {count:,} records"):
                found.append(told_by("benchmarks.memory", write_records(folder / f"{count}.jsonl", count)))
    console.print(table_of(found))
    ratio = found[-1]["peak_bytes"] / found[0]["peak_bytes"]
    console.print(f"{rows[-1] / rows[0]:g} times the records, {ratio:.2f} times the memory")
    return 0


def child() -> None:
    """Score the file named on the command line; print counts and this process's peak memory as JSON."""
    from infra.threads import calm_openmp

    calm_openmp()
    from benchmarks.measuring import peak_bytes
    from tasks.runs import Run
    from tasks.scoring import score_batch

    batch = score_batch.fn(sys.argv[1], Run(id="memory", process=tiny_process(), flow="score"))
    print(json.dumps(batch.facts | {"peak_bytes": peak_bytes()}))


def table_of(found: list[dict[str, Any]]) -> Any:
    """One line a batch."""
    from rich.table import Table

    table = Table(title="memory of a batch job", title_justify="left")
    for heading in ("records", "accepted", "review", "dead", "peak RSS, MiB", "seconds", "records/s"):
        table.add_column(heading, justify="right")
    for batch in found:
        counts = [f"{batch[name]:,}" for name in ("rows", "done", "review", "dead")]
        table.add_row(*counts, f"{batch['peak_bytes'] / MEBIBYTE:,.0f}", f"{batch['seconds']:,.1f}", f"{batch['rows_per_second']:,.0f}")
    return table


def write_records(path: Path, count: int) -> Path:
    """Short messages as JSON lines, one in a thousand blank."""
    chance = random.Random(7)
    with path.open("w", encoding="utf-8") as stream:
        for number in range(count):
            text = "" if number % 1000 == 999 else " ".join(chance.choices(WORDS, k=6)) + f" {chance.randrange(10**6)}"
            stream.write(json.dumps({"id": f"r-{number}", "text": text}, ensure_ascii=False) + "\n")
    return path


def tiny_process() -> Any:
    """A label process with the smallest model that there can be."""
    from tasks.declaration import parse_process

    declared = {
        "name": "memory",
        "owner": "benchmarks",
        "records": {"source": "sample.jsonl"},
        "sample": {"prompt": "Message: {text}\nQueue:", "vocabulary_size": 400},
        "output": {"label": "queue", "labels": list(LABELS)},
        "finetuning": {"size": {"n_layer": 1, "n_embd": 16, "n_head": 2}, "max_length": 128},
        "gate": [{"metric": "accuracy", "at_least": 0.5}],
    }
    return parse_process(declared, "benchmarks/memory.py")


def publish_tiny(process: Any, folder: Path) -> str:
    """Make an untrained model of a label process, publish it, make it champion, and return its version."""
    from transformers import PreTrainedTokenizerFast

    from infra.store import open_store
    from tasks.aliases import champion_of, move_alias
    from tasks.artifacts import write_json
    from tasks.budget import Counts, settle
    from tasks.models import build_model
    from tasks.prompts import completion_of
    from tasks.registry import files_in, publish_version
    from tasks.vocabulary import EOS, train_vocabulary

    labels = list(process.output.labels)
    tokens = [completion_of(process, label) for label in labels]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=train_vocabulary(WORDS, 400, tokens), eos_token=EOS)  # type: ignore[no-untyped-call]
    build_model(settle(process.finetuning, "label", Counts(100, 1000, 800, 400)), tokenizer, 128).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    contract = {"kind": "label", "labels": labels, "label_ids": tokenizer.convert_tokens_to_ids(tokens), "max_new_tokens": 1}
    write_json(folder / "contract.json", contract)
    write_json(folder / "declaration.json", process.model_dump(mode="json"))
    (folder / "reference.jsonl").write_text("")
    manifest = publish_version(open_store(), process.name, files_in(folder), created="2024-01-31T08:00:00Z", run="memory")
    before = champion_of(open_store(), process.name)
    move_alias(open_store(), process.name, manifest.version, "benchmark", instead_of=before.version if before else None)
    return manifest.version


if __name__ == "__main__":
    sys.exit(main())
