"""Credentials: two key variables, else a profile of an AWS-style shared credentials file -> what requests are signed with."""

import configparser
import os
from pathlib import Path
from typing import TextIO

from minio.credentials import Credentials, Provider, StaticProvider

from infra.settings import Settings

Seen = tuple[int, int, int]  # inode, time of change in ns, size: of a file as it was read


class CredentialsFile(Provider):  # type: ignore[misc]  # the library is not typed
    """The keys of one profile in a shared credentials file, with a session token when it has one; read again when it changes.

    The library's own reader shows a line of the file when it does not understand it, trips over a % in a key, and reads any file.
    """

    def __init__(self, path: Path, profile: str) -> None:
        self.path, self.profile = path, profile
        self._known: tuple[Seen, Credentials] | None = None

    def retrieve(self) -> Credentials:
        """The keys as the file says now.

        Raises:
            FileNotFoundError: there is no such file.
            PermissionError: others than its owner may read it, or this user may not.
            ValueError: it is no such file, or the profile is missing or not whole.
        """
        with self._opened() as stream:
            stat = os.fstat(stream.fileno())
            if stat.st_mode & 0o077:
                raise PermissionError(f"{self.path} holds secrets and others may read it: chmod 600 {self.path}")
            seen = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if self._known is None or self._known[0] != seen:
                self._known = seen, self._read(stream)
        return self._known[1]

    def _opened(self) -> TextIO:
        try:
            return self.path.open(encoding="utf-8")
        except FileNotFoundError:
            raise FileNotFoundError(f"CLERKFLOW_S3_CREDENTIALS_FILE={self.path}: there is no such file") from None

    def _read(self, stream: TextIO) -> Credentials:
        # None of the parser's errors may be shown: they quote the lines, and with them the keys.
        parser = configparser.RawConfigParser()
        try:
            parser.read_file(stream)
        except (configparser.Error, UnicodeDecodeError):
            raise ValueError(f"{self.path}: expected [profile] and lines name = value, as in ~/.aws/credentials") from None
        if not parser.has_section(self.profile):
            raise ValueError(f"{self.path} has no profile {self.profile!r} (CLERKFLOW_S3_PROFILE); it has: {', '.join(parser.sections())}")
        names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
        access, secret, token = (parser.get(self.profile, name, fallback="") for name in names)
        if not access or not secret:
            raise ValueError(f"{self.path}: profile {self.profile!r} needs {names[0]} and {names[1]}")
        return Credentials(access, secret, token or None)


def has_credentials(where: Settings) -> bool:
    """Whether the settings say where credentials come from."""
    return bool(where.s3_access_key.get_secret_value() or where.s3_secret_key.get_secret_value() or where.s3_credentials_file)


def credentials_of(where: Settings) -> Provider:
    """What requests are signed with: the two keys of the environment, else those of the credentials file.

    Raises:
        ValueError: there are neither, or only one of the two keys.
    """
    access, secret = where.s3_access_key.get_secret_value(), where.s3_secret_key.get_secret_value()
    if access and secret:
        return StaticProvider(access, secret)
    if where.s3_credentials_file and not access and not secret:
        return CredentialsFile(where.s3_credentials_file, where.s3_profile)
    raise ValueError(
        "a bucket needs both CLERKFLOW_S3_ACCESS_KEY and CLERKFLOW_S3_SECRET_KEY in the environment, "
        "or neither of them and CLERKFLOW_S3_CREDENTIALS_FILE"
    )


def write_private(file: Path, text: str) -> None:
    """A file that only its owner may read, from its first byte on."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
        stream.write(text)
