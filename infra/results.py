"""Results: what Prefect keeps of finished runs on this machine -> what is still young; its server prunes the rest by itself."""

import time
from contextlib import suppress
from pathlib import Path

SECONDS_A_DAY = 86_400


def sweep_results(days: int, dry_run: bool) -> dict[str, int]:
    """Remove result files that nothing has touched for so many days: how many objects and bytes. Prefect itself never removes one."""
    from prefect.settings import PREFECT_LOCAL_STORAGE_PATH

    folder, line = Path(PREFECT_LOCAL_STORAGE_PATH.value()), time.time() - days * SECONDS_A_DAY
    old = [(path, stat) for path in folder.glob("*") if path.is_file() and (stat := path.stat()).st_mtime < line]
    for path, _ in () if dry_run else old:
        with suppress(FileNotFoundError):
            path.unlink()
    return {"objects": len(old), "bytes": sum(stat.st_size for _, stat in old)}


def vacuum_environment(days: int) -> dict[str, str]:
    """The variables that make a Prefect server forget runs, with their logs and artifacts, and events after so many days."""
    return {
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": '["events","flow_runs"]',
        "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(days * SECONDS_A_DAY),
        "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": f"P{days}D",  # seconds are refused here
    }
