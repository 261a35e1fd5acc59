"""The way to the server: TLS with a CA of one's own, keys from a file, and what a person is told when it is barred."""

import os
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from minio.credentials import AssumeRoleProvider
from pydantic import SecretStr

from infra.bucket import MinioStore
from infra.connection import connect, open_bucket
from infra.credentials import write_private
from infra.minio import make_bucket
from infra.settings import Settings
from infra.store import Conflict


@pytest.fixture
def safe(safe_minio: Settings) -> Iterator[Settings]:
    """A store on the server that speaks TLS, empty."""
    make_bucket(safe_minio, "connection")
    where = safe_minio.model_copy(update={"store": "s3://connection/some/where"})
    yield where
    client, pool = connect(where)
    for found in client.list_objects("connection", recursive=True):
        client.remove_object("connection", found.object_name)
    client.remove_bucket("connection")
    pool.clear()


def keys_of(where: Settings) -> tuple[str, str]:
    return where.s3_access_key.get_secret_value(), where.s3_secret_key.get_secret_value()


def without_keys(where: Settings, file: Path, profile: str = "default") -> Settings:
    """The same store, with the keys of a file instead of those of the environment."""
    absent = {"s3_access_key": SecretStr(""), "s3_secret_key": SecretStr("")}
    return where.model_copy(update=absent | {"s3_credentials_file": file, "s3_profile": profile})


def profile(name: str, access: str, secret: str, token: str = "") -> str:
    lines = f"[{name}]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n"
    return lines + (f"aws_session_token = {token}\n" if token else "")


def test_a_server_with_tls_is_trusted_through_its_ca_file(safe: Settings) -> None:
    assert safe.s3_secure
    store = open_bucket(safe)
    etag = store.write("p/a", b"x", if_absent=True)
    with pytest.raises(Conflict):
        store.write("p/a", b"y", if_absent=True)
    assert store.read("p/a") == (b"x", etag)


def test_a_server_whose_ca_is_not_known_is_refused_with_the_remedy(safe: Settings) -> None:
    with pytest.raises(ConnectionError, match=r"certificate is not trusted .*CLERKFLOW_S3_CA_FILE to its CA") as refused:
        open_bucket(safe.model_copy(update={"s3_ca_file": None}))
    told = "".join(traceback.format_exception(refused.value))
    assert not any(key in told for key in keys_of(safe))


def test_a_server_that_speaks_only_one_of_http_and_tls_is_told(safe: Settings, minio: Settings) -> None:
    with pytest.raises(ConnectionError, match="_S3_SECURE"):
        open_bucket(safe.model_copy(update={"s3_secure": False}))
    if minio.s3_secure:
        pytest.skip("the server that the environment names speaks TLS")
    with pytest.raises(ConnectionError, match="plain HTTP, set CLERKFLOW_S3_SECURE=false"):
        open_bucket(minio.model_copy(update={"store": "s3://bucket", "s3_secure": True}))


def test_a_ca_file_that_is_missing_or_holds_no_certificate_is_named(safe: Settings, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"CLERKFLOW_S3_CA_FILE=.*none"):
        open_bucket(safe.model_copy(update={"s3_ca_file": tmp_path / "none"}))
    (tmp_path / "empty").write_text("no certificate")
    with pytest.raises(ValueError, match="expected certificates in PEM"):
        open_bucket(safe.model_copy(update={"s3_ca_file": tmp_path / "empty"}))


def test_keys_come_from_a_profile_of_a_credentials_file(safe: Settings, tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    write_private(file, profile("default", "someone", "something") + profile("mine", *keys_of(safe)))
    store = open_bucket(without_keys(safe, file, "mine"))
    assert store.write("p/a", b"x")
    with pytest.raises(PermissionError, match="the server says InvalidAccessKeyId"):
        open_bucket(without_keys(safe, file))


def test_keys_for_a_while_with_their_session_token_work_conditional_writes_too(safe: Settings, tmp_path: Path) -> None:
    _, pool = connect(safe)
    access, secret = keys_of(safe)
    lent = AssumeRoleProvider(
        sts_endpoint=f"https://{safe.s3_endpoint}", access_key=access, secret_key=secret, region=safe.s3_region, http_client=pool
    ).retrieve()
    write_private(tmp_path / "credentials", profile("default", lent.access_key, lent.secret_key, lent.session_token))
    store = open_bucket(without_keys(safe, tmp_path / "credentials"))
    store.write("p/a", b"x", if_absent=True)
    assert store.read("p/a")[0] == b"x"
    write_private(tmp_path / "credentials", profile("default", lent.access_key, lent.secret_key))
    with pytest.raises(OSError, match="InvalidTokenId"):
        open_bucket(without_keys(safe, tmp_path / "credentials"))
    pool.clear()


def test_keys_that_are_replaced_in_the_file_count_from_then_on(safe: Settings, tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    write_private(file, profile("default", *keys_of(safe)))
    store: MinioStore = open_bucket(without_keys(safe, file))
    store.write("p/a", b"x")
    write_private(file, profile("default", keys_of(safe)[0], "a" * 40))
    with pytest.raises(PermissionError, match="SignatureDoesNotMatch") as refused:
        store.read("p/a")
    assert "a" * 40 not in "".join(traceback.format_exception(refused.value))


def test_the_keys_of_the_environment_come_before_those_of_a_file(safe: Settings, tmp_path: Path) -> None:
    where = safe.model_copy(update={"s3_credentials_file": tmp_path / "none"})
    assert open_bucket(where).write("p/a", b"x")


def test_a_file_that_others_may_read_opens_nothing(safe: Settings, tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    write_private(file, profile("default", *keys_of(safe)))
    for mode in (0o640, 0o604):
        os.chmod(file, mode)  # noqa: PTH101 - the mode is the point
        with pytest.raises(PermissionError, match="chmod 600"):
            open_bucket(without_keys(safe, file))
