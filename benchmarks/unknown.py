"""What becomes of records that have none of the declared labels: how many are accepted without a person, beside records that have one.

Run: make bench-unknown          (or: .venv/bin/python -m benchmarks.unknown --every 5 --folds 1)

Every fifth intent of banking77 is taken out of its records; a model is trained and certified on the rest, and then asked about test records
of the intents that were taken out (close by, for the same customers write of the same bank) and about those of ATIS (far away). A person
would have to look at each of them.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from benchmarks.measuring import last_training, read_lines, work_in
from benchmarks.real import HERE, SHARED

PROCESS, FAR = "banking77", "atis"
AUTOMATION = {"max_error": 0.05, "confidence": 0.95}
REASONS = ("accepted", "unsure", "uncertified", "out_of_scope")


def main() -> int:
    """Print what is accepted of each sort; 1 when records without a label are accepted half as often as others, or more often."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=5, help="every so many labels one is taken out")
    parser.add_argument("--folds", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=8, help="budget of a training")
    asked = parser.parse_args()
    from flows import console

    console.quiet_libraries()
    with tempfile.TemporaryDirectory(prefix="clerkflow-bench-") as name:
        work_in(Path(name))
        found = [told(Path(name) / str(fold), fold, asked.every, asked.minutes) for fold in range(asked.folds)]
    console.out.print(table_of(found))
    return 0 if all(2 * each["other intents"]["accepted"] < each["known intents"]["accepted"] for each in found) else 1


def told(folder: Path, fold: int, every: int, minutes: float) -> dict[str, dict[str, float]]:
    """Sort of test record -> the share of each of the REASONS."""
    records = {split: read_lines(SHARED / PROCESS / f"{split}.jsonl") for split in ("train", "test")}
    out = set(sorted({str(record["output"]) for record in records["train"]})[fold::every])
    declared = declare(folder, records, out, minutes)
    close = [record for record in records["test"] if record["output"] in out]
    return asked_about(declared, {"other intents": close, "flights": read_lines(SHARED / FAR / "test.jsonl")})


def declare(folder: Path, records: Mapping[str, Sequence[dict[str, Any]]], out: Set[str], minutes: float) -> Path:
    """The process without the labels that are taken out; its folder."""
    import yaml

    folder.mkdir(parents=True)
    declared = yaml.safe_load((HERE / "processes" / PROCESS / "process.yaml").read_text(encoding="utf-8"))
    declared |= {"automation": AUTOMATION, "finetuning": {"budget_minutes": minutes}}
    declared["records"] |= {"source": "train.jsonl", "test": "test.jsonl"}
    (folder / "process.yaml").write_text(yaml.safe_dump(declared), encoding="utf-8")
    for split, found in records.items():
        kept = (json.dumps(record, ensure_ascii=False) + "\n" for record in found if record["output"] not in out)
        (folder / f"{split}.jsonl").write_text("".join(kept), encoding="utf-8")
    return folder


def asked_about(declared: Path, unknown: Mapping[str, Sequence[dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """Train, then route records that have a label, which is what the evaluation measured, and those that have none."""
    from flows.train import train
    from infra.store import open_store
    from tasks.artifacts import fetch_folder, scratch
    from tasks.certificate import read_certificate
    from tasks.generation import Predictor
    from tasks.routing import Router

    train(str(declared), dry_run=True)
    store, (model, evaluation) = open_store(), last_training(PROCESS)
    with scratch() as folder:
        predictor = Predictor.load(fetch_folder(store, model, folder / "model"))
        judged = fetch_folder(store, evaluation, folder / "evaluation")
        router, certificate = Router.of(judged, predictor.process, "1", predictor.process), read_certificate(judged)
        measured = certificate.measured if certificate else None
        known = {"accepted": measured.accepted / measured.rows if measured and measured.rows else 0.0}
        return {"known intents": known} | {sort: routed(predictor, router, records) for sort, records in unknown.items()}


def routed(predictor: Any, router: Any, records: Iterable[dict[str, Any]]) -> dict[str, float]:
    """The share of records that are accepted, and that of each reason for which a person looks at one."""
    from collections import Counter

    from tasks.records import Record

    asked = [Record(str(number), record, PROCESS, number) for number, record in enumerate(records)]
    prompts = [predictor.prompt_of(record.values) for record in asked]
    similar = router.similarities(list(zip(asked, prompts, strict=True)))
    found = [router.proposed(*each) for each in zip(asked, predictor.predict(prompts), similar, strict=True)]
    counts = Counter("accepted" if each is None else each.reason for each in found)
    return {reason: counts[reason] / len(asked) for reason in REASONS}


def table_of(found: Sequence[dict[str, dict[str, float]]]) -> Any:
    """One line a fold and sort of record."""
    from rich.table import Table

    table = Table(
        title=f"{PROCESS}, certified for {AUTOMATION['max_error']:.0%} of errors: what becomes of test records", title_justify="left"
    )
    for heading in ("fold", "records", *REASONS):
        table.add_column(heading)
    for fold, sorts in enumerate(found):
        for sort, shares in sorts.items():
            table.add_row(str(fold), sort, *("–" if reason not in shares else f"{shares[reason]:.3f}" for reason in REASONS))
        table.add_section()
    return table


if __name__ == "__main__":
    sys.exit(main())
