"""Runs: a declaration and its overrides -> run.json; and what each stage did, so that a run can be taken up again.

A stage is remembered under the digest of all it depends on: its inputs, its part of the declaration, its code and the
libraries that decide its bytes. A run that was killed, or is started again without a change, finds what is done.
"""

import importlib.metadata
import json
import logging
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict

from infra.settings import ROOT
from infra.store import MissingObject, Store, open_store
from tasks import claims, stories
from tasks.artifacts import Artifact, is_whole
from tasks.claims import Hold
from tasks.process import Process, digest_of

logger = logging.getLogger(__name__)

LIBRARIES = ("torch", "transformers", "tokenizers", "datasets", "great-expectations", "pandas", "scikit-learn", "peft")

Stage = Literal["ingestion", "validation", "preparation", "finetuning", "compression", "evaluation"]
STAGES: tuple[Stage, ...] = get_args(Stage)  # that a training run can find done; it comes to its verdict anew each time


class Run(BaseModel):
    """One run of one flow for one process."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    process: Process
    flow: str
    claim: Hold | None = None  # under which it works; whoever has lost it writes nothing more
    from_stage: Stage | None = None  # that is done again, and all after it, whatever is remembered

    @property
    def prefix(self) -> str:
        """Key of the run's folder, without the last slash."""
        return f"{self.process.name}/runs/{self.id}"


def begin(
    process: Process,
    flow: str,
    overrides: Mapping[str, Any] | None = None,
    *,
    claim: Hold | None = None,
    from_stage: Stage | None = None,
    asked: Mapping[str, Any] | None = None,
) -> Run:
    """Open a run: its id is the time and a random end, and run.json says what it was asked to do.

    Args:
        asked: the id of Prefect's flow run and all its parameters, so that it can be asked for again.
    """
    now = datetime.now(UTC)
    id = f"{now:%Y%m%dT%H%M%S}{now.microsecond // 1000:03}-{secrets.token_hex(3)}"  # in their order, also within a second
    run = Run(id=id, process=process, flow=flow, claim=claim, from_stage=from_stage)
    record = {
        "run": run.id,
        "flow": flow,
        "started": now.isoformat(timespec="seconds"),
        "declaration": process.model_dump(mode="json"),
        "overrides": dict(overrides or {}),
        "commit": commit(),
        "versions": versions(),
        "asked": dict(asked or {}),
    }
    open_store().write(f"{run.prefix}/run.json", stories.story_bytes(record))
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
    store.write(f"{run.prefix}/run.json", stories.story_bytes(record))


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
    claims.check(store, run.claim)
    memory, started = f"{run.process.name}/stages/{stage}/{fingerprint}.json", time.perf_counter()
    basis, forced = stories.basis_of(inputs, settings, versions()), is_forced(stage, run.from_stage)
    remembered, known = (None, None) if forced else _recall(store, memory)
    last = stories.last_basis(store, run.process.name, stage)
    why = stories.why(last, basis, remembered if known else None, remembered, forced)
    story = {"fingerprint": fingerprint, "reused": known is not None, "why": why}
    try:
        artifact = known or work(store, f"{run.prefix}/{into}", fingerprint)
        claims.check(store, run.claim)
    except BaseException as error:
        with suppress(OSError):  # the error itself says more
            stories.tell(store, run.prefix, stage, story | {"seconds": _since(started), "failed": type(error).__name__, "basis": basis})
        raise
    if not known:
        store.write(memory, stories.story_bytes({"run": run.id, "artifact": artifact.model_dump(mode="json")}))
    seconds = _since(started)
    stories.tell(store, run.prefix, stage, story | {"seconds": seconds, "basis": basis, "artifact": artifact.model_dump(mode="json")})
    stories.keep_basis(store, run.process.name, stage, run.id, basis)
    logger.info("%s: %s", stage, told(artifact, seconds, known is not None))
    return artifact


def is_forced(stage: str, from_stage: Stage | None) -> bool:
    """Whether a stage is done again because a run was asked to begin there, or before it."""
    return from_stage is not None and stage in STAGES[STAGES.index(from_stage) :]


def _since(started: float) -> float:
    return round(time.perf_counter() - started, 2)


def told(artifact: Artifact, seconds: float, reused: bool) -> str:
    """An artifact in a line: its counts and measures, and whether they were made now."""
    numbers = {"rows": artifact.rows} if artifact.rows is not None else {}
    shown = {name: value for name, value in (numbers | artifact.facts).items() if isinstance(value, int | float) and name != "seconds"}
    facts = [f"{name} {value:,.4g}" if isinstance(value, float) else f"{name} {value:,}" for name, value in shown.items()]
    return ", ".join([*facts, "nothing changed, reused" if reused else f"{seconds:.1f} s"])


def _recall(store: Store, memory: str) -> tuple[str | None, Artifact | None]:
    """The run that did it, and the remembered artifact, when it is still whole."""
    try:
        told = json.loads(store.read(memory)[0])
        run, artifact = str(told["run"]), Artifact.model_validate(told["artifact"])
    except (MissingObject, ValueError, KeyError, TypeError):
        return None, None
    return run, artifact if is_whole(store, artifact) else None


def newest(store: Store, process: str, flow: str) -> str | None:
    """Id of the newest run of a flow; None when there is none."""
    ids = [info.key.split("/")[2] for info in store.list(f"{process}/runs/") if info.key.endswith("/run.json")]
    return next((id for id in sorted(ids, reverse=True) if record_of(store, process, id)["flow"] == flow), None)


def record_of(store: Store, process: str, id: str) -> dict[str, Any]:
    """A run's run.json.

    Raises:
        ValueError: there is no such run.
    """
    try:
        record: dict[str, Any] = json.loads(store.read(f"{process}/runs/{id}/run.json")[0])
    except (MissingObject, ValueError):
        raise ValueError(f"{process} has no run {id!r}; a run's id is the name of its folder: {store.address(f'{process}/runs')}") from None
    return record


def fingerprint_of(stage: str, inputs: Sequence[Artifact], settings: Mapping[str, Any]) -> str:
    """Digest of everything that decides a stage's output."""
    return digest_of(
        {
            "stage": stage,
            "inputs": [artifact.sha256 for artifact in inputs],
            "settings": dict(settings),
            "code": stories.code_digests(),
            "versions": versions(),
        }
    )[:32]


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
