"""A MinIO server of one's own on loopback, for tests and for trying out: python -m infra.minio [--data DIR] [--port N]."""

import argparse
import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import SecretStr

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
    data: Path | None = None, port: int | None = None, build: bool = False, environment: Mapping[str, str] | None = None
) -> Iterator[Settings]:
    """Settings of a server that answers: the one the environment names with its keys, else one started here.

    Args:
        data: folder of its objects; a temporary one when absent.
        port: on loopback; a free one when absent.
        build: whether minio may be built when there is none.
        environment: more of the server's variables, such as where it tells what arrives (infra.events.webhook_environment).

    Raises:
        FileNotFoundError: there is no minio program.
        RuntimeError: it did not start; the message ends with its own words.
    """
    named = settings()
    if "CLERKFLOW_S3_ENDPOINT" in os.environ and named.s3_access_key.get_secret_value():
        yield named
        return
    program = find_server(build)
    with tempfile.TemporaryDirectory(prefix="clerkflow-minio-", ignore_cleanup_errors=True) as scratch:
        keys = credentials(data / "credentials" if data else None)
        server, address = _start(program, Path(scratch), data or Path(scratch), port, keys, environment or {})
        try:
            yield Settings(s3_endpoint=address, s3_secure=False, s3_access_key=SecretStr(keys[0]), s3_secret_key=SecretStr(keys[1]))
        finally:
            _stop(server)


def credentials(file: Path | None) -> tuple[str, str]:
    """Random access and secret key; those of `file` when it is there, else kept in it, for its owner's eyes only."""
    if file and file.is_file():
        access, secret = file.read_text(encoding="ascii").split()
        return access, secret
    keys = secrets.token_hex(10), secrets.token_hex(20)
    if file:
        write_private(file, "\n".join(keys))
    return keys


def write_private(file: Path, text: str) -> None:
    """A file that only its owner may read, from its first byte on."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
        stream.write(text)


def _start(
    program: Path, scratch: Path, data: Path, port: int | None, keys: tuple[str, str], more: Mapping[str, str]
) -> tuple["subprocess.Popen[bytes]", str]:
    address = f"127.0.0.1:{port or _free_port()}"
    words = [str(program), "server", "--quiet", "--address", address, "--certs-dir", str(scratch / "certs"), str(data / "objects")]
    environment = dict(more) | {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(scratch),
        "MINIO_ROOT_USER": keys[0],
        "MINIO_ROOT_PASSWORD": keys[1],
        "MINIO_BROWSER": "off",
        "MINIO_UPDATE": "off",
    }
    (data / "objects").mkdir(parents=True, exist_ok=True)
    log = scratch / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            words, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, preexec_fn=_dies_with_parent()
        )
    try:
        _wait(server, address, log)
    except BaseException:
        _stop(server)
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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(server: "subprocess.Popen[bytes]", address: str, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(f"http://{address}/minio/health/live", timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    said = log.read_text(encoding="utf-8", errors="replace")[-1000:]
    raise RuntimeError(f"minio did not answer at {address} in {START_SECONDS} s, exit status {server.poll()}: {said}")


def _stop(server: "subprocess.Popen[bytes]") -> None:
    server.terminate()
    try:
        server.wait(10)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait(10)


def make_bucket(server: Settings, bucket: str) -> None:
    """Make a bucket when it is not there."""
    from infra.bucket import connect

    client, pool = connect(server)
    if not client.bucket_exists(bucket):
        client.make_bucket(bucket)
    pool.clear()


def environment_of(server: Settings, bucket: str) -> dict[str, str]:
    """The variables that make a bucket of this server the store; for a child's environment, never for a log."""
    return {
        "CLERKFLOW_STORE": f"s3://{bucket}",
        "CLERKFLOW_S3_ENDPOINT": server.s3_endpoint,
        "CLERKFLOW_S3_SECURE": str(server.s3_secure).lower(),
        "CLERKFLOW_S3_ACCESS_KEY": server.s3_access_key.get_secret_value(),
        "CLERKFLOW_S3_SECRET_KEY": server.s3_secret_key.get_secret_value(),
    }


def main() -> None:
    """Run a server until Ctrl-C; its credentials go to a file that only its owner may read."""
    parser = argparse.ArgumentParser(prog="python -m infra.minio", description="A MinIO server on loopback with a bucket for clerkflow.")
    parser.add_argument("--data", type=Path, help="folder that keeps its objects and credentials; a temporary one when absent")
    parser.add_argument("--port", type=int, help="a free one when absent")
    parser.add_argument("--build", action="store_true", help="build minio with Go when there is none (a few minutes, once)")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with tempfile.TemporaryDirectory(prefix="clerkflow-") as scratch, running(asked.data, asked.port, asked.build) as server:
        make_bucket(server, "clerkflow")
        file = (asked.data or Path(scratch)).absolute() / "minio.env"
        write_private(file, "".join(f"{name}={value}\n" for name, value in environment_of(server, "clerkflow").items()))
        print(f"MinIO answers at {server.s3_endpoint}, bucket clerkflow; stop it with Ctrl-C")
        print(f"next, in another shell: set -a; . {file}; set +a", flush=True)
        with suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
