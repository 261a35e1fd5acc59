"""Events: what arrives in the store -> hints of keys, in bursts; and what a Prefect server is told of it.

MinIO tells a small receiver of ours. Its ListenBucketNotification would need none, but the release we pin never flushes that stream
(measured: no byte in 20 s). A hint may come twice, late or never: whoever gets one looks into the store, and looks at everything (CATCH_UP)
when it starts; so MinIO's queue_dir, which is read every 3 s only, would cost the speed that hints are for and save nothing.
"""

import contextlib
import hmac
import json
import logging
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus

import httpx

from infra.settings import Settings
from infra.store import LocalStore

if TYPE_CHECKING:
    from infra.bucket import MinioStore

logger = logging.getLogger(__name__)

CATCH_UP = "*"  # in place of a key: anything may have come
BURST_SECONDS = 0.2  # after a first hint, others are waited for so long, to go with it
TICK_SECONDS = 1.0  # the longest time without a word, even if nothing comes
QUEUED = 10_000  # hints; when more pile up, they are one CATCH_UP
BODY_BYTES = 2**20  # of a notification; MinIO's have about 1 kB
READ_SECONDS = 10  # until a notification must have come whole
TOKEN_CHARACTERS = 16  # the fewest
PATH = "/arrivals"
TARGET = "CLERKFLOW"  # our webhook's name among those of a MinIO server
ARN = f"arn:minio:sqs::{TARGET}:webhook"
EMIT_TRIES = 5
NAMESPACE = uuid.UUID("5c1f3a5e-8f0e-4c55-9a55-0d6b5cf0a3c1")  # of our event ids


# --- a folder


def folder_hints(store: LocalStore, names: list[str], stop: threading.Event) -> Iterator[set[str]]:
    """Files that were made, changed or renamed in the inboxes, and about every second an empty set; the folders are made when missing."""
    from watchfiles import Change, watch

    folders = [store.root / name / "inbox" for name in names]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    changes = watch(
        *folders,
        watch_filter=lambda change, _: change is not Change.deleted,
        debounce=int(BURST_SECONDS * 1000),
        rust_timeout=int(TICK_SECONDS * 1000),
        yield_on_timeout=True,
        stop_event=stop,
    )
    next(changes, None)  # watching begins with this, before anybody looks: what comes from now on is told
    yield {CATCH_UP}
    for change in changes:
        yield {Path(path).relative_to(store.root).as_posix() for _, path in change}


# --- a bucket


def bucket_hints(store: "MinioStore", names: list[str], where: Settings, stop: threading.Event) -> Iterator[set[str]]:
    """Keys that MinIO says were written in the inboxes, and about every second an empty set.

    Raises:
        ValueError: no token in the environment, or one that is too short.
        OSError: another program uses the address.
    """
    heard: queue.Queue[str] = queue.Queue(QUEUED)
    with receiver(heard, where.arrivals_address, where.arrivals_token.get_secret_value(), store.prefix):
        subscribe(store, names)
        yield {CATCH_UP}
        while not stop.is_set():
            yield burst(heard)


def burst(heard: "queue.Queue[str]") -> set[str]:
    """A first hint and those that follow closely; nothing when none came within a tick."""
    keys: set[str] = set()
    with contextlib.suppress(queue.Empty):
        keys.add(heard.get(timeout=TICK_SECONDS))
        end = time.monotonic() + BURST_SECONDS
        while (left := end - time.monotonic()) > 0:
            keys.add(heard.get(timeout=left))
    return keys


