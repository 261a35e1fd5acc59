"""Preparation: validated/records.jsonl -> samples/{train,validation,test}, tokenizer/, contract.json and report.json.

A sample is a prompt, a completion and their tokens. Prompt and completion are encoded apart and put together, so that
the prompt's tokens are the same when the model is asked. Nothing is cut: a training sample longer than max_length is
left out and its id told; a test sample stays and counts as a failure when the model cannot take it.
"""

import json
import logging
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prefect import task
from prefect.cache_policies import NO_CACHE

from infra.store import Store
from tasks.artifacts import Artifact, fetch_file, file_digest, scratch, store_folder, write_json
from tasks.bases import base_folder, lacks_tokenizer
from tasks.cleaning import alike, fold
from tasks.duplicates import Wording, band_keys, digest, exact_twins, near_twins, wording
from tasks.ingestion import GOLD
from tasks.process import Process
from tasks.prompts import clean, clean_value, completion_of, output_of, prompt_of
from tasks.records import Record, as_text, lookup, read_records
from tasks.runs import Run, once
from tasks.splitting import SIDES, TEST, TRAIN, check_sides, group_of, leaks, side_of
from tasks.tokenising import (
    Encoder,
    Sample,
    Tally,
    contract_of,
    learned_columns,
    learned_form,
    make_tokenizer,
    rows_of,
    tell_facts_apart,
    tokenise,
    write_dataset,
)

logger = logging.getLogger(__name__)

BATCH = 1000  # samples hashed at a time


@dataclass(slots=True)
class Corpus:
    """All samples on disk, and of each only some numbers in memory (about 120 bytes)."""

    path: Path
    sides: "array[int]" = field(default_factory=lambda: array("b"))
    prompts: "array[int]" = field(default_factory=lambda: array("Q"))  # digests of the folded prompts
    groups: "array[int]" = field(default_factory=lambda: array("Q"))  # digests; 0 where there is none
    outputs: "array[int]" = field(default_factory=lambda: array("Q"))
    offsets: "array[int]" = field(default_factory=lambda: array("Q"))
    buckets: list[NDArray[np.uint64]] = field(default_factory=list)
    gold: "array[int]" = field(default_factory=lambda: array("b"))  # 1: people have reviewed it, and it only measures
    labels: Counter[str] = field(default_factory=Counter)
    unlabelled: list[str] = field(default_factory=list)  # ids

    def __getitem__(self, index: int) -> Sample:
        with self.path.open("rb") as stream:
            stream.seek(self.offsets[index])
            return Sample(**json.loads(stream.readline()))

    def chosen(self, indices: Iterable[int]) -> Iterator[Sample]:
        """The samples with these indices, ascending, read in one pass."""
        with self.path.open("rb") as stream:
            for index in indices:
                stream.seek(self.offsets[index])
                yield Sample(**json.loads(stream.readline()))


def sample_of(process: Process, record: Record, output: Any) -> tuple[Sample, Wording]:
    """A labelled record as a sample, and what of it is compared with others."""
    if process.output.kind == "text":
        output = clean(process, output).strip()  # what the completion can state
    paths = (*process.input_columns, *process.side_columns)
    inputs = {path: clean_value(process, lookup(record.values, path)) for path in paths}
    stated = json.dumps(output, ensure_ascii=False, sort_keys=True)
    compared = wording({path: inputs[path] for path in process.input_columns}, stated, fold)
    slices = {column: as_text(lookup(record.values, column)) for column in process.records.slices}
    prompt, completion = prompt_of(process, record.values), completion_of(process, output)
    return Sample(record.id, prompt, completion, output, inputs, slices, compared.prose), compared


def collect(process: Process, records: Iterable[Record], path: Path) -> Corpus:
    """Write every labelled record as a sample, one JSON line each, and note what duplicates and the split need."""
    corpus = Corpus(path)
    waiting: list[Wording] = []
    with path.open("wb") as stream:
        for record in records:
            output = output_of(process, record.values)
            if output is None and process.output.kind == "fields":
                output = {}  # validated: every field may be absent
            if output is None:
                corpus.unlabelled.append(record.id)
                continue
            sample, compared = sample_of(process, record, output)
            corpus.offsets.append(stream.tell())
            stream.write(json.dumps({name: getattr(sample, name) for name in Sample.__slots__}, ensure_ascii=False).encode() + b"\n")
            _note(process, record, sample, corpus)
            waiting.append(compared)
            if len(waiting) == BATCH:
                _bucket(process, waiting, corpus)
    _bucket(process, waiting, corpus)
    return corpus


