"""Pretraining: validated records of several processes -> one base model on their texts, published for them to be tuned from.

No text that measures a process is read: neither its test and validation sides, nor the same text where another process or a
corpus has it, whatever its template puts around it.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE

from infra.store import open_store
from infra.threads import use_threads
from tasks import runs
from tasks.aliases import Alias, champion_of, move_alias
from tasks.artifacts import Artifact, fetch_file, scratch, write_json
from tasks.batching import TokenRows
from tasks.budget import Counts, settle
from tasks.checkpoints import Checkpoints
from tasks.cleaning import fold
from tasks.domains import Domain
from tasks.duplicates import digest, leaves
from tasks.finetuning import training_bar
from tasks.models import build_model, device, save_model
from tasks.preparation import collect, select
from tasks.process import Process
from tasks.prompts import clean_value, prompt_of
from tasks.publishing import begun
from tasks.records import lookup, read_records
from tasks.registry import files_in, publish_version
from tasks.runs import Run, fingerprint_of
from tasks.splitting import TRAIN, draw, side_of, split_key
from tasks.tokenising import Sample, own_tokenizer
from tasks.training import Tuning

logger = logging.getLogger(__name__)

STAGE = "pretraining"
HELD_BACK = 0.05  # of the texts, to see when to stop
LONG_BYTES = 20  # of a folded text; a Chinese character counts three, as it says more than a letter
ROOM = 128  # positions beyond max_length, for what a process's form adds


@dataclass(frozen=True, slots=True)
class Said:
    """Digests of what records say, however a template shows it."""

    texts: Set[int]  # that are long, or stand alone in their record
    values: Set[int]  # all of them, and short ones among others: names and choices, which many records share

    def shares(self, other: "Said") -> bool:
        """Whether both say one text; a short value counts where one of the two says nothing else."""
        return not (self.texts.isdisjoint(other.values) and self.values.isdisjoint(other.texts))


@dataclass(frozen=True, slots=True)
class Text:
    """What a base may read."""

    words: str
    said: Said


def texts_of(process: Process, records: Path, unlabelled: Path, working: Path) -> tuple[list[Text], Said]:
    """What a base may read of a process, and what is said only where the process is measured.

    What its own training says as well, in records that differ elsewhere, is no secret: a product's name, a phrase of a table.

    Args:
        records: labelled/validated/records.jsonl.
        unlabelled: unlabelled/validated/records.jsonl.
    """
    corpus = collect(process, read_records(records), working / f"{process.name}.jsonl")
    own = [_text_of(process, sample) for sample in corpus.chosen(np.flatnonzero(select(process, corpus).sides == TRAIN))]
    measuring = corpus.chosen(np.flatnonzero(np.array(corpus.sides) != TRAIN))  # near duplicates, too, which measure no more
    measured, trained = together(_text_of(process, sample).said for sample in measuring), together(text.said for text in own)
    secret = Said(measured.texts - trained.values, measured.values - trained.values)
    return own + list(_unlabelled(process, unlabelled)), secret


def together(said: Iterable[Said]) -> Said:
    """All that is said."""
    texts, values = set[int](), set[int]()
    for each in said:
        texts |= each.texts
        values |= each.values
    return Said(texts, values)


def _text_of(process: Process, sample: Sample) -> Text:
    if process.output.kind == "text":
        return Text(sample.prompt + sample.completion, said_by(process, sample.prompt, sample.inputs, sample.output))
    return Text(sample.prompt, said_by(process, sample.prompt, sample.inputs))


def _unlabelled(process: Process, records: Path) -> Iterator[Text]:
    """Prompts of those whose text would train if it had an output."""
    for record in read_records(records):
        prompt = prompt_of(process, record.values)
        if side_of(process, record.split, split_key(process, record.values, prompt)) == TRAIN:
            inputs = {path: clean_value(process, lookup(record.values, path)) for path in process.input_columns}
            yield Text(prompt, said_by(process, prompt, inputs))


def said_by(process: Process, prompt: str, inputs: Mapping[str, Any], output: str = "") -> Said:
    """What a record says: its prompt, the texts in it, and their long lines. Values of a closed set, numbers and days are no texts.

    Args:
        inputs: path -> cleaned value.
        output: a text that is learned as well.
    """
    open_ones = [path for path, column in process.input_columns.items() if column.values is None and column.type in ("string", "object")]
    found = [text for path in open_ones for leaf in leaves(inputs[path]) if (text := fold(leaf))]
    lines = {fold(line) for path in open_ones for leaf in leaves(inputs[path]) for line in leaf.splitlines()}
    long = {text for text in (*found, *lines, fold(output)) if len(text.encode()) >= LONG_BYTES}
    texts = frozenset(map(digest, {fold(prompt), *long, *(found if len(found) == 1 else ())}))
    return Said(texts, texts.union(map(digest, found)))


def lines_of(domain: Domain, folder: Path) -> list[Text]:
    """The texts of the declared files.

    Raises:
        ValueError: one of them is not in UTF-8.
    """
    lines = [line for name in domain.corpus for line in _read(folder / name).splitlines()]
    return [Text(line, Said(said := frozenset([digest(fold(line))]), said)) for line in lines]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not UTF-8 from its byte {error.start} on; save it as UTF-8") from None


def readable(texts: Sequence[Text], measured: Iterable[Said]) -> list[str]:
    """The texts that say nothing by which a process is measured."""
    secret, told = together(measured), [text for text in texts if text.words.strip()]
    read = [text.words for text in told if not secret.shares(text.said)]
    logger.info("pretraining: %d texts to read; %d more measure another process, and are not read", len(read), len(told) - len(read))
    return read


def write_texts(domain: Domain, texts: Iterable[str], folder: Path) -> Counts:
    """Texts -> tokenizer/, train/ and validation/ below `folder`; a long text is cut into pieces of max_length.

    Raises:
        ValueError: there is nothing to learn from.
    """
    from datasets import Dataset

    from tasks.batching import ROWS

    found = list(dict.fromkeys(texts))
    # With a salt: what is read here are those of a split's texts whose own draw is high.
    sides = [draw(domain.finetuning.seed, f"{STAGE}\0{fold(text)}") < HELD_BACK for text in found]
    if len(set(sides)) < 2:
        raise ValueError(f"{domain.name}: {len(found)} texts are too few for a base; name more processes or a corpus")
    tokenizer = own_tokenizer([text for text, held in zip(found, sides, strict=True) if not held], domain.vocabulary_size, (), True)
    tokenizer.save_pretrained(folder / "tokenizer")
    eos, longest = tokenizer.eos_token_id, domain.finetuning.max_length - 2
    counts = []
    for name, wanted in (("train", False), ("validation", True)):
        chosen = [text for text, held in zip(found, sides, strict=True) if held == wanted]
        ids = [encoding.ids for encoding in tokenizer.backend_tokenizer.encode_batch(chosen, add_special_tokens=False)]
        rows = [[eos, *row[start : start + longest], eos] for row in ids for start in range(0, len(row), longest)]
        columns = {"input_ids": rows, "prompt_tokens": [1] * len(rows), "marks": [[]] * len(rows)}
        Dataset.from_dict(columns, ROWS).save_to_disk(str(folder / name))
        counts.append(Counts(len(rows), sum(map(len, rows)), len(rows), len(tokenizer)))
    return counts[0]


def train_base(domain: Domain, samples: Path, counts: Counts, checkpoints: Checkpoints, folder: Path) -> dict[str, Any]:
    """Train on what `write_texts` wrote, and write a folder that transformers opens; its measures."""
    from tasks.models import load_tokenizer

    use_threads()
    tokenizer = load_tokenizer(samples / "tokenizer")
    settings = settle(domain.finetuning, "text", counts)
    model = build_model(settings, tokenizer, settings.max_length + ROOM)
    rows, validation = TokenRows(samples / "train"), TokenRows(samples / "validation")
    tuning = Tuning(model.to(device()), rows, validation, settings, tokenizer.eos_token_id, checkpoints)
    with training_bar(domain.name, tuning) as bar:
        progress = tuning.run(bar)
    save_model(model, folder)
    tokenizer.save_pretrained(folder)
    write_json(folder / "declaration.json", domain.model_dump(mode="json"))
    write_json(folder / "training.json", {"history": progress.history, "settings": settings.model_dump(mode="json")})
    return {"validation_loss": progress.best_loss or 0.0, "tokens": float(progress.tokens), "texts": float(counts.samples)}


@task(task_run_name="pretrain-{domain.name}", cache_policy=NO_CACHE)
def pretrain_base(domain: Domain, labelled: Sequence[Artifact], unlabelled: Sequence[Artifact], of: Sequence[Run], corpus: Path) -> Alias:
    """Both kinds of validated/ of each process -> models/ of the base; the same texts and settings again change nothing.

    Args:
        of: the run of each process, in the order of `labelled` and `unlabelled`.
        corpus: folder of the declared text files.
    """
    store, run = open_store(), of[0]
    with scratch() as folder:
        (folder / "working").mkdir()
        texts, measured = lines_of(domain, corpus), list[Said]()
        for each, with_output, without in zip(of, labelled, unlabelled, strict=True):
            records = fetch_file(store, with_output, "records.jsonl", folder / f"{each.id} labelled")
            others = fetch_file(store, without, "records.jsonl", folder / f"{each.id} unlabelled")
            found, never = texts_of(each.process, records, others, folder / "working")
            texts, measured = [*texts, *found], [*measured, never]
        read = readable(texts, measured)
        counts = write_texts(domain, read, folder / "samples")
        prints = fingerprint_of(STAGE, [*labelled, *unlabelled], domain.model_dump(mode="json") | {"corpus": digest(*read)})
        checkpoints = Checkpoints(store, f"{domain.name}/checkpoints/{prints}")
        metrics = train_base(domain, folder / "samples", counts, checkpoints, folder / "model")
        manifest = publish_version(
            store,
            domain.name,
            files_in(folder / "model"),
            created=begun(run),
            run=run.id,
            commit=runs.commit(),
            versions=runs.versions(),
            metrics=metrics,
        )
        checkpoints.clear()
    before = champion_of(store, domain.name)
    reason = f"made of {counts.samples} texts of {', '.join(domain.processes)}"
    return move_alias(store, domain.name, manifest.version, reason, run.id, instead_of=before.version if before else None)
