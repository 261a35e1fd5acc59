"""Search: samples/ -> settings of the training that leave a smaller validation loss, and a study of all that was tried.

A trial is one training with its early losses watched: when they are worse than most others were as far on, it is stopped.
The study is a journal on this machine, one for each process, samples and settings, of which the store has a copy when a
search ends: one that was killed goes on with it here, one that is started again does so on any machine. The loss says how
likely the right answers are, not how many are given: what is found must pass its gate like any other model, and a small gain
may be none.
"""

import hashlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from prefect import task
from prefect.cache_policies import NO_CACHE

from infra.ending import end
from infra.here import here, is_alive
from infra.settings import ROOT, settings
from infra.store import LocalStore, MissingObject, Store, open_store
from infra.threads import CALM_OPENMP, usable_cores
from tasks.artifacts import Artifact, scratch, store_folder, write_json
from tasks.batching import TokenRows
from tasks.budget import Counts, epochs_for, settle, sizes_for
from tasks.checkpoints import Checkpoints
from tasks.claims import Hold, check
from tasks.declaration import merge, parse_process
from tasks.finetuning import SECTIONS, counts_of, fetch_samples, read_token, train_model
from tasks.models import base_digest, load_tokenizer
from tasks.process import Process
from tasks.runs import Run, fingerprint_of
from tasks.spaces import Choices, Range, Space, lines_of
from tasks.studies import DECLARED, page_of, story_of
from tasks.training import LossError, Progress
from tasks.tuning import Settled

logger = logging.getLogger(__name__)

STAGE = "search"
AT_RANDOM = 8  # trials before the sampler goes by what it has seen
COMPARED = 3  # whole trials before one is stopped
FORGIVEN = 1  # evaluations of a trial that decide nothing


@dataclass(frozen=True, slots=True)
class Hunt:
    """One search, as every process that takes part in it is told."""

    process: Process
    samples: Path
    journal: Path
    study: str
    trials: int
    deadline: float  # seconds since 1970
    worker: int = 0


def space_around(process: Process, settled: Settled, counts: Counts) -> Space:
    """What is searched when nothing is declared: around the settings that a training would have without a search."""
    rate, epochs = settled.learning_rate, settled.num_train_epochs
    space: Space = {"learning_rate": Range(low=rate / 4, high=rate * 4, log=True), "label_smoothing_factor": Range(low=0, high=0.15)}
    if process.finetuning.base != "scratch":
        return space | {"num_train_epochs": Range(low=epochs / 2, high=epochs * 2), "weight_decay": Range(low=0, high=0.1)}
    there = sizes_for(process.output.kind)
    weights = [size.n_layer * size.n_embd**2 for size in there]
    near = min(range(len(there)), key=lambda place: abs(weights[place] - settled.size.n_layer * settled.size.n_embd**2))
    sizes = dict.fromkeys([settled.size, *there[max(0, near - 1) : near + 2]])
    most = max(epochs, epochs_for(process.finetuning.budget_minutes, settled.size, process.output.kind, counts))
    return space | {
        "size": Choices(choices=tuple(size.model_dump() for size in sizes)),
        "dropout": Range(low=0, high=0.3),
        "num_train_epochs": Range(low=most * 0.4, high=most),
    }


def suggested(trial: optuna.Trial, space: Space, process: Process, counts: Counts) -> dict[str, Any]:
    """Settings of one trial; its epochs are no more than the declared minutes hold for its size."""
    found: dict[str, Any] = {}
    for name, part in space.items():
        if isinstance(part, Choices):
            found[name] = json.loads(trial.suggest_categorical(name, [_written(choice) for choice in part.choices]))
        elif name == "tokens_per_batch":
            found[name] = trial.suggest_int(name, int(part.low), int(part.high), log=part.log)
        else:
            found[name] = trial.suggest_float(name, part.low, part.high, log=part.log)
    if "num_train_epochs" in found and process.finetuning.base == "scratch":
        size = settle(with_settings(process, found).finetuning, process.output.kind, counts).size
        most = epochs_for(process.finetuning.budget_minutes, size, process.output.kind, counts)
        found["num_train_epochs"] = round(min(found["num_train_epochs"], max(most, process.finetuning.num_train_epochs or 0)), 2)
    return found


def as_settled(space: Space, settled: Settled) -> dict[str, Any]:
    """The parameters of the trial that changes nothing, as far as the space holds them."""
    found = {}
    for name, part in space.items():
        value = settled.model_dump(mode="json")[name]
        if isinstance(part, Choices) and value in part.choices:
            found[name] = _written(value)
        elif isinstance(part, Range) and part.low <= value <= part.high:
            found[name] = value
    return found


def _written(choice: Any) -> str:
    return json.dumps(choice, sort_keys=True)


def with_settings(process: Process, found: Mapping[str, Any]) -> Process:
    """The process with other settings of its training."""
    return parse_process(merge(process.model_dump(mode="json"), {"finetuning": found}), process.name)


