"""Rehearsal: a published version, downloaded by a fresh process -> whether it answers as the model did that was evaluated.

What is released is then what was tested: not the files that training left behind, but the bytes that every node will load.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.settings import ROOT
from infra.store import open_store
from tasks.artifacts import scratch
from tasks.registry import fetch_version

if TYPE_CHECKING:
    from tasks.generation import Predictor

SECONDS = 1800  # for a download, a load and a few answers
AWAY = 75  # exit status of a rehearsal that the store did not let begin: EX_TEMPFAIL of sysexits.h
CLOSE = 1e-5  # of a confidence: the last digits depend on the machine


class RehearsalError(ValueError):
    """The published bytes do not answer as the evaluated model did."""


def answered(predictor: "Predictor", prompts: Sequence[str]) -> list[dict[str, Any]]:
    """Prompts with the model's answers, all asked at once, as lines of proof.jsonl."""
    return [
        {"prompt": prompt, "output": each.output, "completion": each.completion, "confidence": each.confidence, "problem": each.problem}
        for prompt, each in zip(prompts, predictor.predict(prompts), strict=True)
    ]


def different(proof: Sequence[dict[str, Any]], now: Sequence[dict[str, Any]]) -> int:
    """How many answers are not what they were; a confidence may differ in its last digits."""

    def same(old: dict[str, Any], new: dict[str, Any]) -> bool:
        exact = all(old[name] == new[name] for name in ("prompt", "output", "completion", "problem"))
        return exact and abs(old["confidence"] - new["confidence"]) <= CLOSE

    return sum(not same(old, new) for old, new in zip(proof, now, strict=True))


def rehearse(process: str, version: str, proof: Path) -> int:
    """Ask a published version, in a process that has never seen it, and return how many prompts it was asked.

    Args:
        proof: proof.jsonl of the evaluation.

    Raises:
        RehearsalError: it cannot be downloaded or loaded, or answers differently.
        ConnectionError: the store did not give it; trying again may help.
    """
    if not proof.read_bytes().strip():
        raise RehearsalError(f"{process} {version} has no answers to be compared with: its evaluation asked nothing; it is not released")
    words = [sys.executable, "-P", "-m", "tasks.rehearsal", process, version, str(proof)]
    here = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
    try:
        child = subprocess.run(words, env=here, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise RehearsalError(f"{process} {version} did not answer within {SECONDS} s of its download; it is not released") from None
    if child.returncode:
        reason = (child.stderr.strip().splitlines() or [f"exit status {child.returncode}"])[-1]
        if child.returncode == AWAY:
            raise ConnectionError(f"{process} {version} could not be downloaded to be tried: {reason}")
        raise RehearsalError(f"{process} {version}, downloaded again, cannot be used: {reason}; it is not released")
    found = json.loads(child.stdout.splitlines()[-1])
    if found["different"]:
        wrong = f"answers {found['different']} of {found['asked']} test prompts differently than when it was evaluated"
        raise RehearsalError(
            f"{process} {version}, downloaded again, {wrong}; it is not released, the champion stays. "
            "Was it evaluated on another kind of machine? Train again"
        )
    return int(found["asked"])


def main() -> None:
    """The fresh process: download, load, ask, compare; prints counts as JSON."""
    from infra.threads import calm_openmp

    calm_openmp()
    process, version, file = sys.argv[1:]
    proof = [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]
    with scratch() as folder:
        model = _downloaded(process, version, folder)
        from tasks.generation import Predictor  # takes seconds: not worth them where the store is away

        now = answered(Predictor.load(model), [line["prompt"] for line in proof])
    print(json.dumps({"asked": len(proof), "different": different(proof, now)}))


def _downloaded(process: str, version: str, folder: Path) -> Path:
    """The version's folder; the process ends with status AWAY when the store does not answer."""
    try:
        return fetch_version(open_store(), process, version, folder)
    except OSError as error:
        print(error, file=sys.stderr)
        sys.exit(AWAY)


if __name__ == "__main__":
    main()
