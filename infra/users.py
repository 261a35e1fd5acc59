"""Users: the policies and users of a MinIO server, through its admin API."""

import json
import secrets
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minio.error import MinioAdminException
from pydantic import SecretStr

from infra.connection import connect_admin, open_bucket
from infra.credentials import write_private
from infra.minio import environment_lines, environment_of
from infra.roles import Document
from infra.settings import Settings

BY_HAND = "make a user for each role and give it the policy that 'python -m infra.provision --print-policies' prints"
MISSING = ("XMinioAdminNoSuchPolicy", "XMinioAdminNoSuchUser")


class NoAdminApi(RuntimeError):  # noqa: N818 - says what is the case
    """The server is not MinIO, or hides its admin API: users and policies must be made by hand."""


class Users:
    """Policies and users of one server; errors are those of `asked`."""

    def __init__(self, where: Settings) -> None:
        self.endpoint, self.admin = where.s3_endpoint, connect_admin(where)

    def policy(self, name: str) -> Document | None:
        """A policy as `policy_of` would write it; None when there is none."""
        with asked(self.endpoint), missing_is_none() as found:
            found.append(json.loads(self.admin.policy_info(name)))
        return _sorted(found[0]) if found else None

    def set_policy(self, name: str, policy: Document) -> None:
        """Make a policy, or change it for all who have it."""
        with asked(self.endpoint):
            self.admin.policy_add(name, policy=policy)

    def policies_of(self, user: str) -> str | None:
        """The names of a user's policies, with commas; None when there is no such user."""
        with asked(self.endpoint), missing_is_none() as found:
            found.append(json.loads(self.admin.user_info(user)))
        return found[0].get("policyName", "") if found else None

    def add(self, user: str, file: Path, where: Settings, place: str, renew: bool) -> None:
        """Make a user, or give it another key, with the policy of its own name.

        The file comes first: were it last and failed, nobody would know the key. Keys of an earlier, interrupted try are used again.

        Args:
            user: its name, which is its access key.
            file: gets the environment lines of a machine that works as this user.
            where: the server.
            place: bucket, or bucket/prefix.
            renew: whether a key in `file` is replaced.
        """
        secret = None if renew else _secret_in(file)
        if secret is None:
            secret = secrets.token_hex(20)
            write_private(file, environment_lines(environment_of(_as_user(where, user, secret), place)))
        with asked(self.endpoint):
            self.admin.user_add(user, secret)
        self.give(user)

    def give(self, user: str) -> None:
        """Give a user the policy of its own name, in place of any other; attaching would leave others there."""
        with asked(self.endpoint):
            self.admin.policy_set(user, user=user)

    def remove(self, user: str) -> None:
        """Remove a user and the policy of its name; nothing happens where there is none."""
        for remove in (self.admin.user_remove, self.admin.policy_remove):
            with asked(self.endpoint), missing_is_none():
                remove(user)


def keys_hold(user: str, file: Path, where: Settings, place: str) -> bool:
    """Whether the keys in `file` still open the store; another machine may have renewed them."""
    own = _as_user(where, user, _secret_in(file) or "none")
    try:
        open_bucket(own.model_copy(update={"store": f"s3://{place}"}))
    except PermissionError:
        return False
    return True


def _as_user(where: Settings, user: str, secret: str) -> Settings:
    keys = {"s3_access_key": SecretStr(user), "s3_secret_key": SecretStr(secret)}
    return where.model_copy(update=keys | {"s3_credentials_file": None})


def _secret_in(file: Path) -> str | None:
    """The secret key among the environment lines of a file; None when there is no file, or none in it."""
    if not file.is_file():
        return None
    variables = dict(line.partition("=")[::2] for line in shlex.split(file.read_text(encoding="utf-8")))
    return variables.get("CLERKFLOW_S3_SECRET_KEY")


def _sorted(value: Any) -> Any:
    """A document with its lists of words in order: the server keeps them as sets."""
    if isinstance(value, dict):
        return {name: _sorted(part) for name, part in value.items()}
    if isinstance(value, list):
        return sorted(value) if all(isinstance(part, str) for part in value) else [_sorted(part) for part in value]
    return value


@contextmanager
def missing_is_none() -> Iterator[list[Any]]:
    """A list that stays empty when what is asked for is not there."""
    try:
        yield []
    except MinioAdminException as error:
        if _answer_of(error).get("Code") not in MISSING:
            raise


@contextmanager
def asked(endpoint: str) -> Iterator[None]:
    """The admin API's errors in a person's words; never what was sent.

    Raises:
        NoAdminApi: what answered is not MinIO's admin API.
        PermissionError: the credentials are wrong, or may not do this.
        OSError: the server refuses for another reason.
    """
    try:
        yield
    except MinioAdminException as error:
        answer = _answer_of(error)
        code, message = answer.get("Code"), answer.get("Message", "")
        if not code:
            raise NoAdminApi(f"{endpoint} has no MinIO admin API (HTTP status {error._code}): {BY_HAND}") from None
        if code in ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"):
            raise PermissionError(f"{endpoint} says {code}: users and policies need an administrator's credentials; or {BY_HAND}") from None
        raise OSError(f"{endpoint} says {code}: {message}") from None


def _answer_of(error: MinioAdminException) -> dict[str, Any]:
    """MinIO's answer, which is JSON; empty for that of another server, or of a proxy."""
    try:
        answer = json.loads(error._body)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}