@contextlib.contextmanager
def receiver(heard: "queue.Queue[str]", address: str, token: str, prefix: str = "") -> Iterator[str]:
    """A server that puts the keys of notifications into a queue; gives its URL.

    Only a POST to /arrivals that shows the token is heard, and 204 is answered when its keys are in the queue, not before.

    Raises:
        ValueError: the token has fewer than 16 characters.
        OSError: the address is in use, or not of this machine.
    """
    if len(token) < TOKEN_CHARACTERS:
        raise ValueError(
            f"CLERKFLOW_ARRIVALS_TOKEN needs {TOKEN_CHARACTERS} characters or more: openssl rand -hex 24; MinIO shows the same"
        )
    host, _, port = address.rpartition(":")
    handler = type("Handler", (_Handler,), {"heard": heard, "token": token, "prefix": prefix})
    with ThreadingHTTPServer((host.strip("[]"), int(port)), handler) as server:
        threading.Thread(target=server.serve_forever, name="clerkflow-receiver", daemon=True).start()
        try:
            yield f"http://{host}:{server.server_address[1]}{PATH}"
        finally:
            server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    """One notification."""

    heard: "queue.Queue[str]"
    token: str
    prefix: str
    timeout = READ_SECONDS
    server_version = "clerkflow"
    sys_version = ""

    def do_POST(self) -> None:
        """Hear a notification: 401 without the token, 404 elsewhere, 411 and 413 without a length or with a great one."""
        self.close_connection = True
        if status := self._refusal():
            self.send_error(status)
            return
        for key in keys_of(self.rfile.read(int(self.headers["Content-Length"])), self.prefix):
            put(self.heard, key)
        self.send_response(204)
        self.end_headers()

    def _refusal(self) -> int | None:
        """The status that refuses this request; None when it is welcome."""
        shown = self.headers.get("Authorization", "")
        if not hmac.compare_digest(shown.encode("latin-1", "replace"), f"Bearer {self.token}".encode()):
            return 401
        if self.path != PATH:
            return 404
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            return 411
        return 413 if int(length) > BODY_BYTES else None

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not printed; refusals are logged without what was sent."""
        if format.startswith("code"):
            logger.warning("arrivals: a notification was refused: %s", args[0])


def put(heard: "queue.Queue[str]", key: str) -> None:
    """Pass a hint on; when nobody fetches them, all of them become one CATCH_UP."""
    try:
        heard.put_nowait(key)
    except queue.Full:
        with contextlib.suppress(queue.Empty):
            while True:
                heard.get_nowait()
        with contextlib.suppress(queue.Full):
            heard.put_nowait(CATCH_UP)


def keys_of(body: bytes, prefix: str = "") -> list[str]:
    """The keys below a prefix that a notification names; they come URL-encoded. What cannot be read is a hint at everything."""
    try:
        names = [unquote_plus(record["s3"]["object"]["key"]) for record in json.loads(body)["Records"] or ()]
    except (ValueError, KeyError, TypeError, RecursionError):
        return [CATCH_UP]
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]


def webhook_environment(address: str, token: str) -> dict[str, str]:
    """The variables that make a MinIO server tell our receiver at host:port; for a child's environment, never for a log."""
    words = {"ENABLE": "on", "ENDPOINT": f"http://{address}{PATH}", "AUTH_TOKEN": token}
    return {f"MINIO_NOTIFY_WEBHOOK_{name}_{TARGET}": value for name, value in words.items()}


def subscribe(store: "MinioStore", names: list[str]) -> bool:
    """Ask the bucket to tell us what is written in the inboxes, beside what others asked for; False, with a warning, when it cannot."""
    from minio.notificationconfig import NotificationConfig, PrefixFilterRule, QueueConfig

    from infra.bucket import told

    created, inboxes = ["s3:ObjectCreated:*"], [f"{store.prefix}{name}/inbox/" for name in names]
    rules = [QueueConfig(events=created, queue=ARN, prefix_filter_rule=PrefixFilterRule(inbox)) for inbox in inboxes]
    try:
        with told(store.address("")):
            now = store.client.get_bucket_notification(store.bucket)
            others = [rule for rule in now.queue_config_list or () if rule.queue != ARN]
            config = NotificationConfig(now.cloud_func_config_list, [*others, *rules], now.topic_config_list)
            store.client.set_bucket_notification(store.bucket, config)
    except OSError as error:
        logger.warning("arrivals: the bucket tells nobody what arrives, the reconciler finds it within its period: %s", error)
        return False
    return True


# --- what the Prefect server is told


def emit(event: str, resource: str, versions: list[str], payload: dict[str, Any], rest: Callable[[float], Any] = time.sleep) -> uuid.UUID:
    """Tell the Prefect server, and make sure that it took it: Prefect's own emit_event loses events without a word.

    Args:
        versions: what the event is about; the event's id is made of them, so that the same one told twice is one.
        payload: plain data, neither secrets nor row values.
        rest: waits so many seconds before another try.

    Raises:
        ConnectionError: the server did not take it in 5 tries.
    """
    from prefect.client.orchestration import get_client

    id = uuid.uuid5(NAMESPACE, "\n".join([event, resource, *sorted(versions)]))
    occurred = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    body = {"id": str(id), "event": event, "occurred": occurred, "resource": {"prefect.resource.id": resource}, "payload": payload}
    trouble = ""
    for attempt in range(EMIT_TRIES):
        if attempt:
            rest(0.2 * 2**attempt)
        try:
            with get_client(sync_client=True) as client:
                answer = client.request("POST", "/events", json=[body])  # type: ignore[arg-type]
            if answer.status_code == httpx.codes.NO_CONTENT:
                return id
            trouble = str(answer.status_code)
        except httpx.HTTPStatusError as error:
            trouble = str(error.response.status_code)
        except (httpx.HTTPError, RuntimeError, OSError) as error:
            trouble = type(error).__name__
    raise ConnectionError(f"the Prefect server did not take event {event} in {EMIT_TRIES} tries ({trouble}); is PREFECT_API_URL right?")
