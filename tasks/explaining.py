"""Explaining: a record of a batch -> all that led to its output: input, model, data, gate, approval, answer, threshold, reviewer.

Everything is read where it was written at the time, and checked against its digest; what is gone is said to be gone.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from infra.store import Store, copy_to
from tasks.aliases import log_of
from tasks.approvals import standings
from tasks.artifacts import fetch_file, json_bytes, listing_of, read_json, scratch
from tasks.automation import label_of
from tasks.batches import Batch, find_batch
from tasks.certificate import FILE as CERTIFICATE
from tasks.certificate import Certificate
from tasks.encodings import KEPT_BYTES
from tasks.manifests import Manifest, manifest_key, read_manifest
from tasks.process import Process
from tasks.readers import Reader
from tasks.records import Record
from tasks.released import WORDS
from tasks.reviewing import fits
from tasks.reviews import Reviewed, item_id, last_word, read_word, review_key
from tasks.routing import AUDIT_FILE
from tasks.routing import FILE as REVIEW
from tasks.rows import Facts, rows_in, rows_of
from tasks.sinks import LETTERS, ORIGINALS
from tasks.sources import opened, read_as_today
from tasks.words import FILE as SPOKEN
from tasks.words import REVIEWED

GONE = "not there any more"


@dataclass(frozen=True, slots=True)
class Link:
    """One link of the chain."""

    title: str
    facts: Facts


def explain(store: Store, process: Process, batch: str, record: str) -> list[list[Link]]:
    """The chain of each record of a batch that has this id, from what went in to what came out.

    Raises:
        ValueError: no such batch, or no such record in it.
    """
    told = find_batch(store, process.name, batch)
    found = list(rows_of(store, told.artifact, record))
    if not found:
        made = "sha256-… as its predictions say it where a row has none, and name:line where it could not be read"
        raise ValueError(f"{batch} has no record {record!r}; ids are those of the source's column {process.records.key!r}, {made}")
    return [list(_chain(store, process, told, name, row)) for name, row in found]


def _chain(store: Store, process: Process, told: Batch, name: str, row: Facts) -> Iterator[Link]:
    """The links of one row of a batch's file."""
    word = _word(store, process, told, name, row)
    version = word.model_version if word and name != REVIEW else row.get("model_version") or told.version
    inputs = word.inputs if word else row.get("inputs") or _source_values(store, process, told, row)
    yield Link(
        "record",
        {"id": row["record_id"], "source": told.source, "line": row["line"], "SHA-256 of the source": told.source_sha256},
    )
    yield Link("input", inputs)
    if place := row.get("original"):  # dead letters of batches made before rows were kept have none
        where = f"from byte {place['offset']:,} on {place['bytes']:,} bytes" + (", its beginning" if place["bytes"] == KEPT_BYTES else "")
        yield Link("as it came", {store.address(told.artifact.prefix + ORIGINALS): where, "SHA-256": place["sha256"]})
    manifest = _manifest(store, process, version)
    yield from _model(store, process, manifest) if manifest else [Link("model", {"version": f"{version}, {GONE}"})]
    void = word is not None and name == REVIEW and not fits(process, word)
    yield Link("answer", _answer(store, process, name, row, None if void else word, manifest))
    if word:
        used = {"void": "its answer is not declared any more; the record waits again"} if void else {"used for": word.side}
        yield Link("reviewer", _said(word) | used)
    if drawn := _drawn(store, told, name, row):
        yield Link("audit", _audited(store, process, drawn))
    yield Link("batch", {"name": told.batch, "run": told.run, "finished": told.finished.isoformat()})


def _manifest(store: Store, process: Process, version: str) -> Manifest | None:
    """What a version says of itself; None when it was collected."""
    return read_manifest(store, process.name, version) if store.stat(manifest_key(process.name, version)) else None


def _model(store: Store, process: Process, manifest: Manifest) -> Iterator[Link]:
    """The version, what it was made of, how it was judged, and who let it out."""
    made = {"version": manifest.version, "trained": manifest.created, "run": manifest.run, "commit": manifest.commit}
    yield Link("model", made | {"root": manifest.root, "signed": "yes" if manifest.signature else "no"})
    yield Link("its data", {stage: f"{evidence.key} (SHA-256 {evidence.sha256[:16]}…)" for stage, evidence in manifest.data.items()})
    rules = manifest.verdict.get("results", [])
    yield Link("gate", {rule["rule"]: f"{rule['measure']}: {'holds' if rule['passed'] else 'does not hold'}" for rule in rules})
    for each in standings(store, process.name):
        if each.request and each.version == manifest.version:
            decided = each.decision
            who = {"by": f"{decided.name} ({decided.role})", "reason": decided.reason, "when": decided.decided} if decided else {}
            yield Link("approval", {"request": each.id, "state": each.state} | who)
    moves = [move for move in log_of(store, process.name) if move.version == manifest.version]
    yield Link("champion", {move.since: move.reason for move in moves} or {"never": "it was asked by name"})


