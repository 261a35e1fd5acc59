import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, Features, List, Value
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPTNeoXConfig, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config

from infra.store import LocalStore, open_store
from tasks import training
from tasks.artifacts import Artifact, file_digest, listing_of, store_folder
from tasks.batching import right_padded
from tasks.checkpoints import Checkpoints
from tasks.finetuning import finetune, train_model
from tasks.models import seeded
from tasks.process import Process
from tasks.runs import begin
from tasks.training import AS_GOOD, LossError, Progress, learning_rate, targets
from tasks.tuning import Settled
from tasks.vocabulary import EOS, train_vocabulary

TEXTS = {"my card is lost": "card", "the card is gone": "card", "pay the invoice": "bill", "invoice not paid": "bill", "卡丢了": "card"}
LABELS = ["bill", "card"]


def process(**finetuning: Any) -> Process:
    tiny = {
        "size": {"n_layer": 1, "n_embd": 16, "n_head": 2},
        "max_length": 32,
        "tokens_per_batch": 16,
        "num_train_epochs": 6,
        "evaluations": 3,
        "synthetic_up_to": 0,  # the samples below have tokens only
    }
    declared = {
        "name": "tickets",
        "owner": "support",
        "records": {"source": "sample.jsonl"},
        "sample": {"prompt": "{text}"},
        "output": {"label": "queue"},
        "finetuning": {**tiny, "learning_rate": 0.01, **finetuning},
        "gate": [{"metric": "accuracy", "at_least": 0.5}],
    }
    return Process.model_validate(declared)


def write_samples(folder: Path, rows: int = 5, shift: int = 0) -> Path:
    tokens = train_vocabulary(list(TEXTS) * 2, 300, [f"<|label:{label}|>" for label in LABELS])
    PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token=EOS).save_pretrained(folder / "tokenizer")
    ids = [tokens.token_to_id(f"<|label:{label}|>") for label in LABELS]
    prompts = [tokens.encode(text).ids for text in TEXTS]
    rows_of_ids = [[*prompt, ids[LABELS.index(label)] + shift, 0] for prompt, label in zip(prompts, TEXTS.values(), strict=True)]
    data = {"input_ids": rows_of_ids, "prompt_tokens": [len(prompt) for prompt in prompts]}
    features = Features({"input_ids": List(Value("int32")), "prompt_tokens": Value("int32")})
    for split, count in (("train", rows), ("validation", 2), ("test", 1)):
        Dataset.from_dict({name: column[:count] for name, column in data.items()}, features).save_to_disk(folder / split)
    contract = {"kind": "label", "labels": LABELS, "label_ids": ids, "max_new_tokens": 2, "prompt_tokens_max": 20}
    (folder / "contract.json").write_text(json.dumps(contract))
    return folder


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    return write_samples(tmp_path / "samples")


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(LocalStore(tmp_path / "store"), "tickets/checkpoints/abc")


def calm(progress: Progress) -> None:
    """Show nothing."""


def stop_at(step: int) -> Callable[[Progress], None]:
    def watch(progress: Progress) -> None:
        if progress.step == step:
            raise KeyboardInterrupt

    return watch


def digests(folder: Path) -> dict[str, str]:
    return {path.name: file_digest(path) for path in sorted(folder.iterdir())}


