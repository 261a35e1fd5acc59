"""Fine-tuning: samples/ -> model/, a folder that transformers opens, with what generation must know beside it."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial, reduce
from pathlib import Path
from typing import Any

import torch
from prefect import task
from prefect.cache_policies import NO_CACHE

from infra.store import Store, open_store
from infra.threads import use_threads
from tasks.artifacts import Artifact, fetch_file, fetch_folder, scratch, store_folder, write_json
from tasks.bases import SCRATCH
from tasks.batching import Rework, TokenRows
from tasks.budget import Counts, settle
from tasks.checkpoints import Checkpoints
from tasks.columns import Columns, Parts
from tasks.distillation import Doubts, Tutor
from tasks.embeddings import neighbourly
from tasks.forms import READ, Form, Writing
from tasks.joining import join
from tasks.models import base_digest, build_model, device, load_tokenizer, save_model
from tasks.parallel import Team, train_together
from tasks.paraphrasing import LOOKED_AT, Paraphrases
from tasks.process import Process
from tasks.progress import shown_progress
from tasks.runs import Run, fingerprint_of, once
from tasks.sharding import shard, unsharded
from tasks.subwords import Subwords
from tasks.swapping import CopySwaps, Swaps
from tasks.synthetic import NAMED, fill_up
from tasks.training import ALONE, CHECKPOINT_SECONDS, Progress, Teacher, Tuning
from tasks.tuning import Settled
from tasks.vocabulary import as_written

STAGE = "finetuning"
SWAP_ROWS = 50_000  # training samples whose values are exchanged
# The gate, drift and schedules decide nothing here: a rule can be changed without training again.
SECTIONS = ("name", "version", "records", "sample", "output", "finetuning")


def train_model(
    process: Process,
    samples: Path,
    folder: Path,
    checkpoints: Checkpoints,
    on_step: Callable[[Progress], None] | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    team: Team = ALONE,
    teacher: Path | None = None,
) -> dict[str, Any]:
    """Tune a model on samples/ and write model/; equal inputs give equal bytes on one kind of machine.

    Args:
        samples: folder with train/, validation/, tokenizer/ and contract.json.
        folder: where model/ is written.
        on_step: is shown the progress after each step; a bar on the terminal when absent.
        team: the processes that tune it together; the first one writes.
        teacher: the model/ that a declared student learns from; the student is tuned then.

    Returns:
        Counts and measures for people.

    Raises:
        ValueError: no sample to train on, or samples, tokenizer and model do not fit each other.
    """
    use_threads()
    contract = json.loads((samples / "contract.json").read_text(encoding="utf-8"))
    tokenizer = load_tokenizer(samples / "tokenizer")
    read = read_token(contract, tokenizer)
    rows, validation = TokenRows(samples / "train", read), TokenRows(samples / "validation", read)
    _refuse_unfit(process, rows, validation, len(tokenizer))
    counts = counts_of(rows, len(tokenizer), contract)
    tutor = Tutor(teacher, process.compression) if teacher and process.compression else None
    settings = settle(tutor.settings_of(process.finetuning) if tutor else process.finetuning, process.output.kind, counts)
    build = partial(build_model, settings, tokenizer, settings.max_length + contract["max_new_tokens"])
    rework = _rework(process, settings, contract, tokenizer, rows)
    model = _made_ready(_begun(build(), settings, rows), settings, team)
    tuning = Tuning(model, rows, validation, settings, tokenizer.eos_token_id, checkpoints, rework, team, _teachers(contract, tutor))
    started = time.perf_counter()
    with nullcontext(_untold) if team.rank else training_bar(process.name, tuning) as bar:
        progress = tuning.run(on_step or bar, checkpoint_seconds)
    seconds = time.perf_counter() - started
    story = _story(tuning, progress) | _made(samples)
    if team.sharded:
        model = unsharded(model, team, build)
    if team.rank == 0:
        _write_model(model, tokenizer, process, contract, story, folder)
    facts = {key: story[key] for key in ("parameters", "tokens", "steps", "best_step", "stopped_early", "precision")}
    made = {"synthetic": story["synthetic"]["rows"]} if "synthetic" in story else {}
    return facts | made | {"seconds": round(seconds, 1), "validation_loss": progress.best_loss}


def _teachers(contract: Mapping[str, Any], tutor: Tutor | None) -> list[Teacher]:
    """Whoever has an opinion on what is wanted; the tutor last, whose word is weighed against all that came before."""
    doubts: list[Teacher] = [Doubts(contract["label_ids"])] if contract["label_ids"] else []
    return [*doubts, tutor] if tutor else doubts


def _begun(model: Any, settings: Settled, rows: TokenRows) -> Any:
    """A model from scratch whose embeddings begin with what stands near what in the prompts, where that is asked for."""
    if settings.neighbours and settings.base == SCRATCH:
        weight = model.get_input_embeddings().weight
        vocabulary, width = weight.shape
        ids, vectors = neighbourly(rows, vocabulary, width, settings.seed)
        with torch.no_grad():
            weight[torch.from_numpy(ids)] = torch.from_numpy(vectors)
    return model


def _made_ready(model: Any, settings: Settled, team: Team) -> Any:
    """The model where it is tuned: on this machine's device, or cut up among those of several processes."""
    if settings.gradient_checkpointing:
        model.activation_checkpointing_enable()
    if team.sharded:
        shard(model, team.size)
    return model.to(device())


