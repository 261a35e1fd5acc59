"""Who may do what, asked of a real server: each role works with keys of its own, in a bucket, below a prefix, for one process."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from minio.commonconfig import ENABLED, CopySource
from minio.error import S3Error
from minio.versioningconfig import VersioningConfig
from pydantic import SecretStr

from benchmarks.memory import publish_tiny
from infra.bucket import MinioStore
from infra.connection import connect, open_bucket
from infra.minio import make_bucket
from infra.roles import PROBE, ROLES, Role, Scope, name_of, policy_of
from infra.settings import Settings
from infra.store import Conflict, MissingObject
from infra.users import Users
from tasks.arrivals import find_batches, score_waiting
from tasks.reviewing import Queue
from tasks.runs import Run, begin
from tasks.terms import Automation
from tests.tasks.test_arrivals import put, quick

ALIAS, SHARD, MANIFEST = "p/models/aliases/champion.json", "p/models/shards/abc.safetensors", "p/models/versions/1/manifest.json"
INBOX, BATCH, RUN = "p/inbox/new.jsonl", "p/batches/b1/predictions.jsonl", "p/runs/r1/run.json"


@dataclass
class Stores:
    """The same part of one bucket, opened by an administrator and by each role."""

    scope: Scope
    admin: MinioStore
    publisher: MinioStore
    scorer: MinioStore
    watcher: MinioStore


def user_of(minio: Settings, scope: Scope, role: Role) -> tuple[str, str]:
    """The keys of a new user who may do what a role may."""
    name, secret, users = name_of(role, scope), secrets.token_hex(20), Users(minio)
    users.set_policy(name, policy_of(role, scope))
    users.admin.user_add(name, secret)
    users.give(name)
    return name, secret


def opened(minio: Settings, scope: Scope, role: Role | None) -> MinioStore:
    """The store, with the keys of a user made for it."""
    where = minio.model_copy(update={"store": f"s3://{scope.bucket}/{scope.prefix}"})
    if role is None:
        return open_bucket(where)
    name, secret = user_of(minio, scope, role)
    return open_bucket(where.model_copy(update={"s3_access_key": SecretStr(name), "s3_secret_key": SecretStr(secret)}))


@pytest.fixture(scope="module", params=[("", ""), ("some/where", ""), ("some/place", "p")], ids=["bucket", "prefix", "process"])
def opened_stores(minio: Settings, shared_bucket: str, request: pytest.FixtureRequest) -> Iterator[Stores]:
    scope = Scope(shared_bucket, *request.param)
    admin = opened(minio, scope, None)
    try:
        yield Stores(scope, admin, *(opened(minio, scope, role) for role in ROLES))
    finally:
        for role in ROLES:
            Users(minio).remove(name_of(role, scope))


@pytest.fixture
def stores(opened_stores: Stores) -> Stores:
    """With what training and a delivery have left."""
    for key in (ALIAS, SHARD, MANIFEST, INBOX, BATCH, RUN, "p/drift/d/drift.json", "p/checkpoints/c/1/x", "p/stages/training/f.json"):
        opened_stores.admin.write(key, b"before")
    return opened_stores


def assert_refused(store: MinioStore, key: str) -> None:
    """Neither new, nor over what is there, nor by condition, nor by deletion, nor as a copy of something else."""
    etag = store.read(key)[1]
    for condition in ({}, {"if_match": etag}, {"if_absent": True}):
        with pytest.raises(PermissionError):
            store.write(key, b"mine", **condition)
    with pytest.raises(PermissionError):
        store.write(f"{key}-new", b"mine", if_absent=True)
    with pytest.raises(PermissionError):
        store.delete(key)
    source = CopySource(store.bucket, store.prefix + RUN)
    with pytest.raises(S3Error, match="AccessDenied"):
        store.client.copy_object(store.bucket, store.prefix + key, source)
    assert store.read(key)[0] == b"before"


def test_a_scorer_reads_a_model_and_writes_a_batch(stores: Stores, tmp_path: Path) -> None:
    scorer = stores.scorer
    for key in (ALIAS, MANIFEST, SHARD, INBOX):
        assert scorer.read(key)[0] == b"before"
    assert INBOX in [info.key for info in scorer.list("p/inbox/")]
    assert scorer.stat("p/models/aliases/challenger.json") is None
    with pytest.raises(MissingObject):
        scorer.read("p/batches/none/manifest.json")
    (tmp_path / "predictions").write_bytes(b"x" * (6 * 2**20))
    scorer.upload(tmp_path / "predictions", "p/batches/b2/predictions.jsonl")
    for key in (
        "p/batches/b2/manifest.json",
        "p/runs/r2/run.json",
        "p/claims/runs/r2.json",
        "p/claims/batches/b2.json",
        "p/stages/scoring/seen.json",
    ):
        scorer.write(key, b"mine", if_absent=True)
        scorer.write(key, b"mine again")
        assert scorer.read(key)[0] == b"mine again"


@pytest.mark.parametrize("key", [ALIAS, SHARD, MANIFEST, INBOX])
def test_a_scorer_cannot_move_an_alias_nor_write_or_delete_a_shard_a_manifest_or_a_record(stores: Stores, key: str) -> None:
    assert_refused(stores.scorer, key)


@pytest.mark.parametrize(
    "key",
    [
        "p/models/batches/x",
        "p/models/aliases/batches/x",
        "p/inbox/runs/x",
        "p/claims/train.json",
        "p/stages/training/x",
        "p/x",
        "x",
        ".clerkflow/x",
    ],
)
def test_a_scorer_writes_nowhere_else_whatever_the_key_looks_like(stores: Stores, key: str) -> None:
    with pytest.raises(PermissionError):
        stores.scorer.write(key, b"mine")


def test_a_scorer_deletes_no_result_and_reads_nothing_of_training(stores: Stores) -> None:
    with pytest.raises(PermissionError):
        stores.scorer.delete(BATCH)
    for key in ("p/drift/d/drift.json", "p/checkpoints/c/1/x", "p/stages/training/f.json"):
        with pytest.raises(PermissionError):
            stores.scorer.read(key)


def test_a_scorer_scores_what_waits_and_releases_what_was_reviewed(
    bucket: MinioStore, minio: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, scope = quick(), Scope(bucket.bucket)
    publish_tiny(process, tmp_path / "version")
    put("new.jsonl", {"id": "a", "text": "card"}, {"id": "b", "text": "late"})
    asked = process.model_copy(update={"automation": Automation(max_error=0.1)})
    score_waiting(find_batches(first := Run(id="one", process=asked, flow="score")), first, "jsonl")
    queue = Queue(bucket, process)
    for item in queue.waiting():
        queue.decide(item, "accepted", "Ann")
    put("more.jsonl", {"id": "a", "text": "card"}, {"id": "c", "text": "order"})
    name, secret = user_of(minio, scope, "scorer")
    monkeypatch.setenv("CLERKFLOW_S3_ACCESS_KEY", name)
    monkeypatch.setenv("CLERKFLOW_S3_SECRET_KEY", secret)
    scored = score_waiting(find_batches(run := begin(process, "score")), run, "jsonl")
    Users(minio).remove(name)
    assert not scored.failed
    assert [(batch.facts["rows"], batch.facts["done"]) for batch in scored.batches] == [(2, 2), (2, 2)]


@pytest.mark.parametrize("role", ["publisher", "scorer"])
def test_whoever_writes_may_probe_the_server(stores: Stores, role: Role) -> None:
    store: MinioStore = getattr(stores, role)
    etag = store.write(f"{PROBE}1", b"x", if_absent=True)
    with pytest.raises(Conflict):
        store.write(f"{PROBE}1", b"x", if_absent=True)
    assert store.read(f"{PROBE}1") == (b"x", etag)
    store.delete(f"{PROBE}1")


@pytest.mark.parametrize("key", [ALIAS, SHARD, BATCH, RUN, INBOX])
def test_a_watcher_reads_everything_and_changes_nothing(stores: Stores, key: str) -> None:
    assert key in {info.key for info in stores.watcher.list("p/")}
    assert_refused(stores.watcher, key)
    with pytest.raises(PermissionError):
        stores.watcher.write(f"{PROBE}2", b"x")


def test_a_publisher_does_all_that_publishing_needs(stores: Stores, tmp_path: Path) -> None:
    publisher = stores.publisher
    (tmp_path / "shard").write_bytes(b"x" * (6 * 2**20))
    publisher.upload(tmp_path / "shard", "p/models/shards/new.safetensors")
    stat = publisher.stat("p/models/shards/new.safetensors")
    assert stat
    assert stat.size == 6 * 2**20
    assert publisher.stat("p/models/shards/none.safetensors") is None
    publisher.write("p/models/versions/2/manifest.json", b"2", if_absent=True)
    publisher.write(ALIAS, b"2", if_match=publisher.read(ALIAS)[1])
    for key in ("p/runs/r3/samples/train.parquet", "p/stages/training/f.json", "p/drift/d2/drift.json", "p/inbox/more.jsonl"):
        publisher.write(key, b"x")
    for key in ("p/models/shards/new.safetensors", "p/models/versions/2/manifest.json", "p/checkpoints/c/1/x"):
        publisher.delete(key)
        assert publisher.stat(key) is None


@pytest.mark.parametrize("key", [INBOX, BATCH, RUN])
def test_a_publisher_deletes_no_records_no_results_and_no_runs(stores: Stores, key: str) -> None:
    with pytest.raises(PermissionError):
        stores.publisher.delete(key)


def test_a_publisher_cannot_change_the_bucket_itself(stores: Stores) -> None:
    client, name = stores.publisher.client, stores.scope.bucket
    for change in (
        lambda: client.set_bucket_versioning(name, VersioningConfig(ENABLED)),
        lambda: client.delete_bucket_lifecycle(name),
        lambda: client.delete_bucket_policy(name),
        lambda: client.remove_bucket(name),
        lambda: client.make_bucket(f"{name}-2"),
    ):
        with pytest.raises(S3Error, match="AccessDenied"):
            change()


def test_nothing_outside_its_part_is_open_to_any_role(stores: Stores, minio: Settings, new_bucket: str) -> None:
    scope = stores.scope
    make_bucket(minio, new_bucket)
    beside = {"": "", "some/where": "some/where-else/", "some/place": "some/place/"}[scope.prefix]
    outside, theirs = (scope.bucket if scope.folder else new_bucket), f"{beside}q/models/aliases/champion.json"
    MinioStore(stores.admin.client, stores.admin.pool, outside).write(theirs, b"theirs")
    for role in ROLES:
        store = MinioStore(getattr(stores, role).client, getattr(stores, role).pool, outside)
        with pytest.raises(PermissionError):
            store.read(theirs)
        with pytest.raises(PermissionError):
            store.write(f"{beside}q/batches/x", b"mine")
        for prefix in (f"{beside}q/", beside, "some/", ""):
            with pytest.raises(PermissionError):
                list(store.list(prefix))


@pytest.mark.parametrize("role", ["publisher", "scorer"])
def test_nobody_who_writes_can_destroy_the_earlier_version_of_an_object(minio: Settings, new_bucket: str, role: Role) -> None:
    client, _ = connect(minio)
    client.make_bucket(new_bucket)
    client.set_bucket_versioning(new_bucket, VersioningConfig(ENABLED))
    scope = Scope(new_bucket)
    try:
        store = opened(minio, scope, role)
        store.write(f"{PROBE}1", b"first")
        store.delete(f"{PROBE}1")
        versions = client.list_objects(new_bucket, f"{PROBE}1", include_version=True)
        version = next(found for found in versions if found.object_name == f"{PROBE}1" and not found.is_delete_marker)
        with pytest.raises(S3Error, match="AccessDenied"):
            store.client.remove_object(new_bucket, f"{PROBE}1", version_id=version.version_id)
        assert client.get_object(new_bucket, f"{PROBE}1", version_id=version.version_id).data == b"first"
    finally:
        Users(minio).remove(name_of(role, scope))


@pytest.mark.parametrize("names", [("b", "pre*"), ("b", "pre/?"), ("b", "", "${aws:username}"), ("b", "../a"), ("b", "a//b")])
def test_a_name_that_a_policy_would_read_as_a_pattern_is_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"patterns|not a key"):
        Scope(*names)


def test_no_two_scopes_share_the_name_of_a_user() -> None:
    scopes = [Scope("a-b"), Scope("a", "b"), Scope("a", process="b"), Scope("a", "b", "c"), Scope("a", "b/c"), Scope("a-b", process="c")]
    names = {name_of(role, scope) for role in ROLES for scope in scopes}
    assert len(names) == len(ROLES) * len(scopes)
