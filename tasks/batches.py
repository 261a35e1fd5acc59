"""Batches: batches/<batch>/manifest.json is what others go by; what is not named there is not seen.

A batch is named after what decides its bytes: the source, the model's version, the format.
"""

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from infra.store import MissingObject, Store
from tasks.artifacts import Artifact, is_whole, listing_of
from tasks.process import Process, digest_of
from tasks.sources import source_id


def batch_id(
    source_sha256: str, name: str, process: Process, version: str, output_format: str, replayed: str = "", refuted: bool = False
) -> str:
    """The batch's name: the source and how it is read, the model's version, the format; what else is made of it, and what is accepted.

    Args:
        replayed: digest of the dead letters that it replays: then it is no batch of the whole source, and does not begin as one; or the
            batch that it comes after, see `tasks.turns`.
        refuted: whether the version's certificate is none any more.
    """
    ends = process.batch.model_dump(mode="json", include={"sink", "sheet", "documents"}, exclude_none=True)
    ends |= accepted_by(process, refuted)
    if process.automation and process.automation.audit:
        ends["audit"] = process.automation.audit
    source = source_id(f"{source_sha256} {replayed}" if replayed else source_sha256, name, process)
    return f"{source}-{version}-{output_format}" + (f"-{digest_of(ends)[:8]}" if ends else "")


def accepted_by(process: Process, refuted: bool) -> dict[str, Any]:
    """What of a declaration, and of what people said, decides which answers are accepted; nothing where all are."""
    if not (asked := process.automation):
        return {}
    return {"automation": asked.model_dump(mode="json", include={"max_error", "confidence"})} | ({"refuted": True} if refuted else {})


# Of a batch's facts: rows = done + review + dead, where done is accepted, audit are those of them that a person looks at afterwards, and
# repeated those of the dead that came before in the batch.
COUNTS = ("rows", "done", "audit", "review", "dead", "repeated")


def counts_of(batches: Iterable[Artifact]) -> dict[str, int]:
    """What became of the records of some batches; those made before there was a review, or an audit, had none."""
    found = list(batches)
    return {name: sum(int(batch.facts.get(name, 0)) for batch in found) for name in COUNTS}


def accounted(batch: Artifact) -> str:
    """A batch's records in words; the counts add up."""
    count = counts_of([batch])
    audited = f" ({count['audit']:,} of them for an audit)" if count["audit"] else ""
    repeated = f" ({count['repeated']:,} of them the same rows again)" if count["repeated"] else ""
    parts = f"{count['done']:,} accepted{audited} + {count['review']:,} to review + {count['dead']:,} dead letters{repeated}"
    outdated = f" ({batch.facts['outdated']:,} words on what records held before)" if batch.facts.get("outdated") else ""
    return f"{count['rows']:,} records in = {parts}{outdated}"


OWN = ("predictions.", "review.", "audit.", "dead_letters.", "monitoring.", "words.")  # beginnings of the files that every batch has


def delivered(store: Store, batch: Artifact) -> list[str]:
    """Keys of what else was made of a batch: its sheet, or the folders of its sheets and documents."""
    names = (name for name in listing_of(store, batch) if not name.startswith(OWN))
    tops = (name[: name.find("/") + 1] or name for name in names)
    return list(dict.fromkeys(batch.prefix + top for top in tops))


class Batch(BaseModel):
    """What others go by in the manifest of a finished batch."""

    model_config = ConfigDict(frozen=True)

    batch: str
    version: str
    run: str = ""
    finished: AwareDatetime
    artifact: Artifact
    source: str = ""  # its name
    location: str = ""  # where it is found again; batches made before there was a replay do not say
    source_sha256: str = ""
    replay_of: str | None = None  # the batch whose dead letters it asked about again
    reasons: dict[str, int] = {}  # code -> dead letters


def read_batch(store: Store, key: str) -> Batch:
    """What a batch's manifest says.

    Raises:
        MissingObject: it is not there.
        ValueError: it is damaged.
    """
    data, _ = store.read(key)
    try:
        return Batch.model_validate_json(data)
    except ValidationError:
        raise ValueError(f"{store.address(key)} is damaged, and its batch counts as not done; score its file again, or delete it") from None


def find_batch(store: Store, process: str, name: str) -> Batch:
    """A finished batch by its name.

    Raises:
        ValueError: there is none, or its manifest is damaged.
    """
    with suppress(MissingObject):
        if "/" not in name and name.strip("."):
            return read_batch(store, f"{process}/batches/{name}/manifest.json")
    raise ValueError(f"{process} has no batch {name!r}: below {store.address(process + '/batches/')} stands no finished batch {name!r}")


def recall(store: Store, prefix: str) -> Artifact | None:
    """A finished batch; None when its manifest is not there or damaged, or a file that it names is gone."""
    try:
        artifact = read_batch(store, f"{prefix}/manifest.json").artifact
    except (MissingObject, ValueError):
        return None
    return artifact if is_whole(store, artifact) else None


def finished_batch(store: Store, process: Process, sha256: str, name: str) -> str | None:
    """The batch that has scored a source already, with whatever version; None when there is none whose manifest can be read."""
    prefix = f"{process.name}/batches/"
    for info in store.list(f"{prefix}{source_id(sha256, name, process)}-"):
        if info.key.endswith("/manifest.json"):
            with suppress(MissingObject, ValueError):
                read_batch(store, info.key)
                return info.key.removeprefix(prefix).partition("/")[0]
    return None