def test_the_learning_rate_warms_up_and_ends_near_zero() -> None:
    settings = Settled(learning_rate=1.0, warmup_ratio=0.2)
    rates = [learning_rate(settings, step, 10) for step in range(10)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert sorted(rates[2:], reverse=True) == rates[2:]
    assert 0 < rates[-1] < 0.05


def test_the_loss_is_on_the_completion_only_unless_the_prompt_is_given_a_weight() -> None:
    batch = right_padded([[5, 6, 7, 0], [5, 7, 0]], [2, 1])
    where, weights = targets(batch)
    assert where.tolist() == [[False, True, True], [True, True, False]]
    assert weights.tolist() == [0.25] * 4


def test_a_part_of_the_prompt_is_drawn_and_weighs_as_much_as_all_of_it() -> None:
    batch = right_padded([[*range(1, 41), 0]] * 50, [40] * 50)
    where, weights = targets(batch, 0.05, torch.Generator().manual_seed(1))
    prompt = where[:, :39]
    assert 0.4 < prompt.float().mean() < 0.6
    assert where[:, 39:].all()
    assert weights.sum() == pytest.approx(1)
    assert float(weights[~(weights == weights.max())].sum() / weights.max()) == pytest.approx(0.05 * 39 * 50, rel=0.15)


def test_a_long_prompt_does_not_drown_a_short_answer() -> None:
    batch = right_padded([[*[1] * 400, 2, 0]] * 20, [400] * 20)
    where, weights = targets(batch, 0.3, torch.Generator().manual_seed(1))
    answers = float(weights[weights == weights.max()].sum())
    assert 0.2 < answers < 0.3  # a prompt weighs three times its answer
    assert where[:, :399].float().mean() < 0.1


def test_the_model_opens_in_transformers_and_has_learned(samples: Path, checkpoints: Checkpoints, tmp_path: Path) -> None:
    train_model(process(num_train_epochs=30), samples, tmp_path / "model", checkpoints, calm)
    story = json.loads((tmp_path / "model" / "training.json").read_text())
    assert story["history"][-1]["validation_loss"] < story["history"][0]["validation_loss"] < 5.7
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path / "model"), AutoTokenizer.from_pretrained(tmp_path / "model")
    assert model.config.vocab_size == len(tokenizer)
    names = set(digests(tmp_path / "model"))
    assert {"model.safetensors", "contract.json", "declaration.json", "training.json", "tokenizer.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]


def test_equal_inputs_give_equal_bytes(samples: Path, tmp_path: Path) -> None:
    declared = process(token_dropout=0.2, prompt_loss_weight=0.3, label_smoothing_factor=0.1)
    for name in ("one", "two"):
        train_model(declared, samples, tmp_path / name, Checkpoints(LocalStore(tmp_path / f"store-{name}"), "c"), calm)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


@pytest.mark.parametrize("step", [1, 6, 11])
@pytest.mark.parametrize("reworked", [{}, {"bpe_dropout": 0.5, "paraphrases": ["Hi, {text}", "{text}，谢谢"]}])
def test_a_tuning_that_was_killed_ends_as_one_that_was_not(
    samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, reworked: dict[str, Any]
) -> None:
    monkeypatch.setattr(training, "WINDOW_BATCHES", 2)  # so that a kill may come within one, and there are several
    declared = process(token_dropout=0.2, prompt_loss_weight=0.3, **reworked)
    train_model(declared, samples, tmp_path / "whole", Checkpoints(LocalStore(tmp_path / "a"), "c"), calm)
    stopped = Checkpoints(LocalStore(tmp_path / "b"), "c")
    with pytest.raises(KeyboardInterrupt):
        train_model(declared, samples, tmp_path / "resumed", stopped, stop_at(step), checkpoint_seconds=0)
    resumed_from: list[int] = []
    train_model(declared, samples, tmp_path / "resumed", stopped, lambda progress: resumed_from.append(progress.step))
    assert resumed_from[0] == step + 1
    assert digests(tmp_path / "whole") == digests(tmp_path / "resumed")


def test_training_stops_when_the_validation_loss_rises_and_keeps_the_best_weights(
    samples: Path, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    declared = process(learning_rate=0.3, num_train_epochs=40, evaluations=40, early_stopping_patience=2, warmup_ratio=0.5)
    train_model(declared, samples, tmp_path / "model", checkpoints, calm)
    story = json.loads((tmp_path / "model" / "training.json").read_text())
    losses = {entry["step"]: entry["validation_loss"] for entry in story["history"]}
    assert story["stopped_early"]
    as_good = [step for step, loss in losses.items() if loss <= AS_GOOD * min(losses.values())]
    assert story["best_step"] == as_good[-1] != list(losses)[-1]


def test_of_weights_that_are_as_good_the_latest_stay() -> None:
    progress = Progress()
    for progress.step, loss in enumerate((0.5, 0.4, 0.43, 0.45, 0.44, 0.45)):
        progress.judge(loss)
    assert (progress.best_step, progress.best_loss, progress.least_loss, progress.worse_evaluations) == (4, 0.44, 0.4, 1)


def test_a_tuning_whose_checkpoints_another_run_cleared_still_ends_with_the_best_weights(
    samples: Path, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    declared = process(learning_rate=0.3, num_train_epochs=40, evaluations=40, early_stopping_patience=2, warmup_ratio=0.5)
    alone = Checkpoints(LocalStore(tmp_path / "alone"), "c")
    train_model(declared, samples, tmp_path / "alone-model", alone, calm)
    train_model(declared, samples, tmp_path / "model", checkpoints, lambda _: checkpoints.clear())
    assert digests(tmp_path / "model") == digests(tmp_path / "alone-model")


SMALL: dict[str, Any] = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 280}
BASES = {
    "gpt2": GPT2Config(n_layer=1, n_embd=16, n_head=2, n_positions=64, vocab_size=280),
    "llama": LlamaConfig(**SMALL, num_key_value_heads=1, max_position_embeddings=64),
    "qwen2": Qwen2Config(**SMALL, num_key_value_heads=1, max_position_embeddings=64),
    "gpt_neox": GPTNeoXConfig(**SMALL, max_position_embeddings=64),
}


def base_folder(folder: Path, kind: str) -> str:
    with seeded(1):
        AutoModelForCausalLM.from_config(BASES[kind]).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=train_vocabulary(list(TEXTS), 280), eos_token=EOS).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", BASES)
@pytest.mark.parametrize("lora", [None, {"r": 2}])
def test_a_base_model_is_tuned_fully_or_by_lora(samples: Path, checkpoints: Checkpoints, tmp_path: Path, kind: str, lora: Any) -> None:
    declared = process(base=base_folder(tmp_path / "base", kind), lora=lora)
    train_model(declared, samples, tmp_path / "model", checkpoints, calm)
    history = json.loads((tmp_path / "model" / "training.json").read_text())["history"]
    assert history[-1]["validation_loss"] < history[0]["validation_loss"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", use_safetensors=True)
    assert model.config.model_type == kind
    assert not any("lora" in name for name, _ in model.named_parameters())


def test_a_loss_that_is_no_number_stops_the_tuning_and_says_where(samples: Path, checkpoints: Checkpoints, tmp_path: Path) -> None:
    folder = Path(base_folder(tmp_path / "base", "gpt2"))
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.transformer.wte.weight.fill_(float("nan"))
    model.save_pretrained(folder)
    with pytest.raises(LossError, match=r"the loss is nan at step 1 of \d+; lower finetuning.learning_rate"):
        train_model(process(base=str(folder)), samples, tmp_path / "model", checkpoints, calm)


def test_nothing_to_train_on_is_said_so(checkpoints: Checkpoints, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no sample to train on"):
        train_model(process(), write_samples(tmp_path / "none", rows=0), tmp_path / "model", checkpoints, calm)


def test_samples_of_another_vocabulary_are_refused(checkpoints: Checkpoints, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run preparation again"):
        train_model(process(), write_samples(tmp_path / "odd", shift=1000), tmp_path / "model", checkpoints, calm)


@pytest.fixture
def stored(samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Artifact:
    monkeypatch.setenv("CLERKFLOW_STORE", str(tmp_path / "store"))
    return store_folder(open_store(), samples, "tickets/runs/earlier/samples")


def test_the_stage_stores_a_model_and_leaves_no_checkpoints(stored: Artifact) -> None:
    declared = process()
    model = finetune.fn(stored, begin(declared, "train"))
    assert "model.safetensors" in listing_of(open_store(), model)
    assert model.facts["tokens"] > 0
    assert list(open_store().list("tickets/checkpoints/")) == []


def test_a_second_run_finds_the_model_that_the_first_has_tuned(stored: Artifact) -> None:
    declared = process()
    assert finetune.fn(stored, begin(declared, "train")) == finetune.fn(stored, begin(declared, "train"))
