"""A model that answers at once and always the same, in the place of a trained one, to see what the job around it does."""

import hashlib
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from tasks import workers

LABELS = ("complaint", "delivery", "invoice", "refund")


class Predictor:
    """What scoring asks of tasks.generation.Predictor."""

    decoding = "quick"
    seconds_a_record = 0.0
    asked_log: Path | None = None  # a line for each record it was asked about

    def __init__(self, process: Any) -> None:
        self.process = process

    def prompt_of(self, values: Mapping[str, Any]) -> str:
        """As the real one does."""
        from tasks.prompts import prompt_of

        return prompt_of(self.process, values)

    def predict(self, prompts: Sequence[str]) -> list[Any]:
        """One label for each prompt; none where it says so."""
        from tasks.predictions import Prediction

        time.sleep(self.seconds_a_record * len(prompts))
        if self.asked_log:
            with self.asked_log.open("a", encoding="utf-8") as stream:
                stream.write("".join(f"{prompt!r}\n" for prompt in prompts))
        found = []
        for prompt in prompts:
            label = None if "nothing to say" in prompt else label_of(prompt)
            found.append(Prediction(label, label or "", 0.75, None if label else "unknown_label", 7))
        return found


class Worker(workers.Worker):
    """The same in one of several processes."""

    @property
    def predictor(self) -> Any:
        """Nothing is loaded."""
        return Predictor(process())


def label_of(prompt: str) -> str:
    """What it answers to a prompt."""
    return LABELS[hashlib.sha256(prompt.encode()).digest()[0] % len(LABELS)]


def process(**sections: Any) -> Any:
    """A label process named quick."""
    from tasks.declaration import parse_process

    declared = {
        "name": "quick",
        "owner": "benchmarks",
        "records": {"source": "sample.jsonl"},
        "sample": {"prompt": "Message: {text}\nQueue:"},
        "output": {"label": "queue", "labels": list(LABELS)},
        "gate": [{"metric": "answered", "at_least": 0.5}],
    }
    return parse_process(declared | sections, "benchmarks/quick.py")


def champion(asked: Any) -> Any:
    """The model of a process, as scoring is given it."""
    from tasks.answering import Champion

    return Champion(Predictor(asked), "quick-1", "0" * 64, router_of(asked))


def router_of(asked: Any) -> Any:
    """Every answer is accepted."""
    from tasks.routing import Router

    return Router(asked, "quick-1", None, None, False)


def install(asked: Any) -> None:
    """Let scoring load this model, whatever version it names; for a process of its own, such as a benchmark's child."""
    from types import SimpleNamespace

    import tasks.scoring

    module: Any = ModuleType("tasks.generation")
    module.Predictor = SimpleNamespace(load=lambda folder: Predictor(asked))
    sys.modules["tasks.generation"] = module
    fixed: Any = tasks.scoring
    fixed.fetch_version = lambda *words: Path()
    fixed.Router = SimpleNamespace(of=lambda *words: router_of(asked))
    fixed.read_manifest = lambda *words: SimpleNamespace(root="0" * 64)
    fixed._champion = lambda *words: "quick-1"