def _note(process: Process, record: Record, sample: Sample, corpus: Corpus) -> None:
    folded = fold(sample.prompt)
    group = group_of(process, record.values)
    corpus.sides.append(side_of(process, record.split, group or folded))
    corpus.prompts.append(digest(folded))
    corpus.groups.append(digest("group", group) if group else 0)
    corpus.gold.append(record.split == SIDES[TEST] and record.file == GOLD)
    corpus.outputs.append(digest(folded, json.dumps(sample.output, ensure_ascii=False, sort_keys=True)))
    if process.output.kind == "label":
        corpus.labels[sample.output] += 1


def _bucket(process: Process, waiting: list[Wording], corpus: Corpus) -> None:
    if waiting and process.sample.near_duplicates is not None:
        corpus.buckets.append(band_keys(waiting, process.sample.near_duplicates))
    waiting.clear()


@dataclass(frozen=True, slots=True)
class Selection:
    """Which samples stay, on which side, and why the others went."""

    sides: NDArray[np.int8]  # of the samples that stay; -1 of those that went
    dropped: dict[str, int]


def select(process: Process, corpus: Corpus) -> Selection:
    """Drop duplicates and leaks.

    Test files and gold are looked at first and never lose a sample, then validation files; of the rest the first one stays.
    """
    sides = np.array(corpus.sides, dtype=np.int8)
    fixed_test = (sides == TEST) & (bool(process.records.test) | np.array(corpus.gold, dtype=np.bool_))
    fixed = np.where(fixed_test, 2, np.where((sides == TEST - 1) & bool(process.records.validation), 1, 0))
    order = np.argsort(-fixed, kind="stable")
    exact = exact_twins(np.array(corpus.outputs, dtype=np.uint64), order)
    exact[fixed_test | (process.sample.repeats == "keep")] = -1
    near = np.full(len(sides), -1, dtype=np.int64)
    if corpus.buckets:
        left = (int(index) for index in order if exact[index] < 0)
        near = near_twins(
            np.concatenate(corpus.buckets), lambda index: corpus[index].prose, left, fixed_test, process.sample.near_duplicates or 1.0
        )
    of_test = [(twins >= 0) & fixed_test[twins] for twins in (exact, near)]
    dropped = {
        "exact_duplicates": int(((exact >= 0) & ~of_test[0]).sum()),
        "near_duplicates": int(((near >= 0) & ~of_test[1]).sum()),
        "twins_of_test": int((of_test[0] | of_test[1]).sum()),
    }
    sides[(exact >= 0) | (near >= 0)] = -1
    leaking = leaks(sides, *_keys(process, corpus))
    sides[leaking] = -1
    return Selection(sides, dropped | {"leaks": int(leaking.sum())})


def _keys(process: Process, corpus: Corpus) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """What must not stand on two sides: texts, those that may repeat only where they are gold, and groups."""
    prompts = np.array(corpus.prompts, dtype=np.uint64)
    once = np.isin(prompts, prompts[np.array(corpus.gold, dtype=np.bool_)]) | (process.sample.repeats == "drop")
    return prompts * once, np.array(corpus.groups, dtype=np.uint64)


def references(process: Process, corpus: Corpus, indices: NDArray[np.int64]) -> dict[int, list[str]]:
    """Digest of a folded prompt -> its right texts, for prompts that have several on one side; empty for labels and fields.

    Two labels for one text are no two right answers: one of them is a mistake.

    Args:
        indices: samples of one side.
    """
    if process.output.kind != "text":
        return {}
    prompts = np.array(corpus.prompts, dtype=np.uint64)[indices]
    _, inverse, count = np.unique(prompts, return_inverse=True, return_counts=True)
    several = indices[count[inverse] > 1]
    found: dict[int, list[str]] = {}
    for index, sample in zip(several, corpus.chosen(several), strict=True):
        found.setdefault(corpus.prompts[index], []).append(sample.output)
    return found


