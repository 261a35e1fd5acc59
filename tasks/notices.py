"""Notices: what happened to a process -> the people whom its declaration names, through Apprise: webhooks, mail, Slack and many more.

A declaration names environment variables, and these hold the addresses, for an address is a secret. A message says process, run,
what happened in fixed words, counts, and links; never a row's value, and never an error's text, which may quote one. Whether a
target answers is not the run's business: it is tried for a bounded time, and a failure is logged by the variable's name.
"""

import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tasks.process import Process
from tasks.terms import Event

logger = logging.getLogger(__name__)

SECONDS = 20.0  # for all targets of one message together
WORDS: dict[Event, str] = {
    "success": "done",
    "refusal": "refused by its gate",
    "failure": "failed",
    "drift": "drifted",
    "approval": "approval",
    "alarm": "alarm",
}


@dataclass(frozen=True, slots=True)
class Notice:
    """One message."""

    event: Event
    process: str
    says: str  # a sentence in words of the program's or the declaration's own
    run: str | None = None
    counts: Mapping[str, int | float] = field(default_factory=dict)
    links: Sequence[str] = ()
    next_command: str | None = None

    @property
    def title(self) -> str:
        """The subject: what happened, and to which process."""
        return f"clerkflow {self.process}: {WORDS[self.event]}"

    @property
    def body(self) -> str:
        """What happened, a line each."""
        lines = [self.says, *([f"run: {self.run}"] if self.run else [])]
        lines += [f"{name}: {value:,}" if isinstance(value, int) else f"{name}: {value:.4f}" for name, value in self.counts.items()]
        lines += [link for link in self.links if not _has_password(link)]
        return "\n".join([*lines, *([f"next: {self.next_command}"] if self.next_command else [])])


def _has_password(link: str) -> bool:
    return "@" in urlsplit(link).netloc


def tell(process: Process, notice: Notice) -> int:
    """Send a notice to everybody whom the process names for its event; how many targets took it. Never raises, never takes long."""
    names = process.notify.targets(notice.event)
    sendings = [_Sending(name, notice) for name in names]
    end = time.monotonic() + SECONDS
    for sending in sendings:
        sending.start()
    for sending in sendings:
        sending.join(max(0.0, end - time.monotonic()))
    for sending in sendings:
        if not sending.taken:
            why = f"no answer within {SECONDS:.0f} s" if sending.is_alive() else sending.fault
            logger.warning("notices: %s did not take %r: %s", sending.variable, notice.title, why)
    return sum(sending.taken for sending in sendings)


class _Sending(threading.Thread):
    """One message on its way to one target; a target that never answers holds up nobody, not even the end of the process."""

    def __init__(self, variable: str, notice: Notice) -> None:
        super().__init__(name=f"notice-{variable}", daemon=True)
        self.variable, self.notice, self.taken, self.fault = variable, notice, False, "it refused the message, or cannot be reached"

    def run(self) -> None:
        try:
            self.taken = self._send()
        except Exception as error:  # whatever a plug-in does, a run goes on; its text may hold the address
            self.fault = type(error).__name__

    def _send(self) -> bool:
        address = os.environ.get(self.variable, "").strip()
        if not address:
            self.fault = "this environment variable is not set"
            return False
        import apprise

        logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)  # its lines show addresses
        target = apprise.Apprise()
        if not target.add(address):
            self.fault = "its value is no address that Apprise knows, such as json://host/path or mailto://…"
            return False
        kind = {"success": "success", "refusal": "warning", "drift": "warning", "approval": "info"}.get(self.notice.event, "failure")
        return bool(target.notify(self.notice.body, self.notice.title, apprise.NotifyType(kind), interpret_escapes=False))
