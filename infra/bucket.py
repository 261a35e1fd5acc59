"""The object store on MinIO, or on another S3 server that honours If-Match and If-None-Match on PUT."""

import base64
import hashlib
import io
import random
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from ssl import SSLError
from typing import BinaryIO, cast
from urllib.parse import urlsplit, urlunsplit

import urllib3
from minio import Minio
from minio.error import MinioException, S3Error
from minio.signer import sign_v4_s3
from urllib3.exceptions import HTTPError

from infra.roles import PROBE
from infra.spans import Spans
from infra.store import CHUNK_BYTES, Conflict, MissingObject, ObjectInfo, check_key, check_prefix

TRIES = 5
REST_SECONDS = 0.2  # before the second try; twice as long before each further one
BUFFER_BYTES = 2**16  # of lines; what asks for more is given it without a copy
PART_BYTES = 16 * 2**20  # of an upload in parts
WHOLE_BYTES = 128 * 2**20  # larger objects go in parts
UNSIGNED = "UNSIGNED-PAYLOAD"  # of a body that a signed x-amz-checksum-sha256 proves already: no third sum to make
AGAIN = (408, 409, 429, 500, 502, 503, 504)  # 409: another conditional PUT is under way
ALTERED = ("XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch", "BadDigest")  # what came is not what was sent
AGAIN_CODES = ("IncompleteBody", "ClientDisconnected", "RequestTimeout", "SlowDown", "SlowDownWrite", "SlowDownRead", *ALTERED)
FULL = ("XMinioStorageFull", "StorageFull", "QuotaExceeded", "XMinioAdminBucketQuotaExceeded")
BROKEN = (HTTPError, HTTPException, ConnectionError, TimeoutError, SSLError)  # what a cut connection raises
GONE = ("NoSuchKey", "NoSuchObject")
PROVEN: set[tuple[str, str]] = set()  # server and bucket that were found to honour conditions
DENIED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AllAccessDisabled", "InvalidTokenId", "ExpiredToken")


class Client(Minio):  # type: ignore[misc]
    """minio-py, and requests with headers that it has no public argument for: conditions, and checksums that the server checks."""

    def signed(self, method: str, bucket: str, name: str, headers: dict[str, str], sha256: str) -> tuple[str, dict[str, str]]:
        """Address and headers of a request; signed in its headers, so that no address is ever worth stealing.

        Args:
            sha256: of the body, in hex; the server refuses other bytes. Or UNSIGNED.
        """
        url, now = urlsplit(self.get_presigned_url(method, bucket, name))._replace(query=""), datetime.now(UTC)
        credentials = self._provider.retrieve()
        headers = headers | {"Host": url.netloc, "x-amz-date": f"{now:%Y%m%dT%H%M%SZ}", "x-amz-content-sha256": sha256}
        if credentials.session_token:
            headers["x-amz-security-token"] = credentials.session_token
        signed = sign_v4_s3(
            method=method,
            url=url,
            region=self._get_region(bucket),
            headers=headers,
            credentials=credentials,
            content_sha256=sha256,
            date=now,
        )
        return urlunsplit(url), dict(signed)


