import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, Features, List, Value
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedTokenizerFast

from infra.store import LocalStore
from tasks.batching import Row
from tasks.checkpoints import Checkpoints
from tasks.engines import open_engine
from tasks.finetuning import train_model
from tasks.generation import Predictor, token_losses
from tasks.models import seeded
from tasks.process import Process
from tasks.prompts import completion_of
from tasks.vocabulary import EOS, train_vocabulary

ROUTES = {"my card is lost": "card", "the card is gone": "card", "pay the invoice": "bill", "invoice not paid": "bill", "卡丢了": "card"}
ORDERS = {"two pens": ' {"count": 2, "item": "pen"}', "one 茶": ' {"count": 1, "item": "茶"}', "no idea": " sorry"}
PROMPTS = ["my card is lost", "pay", "", "卡丢了", "the invoice is not paid and the card is gone", "x"]


def process(output: dict[str, Any], **finetuning: Any) -> Process:
    tiny = {"size": {"n_layer": 1, "n_embd": 32, "n_head": 2}, "max_length": 48, "tokens_per_batch": 64, "dropout": 0.0, "evaluations": 1}
    tiny |= {"label_smoothing_factor": 0.0, "token_dropout": 0.0, "prompt_loss_weight": 0.0}
    declared = {
        "name": "tiny",
        "owner": "support",
        "records": {"source": "sample.jsonl"},
        "sample": {"prompt": "{text}"},
        "output": output,
        "finetuning": {**tiny, "learning_rate": 0.01, "num_train_epochs": 100, **finetuning},
        "gate": [{"metric": "answered", "at_least": 0.5}],
    }
    return Process.model_validate(declared)


def tuned(folder: Path, declared: Process, pairs: dict[str, str], labels: list[str] | None = None) -> Predictor:
    """A predictor that has learned these pairs of prompt and completion by heart."""
    words = [f"<|label:{label}|>" for label in labels or [] if declared.label_tokens]
    tokens = train_vocabulary([*pairs, *pairs.values()], 320, words)
    samples = folder / "samples"
    PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token=EOS).save_pretrained(samples / "tokenizer")
    prompts = [tokens.encode(prompt).ids for prompt in pairs]
    completions = [
        [tokens.token_to_id(f"<|label:{completion}|>")] if words else tokens.encode(completion).ids for completion in pairs.values()
    ]
    rows = [[*prompt, *completion, 0] for prompt, completion in zip(prompts, completions, strict=True)]
    features = Features({"input_ids": List(Value("int32")), "prompt_tokens": Value("int32")})
    data = Dataset.from_dict({"input_ids": rows, "prompt_tokens": [len(prompt) for prompt in prompts]}, features)
    for split in ("train", "validation"):
        data.save_to_disk(samples / split)
    ids = [tokens.token_to_id(word) for word in words] or None
    longest = max(len(completion) for completion in completions) + 1
    contract = {"kind": declared.output.kind, "labels": labels or [], "label_ids": ids, "max_new_tokens": longest, "prompt_tokens_max": 20}
    (samples / "contract.json").write_text(json.dumps(contract))
    train_model(declared, samples, folder / "model", Checkpoints(LocalStore(folder / "store"), "c"), lambda progress: None)
    return Predictor.load(folder / "model")


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return tuned(tmp_path_factory.mktemp("router"), process({"label": "queue"}), ROUTES, ["bill", "card"])


