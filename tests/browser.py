"""A browser for tests: headless Chromium on loopback, told what to do over its DevTools protocol; nothing but `websockets` is needed."""

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from infra.ending import end

NAMES = ("chromium", "chromium-browser", "google-chrome")
START_SECONDS = 60.0
WAIT_SECONDS = 60.0
# Finds a visible element that says, or is labelled, just so: the last one, or the first one behind a text.
FIND = """(selector, text, behind) => {
  const said = e => [e.innerText, e.value, e.getAttribute('aria-label'), e.getAttribute('placeholder')].map(t => (t || '').trim());
  const seen = e => e.getClientRects().length && (!text || said(e).includes(text));
  const found = [...document.querySelectorAll(selector)].filter(seen);
  if (!behind) return found[found.length - 1] || null;
  const marks = [...document.querySelectorAll('*')].filter(e => (e.innerText || '').trim().startsWith(behind));
  const mark = marks[marks.length - 1];
  return mark && found.find(e => mark.compareDocumentPosition(e) & Node.DOCUMENT_POSITION_FOLLOWING) || null;
}"""


def find_browser() -> Path | None:
    """The browser's program; None when there is none."""
    return next((Path(found) for name in NAMES if (found := shutil.which(name))), None)


class Page:
    """One tab."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket, self.number = socket, 0

    def ask(self, method: str, **parameters: Any) -> Any:
        """What the browser answers to a command; its events are passed over."""
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        end = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < end:
            answer = json.loads(self.socket.recv(timeout=WAIT_SECONDS))
            if answer.get("id") == self.number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
        raise TimeoutError(method)

    def go(self, address: str) -> None:
        self.ask("Page.navigate", url=address)

    def run(self, script: str) -> Any:
        """The value of an expression of JavaScript."""
        answer = self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, (script, answer["exceptionDetails"])
        return answer["result"].get("value")

    def until(self, script: str, seconds: float = WAIT_SECONDS) -> Any:
        """The value of an expression as soon as it is true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if answer := self.run(script):
                return answer
            time.sleep(0.2)
        raise AssertionError(f"not within {seconds:.0f} s: {script}; the page says: {self.text()[-1500:]}")

    def text(self) -> str:
        return str(self.run("document.body ? document.body.innerText : ''"))

    def wait_for(self, text: str, seconds: float = WAIT_SECONDS) -> None:
        """Wait until the page says so."""
        self.until(f"document.body && document.body.innerText.includes({json.dumps(text)})", seconds)

    def place(self, selector: str, text: str = "", behind: str = "") -> tuple[float, float]:
        """The middle of an element, scrolled into view."""
        words = ", ".join(map(json.dumps, (selector, text, behind)))
        script = f"""(() => {{ const e = ({FIND})({words}); if (!e) return null;
          e.scrollIntoView({{block: 'center'}});
          const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; }})()"""
        place, before = self.until(script), None
        end = time.monotonic() + WAIT_SECONDS
        while place != before and time.monotonic() < end:  # a page that is still being built moves what it shows
            time.sleep(0.3)
            place, before = self.until(script), place
        return place[0], place[1]

    def click(self, selector: str, text: str = "", behind: str = "") -> None:
        """Click as a person does."""
        x, y = self.place(selector, text, behind)
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def fill(self, selector: str, value: str, behind: str = "") -> None:
        """Type into a field, in place of what is there."""
        self.click(selector, behind=behind)
        self.run("document.activeElement.select && document.activeElement.select()")
        self.ask("Input.insertText", text=value)
        self.run("document.activeElement.blur()")

    def picture(self, file: Path) -> None:
        """Keep what is seen."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))


@contextmanager
def browser(program: Path, folder: Path) -> Iterator[Page]:
    """A tab of a browser of one's own, 1400 by 1000; ended by its process id."""
    words = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--remote-debugging-port=0",
        "--window-size=1400,1000",
    ]
    words += ["--disable-background-networking", "--disable-component-update", "--no-first-run", f"--user-data-dir={folder}", "about:blank"]
    with (folder.parent / "browser.log").open("wb") as log:
        process = subprocess.Popen([program, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        with connect(_tab(_port(process, folder)), max_size=None, proxy=None) as socket:
            yield Page(socket)
    finally:
        end(process, 20)


def _port(process: "subprocess.Popen[bytes]", folder: Path) -> int:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        file = folder / "DevToolsActivePort"
        if file.exists() and (lines := file.read_text().split()):
            return int(lines[0])
        time.sleep(0.1)
    raise RuntimeError(f"the browser did not start, exit status {process.poll()}; see {folder.parent / 'browser.log'}")


def _tab(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=10) as answer:
        return next(tab["webSocketDebuggerUrl"] for tab in json.load(answer) if tab["type"] == "page")
