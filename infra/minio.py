"""A MinIO server of one's own on loopback, for tests and for trying out: python -m infra.minio [--data DIR] [--port N]."""

import argparse
import base64
import ctypes
import os
import secrets
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import SecretStr

from infra.certificates import make_certificates
from infra.connection import connect
from infra.credentials import has_credentials, write_private
from infra.ending import end
from infra.ports import free_port
from infra.settings import Settings, settings

# The community edition is distributed as source; its checksum is kept in Go's public log.
SOURCE = "github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c"
CLIENT_SOURCE = "github.com/minio/mc@v0.0.0-20250313080218-cf909e1063a9"
BUILD_SECONDS = 1200
START_SECONDS = 60


def find_server(build: bool = False) -> Path:
    """The minio program: on the PATH, else where Go puts what it builds; with `build` it is built there (minutes).

    Raises:
        FileNotFoundError: there is none; the message says how to get it.
    """
    return _find("minio", SOURCE, build)


def find_client(build: bool = False) -> Path:
    """MinIO's own client `mc`, found as the server is; only benchmarks need it."""
    return _find("mc", CLIENT_SOURCE, build)


def _find(name: str, source: str, build: bool) -> Path:
    go = shutil.which("go")
    if found := shutil.which(name):
        return Path(found)
    built = Path(_go_path(go)) / "bin" / name
    if build and go and not built.is_file():
        subprocess.run([go, "install", source], check=True, timeout=BUILD_SECONDS)
    if not built.is_file():
        raise FileNotFoundError(f"no {name} on the PATH nor at {built}: build it with 'go install {source}' (a few minutes, once)")
    return built


def _go_path(go: str | None) -> str:
    if go is None:
        return os.environ.get("GOPATH") or str(Path.home() / "go")
    answer = subprocess.run([go, "env", "GOPATH"], capture_output=True, text=True, timeout=60, check=True)
    return answer.stdout.strip()


@contextmanager
def running(
    data: Path | None = None,
    port: int | None = None,
    build: bool = False,
    tls: bool = False,
    kms: bool = False,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Settings]:
    """Settings of a server that answers: the one the environment names with its credentials, else one started here.

    Args:
        data: folder of its objects; a temporary one when absent.
        port: on loopback; a free one when absent.
        build: whether minio may be built when there is none.
        tls: whether a server started here speaks TLS, with a CA of its own that the settings name.
        kms: whether a server started here holds a key, without which it refuses to encrypt.
        environment: more of the server's variables, such as where it tells what arrives (infra.events.webhook_environment).

    Raises:
        FileNotFoundError: there is no minio program.
        RuntimeError: it did not start; the message ends with its own words.
    """
    named = settings()
    if "CLERKFLOW_S3_ENDPOINT" in os.environ and has_credentials(named):
        yield named
        return
    program = find_server(build)
    with tempfile.TemporaryDirectory(prefix="clerkflow-minio-", ignore_cleanup_errors=True) as scratch:
        keys = credentials(data / "credentials" if data else None)
        ca = make_certificates(Path(scratch) / "certs") if tls else None
        secret = _environment(keys, named.s3_abort_uploads_days) | (_kms(data / "kms" if data else None) if kms else {})
        server, address = _start(program, Path(scratch), data or Path(scratch), port, dict(environment or {}) | secret, ca)
        try:
            access, key = SecretStr(keys[0]), SecretStr(keys[1])
            yield Settings(
                s3_endpoint=address, s3_secure=tls, s3_ca_file=ca, s3_access_key=access, s3_secret_key=key, s3_credentials_file=None
            )
        finally:
            end(server)


def credentials(file: Path | None) -> tuple[str, str]:
    """Random access and secret key; those of `file` when it is there, else kept in it, for its owner's eyes only."""
    if file and file.is_file():
        access, secret = file.read_text(encoding="ascii").split()
        return access, secret
    keys = secrets.token_hex(10), secrets.token_hex(20)
    if file:
        write_private(file, "\n".join(keys))
    return keys


def _environment(keys: tuple[str, str], abort_uploads_days: int) -> dict[str, str]:
    return {
        "MINIO_ROOT_USER": keys[0],
        "MINIO_ROOT_PASSWORD": keys[1],
        "MINIO_BROWSER": "off",
        "MINIO_UPDATE": "off",
        # MinIO drops a bucket's own rule for unfinished uploads without a word; this is its way to say the same.
        "MINIO_API_STALE_UPLOADS_EXPIRY": f"{abort_uploads_days * 24}h",
    }


def _kms(file: Path | None) -> dict[str, str]:
    """One key for encryption, named clerkflow; kept in `file`, as objects cannot be read without it."""
    key = file.read_text(encoding="ascii") if file and file.is_file() else base64.b64encode(secrets.token_bytes(32)).decode()
    if file and not file.is_file():
        write_private(file, key)
    return {"MINIO_KMS_SECRET_KEY": f"clerkflow:{key}"}