@pytest.fixture(scope="module")
def clerk(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    declared = process({"fields": {"count": "integer", "item": "string"}})
    return tuned(tmp_path_factory.mktemp("clerk"), declared, ORDERS)


def wild(folder: Path, kind: str, output: dict[str, Any]) -> Predictor:
    """A predictor with random weights, so that it writes on and on."""
    tokens = PreTrainedTokenizerFast(tokenizer_object=train_vocabulary(list(ROUTES), 320), eos_token=EOS)
    small: dict[str, Any] = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    llama = LlamaConfig(**small, num_key_value_heads=1, vocab_size=len(tokens), max_position_embeddings=64)
    gpt2 = GPT2Config(n_layer=2, n_embd=32, n_head=2, n_positions=64, vocab_size=len(tokens), initializer_range=0.3)
    with seeded(4):
        model = AutoModelForCausalLM.from_config(llama if kind == "llama" else gpt2).eval()
    contract = {"labels": ["bill", "card"], "label_ids": None, "max_new_tokens": 12}
    return Predictor(process(output), model, tokens, contract)


def test_a_learned_label_comes_back_with_high_confidence(router: Predictor) -> None:
    predictions = router.predict(list(ROUTES))
    assert [prediction.output for prediction in predictions] == list(ROUTES.values())
    assert all(0.9 < prediction.confidence <= 1 and prediction.problem is None for prediction in predictions)


@pytest.mark.parametrize("which", ["router", "clerk"])
def test_a_prediction_does_not_depend_on_its_neighbours(which: str, request: pytest.FixtureRequest) -> None:
    predictor: Predictor = request.getfixturevalue(which)
    together, alone = predictor.predict(PROMPTS), [predictor.predict([prompt])[0] for prompt in PROMPTS]
    assert [(one.output, one.completion, one.problem) for one in together] == [(one.output, one.completion, one.problem) for one in alone]
    assert [one.confidence for one in together] == pytest.approx([one.confidence for one in alone], abs=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_what_is_written_is_what_transformers_generate_writes(tmp_path: Path, kind: str) -> None:
    predictor = wild(tmp_path, kind, {"text": "answer"})
    rows = predictor.encode(PROMPTS)
    for row, written in zip(rows, predictor.write(rows), strict=True):
        ids = torch.tensor([row])
        options = {"attention_mask": torch.ones_like(ids), "eos_token_id": 0, "pad_token_id": 0, "do_sample": False, "max_new_tokens": 12}
        whole = predictor.model.generate(ids, **options)[0, len(row) :].tolist()
        assert written.ids == [number for number in whole if number != 0]
        assert written.ended == (0 in whole)


def test_fields_come_back_typed_and_in_any_script(clerk: Predictor) -> None:
    predictions = clerk.predict(["one 茶", "two pens"])
    assert [prediction.output for prediction in predictions] == [{"count": 1, "item": "茶"}, {"count": 2, "item": "pen"}]
    assert all(prediction.confidence > 0.5 for prediction in predictions)


def test_where_its_own_words_state_no_fields_the_model_writes_them_as_declared_and_is_not_sure(clerk: Predictor) -> None:
    assert clerk.tokens.decode(clerk.write(clerk.encode(["no idea"]))[0].ids) == " sorry"
    unsure, sure = clerk.predict(["no idea", "two pens"])
    assert unsure.problem is None and list(unsure.output or ()) == ["count", "item"]
    assert unsure.confidence < 0.5 < sure.confidence


def test_a_text_without_an_end_is_a_problem(tmp_path: Path) -> None:
    (prediction,) = wild(tmp_path, "llama", {"text": "answer"}).predict(["pay"])
    assert (prediction.output, prediction.problem) == (None, "unfinished")


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_spelled_label_is_always_a_declared_one_and_as_likely_as_the_model_thinks(tmp_path: Path, kind: str) -> None:
    predictor = wild(tmp_path, kind, {"label": "queue"})
    rows, completions = predictor.encode(PROMPTS), [completion_of(predictor.process, label) for label in predictor.labels]
    spelled = [[*predictor.tokens.encode(completion, add_special_tokens=False).ids, 0] for completion in completions]
    assert all([*written.ids, 0] not in spelled for written in predictor.write(rows))
    for row, prediction in zip(rows, predictor.predict(PROMPTS), strict=True):
        assert (prediction.output in ("bill", "card"), prediction.problem) == (True, None)
        tokens = spelled[predictor.labels.index(prediction.output)]
        ((nats, _),) = token_losses(predictor, [Row([*row, *tokens], len(row))])
        assert prediction.confidence == pytest.approx(math.exp(-nats), abs=2e-6)
    assert [each.output for each in predictor.predict(PROMPTS)] == [predictor.predict([prompt])[0].output for prompt in PROMPTS]


def test_a_prompt_too_long_for_the_model_leaves_its_neighbours_alone(router: Predictor) -> None:
    long, good = router.predict(["card " * 500, "my card is lost"])
    assert (long.output, long.problem, long.confidence) == (None, "too_long", 0.0)
    assert long.tokens > 48
    assert good.output == "card"


def test_nothing_to_predict_gives_nothing(router: Predictor) -> None:
    assert router.predict([]) == []


def test_an_empty_prompt_is_answered(router: Predictor, clerk: Predictor) -> None:
    assert router.predict([""])[0].output in ("bill", "card")
    assert clerk.predict([""])[0].tokens == 1


def test_a_text_that_ends_before_it_began_is_no_answer(tmp_path: Path) -> None:
    writer = tuned(tmp_path, process({"text": "reply"}), {"say hello": " hello there", "say nothing": ""})
    said, nothing = writer.predict(["say hello", "say nothing"])
    assert (said.output, nothing.output, nothing.completion, nothing.problem) == ("hello there", None, "", "unparseable")
    writer.engine = open_engine(writer, tmp_path / "model")
    assert [each.output for each in writer.predict(["say hello", "say nothing"])] == ["hello there", None]


def test_what_a_customer_writes_never_becomes_a_label_or_an_end(router: Predictor) -> None:
    rows = router.encode(["<|label:card|>", "pay <|endoftext|> now"])
    assert router.label_ids is not None
    assert not {0, *router.label_ids} & {number for row in rows for number in row}


def test_token_losses_are_those_of_the_completion(clerk: Predictor) -> None:
    ids = [[*clerk.encode(["two pens"])[0], 0], [*clerk.encode(["one 茶"])[0], 0]]
    losses = token_losses(clerk, [Row(ids[0], 2), Row(ids[1], len(ids[1]) - 1)])
    row = torch.tensor([ids[0]])
    expected = clerk.model(row, labels=torch.tensor([[-100, -100, *ids[0][2:]]])).loss.item()
    assert losses[0][1] == len(ids[0]) - 2
    assert losses[0][0] / losses[0][1] == pytest.approx(expected, rel=1e-4)
    assert losses[1][1] == 1


def test_a_sample_longer_than_the_model_counts_no_token(clerk: Predictor) -> None:
    losses = token_losses(clerk, [Row([5] * 500, 3), Row([5, 6, 0], 2)])
    assert losses[0] == (0.0, 0)
    assert losses[1][0] > 0
    assert math.isfinite(losses[1][0])


def test_a_folder_that_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"contract\.json is missing"):
        Predictor.load(tmp_path)
