"""Stories: all that a stage depends on -> which of it changed since the stage was last done: code, library, declaration, data, input.

<process>/stages/<stage>.json          what the stage was last done, or found done, from
<process>/runs/<run>/stages/<stage>.json  what it did in one run, and why

Only digests are kept of what it depends on, never the settings or the data themselves.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from infra.store import MissingObject, Store
from tasks.artifacts import Artifact, shown
from tasks.process import digest_of

Basis = dict[str, dict[str, str]]  # code, library, setting, data, input -> its name -> its digest or version
DIGITS = 16  # of a digest; enough to see that something changed
DATA = ("files", "inbox")  # settings that are digests of data


def basis_of(inputs: Sequence[Artifact], settings: Mapping[str, Any], versions: Mapping[str, str]) -> Basis:
    """All that a stage's output depends on, part by part."""
    flat = dict(_flat(settings))
    data = {name.partition(".")[2]: digest for name, digest in flat.items() if name.partition(".")[0] in DATA}
    return {
        "code": dict(code_digests()),
        "library": dict(versions),
        "setting": {name: digest for name, digest in flat.items() if name.partition(".")[0] not in DATA},
        "data": {shown(name): digest for name, digest in data.items() if name},
        "input": {_folder(artifact): artifact.sha256[:DIGITS] for artifact in inputs},
    }


def _flat(value: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Dotted name -> digest of every setting."""
    for name, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield from _flat(inner, f"{before}{name}.")
        else:
            yield f"{before}{name}", digest_of(inner)[:DIGITS]


def _folder(artifact: Artifact) -> str:
    return artifact.prefix.rstrip("/").rpartition("/")[2]


@cache
def code_digests() -> dict[str, str]:
    """File of tasks/ -> its digest: a stage must not reuse what other code has made."""
    paths = sorted(Path(__file__).parent.glob("*.py"))
    return {f"tasks/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()[:DIGITS] for path in paths}


def changes(before: Basis, now: Basis) -> list[str]:
    """What differs, a line each: 'code tasks/cleaning.py changed', 'setting finetuning.seed is new', 'library torch 2.12 -> 2.13'."""
    return [line for kind in now for line in _changes(kind, before.get(kind, {}), now[kind])]


def _changes(kind: str, before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        if kind == "library" and old and new:
            yield f"library {name} {old} -> {new}"
        else:
            yield f"{kind} {name} {'is new' if old is None else 'is gone' if new is None else 'changed'}"


def last_basis(store: Store, process: str, stage: str) -> tuple[str, Basis] | None:
    """The run that last did the stage, or found it done, and what from; None when none ever did."""
    try:
        told = json.loads(store.read(_last(process, stage))[0])
        return str(told["run"]), told["basis"]
    except (MissingObject, ValueError, KeyError, TypeError):
        return None


def keep_basis(store: Store, process: str, stage: str, run: str, basis: Basis) -> None:
    """Say what the stage was last done from."""
    store.write(_last(process, stage), story_bytes({"run": run, "basis": basis}))


def _last(process: str, stage: str) -> str:
    return f"{process}/stages/{stage}.json"


def why(last: tuple[str, Basis] | None, now: Basis, found: str | None, remembered: str | None, forced: bool) -> list[str]:
    """Why a stage is done now, or is not.

    Args:
        last: the run before, and what it did the stage from.
        found: the run whose output is used.
        remembered: the run that did it from the very same before, whether or not its output is still whole.
    """
    if forced:
        return ["asked for: from_stage"]
    changed = changes(last[1], now) if last else []
    if found:
        return [f"nothing changed since run {found}" if not changed else f"all is as it was for run {found}"]
    if remembered:
        return [f"the output of run {remembered} is missing or damaged"]
    return changed or ["it was never done before" if last is None else "what it remembers of its output is missing"]


def tell(store: Store, prefix: str, stage: str, story: Mapping[str, Any]) -> None:
    """Keep what a stage did in a run.

    Args:
        prefix: key of the run's folder.
    """
    store.write(f"{prefix}/stages/{stage}.json", story_bytes({"stage": stage} | dict(story)))


def stories_of(store: Store, prefix: str) -> dict[str, dict[str, Any]]:
    """Stage -> its story, of all that a run came to."""
    found = {}
    for info in store.list(f"{prefix}/stages/"):
        story = json.loads(store.read(info.key)[0])
        found[str(story["stage"])] = story
    return found


def story_bytes(value: Any) -> bytes:
    """Plain data as readable JSON, in its own order."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"
