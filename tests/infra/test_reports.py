"""Links of the Prefect UI: they ask for a password, open pages of ours alone, and hold no credential."""

import base64
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from infra.reports import link_to, serve
from infra.store import LocalStore, Store

PAGE = "p/runs/r 1/evaluation/report.html"


@contextmanager
def served(store: Store, seconds: int = 60) -> Iterator[str]:
    with serve("127.0.0.1:0", store, "a:secret", seconds) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def get(address: str, password: str | None = "a:secret") -> tuple[int, Any, str]:
    """Status, headers and text of what is found in the end, and its address."""
    headers = {"Authorization": "Basic " + base64.b64encode(password.encode()).decode()} if password else {}
    request = urllib.request.Request(address)
    for name, value in headers.items():
        request.add_unredirected_header(name, value)  # as a browser does, which shows a password to one server
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, ""


def test_a_page_opens_as_html_for_who_has_the_password_and_for_nobody_else(store: Store) -> None:
    store.write(PAGE, "<p>发票</p>".encode())
    for seconds in (60, 0):
        with served(store, seconds) as base:
            status, headers, text = get(link_to(PAGE, base))
            assert (status, headers["Content-Type"], text) == (200, "text/html; charset=utf-8", "<p>发票</p>")
            assert get(link_to(PAGE, base), None)[0] == get(link_to(PAGE, base), "a:other")[0] == 401
            assert get(f"{base}/health", None)[0] == 200


def test_only_pages_that_runs_have_made_are_shown(store: Store) -> None:
    for key in ("p/inbox/page.html", "p/runs/r/raw/records.jsonl", "p/batches/b/page.html"):
        store.write(key, b"x")
    with served(store) as base:
        for key in (
            "p/inbox/page.html",
            "p/runs/r/raw/records.jsonl",
            "p/batches/b/page.html",
            "p/runs/r/none.html",
            "p/runs/../inbox/page.html",
        ):
            assert get(link_to(key, base))[0] == 404, key


def test_a_page_shown_here_reaches_nothing_of_this_server(store: Store) -> None:
    store.write(PAGE, b"x")
    with served(LocalStore(store.root) if isinstance(store, LocalStore) else store, 0) as base:
        assert get(link_to(PAGE, base))[1]["Content-Security-Policy"] == "sandbox allow-scripts"


def test_without_a_password_nothing_is_served(store: Store) -> None:
    with pytest.raises(ValueError, match="PREFECT_API_AUTH_STRING"):
        serve("127.0.0.1:0", store, "", 60)
