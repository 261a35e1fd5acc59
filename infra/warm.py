"""Warm: a process that has imported everything once and forks for each flow run, so that a run begins at once instead of after its imports.

    python -m infra.warm SOCKET MODULE…     the process that waits, with these modules imported
    python -m infra.warm                    the engine of one run in such a fork; in a process of its own when nobody waits

A fork has the environment, folder and output of the one who asks; signals reach it through the asker, and it dies with the asker. When a
file that was imported has changed, nobody is forked any more: the process imports everything again, and until then runs start slowly.
"""

import json
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

SOCKET = "CLERKFLOW_WARM"  # variable with the path of the socket
ENGINE = "prefect.engine"
CONNECT_SECONDS = 5.0  # until a fork must have begun
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main() -> None:
    """Wait, or ask for a fork."""
    if len(sys.argv) > 1:
        from infra.forking import wait

        wait(Path(sys.argv[1]), sys.argv[2:])
        run_engine()  # only a fork comes here
    else:
        ask(os.environ.get(SOCKET, ""))


def ask(path: str) -> NoReturn:
    """Let a fork do the work, pass signals on to it, and end as it ends."""
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    connection, pid = _fork(path)
    if connection is None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
        os.execv(sys.executable, [sys.executable, "-m", ENGINE])  # noqa: S606 - a program of ours

    def pass_on(number: int, _: object) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    for number in PASSED_ON:
        signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    status = connection.makefile().readline()
    _end_as(int(status) if status.strip() else -signal.SIGKILL)


def _fork(path: str) -> tuple[socket.socket | None, int]:
    """A connection that tells how the fork ends, and its process id; None when there is none."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(CONNECT_SECONDS)
    try:
        connection.connect(path)
        words = json.dumps({"environment": dict(os.environ), "folder": str(Path.cwd())}).encode() + b"\n"
        sent = socket.send_fds(connection, [words], [0, 1, 2])
        connection.sendall(words[sent:])
        pid = int(_line(connection))
    except (OSError, ValueError):
        connection.close()
        return None, 0
    connection.settimeout(None)
    return connection, pid


def _line(connection: socket.socket) -> bytes:
    """A line, and not a byte of the next one."""
    line = b""
    while (byte := connection.recv(1)) not in (b"", b"\n"):
        line += byte
    return line


def _end_as(status: int) -> NoReturn:
    """End with an exit status, or by a signal when it is negative."""
    if status < 0:
        signal.signal(-status, signal.SIG_DFL) if -status not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(os.getpid(), -status)
    os._exit(status if status >= 0 else 128 - status)


def run_engine() -> None:
    """What `python -m prefect.engine` does, with the settings of this environment."""
    import runpy
    import warnings

    from prefect.context import SettingsContext, get_settings_context
    from prefect.settings.models.root import Settings

    warnings.filterwarnings("ignore", message=".*found in sys.modules", category=RuntimeWarning)  # it is meant to be there
    sys.argv = [ENGINE]
    with SettingsContext(profile=get_settings_context().profile, settings=Settings()):
        runpy.run_module(ENGINE, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
