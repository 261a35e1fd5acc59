"""Reports: a link of the Prefect UI -> a page of the store: python -m infra.reports --address 127.0.0.1:9191.

The UI keeps links for as long as it keeps runs, and shows them to everybody who can open it; so no link there holds a credential. It
leads here, whoever follows it shows the password of the Prefect server, and is sent on to the bucket with an address that is signed for a
few minutes. A signed address opens its object for whoever has it: it is made when it is asked for, and stored nowhere. What lies in a
folder, or in a bucket that browsers cannot reach (CLERKFLOW_REPORTS_SECONDS=0), is shown by this server itself.
"""

import argparse
import base64
import hmac
import logging
import re
import sys
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from infra.bucket import MinioStore
from infra.settings import settings
from infra.store import MissingObject, Store, open_store

if TYPE_CHECKING:
    from minio import Minio

logger = logging.getLogger(__name__)

PATH = "/reports/"
HEALTH = "/health"
KEYS = re.compile(r"[^/]+/(runs|drift)/(.+/)?[^/]+\.html")  # pages that we have made; an inbox is filled by others
TYPE = "text/html; charset=utf-8"
READ_SECONDS = 10  # until a request must have come whole
HEADERS = {
    "Content-Type": TYPE,
    "Content-Security-Policy": "sandbox allow-scripts",  # its scripts run, and reach nothing of this server
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def link_to(key: str, base: str) -> str:
    """The address of a page behind the reports server at `base`; it holds no credential and stays good as long as the object is there."""
    return f"{base.rstrip('/')}{PATH}{quote(key)}"


def signed_link(client: "Minio", bucket: str, name: str, seconds: int) -> str:
    """An address that opens one page for whoever has it, until so many seconds have passed."""
    headers = {"response-content-type": TYPE, "response-cache-control": "no-store"}
    return str(client.get_presigned_url("GET", bucket, name, expires=timedelta(seconds=seconds), response_headers=headers))


def serve(address: str, store: Store, password: str, seconds: int) -> ThreadingHTTPServer:
    """A server at host:port, still to be run.

    Args:
        password: user:password that whoever asks must show.
        seconds: how long a signed address is good; 0 shows pages here.

    Raises:
        ValueError: there is no password.
        OSError: the address is in use, or not of this machine.
    """
    if not password.strip(":"):
        raise ValueError("reports need a password: set PREFECT_API_AUTH_STRING=user:password, as the Prefect server has it")
    host, _, port = address.rpartition(":")
    shown = "Basic " + base64.b64encode(password.encode()).decode()
    handler = type("Handler", (_Handler,), {"store": store, "shown": shown, "seconds": seconds})
    return ThreadingHTTPServer((host.strip("[]"), int(port)), handler)


class _Handler(BaseHTTPRequestHandler):
    """One page."""

    store: Store
    shown: str
    seconds: int
    timeout = READ_SECONDS
    server_version = "clerkflow"
    sys_version = ""

    def do_GET(self) -> None:
        """Show a page or send on to it: 401 without the password, 404 for what is no page of ours."""
        self.close_connection = True
        if self.path == HEALTH:
            self._answer(200, {"Content-Type": "text/plain"}, b"ok")
            return
        key = unquote(self.path.partition("?")[0].removeprefix(PATH))
        if not hmac.compare_digest(self.headers.get("Authorization", "").encode("latin-1", "replace"), self.shown.encode()):
            self._answer(401, {"WWW-Authenticate": 'Basic realm="clerkflow reports, password of the Prefect server", charset="UTF-8"'})
        elif not self.path.startswith(PATH) or not KEYS.fullmatch(key):
            self.send_error(404)
        else:
            self._page(key)

    def _page(self, key: str) -> None:
        try:
            if self.seconds and isinstance(self.store, MinioStore):
                if self.store.stat(key) is None:
                    raise MissingObject(key)
                self._answer(302, {"Location": signed_link(self.store.client, self.store.bucket, self.store.prefix + key, self.seconds)})
            else:
                self._answer(200, HEADERS, self.store.read(key)[0])
        except (FileNotFoundError, ValueError):
            self.send_error(404, "This report is gone: its run was removed, or it never was")
        except OSError as error:
            logger.warning("reports: %s", type(error).__name__)
            self.send_error(502, "The store does not answer")

    def _answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in ({"Cache-Control": "no-store", "Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not printed."""


def main() -> None:
    """Serve until stopped."""
    from prefect.settings import PREFECT_API_AUTH_STRING

    parser = argparse.ArgumentParser(prog="python -m infra.reports", description="Pages of the store, for links of the Prefect UI.")
    parser.add_argument("--address", default="127.0.0.1:9191", help="host:port, on loopback unless a proxy with TLS stands before it")
    asked = parser.parse_args()
    password: str = PREFECT_API_AUTH_STRING.value() or ""
    try:
        with serve(asked.address, open_store(), password, settings().reports_seconds) as server:
            server.serve_forever()
    except (ValueError, OSError) as error:
        sys.exit(f"reports: {error}")
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()