def counted(samples: Path) -> Counts:
    """What is known of the training samples."""
    tokenizer, contract = load_tokenizer(samples / "tokenizer"), json.loads((samples / "contract.json").read_text(encoding="utf-8"))
    return counts_of(TokenRows(samples / "train", read_token(contract, tokenizer)), len(tokenizer), contract)


def ground_of(task: Hunt) -> tuple[Space, Settled, Counts]:
    """The space, the settings in its middle, and the counts that decide both."""
    process, counts = task.process, counted(task.samples)
    settled = settle(process.finetuning, process.output.kind, counts)
    return process.finetuning.search.space or space_around(process, settled, counts), settled, counts


def pruner() -> optuna.pruners.BasePruner:
    """Stops a trial whose best loss so far is above the median of what others had as far on (benchmarks/search.py)."""
    return optuna.pruners.MedianPruner(n_startup_trials=COMPARED, n_warmup_steps=FORGIVEN + 1)


def sampler(*seeds: int) -> optuna.samplers.BaseSampler:
    """Draws what is tried next; it must be given another seed for each trial, or a study gone on with would see the same trials again."""
    drawn = hashlib.sha256(repr(seeds).encode()).digest()[:4]
    return optuna.samplers.TPESampler(seed=int.from_bytes(drawn, "big"), n_startup_trials=AT_RANDOM)


def study_of(journal: Path, name: str) -> optuna.Study:
    """The study of this name, made when there is none."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    journal.parent.mkdir(parents=True, exist_ok=True)
    storage = JournalStorage(JournalFileBackend(str(journal)))
    return optuna.create_study(study_name=name, storage=storage, pruner=pruner(), load_if_exists=True)


@contextmanager
def shared(store: Store, key: str, journal: Path, hold: Hold | None) -> Iterator[None]:
    """A study's journal on this machine goes on from the store's copy while the body runs, and is the store's copy after it.

    A journal that goes on from that copy already stays: its search was killed before it could be copied. Trials of one that does not
    are lost, for another machine has gone on without them.

    Raises:
        Lost: another run searches for this process now; nothing is written.
        Conflict: the copy was changed meanwhile, by whoever works without a claim.
    """
    try:
        known, etag = store.read(key)
    except MissingObject:
        known, etag = b"", None
    if not journal.is_file() or not journal.read_bytes().startswith(known):
        journal.parent.mkdir(parents=True, exist_ok=True)
        journal.write_bytes(known)
    try:
        yield
    finally:
        check(store, hold)
        if (now := journal.read_bytes()) != known:
            store.write(key, now, if_absent=etag is None, if_match=etag)


def fail_stale(study: optuna.Study) -> int:
    """Mark trials whose process is gone as failed, and let their parameters be tried again; how many there were."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    stale = [trial for trial in running if not is_alive(trial.user_attrs.get("place", ""))]
    for trial in stale:
        study.tell(trial.number, state=TrialState.FAIL)
        if trial.params:
            whole = "settings" in trial.user_attrs  # else the rest is drawn
            study.enqueue_trial(trial.params, {DECLARED: whole and trial.user_attrs.get(DECLARED, False)})
    return len(stale)


def hunt(task: Hunt) -> None:
    """Try settings until the study has its trials, or the time is over and one has come to its end."""
    study, (space, _, counts) = study_of(task.journal, task.study), ground_of(task)
    parent = os.getppid()
    while os.getppid() == parent and not is_over(study, task.deadline):
        known = study.get_trials(deepcopy=False)
        if sum(trial.state != TrialState.WAITING for trial in known) >= task.trials:
            return
        study.sampler = sampler(task.process.finetuning.seed, task.worker, len(known))
        study.optimize(lambda trial: attempt(trial, task, space, counts), n_trials=1, catch=(LossError,))
        _tell(study)


def is_over(study: optuna.Study, deadline: float) -> bool:
    """Whether the time is over, and was not for nothing."""
    return time.time() >= deadline and any(trial.state == TrialState.COMPLETE for trial in study.get_trials(deepcopy=False))


def attempt(trial: optuna.Trial, task: Hunt, space: Space, counts: Counts) -> float:
    """One training; its best validation loss.

    Raises:
        TrialPruned: it was worse than most, or the time is over.
    """
    trial.set_user_attr("place", here())
    found = suggested(trial, space, task.process, counts)
    trial.set_user_attr("settings", found)
    with scratch() as folder:
        checkpoints = Checkpoints(LocalStore(folder / "store"), "trial")
        process = with_settings(task.process, found)
        facts = train_model(process, task.samples, folder / "model", checkpoints, watcher(trial, task.deadline), float("inf"))
    return float(facts["validation_loss"])


