"""Provision: the bucket that CLERKFLOW_STORE names, ready for work, with a user for each role: python -m infra.provision [--dry-run].

Run it with an administrator's credentials; run it again whenever a setting changes. What is right already is left alone.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from minio import Minio
from minio.commonconfig import ENABLED, Filter
from minio.error import S3Error
from minio.lifecycleconfig import AbortIncompleteMultipartUpload, Expiration, LifecycleConfig, NoncurrentVersionExpiration, Rule
from minio.sseconfig import Rule as EncryptionRule
from minio.sseconfig import SSEConfig
from minio.versioningconfig import VersioningConfig

from infra.bucket import told
from infra.connection import connect, place_of, tls_told
from infra.roles import ROLES, Role, Scope, name_of, policy_of
from infra.settings import Settings, settings
from infra.users import NoAdminApi, Users, keys_hold

FOLDER = Path.home() / ".config" / "clerkflow"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that must be so; `do` makes it so, None where it is so already or is left as it is."""

    what: str  # without secrets: it is printed
    do: Callable[[], object] | None = None


def scope_of(where: Settings, process: str = "") -> Scope:
    """The part of the bucket that the settings name; the errors are those of `place_of` and `Scope`."""
    bucket, prefix = place_of(where)
    return Scope(bucket, prefix, process)


def bucket_steps(client: Minio, where: Settings, scope: Scope) -> Iterator[Step]:
    """What the bucket itself needs, in order; each step is to be done before the next is asked for.

    Raises:
        OSError: the server refuses; with the words of `told`.
    """
    there = client.bucket_exists(scope.bucket)
    yield Step(f"bucket {scope.bucket}", None if there else lambda: client.make_bucket(scope.bucket))
    yield _versioning(client, where, scope.bucket, there)
    yield _lifecycle(client, where, scope, there)
    yield _encryption(client, where, scope.bucket, there)


def _versioning(client: Minio, where: Settings, bucket: str, there: bool) -> Step:
    if not where.s3_versioning:  # never suspended from here: the bucket may be shared
        return Step("versioning: left as it is (CLERKFLOW_S3_VERSIONING=false)")
    if there and client.get_bucket_versioning(bucket).status == ENABLED:
        return Step("versioning: on")
    return Step("versioning: on", lambda: client.set_bucket_versioning(bucket, VersioningConfig(ENABLED)))


def _lifecycle(client: Minio, where: Settings, scope: Scope, there: bool) -> Step:
    """Our rule beside those of others; it is told by its id."""
    rule = _rule(where, scope)
    config = client.get_bucket_lifecycle(scope.bucket) if there else None
    rules = config.rules if config else []
    what = f"lifecycle: unfinished uploads {where.s3_abort_uploads_days} d, earlier versions {where.s3_noncurrent_days} d"
    if rule in rules or _without_abort(rule) in rules:
        return Step(what)
    others = [other for other in rules if other.rule_id != rule.rule_id]
    return Step(what, lambda: client.set_bucket_lifecycle(scope.bucket, LifecycleConfig([*others, rule])))


def _rule(where: Settings, scope: Scope) -> Rule:
    """All in one rule: MinIO refuses a rule that is only for unfinished uploads, and drops that part of this one without a word."""
    return Rule(
        ENABLED,
        rule_id=f"clerkflow {scope.root}".strip(),
        rule_filter=Filter(prefix=scope.root),
        abort_incomplete_multipart_upload=AbortIncompleteMultipartUpload(where.s3_abort_uploads_days),
        noncurrent_version_expiration=NoncurrentVersionExpiration(where.s3_noncurrent_days),
        expiration=Expiration(expired_object_delete_marker=True),  # a deletion whose earlier versions are all gone
    )


def _without_abort(rule: Rule) -> Rule:
    return replace(rule, abort_incomplete_multipart_upload=None)


def ignores_unfinished(client: Minio, where: Settings, scope: Scope) -> bool:
    """Whether the server has dropped the part of our rule that is for unfinished uploads."""
    config = client.get_bucket_lifecycle(scope.bucket)
    return config is not None and _without_abort(_rule(where, scope)) in config.rules


def _encryption(client: Minio, where: Settings, bucket: str, there: bool) -> Step:
    if where.s3_encryption is None:
        return Step("encryption: left as it is (CLERKFLOW_S3_ENCRYPTION is not set)")
    config = client.get_bucket_encryption(bucket) if there else None
    _, _, key = where.s3_encryption.partition(":")
    rule = EncryptionRule.new_sse_kms_rule(key) if key else EncryptionRule.new_sse_s3_rule()
    if config and config.rule == rule:
        return Step(f"encryption: {where.s3_encryption}")
    return Step(f"encryption: {where.s3_encryption}", lambda: _encrypt(client, bucket, rule))


