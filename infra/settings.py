"""Settings: CLERKFLOW_* environment variables -> what differs between machines, typed, read once a call."""

import re
from pathlib import Path

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

ROOT = Path(__file__).resolve().parent.parent


class Settings(BaseSettings):
    """Where this machine keeps things; each value is an environment variable, CLERKFLOW_<NAME>."""

    model_config = SettingsConfigDict(env_prefix="CLERKFLOW_", env_ignore_empty=True, frozen=True)

    processes: Path = ROOT / "data" / "processes"
    store: str = str(ROOT / "data" / "store")  # a folder, or s3://bucket[/prefix]
    cache: Path = Path.home() / ".cache" / "clerkflow"  # downloaded models, checked on each load
    s3_endpoint: str = "127.0.0.1:9000"
    s3_access_key: SecretStr = SecretStr("")
    s3_secret_key: SecretStr = SecretStr("")
    s3_secure: bool = True
    s3_region: str = "us-east-1"
    s3_ca_file: Path | None = None
    s3_credentials_file: Path | None = None  # AWS-style; asked when the two keys are absent
    s3_profile: str = "default"
    # What `python -m infra.provision` gives the bucket:
    s3_versioning: bool = True  # false: left as it is
    s3_encryption: str | None = None  # SSE-S3 or SSE-KMS:<key>; absent: left as it is
    s3_abort_uploads_days: int = Field(default=1, ge=1)  # a shard that has not arrived in a day never will; MinIO's own default
    s3_noncurrent_days: int = Field(default=30, ge=1)  # how long an overwritten or deleted object can be brought back
    signing_key: SecretStr = SecretStr("")  # Ed25519; whoever publishes signs with it
    public_keys: str = ""  # those whose signatures count; when there are any, unsigned versions are refused
    database_url: SecretStr = SecretStr("")  # of the Prefect server that `make up` starts; SQLite when empty
    ledger_url: SecretStr = SecretStr("")  # database of what models have answered; SQLite when empty, PostgreSQL where machines share it
    approvers: Path | None = None  # a file: name -> roles; without it nobody can approve a model
    arrivals_address: str = "127.0.0.1:9190"  # where `clerkflow watch` is told by MinIO what arrives
    arrivals_token: SecretStr = SecretStr("")  # that MinIO shows there
    lease_seconds: float = Field(default=60.0, ge=1, le=3600)  # a run that is silent for so long has lost what it claimed
    prefect_days: int = Field(default=30, ge=1)  # how long Prefect keeps runs that have ended, their artifacts and results, and events
    reports_url: str = ""  # of the server of reports, as browsers reach it; without one, the Prefect UI only names where a report lies
    reports_seconds: int = Field(
        default=300, ge=0, le=7 * 86_400
    )  # how long the signed address that it sends on to is good; 0: it shows pages itself
    threads: int | None = Field(default=None, ge=1)  # of torch; all cores that the process may use when absent

    @field_validator("processes", "cache", "s3_ca_file", "s3_credentials_file", "approvers")
    @classmethod
    def _from_home(cls, path: Path | None) -> Path | None:
        """A ~ in a variable that no shell has expanded."""
        return path.expanduser() if path else None

    @field_validator("s3_endpoint")
    @classmethod
    def _host_and_port(cls, endpoint: str) -> str:
        if "/" in endpoint or "@" in endpoint:
            raise ValueError("expected host:port; whether it speaks TLS is CLERKFLOW_S3_SECURE")
        return endpoint

    @field_validator("s3_encryption")
    @classmethod
    def _known_encryption(cls, encryption: str | None) -> str | None:
        if encryption and not re.fullmatch(r"SSE-S3|SSE-KMS:[\w:/.-]+", encryption):
            raise ValueError("expected SSE-S3 or SSE-KMS:<key>")
        return encryption

    @field_validator("arrivals_address")
    @classmethod
    def _with_a_port(cls, address: str) -> str:
        host, _, port = address.rpartition(":")
        if not host or "/" in address or not port.isdecimal() or int(port) > 65_535:
            raise ValueError("expected host:port, such as 127.0.0.1:9190")
        return address

    @property
    def bases(self) -> Path:
        """Folder of the declared bases, beside that of the processes."""
        return self.processes.parent / "bases"


def settings() -> Settings:
    """The settings of this machine, as the environment says now.

    Raises:
        ValueError: one or more variables make no sense; all are named, without their values.
    """
    try:
        return Settings()
    except ValidationError as error:
        faults = [f"CLERKFLOW_{str(fault['loc'][0]).upper()}: {fault['msg'].removeprefix('Value error, ')}" for fault in error.errors()]
        raise ValueError("; ".join(faults)) from None
