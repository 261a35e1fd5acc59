"""Connection: settings -> a client of the S3 server that they name, and the store in their bucket."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import urllib3
from minio import MinioAdmin
from minio.error import S3Error
from urllib3.exceptions import HTTPError

from infra.bucket import AGAIN, TRIES, Client, MinioStore, told
from infra.credentials import credentials_of
from infra.roles import PROBE
from infra.settings import Settings
from infra.store import CHUNK_BYTES


def connect(where: Settings) -> tuple[Client, urllib3.PoolManager]:
    """A client of the server that the settings name, and its pool of connections; nothing is asked of it yet.

    Raises:
        ValueError: the settings name no credentials, or the CA file holds none.
        FileNotFoundError: the CA file does not exist.
    """
    pool = _pool(where)
    client = Client(where.s3_endpoint, credentials=credentials_of(where), secure=where.s3_secure, region=where.s3_region, http_client=pool)
    return client, pool


def connect_admin(where: Settings) -> MinioAdmin:
    """A client of MinIO's admin API, which other servers do not have; nothing is asked of it yet. The errors are those of `connect`."""
    return MinioAdmin(
        endpoint=where.s3_endpoint,
        credentials=credentials_of(where),
        secure=where.s3_secure,
        region=where.s3_region,
        http_client=_pool(where),
    )


def _pool(where: Settings) -> urllib3.PoolManager:
    _check_ca(where)
    return urllib3.PoolManager(
        timeout=urllib3.Timeout(connect=5, read=60),
        maxsize=8,
        blocksize=CHUNK_BYTES,
        cert_reqs="CERT_REQUIRED",
        ca_certs=str(where.s3_ca_file) if where.s3_ca_file else None,
        retries=urllib3.Retry(
            total=TRIES - 1,
            backoff_factor=0.2,
            backoff_jitter=0.2,
            status_forcelist=AGAIN,
            allowed_methods=None,
            respect_retry_after_header=False,  # MinIO asks for 60 s, each time, where its disk has lost an object
        ),
    )


def _check_ca(where: Settings) -> None:
    if where.s3_ca_file is None:
        return
    try:
        ssl.create_default_context(cafile=where.s3_ca_file)
    except FileNotFoundError:
        raise FileNotFoundError(f"CLERKFLOW_S3_CA_FILE={where.s3_ca_file}: there is no such file") from None
    except ssl.SSLError:
        raise ValueError(f"CLERKFLOW_S3_CA_FILE={where.s3_ca_file}: expected certificates in PEM") from None


def place_of(where: Settings) -> tuple[str, str]:
    """Bucket and prefix of the store that the settings name; the prefix has no slash at its ends.

    Raises:
        ValueError: the store is no bucket.
    """
    scheme, _, rest = where.store.partition("://")
    bucket, _, prefix = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise ValueError(f"CLERKFLOW_STORE={where.store!r}: expected a folder or s3://bucket[/prefix]")
    return bucket, prefix.strip("/")


def open_bucket(where: Settings) -> MinioStore:
    """The bucket that the settings name; the errors are those of `open_store`, and those of `connect`."""
    bucket, prefix = place_of(where)
    client, pool = connect(where)
    store = MinioStore(client, pool, bucket, prefix)
    address = f"{where.s3_endpoint}/{bucket}"
    with told(address), tls_told(where, address):
        _check_bucket(client, where, store)
    with suppress(PermissionError):  # who may not write there will never write on a condition, or is asked again then
        store.prove_conditions()
    return store


def _check_bucket(client: Client, where: Settings, store: MinioStore) -> None:
    """Ask for a listing that every role may see: a role for one process may not ask about the bucket as a whole."""
    try:
        next(iter(client.list_objects(store.bucket, prefix=store.prefix + PROBE)), None)
    except S3Error as error:
        if error.code != "NoSuchBucket":
            raise
        raise FileNotFoundError(
            f"{where.s3_endpoint} has no bucket {store.bucket!r}: make it with 'python -m infra.provision', or name another"
        ) from None


@contextmanager
def tls_told(where: Settings, address: str) -> Iterator[None]:
    """What is wrong with a connection that could not be made safe, in a person's words.

    Raises:
        ConnectionError: the server's certificate is not trusted, or only one side speaks TLS.
    """
    try:
        yield
    except HTTPError as error:
        reason = _ssl_error(error)
        if reason is None:
            raise
        raise ConnectionError(f"{address}: {_tls_trouble(where, reason)}") from None


def _ssl_error(error: BaseException | None) -> ssl.SSLError | None:
    """The TLS library's own error, which urllib3 wraps more than once."""
    while error is not None and not isinstance(error, ssl.SSLError):
        inner = getattr(error, "reason", None) or next((arg for arg in error.args if isinstance(arg, BaseException)), None)
        error = inner if isinstance(inner, BaseException) else None
    return error


def _tls_trouble(where: Settings, error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        trusted = where.s3_ca_file or "this machine's own CAs, as CLERKFLOW_S3_CA_FILE is not set"
        return f"the server's certificate is not trusted ({error.verify_message}; trusted: {trusted}); set CLERKFLOW_S3_CA_FILE to its CA"
    return f"no TLS connection ({error.reason}); if the server speaks plain HTTP, set CLERKFLOW_S3_SECURE=false"
