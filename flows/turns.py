"""Turns: a flow's body is run once at a time; a second run of it says who is at work, and ends as Completed, named Skipped."""

import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import wraps
from typing import ParamSpec, TypeVar, cast

from prefect.exceptions import Abort
from prefect.runtime import flow_run
from prefect.states import Completed
from pydantic import BaseModel, ConfigDict

from flows.parameters import plain
from infra.settings import settings
from infra.store import Store, open_store
from tasks import claims
from tasks.aliases import fence_of, put_fence
from tasks.claims import Claim, Held, Hold, Lost
from tasks.declaration import load_process

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

_HOLD: ContextVar[Hold | None] = ContextVar("hold", default=None)


class Skipped(BaseModel):
    """What a run gives that found another one at work."""

    model_config = ConfigDict(frozen=True)

    flow: str
    process: str
    by: str  # the run that is at work
    since: datetime

    @property
    def told(self) -> str:
        """In words."""
        return f"{self.process}: skipped, {self.by} is at work on it since {self.since:%Y-%m-%d %H:%M:%S} UTC"


def now() -> Hold | None:
    """The claim of the turn that this flow has."""
    return _HOLD.get()


def once(body: Callable[P, R]) -> Callable[P, R | Skipped]:
    """One run of Prefect's is executed once at a time, however often workers were told to."""
    return _in_turn(body, alone=False)


def alone(body: Callable[P, R]) -> Callable[P, R | Skipped]:
    """The same; and of all runs of a flow for one process one works, the others are skipped."""
    return _in_turn(body, alone=True)


def _in_turn(body: Callable[P, R], alone: bool) -> Callable[P, R | Skipped]:
    @wraps(body)
    def turn(*args: P.args, **kwargs: P.kwargs) -> R | Skipped:
        asked = inspect.signature(body).bind(*args, **kwargs).arguments
        process = load_process(asked["process"], settings().processes, plain(asked.get("overrides"))).name
        store = open_store()
        with _executed_once(store, process), ExitStack() as stack:
            if alone:
                try:
                    stack.enter_context(_alone(store, process))
                except Held as held:
                    return skipped(process, held.claim)
            return body(*args, **kwargs)

    return turn


@contextmanager
def _executed_once(store: Store, process: str) -> Iterator[None]:
    """Hold the claim of this flow run. Whoever executes it a second time, or has lost it, leaves its state to the one at work."""
    if not flow_run.id:  # a plain call
        yield
        return
    with ExitStack() as stack:
        try:
            hold = stack.enter_context(claims.claimed(store, claims.run_key(process, flow_run.id), flow_run.name or "", flow_run.id))
        except Held as held:
            raise Abort(str(held)) from None
        with _holding(hold):
            try:
                yield
            except Lost as lost:
                claims_lost(store, hold, lost)
                raise


def claims_lost(store: Store, hold: Hold, lost: Lost) -> None:
    """End without a word to Prefect when this very flow run is executed by another process now."""
    try:
        claims.check(store, hold)
    except Lost:
        raise Abort(str(lost)) from None


@contextmanager
def _alone(store: Store, process: str) -> Iterator[None]:
    """Hold the claim of this flow for a process; the one of training puts a fence around the champion's alias, too."""
    flow = flow_run.flow_name or ""
    above = fence_of(store, process) if flow == "train" else 0
    with claims.claimed(store, claims.flow_key(process, flow), flow_run.name or "", flow_run.id, above=above) as hold:
        if flow == "train":
            put_fence(store, process, hold.token)
        with _holding(hold):
            yield


@contextmanager
def _holding(hold: Hold) -> Iterator[None]:
    token = _HOLD.set(hold)
    try:
        yield
    finally:
        _HOLD.reset(token)


def skipped(process: str, by: Claim) -> Skipped:
    """A run that leaves the work to another one, as a flow's return: the UI shows Skipped, callers get who is at work."""
    found = Skipped(flow=flow_run.flow_name or "", process=process, by=by.run, since=by.since)
    logger.info("%s", found.told)
    return cast(Skipped, Completed(name="Skipped", message=found.told, data=found))  # Prefect unwraps it
