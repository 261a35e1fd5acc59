"""Workers: prompts -> predictions by several processes at once, each of which has loaded the model once                    (Ray).

Ray's actors are the processes: a dead one is started again, loads the model again and is asked again, three times at most. Who asks keeps
the ledger, so that an answer counts once however often it was asked for. Ray Data would read a whole source by itself before it asks;
here the ledger says chunk by chunk what is still to be asked. An actor is told the process and the version, never where or with which
key: it reads the store that the environment of its node names, and checks every byte as every loader does.
"""

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.cluster import joined, threads_for
from infra.settings import settings
from infra.store import open_store
from infra.threads import calm_openmp
from tasks.declaration import parse_process
from tasks.predictions import Prediction
from tasks.process import Process
from tasks.prompts import prompt_of
from tasks.registry import fetch_version

if TYPE_CHECKING:
    from tasks.generation import Predictor

logger = logging.getLogger(__name__)

RETRIES = 3  # of a part whose worker died: a prompt that kills every one must not do so for ever

Answers = Callable[[], list[Prediction]]  # waits for what was asked


class Worker:
    """What runs in an actor; the model is loaded when it is asked first."""

    def __init__(self, name: str, version: str, threads: int) -> None:
        self.name, self.version = name, version
        os.environ["CLERKFLOW_THREADS"] = str(threads)
        calm_openmp()

    @cached_property
    def predictor(self) -> "Predictor":
        """The version's predictor, from the store."""
        folder = fetch_version(open_store(), self.name, self.version, settings().cache)
        from tasks.generation import Predictor

        return Predictor.load(folder)

    def decoding(self) -> tuple[int, str]:
        """This process, and what the predictor says."""
        return os.getpid(), self.predictor.decoding

    def predict(self, prompts: Sequence[str]) -> tuple[int, list[Prediction]]:
        """This process, and a prediction for each prompt."""
        return os.getpid(), self.predictor.predict(prompts)


class Workers:
    """What asks them, with the face of a predictor."""

    def __init__(self, process: Process, actors: Sequence[Any]) -> None:
        self.process, self._actors = process, actors
        told = _fetched([actor.decoding.remote() for actor in actors], process.name)
        self._pids = [pid for pid, _ in told]  # of the process behind each actor
        self.decoding: str = told[0][1]
        if any(decoding != self.decoding for _, decoding in told):
            raise ValueError(f"{process.name}: workers have different versions of clerkflow; install the same on every node")

    def prompt_of(self, values: Mapping[str, Any]) -> str:
        """The prompt of a record's values, as in training."""
        return prompt_of(self.process, values)

    def predict(self, prompts: Sequence[str]) -> list[Prediction]:
        """One prediction for each prompt, in their order."""
        return self.ask(prompts)()

    def ask(self, prompts: Sequence[str]) -> Answers:
        """Let the workers begin, each with as many long and short prompts as the others; what waits for their answers.

        A worker that has much to do is asked further questions all the same: it takes one after the other.
        """
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        parts = [order[number :: len(self._actors)] for number in range(len(self._actors))]
        asked = [
            actor.predict.remote([prompts[index] for index in part]) if part else None
            for actor, part in zip(self._actors, parts, strict=True)
        ]

        def wait() -> list[Prediction]:
            found: dict[int, Prediction] = {}
            for number, (part, answer) in enumerate(zip(parts, asked, strict=True)):
                if answer is not None:
                    pid, predictions = _fetched(answer, self.process.name)
                    found.update(zip(part, predictions, strict=True))
                    self._notice(number, pid)
            return [found[index] for index in range(len(prompts))]

        return wait

    def _notice(self, number: int, pid: int) -> None:
        """Say it when another process answers than before."""
        if self._pids[number] != pid:
            logger.warning("scoring: worker %d died and was started again; what it was at was asked again", number + 1)
            self._pids[number] = pid


def _fetched(answer: Any, name: str) -> Any:
    """What actors answered; what was raised there is raised here.

    Raises:
        RuntimeError: a worker died again and again.
    """
    import ray
    from ray.exceptions import RayActorError, RayTaskError

    try:
        return ray.get(answer)
    except RayTaskError as error:
        raise error.cause from None
    except RayActorError:
        told = "the memory of its machine may be too small for so many; what was answered until now is kept"
        raise RuntimeError(f"{name}: a worker died {RETRIES + 1} times at the same part of a batch; {told}") from None


@contextmanager
def hired(process: Process, folder: Path, version: str) -> Iterator["Predictor | Workers"]:
    """Who is asked: a predictor in this process, or the declared number of workers, gone afterwards.

    Args:
        process: as declared today.
        folder: of the version, on this machine.

    Raises:
        ValueError: Ray has too few CPUs, or a worker cannot load the version.
        OSError: the store or the cluster does not answer.
    """
    if process.scoring.workers == 1:
        from tasks.generation import Predictor

        yield Predictor.load(folder)
        return
    with joined(process.scoring.workers):
        import ray

        count, threads = process.scoring.workers, threads_for(process.scoring.workers)
        actor = ray.remote(num_cpus=threads, max_restarts=-1, max_task_retries=RETRIES)(Worker)
        actors = [actor.remote(process.name, version, threads) for _ in range(count)]
        try:
            declared = json.loads((folder / "declaration.json").read_text(encoding="utf-8"))
            workers = Workers(parse_process(declared, f"{process.name} {version}"), actors)
            logger.info("scoring: %d workers, with %d threads each", count, threads)
            yield workers
        finally:
            for each in actors:
                ray.kill(each)
