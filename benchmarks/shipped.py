"""Every shipped process from its records to its gate: each rule with what was measured, and the best baseline beside the model.

Run: make bench-shipped          (or: .venv/bin/python -m benchmarks.shipped service_answers --seeds 0 1)

Trained as declared, nothing is published. The exit status is 1 where a gate refuses.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measuring import work_in
from infra.settings import ROOT

PROCESSES = ROOT / "data" / "processes"


def main() -> int:
    """Train the named processes, print each one's rules; 0 when every gate passes."""
    every = sorted(path.parent.name for path in PROCESSES.glob("*/process.yaml"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("processes", nargs="*", default=every, metavar="PROCESS", help=f"of: {', '.join(every)}")
    parser.add_argument("--seeds", type=int, nargs="+", help="of the training; the declared one when absent")
    asked = parser.parse_args()
    if unknown := set(asked.processes) - set(every):
        parser.error(f"no such process: {', '.join(sorted(unknown))}")
    from flows import console

    console.quiet_libraries()
    with tempfile.TemporaryDirectory(prefix="clerkflow-bench-") as name:
        work_in(Path(name))
        found = [trained(process, seed) for process in asked.processes for seed in asked.seeds or [None]]
    console.out.print(table_of(found))
    return 0 if all(verdict.passed for *_, verdict in found) else 1


def trained(name: str, seed: int | None) -> tuple[str, float, Any]:
    """Name, minutes and verdict of one process."""
    from flows.parameters import Overrides
    from flows.train import train

    began = time.perf_counter()
    changed = {} if seed is None else {"finetuning": {"seed": seed}}
    verdict = train(str(PROCESSES / name), Overrides.model_validate(changed), dry_run=True)
    return (name if seed is None else f"{name}, seed {seed}"), (time.perf_counter() - began) / 60, verdict


def table_of(found: list[tuple[str, float, Any]]) -> Any:
    """One line a rule."""
    from rich.table import Table

    table = Table(title="shipped processes, as declared", title_justify="left")
    for heading in ("process", "min", "rule", "measured", "against", "gate"):
        table.add_column(heading)
    for name, minutes, verdict in found:
        for number, each in enumerate(verdict.results):
            head = (name, f"{minutes:.1f}") if not number else ("", "")
            measures = ("–" if value is None else f"{value:.3f}" for value in (each.measure, each.reference))
            table.add_row(*head, each.rule, *measures, "holds" if each.passed else "[red]refused[/]")
        table.add_section()
    return table


if __name__ == "__main__":
    sys.exit(main())
