"""Retries: how often a crashed run was tried again -> <process>/claims/retries/<flow run>.json, so that it is not tried without end."""

import json
from contextlib import suppress
from typing import Literal

from infra.store import Conflict, MissingObject, Store

MOST = 2  # retries of one run; what crashes a third time needs a person


def retries_key(process: str, flow_run: str) -> str:
    """Key of the counter of a flow run."""
    return f"{process}/claims/retries/{flow_run}.json"


def count(store: Store, process: str, flow_run: str) -> Literal["once more", "just given up", "given up"]:
    """Count a crash of a run, and say what is to be done: of two who count the same crash, one is told to try once more."""
    key = retries_key(process, flow_run)
    try:
        data, etag = store.read(key)
        before = int(json.loads(data)["retries"])
    except MissingObject:
        etag, before = "", 0
    if before > MOST:
        return "given up"
    with suppress(Conflict):
        store.write(key, json.dumps({"retries": before + 1}).encode() + b"\n", if_absent=not etag, if_match=etag or None)
        return "once more" if before < MOST else "just given up"
    return "given up"  # by this one: another one is at it
