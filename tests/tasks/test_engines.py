"""CTranslate2 writes what transformers writes, or transformers does it and the log says why."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

from tasks.engines import choose, export, has_window, shared_by, unjudged
from tasks.generation import Predictor
from tasks.models import seeded
from tasks.process import Process
from tasks.vocabulary import EOS, train_vocabulary

TEXTS = ["the card is lost", "pay the invoice", "卡丢了", "请支付发票。", "退款 for order 4711, please", "x", ""]
PROMPTS = [*TEXTS, *(f"{text} {text} {number}" for text in TEXTS for number in (1, 23, 456)), "card " * 40]
OUTPUTS: dict[str, dict[str, Any]] = {"text": {"text": "a"}, "label": {"label": "a"}, "fields": {"fields": {"a": "string"}}}
CONFIGS: dict[str, PreTrainedConfig] = {
    "gpt2": GPT2Config(n_layer=2, n_embd=32, n_head=2, n_positions=128, activation_function="gelu_pytorch_tanh", initializer_range=0.3),
    "llama": LlamaConfig(num_hidden_layers=2, hidden_size=32, num_attention_heads=2, intermediate_size=64, num_key_value_heads=1),
    "mistral": MistralConfig(
        num_hidden_layers=2, hidden_size=32, num_attention_heads=2, intermediate_size=64, num_key_value_heads=1, sliding_window=8
    ),
    "gpt_neox": GPTNeoXConfig(num_hidden_layers=1, hidden_size=32, num_attention_heads=2, intermediate_size=64),
    "gpt_neo": GPTNeoConfig(num_layers=2, hidden_size=32, num_heads=2, attention_types=[[["global"], 2]], max_position_embeddings=128),
}


def process(kind: str, engine: str = "auto") -> Process:
    declared = {
        "name": "tiny",
        "owner": "tests",
        "records": {"source": "a.jsonl"},
        "sample": {"prompt": "{text}", "label_tokens": False, "field_tokens": False},
        "output": OUTPUTS[kind],
        "finetuning": {"max_length": 60},
        "scoring": {"engine": engine},
        "gate": [{"metric": "answered", "at_least": 0}],
    }
    return Process.model_validate(declared)


def made(folder: Path, architecture: str, kind: str = "text", **facts: Any) -> Path:
    """A model/ folder with random weights, of which some answers end and some do not."""
    tokens = PreTrainedTokenizerFast(tokenizer_object=train_vocabulary(TEXTS, 300), eos_token=EOS)
    with seeded(5):
        config = CONFIGS[architecture]
        config.vocab_size = len(tokens)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            model.get_output_embeddings().weight[0] *= 2  # the end comes now and then
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)
    written = {"contract.json": {"labels": ["bill"], "label_ids": None, "max_new_tokens": 12}, "metrics.json": facts}
    for name, what in (written | {"declaration.json": process(kind).model_dump(mode="json")}).items():
        (folder / name).write_text(json.dumps(what))
    return folder


def test_torch_keeps_its_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLERKFLOW_THREADS", "2")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        predictor = Predictor.load(made(tmp_path, "gpt2"))
        assert choose(predictor, tmp_path, "ctranslate2", PROMPTS)["name"] == "ctranslate2"
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("architecture", "kind"), [("gpt2", "text"), ("gpt2", "label"), ("gpt2", "fields"), ("llama", "text")])
def test_both_engines_answer_alike_with_the_same_confidence(architecture: str, kind: str, tmp_path: Path) -> None:
    predictor = Predictor.load(folder := made(tmp_path, architecture, kind))
    slow = predictor.predict(PROMPTS)
    assert choose(predictor, folder, "ctranslate2", PROMPTS[:9])["name"] == "ctranslate2"
    fast = predictor.predict(PROMPTS)
    assert [(each.output, each.completion, each.problem, each.tokens) for each in fast] == [
        (each.output, each.completion, each.problem, each.tokens) for each in slow
    ]
    assert [each.confidence for each in fast] == pytest.approx([each.confidence for each in slow], abs=2e-6)
    assert fast[-1].problem == "too_long"
    if kind == "text":
        assert {None, "unfinished"} <= {each.problem for each in fast}


def test_neighbours_of_other_lengths_change_nothing(tmp_path: Path) -> None:
    predictor = Predictor.load(made(tmp_path, "gpt2", engine={"name": "ctranslate2"}))
    assert predictor.engine
    rows = [[7], [9, 8], *([number % 250 + 2] * length for number, length in enumerate((1, 1, 2, 3, 4, 6, 7, 11, 12, 40)))]
    together, alone = predictor.engine.write(rows), [predictor.engine.write([row])[0] for row in rows]
    assert [(one.ids, one.ended) for one in together] == [(one.ids, one.ended) for one in alone]
    assert all(one.count <= 12 for one in together)
    assert [sum(one.log_probabilities) for one in together] == pytest.approx([sum(one.log_probabilities) for one in alone], abs=1e-4)
    assert predictor.engine.write([]) == []


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "mistral"])
def test_what_all_prompts_begin_with_is_read_once_and_changes_nothing(architecture: str, tmp_path: Path, monkeypatch: Any) -> None:
    predictor = Predictor.load(made(tmp_path, architecture, engine={"name": "ctranslate2"}))
    assert predictor.engine
    head = [number % 250 + 2 for number in range(20)]
    rows = [head + [number % 250 + 2] * length for number, length in enumerate((1, 2, 3, 3, 9, 12), start=30)]
    assert [len(shared_by(some)) for some in (rows, rows[:1], [row[:12] for row in rows], [], [*rows, [7]])] == [19, 0, 0, 0, 0]
    shared = predictor.engine.write(rows)
    monkeypatch.setattr("tasks.engines.SHARED", 1000)
    whole = predictor.engine.write(rows)
    assert [(one.ids, one.ended) for one in shared] == [(one.ids, one.ended) for one in whole]
    assert [sum(one.log_probabilities) for one in shared] == pytest.approx([sum(one.log_probabilities) for one in whole], abs=1e-4)


def test_what_is_shared_takes_room_in_each_row_of_a_batch(tmp_path: Path, monkeypatch: Any) -> None:
    predictor = Predictor.load(made(tmp_path, "gpt2", engine={"name": "ctranslate2"}))
    assert predictor.engine
    monkeypatch.setattr("tasks.engines.TOKENS", 100)
    rows, asked, ask = [[*range(2, 26), number + 30, 9] for number in range(8)], list[int](), predictor.engine._ask

    def counted(own: list[list[int]], shared: list[int]) -> Any:
        asked.append(len(own) * (len(own[0]) + len(shared) + 12))
        return ask(own, shared)

    monkeypatch.setattr(predictor.engine, "_ask", counted)
    assert len(predictor.engine.write(rows)) == 8
    assert (len(asked), max(asked)) == (4, 76)


def test_a_model_with_a_window_reads_every_prompt_whole(tmp_path: Path) -> None:
    assert has_window(made(tmp_path / "mistral", "mistral"))
    assert not has_window(made(tmp_path / "llama", "llama"))
    for told, found in (({"text_config": {"sliding_window": 512}}, True), ({"sliding_window": 9, "use_sliding_window": False}, False)):
        (tmp_path / "config.json").write_text(json.dumps(told))
        assert has_window(tmp_path) is found


def test_a_version_keeps_the_engine_it_was_evaluated_with(tmp_path: Path) -> None:
    assert Predictor.load(made(tmp_path / "fast", "gpt2", engine={"name": "ctranslate2"})).engine is not None
    assert Predictor.load(made(tmp_path / "slow", "gpt2", engine={"name": "transformers"})).engine is None
    assert Predictor.load(made(tmp_path / "old", "gpt2")).engine is None


def test_an_architecture_that_it_does_not_know_stays_with_transformers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    predictor = Predictor.load(folder := made(tmp_path, "gpt_neo", engine={"name": "ctranslate2"}))
    assert "tiny: transformers writes on this machine: No conversion is registered for the model configuration GPTNeoConfig" in caplog.text
    with caplog.at_level(logging.WARNING):
        assert choose(predictor, folder, "auto", PROMPTS[:2])["name"] == "transformers"
    assert "evaluation: transformers writes for tiny: CTranslate2 cannot take its model: No conversion is registered" in caplog.text
    assert predictor.engine is None
    assert predictor.predict(["pay"])[0].problem == "unfinished"
    with pytest.raises(ValueError, match=r"scoring\.engine is ctranslate2, but CTranslate2 cannot take its model"):
        choose(predictor, folder, "ctranslate2", PROMPTS[:2])


def test_an_engine_that_answers_otherwise_is_not_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    predictor = Predictor.load(folder := made(tmp_path, "gpt2"))
    with torch.no_grad():
        predictor.model.get_output_embeddings().weight[5:50] *= 3  # no longer what the folder holds
    assert choose(predictor, folder, "auto", PROMPTS[:9])["name"] == "transformers"
    assert "CTranslate2 answers 9 of 9 prompts differently" in caplog.text
    assert predictor.engine is None


def test_without_prompts_nothing_is_proved_and_nothing_changes(tmp_path: Path) -> None:
    predictor = Predictor.load(folder := made(tmp_path, "gpt2"))
    assert choose(predictor, folder, "auto", []) == {"name": "transformers", "reason": "there is no test prompt to compare it with"}
    assert choose(predictor, folder, "transformers", PROMPTS) == {"name": "transformers"}


@pytest.mark.parametrize("architecture", ["gpt_neox", "gpt_neo"])
def test_an_export_of_what_it_cannot_read_says_so(tmp_path: Path, architecture: str) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match=f"CTranslate2 cannot take this model, a {architecture}: "):
        export(made(tmp_path / "model", architecture), tmp_path / "out")


def test_weights_that_no_gate_has_judged_are_told_from_those_that_one_has(tmp_path: Path) -> None:
    def version(contract: Any, tried: Any) -> Path:
        (tmp_path / "contract.json").write_text(json.dumps(contract))
        (tmp_path / "compression.json").write_text(json.dumps({"tried": tried}))
        return tmp_path

    assert unjudged(version({}, {}), "float32") is unjudged(version({}, {}), None) is None
    assert unjudged(version({"quantization": "int8"}, {"int8": {"passed": True}}), "int8") is None
    assert unjudged(version({}, {"student": {"passed": True}}), "int8") == "no gate has judged it with int8"
    assert unjudged(version({}, {"int8": {"passed": False}}), "int8") == "the gate of its compression refused int8"
    (tmp_path / "compression.json").unlink()
    assert unjudged(tmp_path, "int8") == "no gate has judged it with int8"
