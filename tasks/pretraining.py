"""Pretraining: validated records of several processes -> one base model on their texts, published for them to be tuned from.

No text that measures a process is read: neither its test and validation sides, nor the same text where another process has it.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
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
from tasks.duplicates import digest
from tasks.finetuning import training_bar
from tasks.models import build_model, device, save_model
from tasks.preparation import collect, select
from tasks.process import Process
from tasks.prompts import output_of, prompt_of
from tasks.publishing import begun
from tasks.records import read_records
from tasks.registry import files_in, publish_version
from tasks.runs import Run, fingerprint_of
from tasks.splitting import TEST, TRAIN, VALIDATION, draw, side_of, split_key
from tasks.tokenising import own_tokenizer
from tasks.training import Tuning

logger = logging.getLogger(__name__)

STAGE = "pretraining"
HELD_BACK = 0.05  # of the texts, to see when to stop
ROOM = 128  # positions beyond max_length, for what a process's form adds


def texts_of(process: Process, records: Path, working: Path) -> tuple[list[str], set[int]]:
    """What a base may read of a process, and digests of the texts that measure it.

    Args:
        records: validated/records.jsonl.
    """
    corpus = collect(process, read_records(records), working / f"{process.name}.jsonl")
    sides = select(process, corpus).sides
    prompts = np.array(corpus.prompts, dtype=np.uint64)
    measured = set(prompts[(sides == TEST) | (sides == VALIDATION)].tolist())
    texts = []
    for sample in corpus.chosen(np.flatnonzero(sides == TRAIN)):
        texts.append(sample.prompt + sample.completion if process.output.kind == "text" else sample.prompt)
    return texts + list(_unlabelled(process, records)), measured


def _unlabelled(process: Process, records: Path) -> Iterator[str]:
    """Prompts of records without an output whose text would train if it had one."""
    if process.output.kind == "fields":  # an empty form is an output
        return
    for record in read_records(records):
        if output_of(process, record.values) is None:
            prompt = prompt_of(process, record.values)
            if side_of(process, record.split, split_key(process, record.values, prompt)) == TRAIN:
                yield prompt


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
def pretrain_base(domain: Domain, validated: Sequence[Artifact], of: Sequence[Run], corpus: Path) -> Alias:
    """validated/ of each process -> models/ of the base; the same texts and settings again change nothing.

    Args:
        of: the run of each process, in the order of `validated`.
        corpus: folder of the declared text files.
    """
    store, run = open_store(), of[0]
    with scratch() as folder:
        (folder / "working").mkdir()
        texts: list[str] = [line for name in domain.corpus for line in (corpus / name).read_text(encoding="utf-8").splitlines()]
        measured: set[int] = set()
        for artifact, each in zip(validated, of, strict=True):
            found, never = texts_of(
                each.process, fetch_file(store, artifact, "records.jsonl", folder / each.process.name), folder / "working"
            )
            texts, measured = texts + found, measured | never
        read = [text for text in texts if text.strip() and digest(fold(text)) not in measured]
        logger.info("pretraining: %d texts to read; %d more measure another process, and are not read", len(read), len(texts) - len(read))
        counts = write_texts(domain, read, folder / "samples")
        prints = fingerprint_of(STAGE, list(validated), domain.model_dump(mode="json") | {"corpus": digest(*texts)})
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
