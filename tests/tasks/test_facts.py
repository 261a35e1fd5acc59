"""Facts: what a text copies is known, exchanged in prompt and text alike, and a model is asked for all facts."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import load_from_disk
from transformers import AutoTokenizer

from infra.store import LocalStore
from tasks.batching import Row, TokenRows
from tasks.checkpoints import Checkpoints
from tasks.facts import PARTIAL, WHOLE
from tasks.finetuning import train_model
from tasks.generation import Predictor
from tasks.preparation import write_samples
from tasks.process import Process
from tasks.records import Record
from tasks.swapping import CopySwaps

SITES = ("Mill Lane", "Old Market", "万象店", "东门仓库", "Quay")


def process(**finetuning: Any) -> Process:
    tiny = {"size": {"n_layer": 1, "n_embd": 32, "n_head": 2}, "max_length": 96, "num_train_epochs": 1, "evaluations": 1}
    declared = {
        "name": "reports",
        "owner": "tests",
        "records": {"source": "a.jsonl", "validation": "b.jsonl", "test": "c.jsonl", "columns": {"figures": "object"}},
        "sample": {"prompt": "{figures}\nReport:", "near_duplicates": None, "vocabulary_size": 500},
        "output": {"text": "report", "facts": ["figures.site", "figures.orders"]},
        "finetuning": {**tiny, **finetuning},
        "gate": [{"metric": "answered", "at_least": 0.5}],
    }
    return Process.model_validate(declared)


def report(number: int, split: str = "") -> Record:
    site, orders = SITES[number % 5], 100 + 7 * number
    told = f"{orders} orders at {site}" if site.isascii() else f"{site}有{orders}单"
    figures = {"site": site, "orders": orders}
    return Record(f"{split}{number}", {"figures": figures, "report": told if number % 4 else site}, "a.jsonl", number + 1, (), split)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports")
    (folder / "working").mkdir()
    records = [report(number) for number in range(40)]
    records += [report(60 + number, split) for split, start in (("validation", 0), ("test", 5)) for number in range(start, start + 5)]
    write_samples(process(), records, folder / "samples", folder / "working")
    return folder / "samples"


def test_each_training_prompt_says_whether_its_text_states_all_facts(samples: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(samples / "tokenizer")
    whole, partial = tokenizer.convert_tokens_to_ids([WHOLE, PARTIAL])
    for row in load_from_disk(str(samples / "train")):
        states_both = str(json.loads(row["inputs"])["figures"]["orders"]) in row["completion"]
        assert row["input_ids"][row["prompt_tokens"] - 1] == (whole if states_both else partial)


def delivered(number: int, split: str = "") -> Record:
    """A report that says in words of its own whether all was delivered; two of ten do not."""
    site, late = SITES[number % 5], number % 2 == 0
    words = (("some lorries were late", "还有货没到") if late else ("nothing is missing", "都到齐了"))[number % 4 // 2]
    told = f"{site}: {100 + number} orders" + ("" if number % 10 in (3, 8) else f", {words}")
    values = {"figures": {"site": site, "orders": 100 + number, "late": late}, "report": told}
    return Record(f"{split}{number}", values, "a.jsonl", number + 1, (), split)


def test_a_text_that_leaves_out_what_is_said_in_other_words_is_taught_as_partial(tmp_path: Path) -> None:
    (tmp_path / "working").mkdir()
    records = [delivered(number) for number in range(200)]
    records += [delivered(number, split) for split, start in (("validation", 200), ("test", 210)) for number in range(start, start + 10)]
    report = write_samples(process(), records, tmp_path / "samples", tmp_path / "working")
    assert report["mentioned"]["figures.late"] == 0.8
    assert report["splits"]["train"]["partial"] == 40
    partial = AutoTokenizer.from_pretrained(tmp_path / "samples" / "tokenizer").convert_tokens_to_ids(PARTIAL)
    for row in load_from_disk(str(tmp_path / "samples" / "train")):
        assert (row["input_ids"][row["prompt_tokens"] - 1] == partial) == row["completion"].endswith("orders")


def test_a_model_is_asked_for_all_facts(samples: Path, tmp_path: Path) -> None:
    train_model(process(), samples, tmp_path / "model", Checkpoints(LocalStore(tmp_path / "store"), "c"), lambda _: None)
    predictor = Predictor.load(tmp_path / "model")
    (ids,) = predictor.encode(["site: Quay"])
    assert ids[-1] == predictor.tokens.token_to_id(WHOLE)
    assert predictor.tokens.token_to_id(WHOLE) not in predictor.encode([f"site: {WHOLE}"])[0][:-1]


def test_values_are_exchanged_in_prompt_and_text_alike(samples: Path) -> None:
    tokens = AutoTokenizer.from_pretrained(samples / "tokenizer").backend_tokenizer
    rows = TokenRows(samples / "train").rows(range(40))
    swaps = CopySwaps(rows, tokens, 1.0, 0.5, 96)
    changed = 0
    for number, row in enumerate(rows):
        other = swaps.swapped(row, np.random.default_rng(number))
        prompt, text = tokens.decode(other.input_ids[: other.prompt_tokens]), tokens.decode(other.input_ids[other.prompt_tokens :])
        site, orders = (line.partition(": ")[2] for line in prompt.splitlines()[:2])
        assert site in text
        assert orders in text or number % 4 == 0
        changed += other.input_ids != row.input_ids
    assert changed > 30


def test_a_sample_that_would_become_too_long_stays_as_it_was(samples: Path) -> None:
    tokens = AutoTokenizer.from_pretrained(samples / "tokenizer").backend_tokenizer
    rows = TokenRows(samples / "train").rows(range(20))
    assert all(isinstance(row, Row) and CopySwaps(rows, tokens, 1.0, 0.0, 3).swapped(row, np.random.default_rng(1)) is row for row in rows)