def counts_of(rows: TokenRows, vocabulary: int, contract: Mapping[str, Any]) -> Counts:
    """What settles the size and the rest."""
    tokens, prompt_tokens = int(rows.lengths.sum()), int(rows.prompt_tokens.sum())
    table, ways = Columns.read(contract.get("columns")).whole, contract.get("form", {}).get("how", {})
    return Counts(len(rows), tokens, prompt_tokens, vocabulary, len(contract["labels"]), table, "chosen" in ways.values())


def read_token(contract: Mapping[str, Any], tokenizer: Any) -> int | None:
    """The token between two readings of a prompt, where prompts are read twice."""
    return int(tokenizer.convert_tokens_to_ids(READ)) if contract.get("form", {}).get("marks") else None


def _rework(process: Process, settings: Settled, contract: Mapping[str, Any], tokenizer: Any, rows: TokenRows) -> Rework | None:
    """What makes a sample another one each time it is shown; None when nothing does."""
    tokens = as_written(tokenizer.backend_tokenizer)
    writing = None if rows.read is None else Writing(process, Form.read(contract["form"]), tokens)
    ways: list[Rework] = []
    nothing = writing.mark_ids[0] if writing else None
    if process.finetuning.paraphrases:
        first, parts = rows.rows(range(min(len(rows), LOOKED_AT))), Parts(Columns.read(contract.get("columns")), tokens)
        ways.append(Paraphrases(process, tokens, parts, first, nothing, settings.max_length).reworded)
    if swaps := _swaps(process, settings, writing, tokens, rows):
        ways.append(swaps)
    if settings.bpe_dropout and process.output.kind != "text":  # there, marks say what is copied token by token
        ways.append(Subwords(tokens, settings.bpe_dropout, settings.max_length, nothing).split)
    return (lambda row, random: reduce(lambda found, way: way(found, random), ways, row)) if ways else None


def _swaps(process: Process, settings: Settled, writing: Writing | None, tokens: Any, rows: TokenRows) -> Rework | None:
    if not settings.value_swaps or (writing is None and process.output.kind != "text"):
        return None
    first, chances = rows.rows(range(min(len(rows), SWAP_ROWS))), (settings.value_swaps, settings.invented_values, settings.max_length)
    return Swaps(first, writing, *chances).swapped if writing else CopySwaps(first, tokens, *chances).swapped


def _refuse_unfit(process: Process, rows: TokenRows, validation: TokenRows, vocabulary: int) -> None:
    """Say what is wrong with the samples before any time is spent on them."""
    if not len(rows):
        raise ValueError(f"{process.name}: no sample to train on; see the counts in samples/report.json")
    largest = max(rows.largest_id, validation.largest_id)
    if largest >= vocabulary:
        raise ValueError(f"{process.name}: token {largest} is in the samples, the tokenizer has {vocabulary}; run preparation again")
    longest, limit = int(rows.samples.max()), process.finetuning.max_length
    if longest > limit:
        raise ValueError(f"{process.name}: a sample has {longest} tokens, finetuning.max_length is {limit}; raise it or prepare again")


