"""Retention: published versions -> those worth keeping; what no kept version, alias or running publish refers to is removed."""

import logging
from dataclasses import dataclass
from datetime import UTC, datetime

from infra.store import ObjectInfo, Store
from tasks.aliases import aliases_of
from tasks.approvals import awaited_versions
from tasks.manifests import Manifest, manifest_key
from tasks.registry import versions_of
from tasks.reservations import Lease, collecting, reserved_keys

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Collection:
    """What a collection removes, and what it keeps."""

    kept: tuple[str, ...]  # versions
    dropped: tuple[str, ...]  # versions
    objects: tuple[ObjectInfo, ...]  # manifests of the dropped versions first, then what nothing refers to

    @property
    def size(self) -> int:
        """Bytes that are freed."""
        return sum(info.size for info in self.objects)


def collect(store: Store, process: str, keep: int, grace_hours: float = 24.0, dry_run: bool = True) -> Collection:
    """Remove old versions and the objects that only they needed; safe while others publish, roll back and load.

    Args:
        keep: so many of the newest versions stay, beside those that an alias names or that wait for approval.
        grace_hours: what is younger stays, whoever refers to it.
        dry_run: only say what would go.

    Raises:
        Conflict: another collection runs.
        ValueError: a manifest is damaged, so that nobody knows what it needs.
    """
    if dry_run:
        return plan(store, process, keep, grace_hours, datetime.now(UTC), tidy=False)
    with collecting(store, process) as lease:
        found = plan(store, process, keep, grace_hours, lease.started)
        _remove(store, found, lease)
    return found


def plan(store: Store, process: str, keep: int, grace_hours: float, now: datetime, tidy: bool = True) -> Collection:
    """What may go, by the store's time `now`; a running publish is known by its reservation."""
    reserved = reserved_keys(store, process, now, tidy)  # before the requests: who asks holds a reservation until the request is written
    awaited = awaited_versions(store, process)

    def is_young(info: ObjectInfo) -> bool:
        age = max(0.0, (now - info.modified).total_seconds())  # a listing knows milliseconds, the store's clock whole seconds
        return age < grace_hours * 3600

    manifests = {info.key: info for info in store.list(f"{process}/models/versions/")}
    young = {key for key, info in manifests.items() if is_young(info)}
    versions = versions_of(store, process)
    named = awaited | set(aliases_of(store, process).values()) | {manifest.version for manifest in versions[:keep]}
    kept = [each for each in versions if each.version in named or manifest_key(process, each.version) in reserved | young]
    live = reserved | {piece.key for manifest in kept for _, piece, _ in manifest.pieces()}
    dropped = [each for each in versions if each not in kept]
    objects = [info for folder in ("shards", "files") for info in store.list(f"{process}/models/{folder}/")]
    dead = [info for info in objects if info.key not in live and not is_young(info)]
    return Collection(_names(kept), _names(dropped), (*(manifests[manifest_key(process, each.version)] for each in dropped), *dead))


def _names(manifests: list[Manifest]) -> tuple[str, ...]:
    return tuple(manifest.version for manifest in manifests)


def _remove(store: Store, found: Collection, lease: Lease) -> None:
    """Delete, manifests before what they name: a version that goes is never half there."""
    for info in found.objects:
        lease.check()
        store.delete(info.key)
    logger.info("removed %d versions, %d objects, %.1f MB", len(found.dropped), len(found.objects), found.size / 1e6)
