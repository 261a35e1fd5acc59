"""Cluster: Ray for as long as it is needed: on this machine alone, or the cluster that RAY_ADDRESS names.

On this machine it listens on loopback, keeps its files in a scratch folder and ends with its user; about 5 s and 450 MB for its own
processes. Nodes of a cluster have an environment of their own, which holds CLERKFLOW_STORE and its keys: nothing of this one is sent.
"""

import importlib.util
import logging
import os
import secrets
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from infra.scratch import scratch
from infra.threads import cores

TURN = threading.Lock()  # a program has one Ray; who comes second waits, for all cores are taken anyway
ADDRESS = "RAY_ADDRESS"
OBJECTS_BYTES = 128 * 2**20  # of shared memory; prompts and answers on their way are far less
LOCAL = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # the latter: Ray takes loopback, on Linux, too


def check_installed(processes: int) -> None:
    """Raise ValueError where so many processes need Ray and there is none; it is not imported."""
    if processes > 1 and importlib.util.find_spec("ray") is None:
        raise ValueError(f"scoring.workers is {processes}, and Ray is not installed: pip install 'clerkflow[ray]'")


@contextmanager
def joined(processes: int) -> Iterator[None]:
    """Ray's nodes, with room for so many processes where they are on this machine alone.

    Raises:
        ConnectionError: the cluster that RAY_ADDRESS names does not answer.
    """
    with TURN:
        if os.environ.get(ADDRESS):
            with _connected(address=os.environ[ADDRESS]):
                yield
        elif _is_started():
            yield
        else:
            with started(processes):
                yield


def _is_started() -> bool:
    import ray

    return bool(ray.is_initialized())


@contextmanager
def started(processes: int) -> Iterator[None]:
    """Ray on this machine; its processes end and its files go afterwards, whatever happened."""
    for name, value in (LOCAL | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}).items():  # else a token is left in the home folder
        os.environ.setdefault(name, value)
    with (
        scratch() as folder,
        _connected(
            address="local",
            num_cpus=max(processes, cores()),
            object_store_memory=OBJECTS_BYTES,
            include_dashboard=False,
            _node_ip_address="127.0.0.1",
            _temp_dir=str(folder),
        ),
    ):
        yield


@contextmanager
def _connected(**options: Any) -> Iterator[None]:
    """Ray with its messages off: what matters of them is said by whoever uses it."""
    import ray
    from ray._private import worker

    on_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    logging.getLogger("ray").setLevel(logging.ERROR)
    worker._worker_logs_enabled = False
    try:
        ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
        if on_main:
            signal.signal(signal.SIGTERM, before)  # Ray puts one of its own in the place of Prefect's
        yield
    finally:
        ray.shutdown()


def threads_for(workers: int) -> int:
    """CPUs for each of so many processes on the nodes of the cluster, as many as all of them can have.

    Raises:
        ValueError: the cluster has fewer CPUs than that.
    """
    import ray

    nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    for threads in range(sum(nodes) // workers, 0, -1):
        if sum(cpus // threads for cpus in nodes) >= workers:
            return threads
    raise ValueError(f"scoring.workers is {workers}, and Ray has {sum(nodes)} CPUs; declare fewer workers")