def _story(tuning: Tuning, progress: Progress) -> dict[str, Any]:
    """What training.json says; no timings, for equal trainings are equal bytes."""
    return {
        "history": progress.history,
        "best_step": progress.best_step if progress.best_step is not None else progress.step,
        "stopped_early": tuning.stopped_early and progress.step < tuning.steps,
        "steps": progress.step,
        "tokens": progress.tokens,
        "parameters": sum(weight.numel() for weight in tuning.gpt.parameters()),
        "precision": "bf16" if tuning.bf16 else "fp32",
        "settings": tuning.settings.model_dump(mode="json"),
    }


def _made(samples: Path) -> dict[str, Any]:
    """What training.json says of synthetic samples, where there are some."""
    place = samples / NAMED
    return {"synthetic": json.loads(place.read_text(encoding="utf-8"))} if place.exists() else {}


def _write_model(model: Any, tokenizer: Any, process: Process, contract: Any, story: Any, folder: Path) -> None:
    lora = None if story["settings"]["lora"] is None else process.finetuning.lora
    save_model(model, folder, merged=lora is None or lora.merged)
    tokenizer.save_pretrained(folder)
    write_json(folder / "contract.json", contract)
    write_json(folder / "declaration.json", process.model_dump(mode="json"))
    write_json(folder / "training.json", story)


def _untold(progress: Progress) -> None:
    """Of several processes the first one shows how far they are."""


@contextmanager
def training_bar(name: str, tuning: Tuning) -> Iterator[Callable[[Progress], None]]:
    """A bar with losses and pace on a terminal, and in the Prefect UI how far it is."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[measures]}"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar, shown_progress(name, STAGE) as shown:
        line = bar.add_task(f"Fine-tuning {name}", total=tuning.steps, measures="")
        started, before = time.perf_counter(), 0

        def show(progress: Progress) -> None:
            nonlocal before
            before = before or progress.tokens  # what an earlier run did does not count as this one's pace
            pace = (progress.tokens - before) / (time.perf_counter() - started)
            bar.update(line, completed=progress.step, measures=_measures(progress, pace))
            shown(progress.step / tuning.steps)

        yield show


def _measures(progress: Progress, tokens_per_second: float) -> str:
    loss = progress.loss_sum / progress.loss_steps if progress.loss_steps else progress.history[-1]["loss"]
    validation = "" if progress.best_loss is None else f"  validation {progress.history[-1]['validation_loss']:.3f}"
    return f"loss {loss:.3f}{validation}  {tokens_per_second:,.0f} tokens/s"


def fetch_samples(store: Store, samples: Artifact, folder: Path, process: Process) -> Path:
    """All of samples/ but the test split, which training must never see; a small table is filled up."""
    for below in ("train/", "validation/", "tokenizer/"):
        fetch_folder(store, samples, folder, below)
    fetch_file(store, samples, "contract.json", folder)
    return fill_up(process, folder)


def trainer_of(process: Process) -> Callable[..., dict[str, Any]]:
    """What tunes a process's model: this process alone, or as many together as are declared."""
    return train_model if process.finetuning.num_processes == 1 else train_together


@task(task_run_name="finetune-{run.process.name}", cache_policy=NO_CACHE)
def finetune(samples: Artifact, run: Run) -> Artifact:
    """samples/ -> model/."""
    process = run.process
    settings = process.part(*SECTIONS) | {"base": base_digest(process.finetuning.base)}
    del settings["finetuning"]["search"]
    prefix = f"{process.name}/checkpoints/{fingerprint_of(STAGE, [samples], settings)}"
    checkpoints = Checkpoints(open_store(), prefix, run.claim)

    def work(store: Store, prefix: str, fingerprint: str) -> Artifact:
        with scratch() as folder:
            fetched = fetch_samples(store, samples, folder / "samples", process)
            facts = trainer_of(process)(process, fetched, folder / "model", checkpoints)
            return store_folder(store, folder / "model", prefix, **facts | join(process, fetched, folder / "model"))

    model = once(run, STAGE, "model", [samples], settings, work)
    checkpoints.clear()  # only now: until the stage is remembered, a kill must find them
    return model