class MinioStore:
    """A bucket, or a part of one, on MinIO or another S3 server."""

    def __init__(self, client: Client, pool: urllib3.PoolManager, bucket: str, prefix: str = "") -> None:
        self.client, self.pool, self.bucket = client, pool, bucket
        self.prefix = f"{check_key(prefix.strip('/'))}/" if prefix.strip("/") else ""
        self.uri = f"s3://{bucket}/{self.prefix}".rstrip("/")
        self.whole = True

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
        return cast(BinaryIO, io.BufferedReader(self._body(key), BUFFER_BYTES))

    def _body(self, key: str) -> "Body":
        name = self._name(key)

        def ask(start: int, etag: str) -> urllib3.BaseHTTPResponse:
            condition = {"If-Match": f'"{etag}"'} if etag else None
            with told(self.address(key)):
                answer: urllib3.BaseHTTPResponse = self.client.get_object(self.bucket, name, offset=start, request_headers=condition)
                return answer

        return Body(ask, self.address(key))

    def read(self, key: str) -> tuple[bytes, str]:
        with self._body(key) as body:
            return body.readall(), body.etag

    def sha256(self, key: str) -> str | None:
        name = self._name(key)
        try:
            with told(self.address(key)):
                found = self.client.stat_object(self.bucket, name, extra_headers={"x-amz-checksum-mode": "ENABLED"})
                return _kept_sha256(found.metadata or {}) or self._read_sha256(key)
        except MissingObject:
            return None

    def _read_sha256(self, key: str) -> str:
        digest = hashlib.sha256()
        with self.open(key) as stream:
            while block := stream.read(CHUNK_BYTES):
                digest.update(block)
        return digest.hexdigest()

    def write(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        headers = {"Content-Length": str(len(data))}
        if if_absent:
            headers["If-None-Match"] = "*"
        if if_match is not None:
            headers["If-Match"] = f'"{if_match}"'
        if if_absent or if_match is not None:
            self.prove_conditions(f"{key}.")
        answer, tries = self._persist(key, lambda: data, headers, hashlib.sha256(data).hexdigest())
        if answer.status == 200:
            return _etag(answer)
        if answer.status == 412 or (if_match is not None and _code(answer) in GONE):
            return self._mine(key, data, retried=tries > 1)
        raise _refusal(self.address(key), _code(answer), "")

    def _persist(
        self, key: str, body: Callable[[], bytes | Iterable[memoryview]], headers: dict[str, str], sha256: str
    ) -> tuple[urllib3.BaseHTTPResponse, int]:
        """The server's answer to a PUT, and how often it was asked; asked again while it is busy or does not answer."""
        trouble = ""
        for attempt in range(TRIES):
            _rest(attempt)
            try:
                answer = self._put(key, body(), headers, sha256)
            except HTTPError as error:
                trouble = type(error).__name__
                continue
            if answer.status not in AGAIN and _code(answer) not in AGAIN_CODES:
                return answer, attempt + 1
            trouble = _code(answer)
        raise ConnectionError(_no_answer(self.address(key), trouble))

    def _put(self, key: str, body: bytes | Iterable[memoryview], headers: dict[str, str], sha256: str) -> urllib3.BaseHTTPResponse:
        with told(self.address(key)):
            address, signed = self.client.signed("PUT", self.bucket, self._name(key), headers, sha256)
        return self.pool.request("PUT", address, body=body, headers=signed, retries=False)  # type: ignore[arg-type]

    def _mine(self, key: str, data: bytes, retried: bool) -> str:
        """The etag of what is stored, when a PUT whose answer was lost had in truth stored it; else Conflict."""
        try:
            stored, etag = self.read(key) if retried else (b"", "")
        except MissingObject:
            stored, etag = b"", ""
        if not etag or stored != data:
            raise Conflict(f"{self.address(key)} was written by another writer")
        return etag

    def put(self, key: str, data: Spans, sha256: str) -> None:
        if data.size > WHOLE_BYTES:
            with told(self.address(key)), data.open() as stream:
                self.client.put_object(self.bucket, self._name(key), stream, data.size, part_size=PART_BYTES)
            kept = self._read_sha256(key)  # a server sums parts up in its own way
        else:
            sums = {"x-amz-checksum-algorithm": "SHA256", "x-amz-checksum-sha256": base64.b64encode(bytes.fromhex(sha256)).decode()}
            answer, _ = self._persist(key, data.blocks, sums | {"Content-Length": str(data.size)}, UNSIGNED)
            if answer.status != 200:
                raise _refusal(self.address(key), _code(answer), "")
            kept = _kept_sha256(answer.headers) or self._read_sha256(key)
        if kept != sha256:
            raise OSError(f"{self.address(key)} is not what was sent: SHA-256 is {kept}, {sha256} was sent; send it again")

    def prove_conditions(self, beside: str = PROBE) -> None:
        """Make sure, once a process, that the server honours conditions on PUT; without them two publishers could overwrite each other.

        Args:
            beside: beginning of a key that may be written; a random end is added, and nothing stays there.

        Raises:
            ValueError: it does not; the message says which one, and what to do.
            PermissionError: nothing may be written there.
        """
        server = urlsplit(self.client.get_presigned_url("GET", self.bucket, "any")).netloc
        if (server, self.bucket) in PROVEN:
            return
        if ignored := self._ignored_condition(f"{beside}{secrets.token_hex(8)}"):
            raise ValueError(
                f"{server} ignores {ignored} on PUT, so two publishers could overwrite each other: use MinIO of August 2025 or later, "
                "or another server that honours conditional writes"
            )
        PROVEN.add((server, self.bucket))

    def _ignored_condition(self, key: str) -> str | None:
        """The first condition that the server ignores; None when it honours all."""
        absent, other = {"If-None-Match": "*"}, {"If-Match": f'"{"0" * 32}"'}
        steps = (("If-None-Match: *", absent, True), ("If-None-Match: *", absent, False), ("If-Match", other, False))
        try:
            for name, condition, welcome in steps:
                if self._taken(key, condition) != welcome:
                    return name
            self.delete(key)
            return "If-Match for a missing object" if self._taken(key, other) else None
        finally:
            with suppress(OSError):
                self.delete(key)

    def _taken(self, key: str, condition: dict[str, str]) -> bool:
        answer, tries = self._persist(key, lambda: b"?", condition | {"Content-Length": "1"}, hashlib.sha256(b"?").hexdigest())
        if answer.status not in (200, 404, 412):
            raise _refusal(self.address(key), _code(answer), "")
        return answer.status == 200 or (tries > 1 and self.stat(key) is not None)

    def upload(self, path: Path, key: str) -> None:
        name = self._name(key)
        with told(self.address(key)):
            self.client.fput_object(self.bucket, name, str(path), part_size=PART_BYTES)

    def delete(self, key: str) -> None:
        name = self._name(key)
        with told(self.address(key)):
            self.client.remove_object(self.bucket, name)

    def address(self, key: str) -> str:
        return f"s3://{self.bucket}/{self.prefix}{key}"


class Body(io.RawIOBase):
    """An object's bytes as a plain stream that goes on where a connection broke; an error after some tries, never a short object."""

    def __init__(self, ask: Callable[[int, str], urllib3.BaseHTTPResponse], address: str) -> None:
        """`ask` gives the answer from a byte on, of the object with that etag or of any when it is empty."""
        self.ask, self.address, self.at = ask, address, 0
        self.answer = ask(0, "")
        self.etag = _etag(self.answer)
        self.size = _size(self.answer)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        trouble = ""
        for attempt in range(TRIES):
            _rest(attempt)
            try:
                if attempt:
                    self._ask_again()
                count = self._take(buffer)
            except BROKEN as error:
                trouble = type(error).__name__
                continue
            self.at += count
            return count
        raise ConnectionError(_no_answer(self.address, trouble))

    def _take(self, buffer: memoryview) -> int:
        """Fill the buffer from the socket. urllib3's own `readinto` makes two copies of each block, a third of a load's time."""
        plain = getattr(self.answer, "_fp", None)
        if self.size is None or not isinstance(plain, HTTPResponse):
            block = self.answer.read(len(buffer))
            buffer[: len(block)] = block
            return len(block)
        count = plain.readinto(buffer)
        if plain.isclosed():  # all was read, or the other side is gone
            self.answer.release_conn()
        if not count and len(buffer) and self.at < self.size:
            raise ConnectionError("IncompleteRead")
        return count

    def _ask_again(self) -> None:
        self._let_go()
        try:
            self.answer = self.ask(self.at, self.etag)
        except OSError as error:
            if isinstance(error, ConnectionError):
                raise
            raise OSError(f"{self.address} was changed while it was read; read it again") from None

    def _let_go(self) -> None:
        self.answer.close()
        self.answer.release_conn()

    def close(self) -> None:
        if not self.closed:
            self._let_go()
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
    if code in FULL:
        return OSError(f"{address}: the server says {code}; make room there and do it again, what has arrived stays")
    return OSError(f"{address}: the server says {code}. {message}".rstrip())


def _no_answer(address: str, trouble: str) -> str:
    if trouble in ALTERED:
        return f"{address}: in {TRIES} tries other bytes came than were sent ({trouble}); find what alters them: a proxy, or bad memory"
    up = "is the server up, and CLERKFLOW_S3_ENDPOINT and _S3_SECURE right?"
    return f"{address}: no good answer in {TRIES} tries ({trouble}); {up} If so, its disk may have lost the object: restore it"


def _rest(attempt: int) -> None:
    """Before another try: longer each time, and never in step with others."""
    if attempt:
        time.sleep(REST_SECONDS * 2 ** (attempt - 1) * random.uniform(0.5, 1))  # noqa: S311 - no secret


def _kept_sha256(headers: Mapping[str, str]) -> str | None:
    """The SHA-256 of a whole object as the server checked and kept it; None when it kept none, or one of parts."""
    found = {name.lower(): value for name, value in headers.items()}.get("x-amz-checksum-sha256", "")
    return base64.b64decode(found).hex() if found and "-" not in found else None


def _etag(answer: urllib3.BaseHTTPResponse) -> str:
    return str(answer.headers.get("etag", "")).strip('"')


def _size(answer: urllib3.BaseHTTPResponse) -> int | None:
    """Bytes of an object as its whole answer says; None when it comes in another encoding than it is stored in."""
    length = answer.headers.get("content-length", "")
    return int(length) if length.isdecimal() and "content-encoding" not in answer.headers else None


def _code(answer: urllib3.BaseHTTPResponse) -> str:
    """The word of S3 for what went wrong, or the HTTP status."""
    found = re.search(rb"<Code>(\w+)</Code>", answer.data)
    return found[1].decode() if found else str(answer.status)
