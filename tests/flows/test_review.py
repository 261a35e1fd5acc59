"""The page on which people review, as a server on loopback, over HTTP and in a real browser."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from flows.review import app_of
from infra.store import INCOMING, LocalStore, Store
from tasks.process import Process
from tasks.reviewing import Queue
from tests.browser import browser, find_browser

TOKEN = "a-secret"
FORM = {"fields": {"item": {}, "count": {"type": "integer"}, "unit": {"values": ["box", "piece"], "optional": True}}, "within": "form"}


def process_of(output: dict[str, Any] | None = None, **more: Any) -> Process:
    declared = {
        "name": "tickets",
        "owner": "tests",
        "records": {"source": "a.jsonl", "columns": ["text"]},
        "sample": {"prompt": "{text}"},
        "output": output or {"label": "queue", "labels": ["billing", "shipping"]},
        "gate": [{"metric": "answered", "at_least": 0}],
    }
    return Process.model_validate(declared | more)


def put_batch(store: Store, rows: list[dict[str, Any]], batch: str = "b1") -> None:
    """A finished batch that leaves these rows to review, or to an audit."""
    usual = {"reason": "unsure", "confidence": 0.5, "threshold": 0.9, "fields": None, "similarity": 0.8, "model_version": "v1"}
    lines = [json.dumps(usual | {"record_id": f"r{line}", "line": line} | row) for line, row in enumerate(rows, 1)]
    kept = "audit" if rows and rows[0].get("reason") == "audit" else "review"
    store.write(f"tickets/batches/{batch}/{kept}.jsonl", "\n".join(lines).encode())
    manifest = {kept: len(rows), "finished": f"2026-01-01T00:00:0{batch[-1]}+00:00"}
    store.write(f"tickets/batches/{batch}/manifest.json", json.dumps(manifest).encode())


def tickets(*texts: str) -> list[dict[str, Any]]:
    return [{"inputs": {"text": text}, "output": "billing"} for text in texts]


@contextmanager
def page(store: Store, process: Process, reviewer: str = "Ann") -> Iterator[str]:
    """Address of the page, which is served by a thread."""
    server = uvicorn.Server(uvicorn.Config(app_of(store, process, reviewer, TOKEN), port=0, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        end = time.monotonic() + 60
        while not server.started:
            assert thread.is_alive() and time.monotonic() < end
            time.sleep(0.05)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/{TOKEN}/"
    finally:
        server.should_exit = True
        thread.join(30)


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return LocalStore(tmp_path / "store")


def test_a_proposal_of_another_kind_of_output_is_shown_and_can_be_corrected(local: Store) -> None:
    put_batch(local, tickets("one"))
    with page(local, process_of(FORM)) as address, httpx.Client(trust_env=False, follow_redirects=True) as client:
        item = str(client.get(address).url).partition("?")[0]
        refused = client.post(item, data={"action": "accept"})
        assert (refused.status_code, "the answer is not a JSON object" in refused.text) == (422, True)
        client.post(item, data={"action": "correct", "field.item": "pen", "field.count": "2"})
    assert [word.output for word in Queue(local, process_of(FORM)).holding()] == [{"item": "pen", "count": 2}]


def test_a_page_without_the_secret_or_from_elsewhere_gets_nothing_and_changes_nothing(local: Store) -> None:
    put_batch(local, tickets("<script>alert(1)</script>"))
    with page(local, process_of()) as address, httpx.Client(trust_env=False, follow_redirects=True) as client:
        found = client.get(address, headers={"accept-language": "fr, zh-CN;q=0.8, en;q=0.5"})
        item = str(found.url).partition("?")[0]
        assert "复核" in found.text
        assert "&lt;script&gt;alert(1)" in found.text and "<script>alert" not in found.text
        assert "default-src 'none'" in found.headers["content-security-policy"]
        assert "unsafe" not in found.headers["content-security-policy"]
        assert client.get(item.replace(TOKEN, "guessed")).status_code == 404
        assert client.post(item.replace(TOKEN, "guessed"), data={"action": "accept"}).status_code == 404
        assert client.get(f"{item}?action=accept").status_code == 200
        assert client.post(item, data={"action": "accept"}, headers={"origin": "http://evil.test"}).status_code == 403
        assert client.post(item, data={"action": "accept"}, headers={"sec-fetch-site": "cross-site"}).status_code == 403
        assert client.get(item, headers={"host": "evil.test"}).status_code == 400
        assert client.post(item, data={"action": "reject", "reason": " "}).status_code == 422
        assert client.post(item, data={"action": "correct", "output": "legal"}).status_code == 422
    assert not list(local.list("tickets/reviews/"))


def test_of_two_people_the_second_is_told_who_was_faster(local: Store) -> None:
    put_batch(local, tickets("one", "two"))
    process = process_of()
    with page(local, process, "Bo") as address, httpx.Client(trust_env=False, follow_redirects=True) as client:
        item = str(client.get(address).url).partition("?")[0]
        first = Queue(local, process)
        first.decide(first.waiting()[0], "accepted", "Ann")
        late = client.post(item, data={"action": "correct", "output": "shipping"})
    assert late.status_code == 409
    assert "accepted by Ann" in late.text
    assert [(word.word, word.reviewer) for word in Queue(local, process).said().words] == [("accepted", "Ann")]


def test_a_word_on_what_a_newer_batch_proposes_otherwise_is_not_kept(local: Store) -> None:
    put_batch(local, tickets("one"))
    process = process_of()
    with page(local, process, "Bo") as address, httpx.Client(trust_env=False, follow_redirects=True) as client:
        shown = client.get(address)
        seen = shown.text.partition('name="shown" value="')[2].partition('"')[0]
        put_batch(local, [row | {"output": "shipping", "model_version": "v2"} for row in tickets("one")], "b2")
        item = str(shown.url).partition("?")[0]
        late = client.post(item, data={"action": "accept", "shown": seen})
        assert late.status_code == 409
        assert "a newer batch proposes something else" in late.text
        assert not Queue(local, process).said().words
        seen = late.text.partition('name="shown" value="')[2].partition('"')[0]
        assert client.post(item, data={"action": "accept", "shown": seen}).status_code == 200
    (word,) = Queue(local, process).said().words
    assert (word.output, word.model_version) == ("shipping", "v2")


def test_a_store_that_takes_nothing_is_told_and_the_word_can_be_given_again(local: Store, tmp_path: Path) -> None:
    put_batch(local, tickets("one"))
    process, place = process_of(), tmp_path / "store" / INCOMING
    place.rename(tmp_path / "away")
    place.write_bytes(b"")  # where everything is written first stands what is no folder
    with page(local, process, "Bo") as address, httpx.Client(trust_env=False, follow_redirects=True) as client:
        item, word = str(client.get(address).url).partition("?")[0], {"action": "accept"}
        for language, told in (("en", "This could not be done"), ("zh", "操作未能完成")):
            late = client.post(item, data=word, params={"lang": language})
            assert (late.status_code, told in late.text) == (503, True)
        place.unlink()
        (tmp_path / "away").rename(place)
        assert client.post(item, data=word).status_code == 200
    assert [(word.word, word.reviewer) for word in Queue(local, process).said().words] == [("accepted", "Bo")]


def test_an_accepted_answer_comes_last_and_is_marked_as_an_audit_in_a_real_browser(local: Store, tmp_path: Path) -> None:
    if not (program := find_browser()):
        pytest.skip("no Chromium")
    put_batch(local, [row | {"reason": "audit"} for row in tickets("delivered")])
    put_batch(local, [row | {"record_id": "doubtful"} for row in tickets("doubtful")], "b2")
    with page(local, process_of()) as address, browser(program, tmp_path / "profile") as tab:
        tab.go(address + "?lang=en")
        tab.wait_for("1 of 2 waiting")
        tab.wait_for("the model is not sure enough")
        assert tab.run("document.querySelector('#audit')") is None
        tab.click("#accept")
        tab.wait_for("Audit: this answer was accepted already. Is it right?")
        tab.picture(Path("build/screenshots/audit-en.png"))
        tab.click("a", "中文")
        tab.wait_for("抽查：此答案已自动通过。是否正确？")
        tab.wait_for("已自动通过并交付；请核对是否正确")
        tab.picture(Path("build/screenshots/audit-zh.png"))
        tab.run("document.querySelector('[name=output]').value = 'shipping'")
        tab.click("#edit button")
        tab.wait_for("没有待复核的记录")
    _, word = Queue(local, process_of()).said().words
    assert (word.audited, word.why, word.word, word.output, word.side) == (True, "audit", "corrected", "shipping", "gold")


def test_a_person_decides_with_keys_in_a_real_browser_in_both_languages(local: Store, tmp_path: Path) -> None:
    if not (program := find_browser()):
        pytest.skip("no Chromium")
    process = process_of(FORM)
    sure = {"item": 0.99, "count": 0.41, "unit": 0.97}
    texts = ["三盒钉子", "two boxes of pens", "asdf", "ten cups"]
    put_batch(local, [{"inputs": {"text": text}, "output": {"item": text[-4:], "count": 2}, "fields": sure} for text in texts])
    with page(local, process) as address, browser(program, tmp_path / "profile") as tab:

        def press(key: str) -> None:
            for kind in ("keyDown", "keyUp"):
                tab.ask("Input.dispatchKeyEvent", type=kind, key=key, text=key if len(key) == 1 and kind == "keyDown" else "")

        tab.go(address + "?lang=en")
        tab.wait_for("1 of 4 waiting")
        tab.wait_for("41.0%")
        tab.wait_for("Keys: a accept, e edit")
        assert tab.run("document.querySelector('.doubtful').textContent") == "41.0%"
        press("j")
        tab.wait_for("2 of 4")
        press("k")
        tab.wait_for("1 of 4")
        press("e")
        tab.until("document.activeElement.name === 'field.item'")
        tab.ask("Input.insertText", text="钉子")
        tab.fill("[name='field.count']", "３")
        tab.run("document.querySelector('[name=\"field.unit\"]').value = 'box'")
        tab.picture(Path("build/screenshots/review-en.png"))
        tab.click("#edit button")
        tab.wait_for("Correction saved.")
        tab.click("a", "中文")
        tab.wait_for("条待复核")
        tab.picture(Path("build/screenshots/review-zh.png"))
        press("a")
        tab.wait_for("已通过。")
        press("r")
        tab.until("document.activeElement.name === 'reason'")
        tab.ask("Input.insertText", text="不是订单")
        tab.ask("Input.dispatchKeyEvent", type="keyDown", key="Enter", code="Enter", text="\r", windowsVirtualKeyCode=13)
        tab.wait_for("已驳回。")
        tab.wait_for("1 / 1")
        press("a")
        tab.wait_for("没有待复核的记录")
    words = Queue(local, process).said().words
    assert [(word.word, word.reviewer, word.reason) for word in words] == [
        ("corrected", "Ann", ""),
        ("accepted", "Ann", ""),
        ("rejected", "Ann", "不是订单"),
        ("accepted", "Ann", ""),
    ]
    assert words[0].output == {"item": "钉子", "count": 3, "unit": "box"}
    assert words[2].output is None and words[2].side is None
