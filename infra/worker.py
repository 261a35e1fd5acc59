"""Worker: a Prefect process worker whose runs begin at once, as forks of a process that has imported the flows: python -m infra.worker.

It takes runs of the same pools as `prefect worker start --type process`, which does the same work and starts each run some seconds later.
"""

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

from prefect.settings import PREFECT_WORKER_HEARTBEAT_SECONDS, PREFECT_WORKER_PREFETCH_SECONDS
from prefect.utilities.processutils import command_to_string, setup_signal_handlers_worker
from prefect.workers.process import ProcessJobConfiguration, ProcessWorker

from infra.ending import end
from infra.settings import ROOT
from infra.warm import SOCKET

HEALTH_PORT = "PREFECT_WORKER_WEBSERVER_PORT"  # when it is set, /health there answers 200 while runs are looked for


class WarmConfiguration(ProcessJobConfiguration):
    """The command of a run: `infra.warm`, unless the deployment or the pool names one."""

    def prepare_for_flow_run(self, *args: Any, **kwargs: Any) -> None:
        """As Prefect's own; a command that is named also spares Prefect's second process for each run."""
        self.command = self.command or command_to_string([sys.executable, "-m", "infra.warm"])
        super().prepare_for_flow_run(*args, **kwargs)


with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # it is meant to take the place of Prefect's own

    class WarmWorker(ProcessWorker):
        """A process worker that starts runs with `infra.warm`."""

        job_configuration = WarmConfiguration


def main() -> None:
    """Work until stopped."""
    parser = argparse.ArgumentParser(prog="python -m infra.worker", description="A Prefect process worker whose runs begin at once.")
    parser.add_argument("--pool", required=True)
    parser.add_argument("--limit", type=int, help="the most runs at a time")
    parser.add_argument("--import", dest="modules", nargs="*", default=[], help="modules that are imported once for all runs")
    asked = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored after `&` in a script; Prefect stops by it
    with tempfile.TemporaryDirectory(prefix="clerkflow-warm-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "socket"
        os.environ[SOCKET] = str(path)
        warm = subprocess.Popen([sys.executable, "-m", "infra.warm", str(path), *asked.modules], cwd=ROOT, stdin=subprocess.DEVNULL)
        try:
            asyncio.run(work(asked.pool, asked.limit))
        finally:
            end(warm)


async def work(pool: str, limit: int | None) -> None:
    """Prefect's own loop, with Prefect's own handling of signals."""
    setup_signal_handlers_worker(os.getpid(), "the process worker", print)
    await WarmWorker(
        work_pool_name=pool,
        limit=limit,
        prefetch_seconds=PREFECT_WORKER_PREFETCH_SECONDS.value(),
        heartbeat_interval_seconds=int(PREFECT_WORKER_HEARTBEAT_SECONDS.value()),
    ).start(with_healthcheck=HEALTH_PORT in os.environ)


if __name__ == "__main__":
    main()