def write_samples(process: Process, records: Iterable[Record], folder: Path, working: Path) -> dict[str, Any]:
    """Records -> everything of samples/ below `folder`, and the report as returned.

    Raises:
        ValueError: a side of the split is empty, no record has a group where one is declared, or there is no fitting tokenizer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    corpus = collect(process, records, working / "corpus.jsonl")
    if process.records.group and not any(corpus.groups):
        raise ValueError(f"{process.name}: records.group is {process.records.group!r}, and no labelled record has it; name another column")
    selection = select(process, corpus)
    check_sides(process, selection.sides, *_keys(process, corpus))
    indices = [np.flatnonzero(selection.sides == side) for side in range(len(SIDES))]
    labels = sorted(process.labels or corpus.labels) if process.output.kind == "label" else []
    if groups := alike(labels):
        told = f"{sum(map(len, groups))} labels differ only in case, width or blanks and are {len(groups)} when folded"
        logger.warning("preparation: %s; declare output.labels, and each spelling becomes the one that stands there", told)
    tokenizer = make_tokenizer(process, _texts(process, corpus.chosen(indices[TRAIN])), labels)
    form = learned_form(process, tokenizer, lambda: corpus.chosen(indices[TRAIN]))
    columns = learned_columns(process, tokenizer, corpus.chosen(indices[TRAIN]))
    mentions = tell_facts_apart(process, tokenizer, corpus.chosen(indices[TRAIN]))
    tokenizer.save_pretrained(folder / "tokenizer")
    tallies = [Tally() for _ in SIDES]
    for side, name in enumerate(SIDES):
        several = references(process, corpus, indices[side])
        encoder = Encoder(process, tokenizer, form, columns, mentions)
        rows = tokenise(encoder, corpus.chosen(indices[side]), several, side == TEST, tallies[side])
        write_dataset(rows, folder, name)
    _refuse_empty(process, tallies)
    longest = max(tally.prompt_tokens_max for tally in tallies)
    write_json(folder / "contract.json", contract_of(process, tokenizer, labels, form, columns, tallies[TRAIN], longest))
    report = report_of(corpus, selection, tallies, len(tokenizer)) | ({"mentioned": mentions.told} if mentions else {})
    write_json(folder / "report.json", report)
    return report


def _texts(process: Process, samples: Iterable[Sample]) -> Iterator[str]:
    """What the vocabulary learns from; a label that is a token needs no learning."""
    for sample in samples:
        yield sample.prompt
        if process.field_tokens:
            yield from (as_text(value) for value in sample.output.values())
        elif not process.label_tokens:
            yield sample.completion


def _refuse_empty(process: Process, tallies: list[Tally]) -> None:
    for name, tally in zip(SIDES, tallies, strict=True):
        if not tally.samples:
            raise ValueError(
                f"{process.name}: all {len(tally.too_long)} samples of {name} have more tokens than "
                f"finetuning.max_length ({process.finetuning.max_length}); raise it"
            )


def report_of(corpus: Corpus, selection: Selection, tallies: list[Tally], vocabulary: int) -> dict[str, Any]:
    """What became of every record: rows = samples + dropped + too long in training and validation + unlabelled."""
    sides = {name: asdict(tally) for name, tally in zip(SIDES, tallies, strict=True)}
    rows = len(corpus.sides) + len(corpus.unlabelled)
    report = {"rows": rows, "unlabelled": corpus.unlabelled, "dropped": selection.dropped, "splits": sides, "vocabulary": vocabulary}
    gone = sum(selection.dropped.values()) + sum(len(tally.too_long) for tally in tallies[:TEST]) + len(corpus.unlabelled)
    if rows != gone + sum(tally.samples for tally in tallies):
        raise AssertionError(f"preparation lost records: {rows} came, {gone} were left out, {report['splits']}")
    return report


def settings_of(process: Process) -> dict[str, Any]:
    """The parts of the declaration that decide the samples; a folder's tokenizer counts by its bytes, and where it has none by its size."""
    tuning = process.part("finetuning")["finetuning"]
    folder = base_folder(process.finetuning.base)
    file = folder / "tokenizer.json" if folder else None
    chosen = {name: tuning[name] for name in ("base", "revision", "max_length", "max_new_tokens")}
    size = rows_of(process) if lacks_tokenizer(process.finetuning.base) else None
    return process.part("records", "output", "sample") | chosen | {"tokenizer": file_digest(file) if file and file.is_file() else size}


@task(task_run_name="prepare-{run.process.name}", cache_policy=NO_CACHE)
def prepare(validated: Artifact, run: Run) -> Artifact:
    """validated/ -> samples/."""

    def work(store: Store, prefix: str, fingerprint: str) -> Artifact:
        with scratch() as folder:
            records = read_records(fetch_file(store, validated, "records.jsonl", folder / "in"))
            report = write_samples(run.process, records, folder / "out", folder / "in")
            counts = {name: side["samples"] for name, side in report["splits"].items()}
            partial = {"partial": found} if (found := report["splits"][SIDES[TRAIN]]["partial"]) else {}
            return store_folder(store, folder / "out", prefix, rows=sum(counts.values()), **counts, **partial, **report["dropped"])

    return once(run, "preparation", "samples", [validated], settings_of(run.process), work)
