"""The object store on MinIO, or on another S3 server that honours If-Match and If-None-Match on PUT."""

import io
import random
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, cast

import urllib3
from minio import Minio
from minio.error import MinioException, S3Error
from urllib3.exceptions import HTTPError

from infra.store import CHUNK_BYTES, Conflict, MissingObject, ObjectInfo, check_key, check_prefix

TRIES = 5
AGAIN = (408, 409, 429, 500, 502, 503, 504)  # 409: another conditional PUT is under way
GONE = ("NoSuchKey", "NoSuchObject")
DENIED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AllAccessDisabled")


class MinioStore:
    """A bucket, or a part of one, on MinIO or another S3 server."""

    def __init__(self, client: Minio, pool: urllib3.PoolManager, bucket: str, prefix: str = "") -> None:
        self.client, self.pool, self.bucket = client, pool, bucket
        self.prefix = f"{check_key(prefix.strip('/'))}/" if prefix.strip("/") else ""
        self.uri = f"s3://{bucket}/{self.prefix}".rstrip("/")

    def _name(self, key: str) -> str:
        return self.prefix + check_key(key)

    def stat(self, key: str) -> ObjectInfo | None:
        name = self._name(key)
        try:
            with told(self.address(key)):
                found = self.client.stat_object(self.bucket, name)
        except MissingObject:
            return None
        return ObjectInfo(key, found.size or 0, found.etag or "", found.last_modified or datetime.now(UTC))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        with told(self.address(check_prefix(prefix))):
            for found in self.client.list_objects(self.bucket, prefix=self.prefix + prefix, recursive=True):
                key = (found.object_name or "").removeprefix(self.prefix)
                if not key.endswith("/"):  # consoles leave empty objects as folders
                    yield ObjectInfo(key, found.size or 0, found.etag or "", found.last_modified or datetime.now(UTC))

    def open(self, key: str) -> BinaryIO:
        return cast(BinaryIO, io.BufferedReader(self._body(key), CHUNK_BYTES))

    def _body(self, key: str) -> "Body":
        name = self._name(key)
        with told(self.address(key)):
            return Body(self.client.get_object(self.bucket, name), self.address(key))

    def read(self, key: str) -> tuple[bytes, str]:
        with self._body(key) as body:
            return body.readall(), body.etag

    def write(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        headers = {"Content-Type": "application/octet-stream"}
        if if_absent:
            headers["If-None-Match"] = "*"
        if if_match is not None:
            headers["If-Match"] = f'"{if_match}"'
        trouble = ""
        for attempt in range(TRIES):
            if attempt:
                time.sleep(0.2 * 2**attempt * random.uniform(0.5, 1))  # noqa: S311 - no secret
            try:
                answer = self._put(key, data, headers)
            except HTTPError as error:
                trouble = type(error).__name__
                continue
            if answer.status == 200:
                return _etag(answer)
            code = _code(answer)
            if answer.status == 412 or (if_match is not None and code in GONE):
                return self._mine(key, data, retried=attempt > 0)
            if answer.status not in AGAIN:
                raise _refusal(self.address(key), code, "")
            trouble = code
        raise ConnectionError(_no_answer(self.address(key), trouble))

    def _put(self, key: str, data: bytes, headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
        """One PUT; minio-py sends headers that it does not know as metadata, so conditions go through a presigned address."""
        address = self.client.get_presigned_url("PUT", self.bucket, self._name(key), expires=timedelta(minutes=10))
        # No retries below this line: urllib3 would write the signed address to its log.
        return self.pool.request("PUT", address, body=data, headers=headers, retries=False)

    def _mine(self, key: str, data: bytes, retried: bool) -> str:
        """The etag of what is stored, when a PUT whose answer was lost had in truth stored it; else Conflict."""
        try:
            stored, etag = self.read(key) if retried else (b"", "")
        except MissingObject:
            stored, etag = b"", ""
        if not etag or stored != data:
            raise Conflict(f"{self.address(key)} was written by another writer")
        return etag

    def upload(self, path: Path, key: str) -> None:
        name = self._name(key)
        with told(self.address(key)):
            self.client.fput_object(self.bucket, name, str(path))

    def delete(self, key: str) -> None:
        name = self._name(key)
        with told(self.address(key)):
            self.client.remove_object(self.bucket, name)

    def address(self, key: str) -> str:
        return f"s3://{self.bucket}/{self.prefix}{key}"


class Body(io.RawIOBase):
    """An answer's body as a plain stream; a connection that breaks is a ConnectionError, never a short object."""

    def __init__(self, answer: urllib3.BaseHTTPResponse, address: str) -> None:
        self.answer, self.address, self.etag = answer, address, _etag(answer)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        with told(self.address):
            block = self.answer.read(len(buffer))
        buffer[: len(block)] = block
        return len(block)

    def close(self) -> None:
        if not self.closed:
            self.answer.close()
            self.answer.release_conn()
        super().close()


@contextmanager
def told(address: str) -> Iterator[None]:
    """The client's errors in a person's words: what, where, the remedy; never a credential or a signed address."""
    try:
        yield
    except S3Error as error:
        raise _refusal(address, error.code or "", error.message or "") from None
    except (HTTPError, MinioException) as error:
        raise ConnectionError(_no_answer(address, type(error).__name__)) from None


def _refusal(address: str, code: str, message: str) -> OSError:
    if code in GONE:
        return MissingObject(f"{address} does not exist")
    if code in DENIED:
        return PermissionError(f"{address}: the server says {code}; check CLERKFLOW_S3_ACCESS_KEY, _S3_SECRET_KEY and their rights")
    return OSError(f"{address}: the server says {code}. {message}".rstrip())


def _no_answer(address: str, trouble: str) -> str:
    return f"{address}: no good answer in {TRIES} tries ({trouble}); is the server up, and CLERKFLOW_S3_ENDPOINT and _S3_SECURE right?"


def _etag(answer: urllib3.BaseHTTPResponse) -> str:
    return str(answer.headers.get("etag", "")).strip('"')


def _code(answer: urllib3.BaseHTTPResponse) -> str:
    """The word of S3 for what went wrong, or the HTTP status."""
    found = re.search(rb"<Code>(\w+)</Code>", answer.data)
    return found[1].decode() if found else str(answer.status)