def _answer(store: Store, process: Process, name: str, row: Facts, word: Reviewed | None, manifest: Manifest | None) -> Facts:
    """What the model said, how sure it was, and what became of that."""
    if name == LETTERS:
        return {"became": "dead letter", "stage": row["stage"], "code": row["code"], "reason": row["reason"], "attempt": row["attempt"]}
    if word and name != REVIEW:
        return {
            "became": "accepted, and looked at by a person afterwards" if word.audited else "for a person",
            "why": word.why,
            "output": word.proposed,
            "confidence": word.confidence,
            "threshold": word.threshold,
        }
    if name == REVIEW:
        kept = ("output", "confidence", "threshold", "fields", "similarity")
        became = "for a person" if word else "for a person, who has not looked at it yet"
        return {"became": became, "why": row["reason"]} | {key: row[key] for key in kept}
    certificate = _certificate(store, manifest)
    threshold = certificate.threshold_of(label_of(process.output.kind, row["output"])) if certificate else None
    certified = f"at most {certificate.max_error:.1%} wrong, with {certificate.confidence:.0%} confidence" if certificate else None
    fields = {"fields": row["fields"]} if row.get("fields") else {}  # batches made before it was kept have none
    said = {"output": row["output"], "confidence": row["confidence"]} | fields
    return {"became": "accepted"} | said | {"threshold": threshold, "certified": certified}


def _certificate(store: Store, manifest: Manifest | None) -> Certificate | None:
    """What a version's answers are accepted by; None when it has no certificate, or is gone."""
    if manifest is None or CERTIFICATE not in manifest.files:
        return None
    (piece,) = manifest.files[CERTIFICATE].pieces
    with scratch() as folder:
        copy_to(store, piece.key, copy := folder / CERTIFICATE, piece.sha256)
        return Certificate.model_validate_json(copy.read_bytes())


def _word(store: Store, process: Process, told: Batch, name: str, row: Facts) -> Reviewed | None:
    """The person's word on a row, where there is one."""
    if told.version == REVIEWED:
        ids = read_json(store, told.artifact, WORDS)
        return read_word(store, review_key(process.name, ids[int(row["line"]) - 1]))
    if row.get("model_version") == REVIEWED:
        with scratch() as folder:
            rows = map(json.loads, fetch_file(store, told.artifact, SPOKEN, folder).read_bytes().splitlines())
            said = next(each["word"] for each in rows if each["line"] == int(row["line"]))
        return read_word(store, review_key(process.name, said))
    if name != REVIEW:
        return None
    return last_word(store, process.name, item_id(row["record_id"], row["inputs"]))


def _drawn(store: Store, told: Batch, name: str, row: Facts) -> Facts | None:
    """An accepted row as it was drawn for a person; None where it was not."""
    if not name.startswith("predictions.") or AUDIT_FILE not in listing_of(store, told.artifact):
        return None
    return next((each for each in rows_in(store, told.artifact, AUDIT_FILE) if each["line"] == int(row["line"])), None)


def _audited(store: Store, process: Process, drawn: Facts) -> Facts:
    """What a person has said on an accepted answer afterwards."""
    word = last_word(store, process.name, item_id(drawn["record_id"], drawn["inputs"]))
    return {"drawn": "for a person"} | _said(word) if word else {"drawn": "for a person, who has not looked at it yet"}


def _said(word: Reviewed) -> dict[str, Any]:
    """Who has said what, when and why."""
    when = f"{word.decided:%Y-%m-%d %H:%M}"
    return {"who": word.reviewer, "when": when, "word": word.word, "output": word.output, "reason": word.reason}


def _source_values(store: Store, process: Process, told: Batch, row: Facts) -> Facts:
    """What stood in the source: of a dead letter its own copy, else the line, when the source is as it was."""
    if "content" in row:
        return {"content": row["content"]}
    with suppress(ValueError, OSError), opened(store, told.location or told.source, process) as source:
        if source.sha256 == told.source_sha256:
            reader = Reader(source.path, source.name, read_as_today(process, process, source), labelled=False)
            values = next((each.values for each in reader if isinstance(each, Record) and each.line == int(row["line"])), None)
            return values or {"": GONE}
    return {"": f"the source is {GONE}, or was changed"}


def as_json(chains: list[list[Link]]) -> str:
    """The chains as JSON: a list of links for each record."""
    return json_bytes([[{"title": link.title, "facts": dict(link.facts)} for link in chain] for chain in chains]).decode()