def _encrypt(client: Minio, bucket: str, rule: EncryptionRule) -> None:
    try:
        client.set_bucket_encryption(bucket, SSEConfig(rule))
    except S3Error as error:
        if error.code not in ("NotImplemented", "kms:KeyNotFound"):
            raise
        remedy = "start it with a key (MINIO_KMS_SECRET_KEY, or a KMS), name one that it has, or unset CLERKFLOW_S3_ENCRYPTION"
        raise ValueError(f"the server cannot encrypt so: {error.message}; {remedy}") from None


def role_steps(users: Users, where: Settings, scope: Scope, folder: Path, renew: Collection[str] = ()) -> Iterator[Step]:
    """What each role needs, in order: its policy, and a user whose keys lie in a file of `folder`.

    Raises:
        NoAdminApi: the server has none.
        PermissionError: the credentials are no administrator's.
    """
    for role in ROLES:
        name, policy = name_of(role, scope), policy_of(role, scope)
        yield Step(f"policy {name}", None if users.policy(name) == policy else partial(users.set_policy, name, policy))
        yield _user(users, where, scope, role, file_of(role, scope, folder), role in renew)


def file_of(role: Role, scope: Scope, folder: Path) -> Path:
    """Where the keys of a role's user are written, as lines of an environment."""
    return folder.absolute() / f"{name_of(role, scope)}.env"


def _user(users: Users, where: Settings, scope: Scope, role: Role, file: Path, renew: bool) -> Step:
    """A user that is there keeps its key, which other machines may use, unless it is to be renewed."""
    name, place = name_of(role, scope), f"{scope.bucket}/{scope.prefix}".rstrip("/")
    given = users.policies_of(name)
    if given is None or renew:
        return Step(f"user {name}, its keys in {file}", lambda: users.add(name, file, where, place, renew))
    if given != name:
        return Step(f"user {name}, with its policy only", lambda: users.give(name))
    if not file.is_file():
        return Step(f"user {name}; its secret key is not on this machine, --renew {role} makes another one")
    if not keys_hold(name, file, where, place):
        return Step(f"user {name}; {file} holds another key than the server's, --renew {role} makes a new one")
    return Step(f"user {name}, its keys in {file}")


def policies(scope: Scope) -> str:
    """The documents of all roles as JSON, by the name each should be given."""
    return json.dumps({name_of(role, scope): policy_of(role, scope) for role in ROLES}, indent=2)


def provision(where: Settings, process: str, folder: Path, renew: Collection[str], dry_run: bool) -> None:
    """Make the bucket and the roles ready, and print each step; with `dry_run`, print what would be done.

    Raises:
        ValueError, OSError: what must be changed first.
        NoAdminApi: the bucket is ready, but the roles must be made by hand.
    """
    scope = scope_of(where, process)
    client, pool = connect(where)
    address = f"{where.s3_endpoint}/{scope.bucket}"
    print(f"store {where.store.rstrip('/')} at {where.s3_endpoint}")
    with told(address), tls_told(where, address):
        _walk(bucket_steps(client, where, scope), dry_run)
        if not dry_run and ignores_unfinished(client, where, scope):
            hours = where.s3_abort_uploads_days * 24
            _say("note", f"unfinished uploads go by this server's own clock: mc admin config set ALIAS api stale_uploads_expiry={hours}h")
        _walk(role_steps(Users(where), where, scope, folder, renew), dry_run)
    pool.clear()
    if (file := file_of("scorer", scope, folder)).is_file():
        print(f"next, on a machine that scores: set -a; . {shlex.quote(str(file))}; set +a")


def _walk(steps: Iterator[Step], dry_run: bool) -> None:
    for step in steps:
        if step.do and not dry_run:
            step.do()
        word = "as it should be" if step.do is None else "would be made" if dry_run else "made"
        _say(word, step.what)


def _say(word: str, what: str) -> None:
    print(f"  {word:<15}  {what}")


def main() -> None:
    """The command line; exit status 1 when roles must be made by hand, 2 when something must be changed first."""
    parser = argparse.ArgumentParser(
        prog="python -m infra.provision", description="Make the bucket of CLERKFLOW_STORE and its users ready."
    )
    parser.add_argument("--process", default="", help="roles for this process only; for all when absent")
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"where the keys of the users are written ({FOLDER})")
    parser.add_argument("--renew", choices=ROLES, action="append", default=[], help="give this role's user a new secret key")
    parser.add_argument("--dry-run", action="store_true", help="show what would be done")
    parser.add_argument("--print-policies", action="store_true", help="print the roles' policies, for a server without MinIO's admin API")
    asked = parser.parse_args()
    try:
        where = settings()
        if asked.print_policies:
            print(policies(scope_of(where, asked.process)))
        else:
            provision(where, asked.process, asked.folder, asked.renew, asked.dry_run)
    except NoAdminApi as error:
        print(f"roles: {error}", file=sys.stderr)
        sys.exit(1)
    except (ValueError, OSError) as error:
        print(f"clerkflow: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
