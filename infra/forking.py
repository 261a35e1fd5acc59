"""Forking: requests of `infra.warm` on a socket -> a fork of this process for each, and how it ended."""

import gc
import importlib
import json
import logging
import os
import selectors
import signal
import socket
import sys
import sysconfig
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.settings import ROOT
from infra.threads import calm_openmp

logger = logging.getLogger(__name__)

REQUEST_BYTES = 2**20
REQUEST_SECONDS = 5.0
TICK_SECONDS = 1.0  # how soon it is seen that the parent is gone


@dataclass(slots=True)
class Fork:
    """A run under way, and who is told how it ends."""

    pid: int
    asker: socket.socket


def wait(path: Path, modules: list[str]) -> None:
    """Import the modules, then fork for whoever asks, until the parent is gone; returns in each fork, and nowhere else."""
    parent = os.getppid()
    import_all(modules)
    files = watched()
    known = fingerprint(files)
    listener = _listen(path)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the forks by themselves
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    awake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    forks: dict[int, Fork] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        selector.register(awake, selectors.EVENT_READ)
        while os.getppid() == parent and (forks or fingerprint(files) == known):
            for key, _ in selector.select(TICK_SECONDS):
                if key.fileobj is listener:
                    if _serve(listener, selector, forks, fresh=fingerprint(files) == known):
                        return
                elif key.fd == awake:
                    os.read(awake, 4096)
                else:
                    os.kill(key.data.pid, signal.SIGKILL)  # its asker is gone
                    selector.unregister(key.fileobj)
            _reap(selector, forks)
    for fork in forks.values():
        os.kill(fork.pid, signal.SIGKILL)
    path.unlink(missing_ok=True)
    if os.getppid() != parent:
        sys.exit(0)
    os.execv(sys.executable, [sys.executable, "-m", "infra.warm", str(path), *modules])  # noqa: S606 - what was imported has changed


def import_all(modules: list[str]) -> None:
    """Import what a run may need; what cannot be imported is left to the run, which says so where a person looks."""
    calm_openmp()
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:
            logger.warning("%s is not imported in advance: %s", name, type(error).__name__)
    gc.collect()
    gc.freeze()  # so that forks share these pages


def watched() -> list[str]:
    """The files that were imported from this project, and the folder of the libraries."""
    here = f"{ROOT}{os.sep}"
    files = [getattr(module, "__file__", None) or "" for module in list(sys.modules.values())]
    return [*sorted(file for file in files if file.startswith(here) and "site-packages" not in file), sysconfig.get_path("purelib")]


def fingerprint(files: list[str]) -> list[int]:
    """When files were changed last."""
    return [_changed(Path(file)) for file in files]


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _listen(path: Path) -> socket.socket:
    """A socket that only this user may connect to: it runs what it is asked to, in this user's name."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(64)
    return listener


def _serve(listener: socket.socket, selector: selectors.BaseSelector, forks: dict[int, Fork], fresh: bool) -> bool:
    """Fork for one asker; True in the fork. Without an answer the asker does it by itself."""
    asker, _ = listener.accept()
    asker.settimeout(REQUEST_SECONDS)
    try:
        request, descriptors = _read(asker)
    except (OSError, ValueError) as error:
        logger.warning("a request was not understood: %s", type(error).__name__)
        asker.close()
        return False
    pid = os.fork() if fresh else -1
    if pid == 0:
        for other in (listener, asker, *(fork.asker for fork in forks.values())):
            other.close()
        selector.close()
        become(request, descriptors)
        return True
    for descriptor in descriptors:
        os.close(descriptor)
    if pid < 0:
        asker.close()
        return False
    forks[pid] = Fork(pid, asker)
    selector.register(asker, selectors.EVENT_READ, forks[pid])
    with suppress(OSError):
        asker.sendall(f"{pid}\n".encode())
    return False


def _read(asker: socket.socket) -> tuple[dict[str, Any], list[int]]:
    words, descriptors, _, _ = socket.recv_fds(asker, 65_536, 3)
    while not words.endswith(b"\n"):
        block = asker.recv(65_536)
        if not block or len(words) > REQUEST_BYTES:
            raise ValueError("no whole request")
        words += block
    return json.loads(words), descriptors


def become(request: dict[str, Any], descriptors: list[int]) -> None:
    """Take the environment, folder, output and signals that a process of its own would have."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for target, descriptor in enumerate(descriptors):
        os.dup2(descriptor, target)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])


def _reap(selector: selectors.BaseSelector, forks: dict[int, Fork]) -> None:
    """Tell each asker whose fork has ended how it ended."""
    for pid in list(forks):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if not ended:
            continue
        fork = forks.pop(pid)
        with suppress(KeyError, ValueError):
            selector.unregister(fork.asker)
        with suppress(OSError):
            fork.asker.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
        fork.asker.close()