def _start(
    program: Path, scratch: Path, data: Path, port: int | None, secret: dict[str, str], ca: Path | None
) -> tuple["subprocess.Popen[bytes]", str]:
    address = f"127.0.0.1:{port or free_port()}"
    words = [str(program), "server", "--quiet", "--address", address, "--certs-dir", str(scratch / "certs"), str(data / "objects")]
    environment = secret | {"PATH": os.environ.get("PATH", ""), "HOME": str(scratch)}
    (data / "objects").mkdir(parents=True, exist_ok=True)
    log = scratch / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            words, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, preexec_fn=_dies_with_parent()
        )
    try:
        _wait(server, address, log, ca)
    except BaseException:
        end(server)
        raise
    return server, address


def _dies_with_parent() -> Callable[[], None] | None:
    """What a child does before it becomes the server, so that a killed parent leaves no server behind (Linux)."""
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def ask() -> None:
        prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    return ask


def _wait(server: "subprocess.Popen[bytes]", address: str, log: Path, ca: Path | None) -> None:
    trust = ssl.create_default_context(cafile=ca) if ca else None
    alive = f"{'https' if ca else 'http'}://{address}/minio/health/live"
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(alive, timeout=2, context=trust):  # noqa: S310 - http or https
                return
        except OSError:
            time.sleep(0.1)
    said = log.read_text(encoding="utf-8", errors="replace")[-1000:]
    raise RuntimeError(f"minio did not answer at {address} in {START_SECONDS} s, exit status {server.poll()}: {said}")


def make_bucket(server: Settings, bucket: str) -> None:
    """Make a bucket when it is not there."""
    client, pool = connect(server)
    if not client.bucket_exists(bucket):
        client.make_bucket(bucket)
    pool.clear()


def environment_of(server: Settings, bucket: str) -> dict[str, str]:
    """The variables that make a bucket of this server, or a part bucket/prefix, the store; for a child's environment, never for a log."""
    file = server.s3_credentials_file
    variables = {
        "CLERKFLOW_STORE": f"s3://{bucket}",
        "CLERKFLOW_S3_ENDPOINT": server.s3_endpoint,
        "CLERKFLOW_S3_SECURE": str(server.s3_secure).lower(),
        "CLERKFLOW_S3_REGION": server.s3_region,
        "CLERKFLOW_S3_CA_FILE": str(server.s3_ca_file.absolute()) if server.s3_ca_file else "",
        "CLERKFLOW_S3_CREDENTIALS_FILE": str(file.absolute()) if file else "",
        "CLERKFLOW_S3_PROFILE": server.s3_profile if file else "",
        "CLERKFLOW_S3_ACCESS_KEY": server.s3_access_key.get_secret_value(),
        "CLERKFLOW_S3_SECRET_KEY": server.s3_secret_key.get_secret_value(),
    }
    return {name: value for name, value in variables.items() if value}


def environment_lines(variables: Mapping[str, str]) -> str:
    """Variables as lines of a file for `set -a; . file`."""
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in variables.items())


def _told_of_arrivals() -> dict[str, str]:
    """The variables that make the server tell a watcher what arrives; none without a token that it can show there."""
    from infra.events import webhook_environment

    named = settings()
    token = named.arrivals_token.get_secret_value()
    return webhook_environment(named.arrivals_address, token) if token else {}


def main() -> None:
    """Run a server until Ctrl-C; its credentials go to a file that only its owner may read."""
    parser = argparse.ArgumentParser(prog="python -m infra.minio", description="A MinIO server on loopback with a bucket for clerkflow.")
    parser.add_argument("--data", type=Path, help="folder that keeps its objects and credentials; a temporary one when absent")
    parser.add_argument("--port", type=int, help="a free one when absent")
    parser.add_argument("--build", action="store_true", help="build minio with Go when there is none (a few minutes, once)")
    parser.add_argument("--tls", action="store_true", help="speak TLS, with a CA of its own")
    parser.add_argument("--kms", action="store_true", help="hold a key, so that CLERKFLOW_S3_ENCRYPTION works")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    asked_of = running(asked.data, asked.port, asked.build, asked.tls, asked.kms, _told_of_arrivals())
    with tempfile.TemporaryDirectory(prefix="clerkflow-") as scratch, asked_of as server:
        make_bucket(server, "clerkflow")
        file = (asked.data or Path(scratch)).absolute() / "minio.env"
        write_private(file, environment_lines(environment_of(server, "clerkflow")))
        print(f"MinIO answers at {server.s3_endpoint}, bucket clerkflow; stop it with Ctrl-C")
        print(f"next, in another shell: set -a; . {file}; set +a", flush=True)
        with suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