def watcher(trial: optuna.Trial, deadline: float) -> Callable[[Progress], None]:
    """Reports each new validation loss of a training, and stops it when it is not worth its time."""
    parent, seen = os.getppid(), 0

    def watch(progress: Progress) -> None:
        nonlocal seen
        if len(progress.history) == seen:
            return
        seen = len(progress.history)
        trial.report(progress.history[-1]["validation_loss"], seen)
        trial.set_user_attr("tokens", progress.tokens)
        if is_over(trial.study, deadline) or os.getppid() != parent or trial.should_prune():
            raise optuna.TrialPruned

    return watch


def _tell(study: optuna.Study) -> None:
    last = study.get_trials(deepcopy=False)[-1]
    story = story_of(study)
    best = "" if story["best"] is None else f", the best so far is {story['best']['loss']:.4f}"
    logger.info("search: trial %d %s%s", last.number, last.state.name.lower(), best)


def search_settings(task: Hunt, workers: int) -> dict[str, Any]:
    """Search in so many processes, and tell what was found.

    Raises:
        RuntimeError: one of them ended with an error.
    """
    study = study_of(task.journal, task.study)
    if stale := fail_stale(study):
        logger.info("search: %d trials whose process is gone are tried again", stale)
    if not study.get_trials(deepcopy=False):
        space, settled, _ = ground_of(task)
        start = as_settled(space, settled)
        study.enqueue_trial(start, {DECLARED: start.keys() == space.keys()})  # of what the space does not hold, something is drawn
    if workers == 1:
        hunt(task)
    else:
        _in_processes(task, workers)
    return story_of(study_of(task.journal, task.study))


def _in_processes(task: Hunt, workers: int) -> None:
    """Fresh processes that share the cores, and the journal."""
    threads = str(max(1, usable_cores() // workers))
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = CALM_OPENMP | {"CLERKFLOW_THREADS": threads, "OMP_NUM_THREADS": threads} | os.environ | {"PYTHONPATH": path}
    with scratch() as folder:
        children = []
        try:
            for worker in range(workers):
                told: dict[str, Any] = {name: str(getattr(task, name)) for name in ("samples", "journal", "study")}
                told |= {
                    "process": task.process.model_dump(mode="json"),
                    "trials": task.trials,
                    "deadline": task.deadline,
                    "worker": worker,
                }
                write_json(folder / f"{worker}.json", told)
                words = [sys.executable, "-P", "-m", "tasks.search", str(folder / f"{worker}.json")]
                with (folder / f"{worker}.log").open("wb") as log:
                    children.append(subprocess.Popen(words, env=environment, stdout=log, stderr=log))
            for worker, child in enumerate(children):
                if child.wait():
                    last = (folder / f"{worker}.log").read_text(errors="replace").strip().splitlines()[-1:]
                    raise RuntimeError(f"a process of the search ended with status {child.returncode}: {''.join(last)}")
        finally:
            for child in children:
                if child.poll() is None:
                    end(child)


def main() -> None:
    """One of several processes that search at once."""
    told: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    told |= {name: Path(told[name]) for name in ("samples", "journal")}
    hunt(Hunt(**told | {"process": parse_process(told["process"], sys.argv[1])}))


@task(task_run_name="search-{run.process.name}", cache_policy=NO_CACHE)
def search(samples: Artifact, run: Run, minutes: float | None = None, workers: int | None = None) -> Artifact:
    """samples/ -> search/: study.json, best.yaml and page.html.

    Args:
        minutes: and workers: instead of those declared.

    Raises:
        ValueError: no trial came to its end with a loss.
    """
    process, declared, store = run.process, run.process.finetuning.search, open_store()
    part = process.part(*SECTIONS)
    del part["finetuning"]["search"]
    space = None if declared.space is None else declared.model_dump(mode="json")["space"]
    name = fingerprint_of(STAGE, [samples], part | {"base": base_digest(process.finetuning.base), "space": space})
    journal = settings().cache / "studies" / process.name / f"{name}.log"
    with scratch() as folder, shared(store, f"{process.name}/studies/{name}.log", journal, run.claim):
        fetch_samples(store, samples, folder / "samples", process)
        deadline = time.time() + 60 * (minutes or declared.minutes)
        story = search_settings(Hunt(process, folder / "samples", journal, name, declared.trials, deadline), workers or declared.workers)
        if story["best"] is None:
            raise ValueError(f"{process.name}: no trial came to its end with a loss; search among smaller learning rates")
        write_json(folder / "search" / "study.json", story)
        (folder / "search" / "best.yaml").write_text(lines_of(story["best"]), encoding="utf-8")
        page = page_of(study_of(journal, name), story, process.name, lines_of(story["best"]))
        (folder / "search" / "page.html").write_text(page, encoding="utf-8")
        best = {name: story["best"][name] for name in ("number", "loss", "settings")}
        facts = {"trials": len(story["trials"]), "best": best, "declared": story["declared"], "journal": str(journal)}
        return store_folder(store, folder / "search", f"{run.prefix}/search", **facts)


if __name__ == "__main__":
    main()
