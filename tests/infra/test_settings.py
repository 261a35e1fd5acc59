"""What the environment says of this machine."""

from pathlib import Path

import pytest

from infra.settings import ROOT, settings


def test_without_a_variable_everything_is_below_the_checkout_or_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STORE", "CACHE", "PROCESSES"):
        monkeypatch.delenv(f"CLERKFLOW_{name}", raising=False)
    where = settings()
    assert (where.store, where.processes) == (str(ROOT / "data" / "store"), ROOT / "data" / "processes")
    assert where.cache == Path.home() / ".cache" / "clerkflow"


def test_a_variable_counts_at_once_and_an_empty_one_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLERKFLOW_CACHE", "~/elsewhere")
    monkeypatch.setenv("CLERKFLOW_THREADS", "")
    assert (settings().cache, settings().threads) == (Path.home() / "elsewhere", None)
    monkeypatch.setenv("CLERKFLOW_THREADS", "2")
    assert settings().threads == 2


def test_all_mistakes_are_told_at_once_by_the_names_of_their_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLERKFLOW_THREADS", "none")
    monkeypatch.setenv("CLERKFLOW_S3_SECURE", "perhaps")
    monkeypatch.setenv("CLERKFLOW_S3_ENDPOINT", "https://host:9000")
    with pytest.raises(ValueError, match="CLERKFLOW_S3_ENDPOINT: expected host:port") as refused:
        settings()
    assert "CLERKFLOW_THREADS: " in str(refused.value)
    assert "CLERKFLOW_S3_SECURE: " in str(refused.value)


def test_keys_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLERKFLOW_S3_ACCESS_KEY", "access-key")
    monkeypatch.setenv("CLERKFLOW_S3_SECRET_KEY", "secret-key")
    shown = f"{settings()!r} {settings()} {settings().model_dump_json()}"
    assert "access-key" not in shown
    assert "secret-key" not in shown


@pytest.mark.parametrize("value", ["AES256", "SSE-KMS", "SSE-KMS:", "SSE-S3:key", "sse-s3"])
def test_an_encryption_that_no_server_knows_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLERKFLOW_S3_ENCRYPTION", value)
    with pytest.raises(ValueError, match="CLERKFLOW_S3_ENCRYPTION: expected SSE-S3 or SSE-KMS:<key>"):
        settings()


def test_a_bucket_keeps_its_history_for_a_while_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("VERSIONING", "ENCRYPTION", "ABORT_UPLOADS_DAYS", "NONCURRENT_DAYS", "CREDENTIALS_FILE", "PROFILE")
    for name in names:
        monkeypatch.delenv(f"CLERKFLOW_S3_{name}", raising=False)
    assert [getattr(settings(), f"s3_{name.lower()}") for name in names] == [True, None, 1, 30, None, "default"]
    for name, value in zip(names, ("false", "SSE-KMS:our/key", "2", "90", "~/keys", "mine"), strict=True):
        monkeypatch.setenv(f"CLERKFLOW_S3_{name}", value)
    there = [getattr(settings(), f"s3_{name.lower()}") for name in names]
    assert there == [False, "SSE-KMS:our/key", 2, 90, Path.home() / "keys", "mine"]
    monkeypatch.setenv("CLERKFLOW_S3_NONCURRENT_DAYS", "0")
    with pytest.raises(ValueError, match="CLERKFLOW_S3_NONCURRENT_DAYS"):
        settings()


@pytest.mark.parametrize("address", ["9190", "http://127.0.0.1:9190/arrivals", "127.0.0.1:port", "127.0.0.1:99999"])
def test_the_receivers_address_is_a_host_and_a_port(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLERKFLOW_ARRIVALS_ADDRESS", address)
    with pytest.raises(ValueError, match="CLERKFLOW_ARRIVALS_ADDRESS: expected host:port"):
        settings()
