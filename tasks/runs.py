"""Runs: a declaration and its overrides -> run.json; and what each stage did, so that a run can be taken up again.

A stage is remembered under the digest of all it depends on: its inputs, its part of the declaration, its code and the
libraries that decide its bytes. A run that was killed, or is started again without a change, finds what is done.
"""

import hashlib
import importlib.metadata
import json
import logging
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from infra.settings import ROOT
from infra.store import MissingObject, Store, open_store
from tasks.artifacts import Artifact, is_whole
from tasks.process import Process, digest_of

logger = logging.getLogger(__name__)

LIBRARIES = ("torch", "transformers", "tokenizers", "datasets", "great-expectations", "pandas", "scikit-learn", "peft")


class Run(BaseModel):
    """One run of one flow for one process."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    process: Process
    flow: str

    @property
    def prefix(self) -> str:
        """Key of the run's folder, without the last slash."""
        return f"{self.process.name}/runs/{self.id}"


def begin(process: Process, flow: str, overrides: Mapping[str, Any] | None = None) -> Run:
    """Open a run: its id is the time and a random end, and run.json says what it was asked to do."""
    now = datetime.now(UTC)
    run = Run(id=f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}", process=process, flow=flow)
    record = {
        "run": run.id,
        "flow": flow,
        "started": now.isoformat(timespec="seconds"),
        "declaration": process.model_dump(mode="json"),
        "overrides": dict(overrides or {}),
        "commit": commit(),
        "versions": versions(),
    }
    open_store().write(f"{run.prefix}/run.json", _pretty(record))
    return run


def finish(run: Run, outcome: str, artifacts: Sequence[Artifact]) -> None:
    """Close a run: its outcome and its artifacts in order, beside what run.json said at the start."""
    store = open_store()
    record = json.loads(store.read(f"{run.prefix}/run.json")[0])
    record |= {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "outcome": outcome,
        "artifacts": [artifact.model_dump(mode="json") for artifact in artifacts],
    }
    store.write(f"{run.prefix}/run.json", _pretty(record))


def once(
    run: Run,
    stage: str,
    into: str,
    inputs: Sequence[Artifact],
    settings: Mapping[str, Any],
    work: Callable[[Store, str, str], Artifact],
) -> Artifact:
    """The stage's artifact: remembered when nothing it depends on has changed and it is whole, else made now.

    Args:
        stage: module of tasks/ that does the work.
        into: folder of the run that the stage writes, such as "raw".
        settings: the parts of the declaration that decide the output.
        work: gets the store, the key prefix to write below, and the fingerprint, and returns the artifact.
    """
    store, fingerprint = open_store(), fingerprint_of(stage, inputs, settings)
    memory = f"{run.process.name}/stages/{stage}/{fingerprint}.json"
    known = _recall(store, memory)
    started = time.perf_counter()
    artifact = known or work(store, f"{run.prefix}/{into}", fingerprint)
    if not known:
        store.write(memory, _pretty({"run": run.id, "artifact": artifact.model_dump(mode="json")}))
    seconds = round(time.perf_counter() - started, 2)
    story = {"stage": stage, "fingerprint": fingerprint, "reused": known is not None, "seconds": seconds}
    store.write(f"{run.prefix}/stages/{stage}.json", _pretty(story | {"artifact": artifact.model_dump(mode="json")}))
    logger.info("%s: %s", stage, told(artifact, seconds, known is not None))
    return artifact


def told(artifact: Artifact, seconds: float, reused: bool) -> str:
    """An artifact in a line: its counts and measures, and whether they were made now."""
    numbers = {"rows": artifact.rows} if artifact.rows is not None else {}
    shown = {name: value for name, value in (numbers | artifact.facts).items() if isinstance(value, int | float) and name != "seconds"}
    facts = [f"{name} {value:,.4g}" if isinstance(value, float) else f"{name} {value:,}" for name, value in shown.items()]
    return ", ".join([*facts, "nothing changed, reused" if reused else f"{seconds:.1f} s"])


def _recall(store: Store, memory: str) -> Artifact | None:
    """The remembered artifact, when it is still whole."""
    try:
        artifact = Artifact.model_validate(json.loads(store.read(memory)[0])["artifact"])
    except (MissingObject, ValueError, KeyError, TypeError):
        return None
    return artifact if is_whole(store, artifact) else None


def fingerprint_of(stage: str, inputs: Sequence[Artifact], settings: Mapping[str, Any]) -> str:
    """Digest of everything that decides a stage's output."""
    return digest_of(
        {
            "stage": stage,
            "inputs": [artifact.sha256 for artifact in inputs],
            "settings": dict(settings),
            "code": code_digest(),
            "versions": versions(),
        }
    )[:32]


@cache
def code_digest() -> str:
    """Digest of the code of tasks/: a stage must not reuse what other code has made."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


@cache
def versions() -> dict[str, str]:
    """Versions of the libraries that decide the bytes of a run."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


@cache
def commit() -> str | None:
    """The git commit of this checkout, "-dirty" when files differ from it; None outside a checkout or without git."""
    if not shutil.which("git"):
        return None
    words = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):  # a machine without git
        return None
    return answer.stdout.strip() or None


def _pretty(value: Any) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"
