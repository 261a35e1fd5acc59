"""Compressed models are judged by what they are for, and are left where they are worse than declared."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from tasks.batching import right_padded
from tasks.compression import judge
from tasks.distillation import Tutor
from tasks.engines import choose, quantization_of
from tasks.generation import Predictor
from tasks.models import logits_at
from tasks.process import Process
from tasks.training import targets
from tasks.tuning import Compression, Finetuning, Lora, Loss, Size
from tests.tasks.test_engines import PROMPTS, made

STUDENT = {"n_layer": 1, "n_embd": 16, "n_head": 2}
GATE = [{"metric": "accuracy", "at_most": 0.01}]


@pytest.mark.parametrize(
    ("metric", "before", "after", "reason"),
    [
        ("accuracy", 0.9, 0.89, None),  # 0.9 - 0.89 is more than 0.01 in binary
        ("accuracy", 0.9, 0.95, None),
        ("accuracy", 0.9, 0.88, "accuracy went from 0.9 to 0.88, which is worse by more than 0.01"),
        ("ece", 0.1, 0.105, None),
        ("ece", 0.1, 0.2, "ece went from 0.1 to 0.2, which is worse by more than 0.01"),
        ("accuracy", 0.9, math.nan, "accuracy went from 0.9 to nan, which is worse by more than 0.01"),
        ("accuracy", 0.9, None, "the validation split gives no accuracy"),
        ("accuracy", None, 0.9, "the validation split gives no accuracy"),
    ],
)
def test_a_compressed_model_may_be_a_little_worse(metric: str, before: float | None, after: float | None, reason: str | None) -> None:
    sides: list[dict[str, float]] = [{} if value is None else {metric: value} for value in (before, after)]
    verdict = judge((Loss(metric=metric, at_most=0.01),), *sides)
    assert (verdict["passed"], verdict["reasons"]) == (reason is None, [reason] if reason else [])


def test_a_student_learns_from_the_teachers_whole_distribution(tmp_path: Path) -> None:
    batch = right_padded([[7, 8, 9, 10, 0], [5, 6, 0]], [3, 1])
    where, _ = targets(batch)
    wanted = batch.input_ids[:, 1:][where]

    def losses(weight: float, temperature: float = 2.0, noise: float = 0.0) -> torch.Tensor:
        compression = Compression.model_validate({"student": STUDENT, "gate": GATE, "teacher_weight": weight, "temperature": temperature})
        tutor = Tutor(folder, compression)
        with torch.no_grad():
            logits = logits_at(tutor.model, batch.input_ids[:, :-1], where, tutor.plain_head, None)
        logits = logits + noise * torch.randn(logits.shape, generator=torch.Generator().manual_seed(3))
        plain = functional.cross_entropy(logits, wanted, reduction="none")
        return torch.stack([plain, tutor.taught(plain, logits, batch, where)])

    folder = made(tmp_path, "gpt2")
    plain, taught = losses(0.0, noise=1.0)
    assert torch.equal(plain, taught)
    assert losses(1.0)[1].abs().max() < 1e-5  # who says the same as the teacher has nothing to learn from it
    assert losses(1.0, noise=1.0)[1].min() > 0.01
    plain, taught = losses(0.5)
    assert torch.allclose(taught, plain / 2, atol=1e-5)


def test_a_student_of_a_base_is_trained_from_scratch_at_its_own_pace() -> None:
    size = Size.model_validate(STUDENT)
    tuned = Finetuning(base="gpt2", lora=Lora(), learning_rate=1e-4, num_train_epochs=2, dropout=0.2)
    student = tuned.for_student(size)
    assert (student.base, student.lora, student.learning_rate, student.num_train_epochs) == ("scratch", None, None, None)
    assert (student.size, student.dropout) == (size, 0.2)
    assert Finetuning(learning_rate=1e-3).for_student(size).learning_rate == 1e-3


def test_int8_is_written_as_judged_and_by_nothing_else(tmp_path: Path) -> None:
    folder = made(tmp_path, "gpt2")
    plain = Predictor.load(folder)
    contract = (folder / "contract.json").read_text()
    (folder / "contract.json").write_text(contract.replace("{", '{"quantization": "int8", ', 1))
    predictor = Predictor.load(folder)
    assert (quantization_of(folder), predictor.quantization, predictor.engine) == ("int8", "int8", None)
    assert choose(predictor, folder, "auto", PROMPTS)["quantization"] == "int8"
    assert choose(plain, folder, "auto", PROMPTS)["name"] == "ctranslate2"
    sure = [each.confidence for each in predictor.predict(PROMPTS)]
    assert sure != [each.confidence for each in plain.predict(PROMPTS)]  # it is the quantized weights that write
    (folder / "metrics.json").write_text('{"engine": {"name": "ctranslate2", "quantization": "int8"}}')
    assert [each.confidence for each in Predictor.load(folder).predict(PROMPTS)] == sure


def test_what_is_quantized_is_never_written_in_full_instead(tmp_path: Path) -> None:
    folder = made(tmp_path, "gpt_neo", engine={"name": "ctranslate2", "quantization": "int8"})  # CTranslate2 does not know it
    contract = (folder / "contract.json").read_text()
    (folder / "contract.json").write_text(contract.replace("{", '{"quantization": "int8", ', 1))
    with pytest.raises(ValueError, match="tiny: CTranslate2 cannot write with int8: No conversion is registered"):
        Predictor.load(folder)


@pytest.mark.parametrize(
    ("compression", "mistake"),
    [
        ({"gate": GATE}, "declare student"),
        ({"student": STUDENT}, "gate"),
        ({"student": STUDENT, "gate": []}, "gate"),
        ({"student": STUDENT, "gate": [{"metric": "bleu", "at_most": 1}]}, r"compression\.gate\.0: metric 'bleu' is none of label"),
        ({"student": STUDENT, "gate": [{"metric": "accuracy", "at_most": -1}]}, "at_most"),
        ({"student": STUDENT, "gate": [{"metric": "straight_through_rate", "at_most": 0.1}]}, "is not measured there"),
        ({"student": STUDENT, "gate": [{"metric": "perplexity", "at_most": 0.1}]}, "is not measured there"),
        ({"student": {"n_layer": 4, "n_embd": 128, "n_head": 4}, "gate": GATE}, "a student is smaller than its teacher"),
        ({"quantization": "int8", "gate": GATE}, r"compression\.quantization is for what CTranslate2 writes"),
        ({"quantization": "int4", "gate": GATE}, "quantization"),
    ],
)
def test_mistakes_in_a_declaration_are_told(compression: dict[str, Any], mistake: str) -> None:
    declared = {
        "name": "tiny",
        "owner": "tests",
        "records": {"source": "a.jsonl", "columns": ["text", "queue"]},
        "sample": {"prompt": "{text}"},
        "output": {"label": "queue"},
        "automation": {"max_error": 0.1},
        "finetuning": {"size": {"n_layer": 4, "n_embd": 128, "n_head": 4}},
        "gate": [{"metric": "accuracy", "at_least": 0.5}],
        "compression": compression,
    }
    with pytest.raises(ValidationError, match=mistake):
        Process.model_validate(declared)
