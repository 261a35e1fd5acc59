"""Roles: who may do what in the store, as IAM policy documents; publisher, scorer and watcher, for a bucket, a prefix or one process.

A part of the store that no statement names is closed: there is no role that may change the bucket itself, its versioning or its users.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from infra.store import check_key

Document = dict[str, Any]
Role = Literal["publisher", "scorer", "watcher"]
ROLES: tuple[Role, ...] = get_args(Role)

PROBE = ".clerkflow/probe-"  # what a store writes at start, to learn whether the server honours conditions
READ = ("s3:GetObject",)
WRITE = ("s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts")  # large files travel in parts
DELETE = ("s3:DeleteObject",)
SCORER_WRITES = ("batches", "released", "arrivals", "runs", "claims/runs", "claims/batches", "stages/scoring")
SCORER_READS = ("models", "inbox", "reviews", *SCORER_WRITES)
SCORER_NEVER = ("models", "inbox", "reviews", "checkpoints", "drift")
DROPPED = ("models", "checkpoints", "claims/runs")  # what retention, a finished training and the watchdog may delete


@dataclass(frozen=True, slots=True)
class Scope:
    """The part of a bucket that a role is for.

    Raises:
        ValueError: a name holds one of `*?$`, which a policy would read as a pattern, or is no part of a key.
    """

    bucket: str
    prefix: str = ""  # a key without a slash at its end; the whole bucket when empty
    process: str = ""  # all processes when empty

    def __post_init__(self) -> None:
        for name in filter(None, (self.bucket, self.prefix, self.process)):
            if re.search(r"[*?$]", check_key(name)):
                raise ValueError(f"{name!r}: a policy would read '*', '?' and '$' as patterns; choose another name")

    @property
    def root(self) -> str:
        """What the name of every object in the store begins with."""
        return f"{self.prefix}/" if self.prefix else ""

    @property
    def folder(self) -> str:
        """What the name of every object of the process, or of all of them, begins with."""
        return f"{self.root}{self.process}/" if self.process else self.root

    def arn(self, name: str = "") -> str:
        """The bucket, or objects in it, as policies name them."""
        return f"arn:aws:s3:::{self.bucket}" + (f"/{name}" if name else "")

    def below(self, *parts: str) -> list[str]:
        """Every object below <process>/<part>/; a `*` for all processes spans slashes, too: see `_scorer`."""
        return [self.arn(f"{self.folder}{'' if self.process else '*/'}{part}/*") for part in parts]


def policy_of(role: Role, scope: Scope) -> Document:
    """The policy document of a role, in the IAM language of 2012-10-17, to be attached to a user of its own."""
    statements = {"publisher": _publisher, "scorer": _scorer, "watcher": _watcher}[role](scope)
    return {"Version": "2012-10-17", "Statement": statements}


def name_of(role: Role, scope: Scope) -> str:
    """The name of a role's policy and user: readable, and another one for every bucket, prefix and process."""
    ends = hashlib.sha256("\n".join((scope.bucket, scope.prefix, scope.process)).encode()).hexdigest()[:8]
    return "-".join(filter(None, ("clerkflow", role, scope.bucket, scope.process, ends)))


def _publisher(scope: Scope) -> list[Document]:
    """Trains, judges, publishes, monitors and clears away.

    - List: stages look for what is there already; without this right a missing object reads as a forbidden one.
    - Work: raw data, runs, shards, manifests, aliases, drift reports; overwriting is part of it, as aliases move.
    - Drop: retention deletes shards, a finished training its checkpoints, the watchdog old signs of life.
      New records and results are never deleted.
    - Probe: see PROBE; the folder lies beside the processes.
    - KeepHistory: MinIO lets whoever may delete an object delete its earlier versions, too, unless that is denied.
    """
    return [
        _list(scope),
        _allow("Work", (*READ, *WRITE), [scope.arn(f"{scope.folder}*")]),
        _allow("Drop", DELETE, scope.below(*DROPPED)),
        _probe(scope),
        _deny("KeepHistory", ("s3:DeleteObjectVersion",), [scope.arn("*")]),
    ]


def _scorer(scope: Scope) -> list[Document]:
    """Reads the champion and the inbox, writes batches.

    - List: finds inbox files and finished batches; without this right a missing object reads as a forbidden one.
    - Read: the model, new records, reviews, its own batches, runs and memory; not training's stages, checkpoints or drift.
    - Write: batches, which reviews they have released, run.json, claims, and what became of inbox files. Nothing is deleted.
    - Probe: see PROBE.
    - Never: where all processes are meant, the `*` of Write spans slashes and would open inbox/batches/…; a denial
      also stands when somebody gives this user a second policy.
    - KeepHistory: as for the publisher.
    """
    return [
        _list(scope),
        _allow("Read", READ, scope.below(*SCORER_READS)),
        _allow("Write", WRITE, scope.below(*SCORER_WRITES)),
        _probe(scope),
        _deny("Never", ("s3:PutObject", *DELETE), scope.below(*SCORER_NEVER)),
        _deny("KeepHistory", ("s3:DeleteObjectVersion",), [scope.arn("*")]),
    ]


def _watcher(scope: Scope) -> list[Document]:
    """Looks at models, batches and reports: List and Read, as for the others, and nothing more."""
    return [_list(scope), _allow("Read", READ, [scope.arn(f"{scope.folder}*")])]


def _list(scope: Scope) -> Document:
    """Names only of the scope, and of the probes, whose listing tells at start whether bucket and keys are right."""
    statement = _allow("List", ("s3:ListBucket",), [scope.arn()])
    if scope.folder:
        prefixes = sorted({f"{scope.folder}*", f"{scope.root}{PROBE.partition('/')[0]}/*"})
        statement["Condition"] = {"StringLike": {"s3:prefix": prefixes}}
    return statement


def _probe(scope: Scope) -> Document:
    return _allow("Probe", ("s3:GetObject", "s3:PutObject", *DELETE), [scope.arn(f"{scope.root}{PROBE}*")])


def _allow(sid: str, actions: Iterable[str], resources: Iterable[str]) -> Document:
    return {"Sid": sid, "Effect": "Allow", "Action": sorted(actions), "Resource": sorted(resources)}


def _deny(sid: str, actions: Iterable[str], resources: Iterable[str]) -> Document:
    return _allow(sid, actions, resources) | {"Effect": "Deny"}
