"""Any base: models of other families, with tokenizers of their own, pass from training through publishing to a batch."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTNeoXConfig, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config

from infra.settings import settings
from infra.store import open_store
from tasks.artifacts import read_json, scratch, store_folder
from tasks.bases import base_folder, refuse_unknown
from tasks.evaluation import evaluate
from tasks.finetuning import finetune
from tasks.gate import judge
from tasks.generation import Predictor
from tasks.models import seeded
from tasks.preparation import prepare
from tasks.process import Process
from tasks.publishing import publish
from tasks.records import Record, write_lines
from tasks.registry import fetch_version
from tasks.rehearsal import answered, different
from tasks.runs import Run, begin
from tasks.scoring import score_batch
from tasks.tokenising import make_tokenizer
from tasks.vocabulary import EOS, base_tokenizer

TEXTS = [f"{word} {number} {what}" for number in range(12) for word in ("parcel", "快递") for what in ("late", "丢了")]
SMALL: dict[str, Any] = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
FAMILIES: dict[str, Any] = {
    "LlamaTokenizer": lambda size: LlamaConfig(**SMALL, num_key_value_heads=1, vocab_size=size, max_position_embeddings=128),
    "Qwen2Tokenizer": lambda size: Qwen2Config(
        **SMALL, num_key_value_heads=1, vocab_size=size + 64, max_position_embeddings=128
    ),  # rows to spare, as Qwen's has
    "GPTNeoXTokenizer": lambda size: GPTNeoXConfig(**SMALL, vocab_size=size, max_position_embeddings=128),
}
OUTPUTS: dict[str, dict[str, Any]] = {
    "label": {"label": "state"},
    "fields": {"fields": {"what": {"verbatim": True}, "count": {"type": "integer", "maximum": 20}}},
    "text": {"text": "answer"},
}


def byte_fallback() -> Tokenizer:
    """Whole words with a mark for the blank, and single bytes for what it does not know, as Llama 2 has it."""
    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    first = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=[*first, *(f"<0x{byte:02X}>" for byte in range(256))], show_progress=False)
    made.train_from_iterator(["parcel late", "queue: "], trainer)
    plain = json.loads(made.to_str())
    plain["added_tokens"] = plain["added_tokens"][: len(first)]
    found: Tokenizer = Tokenizer.from_str(json.dumps(plain))
    return found


def byte_level(*added: str) -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False))
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in added])
    return made


def base(folder: Path, family: str) -> str:
    """A folder as the hub has it for this family: Llama without padding, Qwen with tokens of its own, GPT-NeoX with no end at all."""
    tokens, names = {
        "LlamaTokenizer": (byte_fallback, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}),
        "Qwen2Tokenizer": (lambda: byte_level(EOS, "<|im_start|>", "<|im_end|>"), {"eos_token": EOS, "pad_token": EOS}),
        "GPTNeoXTokenizer": (byte_level, {}),
    }[family]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens(), **names)  # type: ignore[no-untyped-call, operator]
    tokenizer.save_pretrained(folder)
    if family != "GPTNeoXTokenizer":  # whose class brings an end of its own
        told = json.loads((folder / "tokenizer_config.json").read_text()) | {"tokenizer_class": family}
        (folder / "tokenizer_config.json").write_text(json.dumps(told))
    with seeded(1):
        AutoModelForCausalLM.from_config(FAMILIES[family](len(tokenizer))).save_pretrained(folder)
    return str(folder)


def process(kind: str, **finetuning: Any) -> Process:
    few = {"max_length": 64, "num_train_epochs": 2, "tokens_per_batch": 256, "evaluations": 2, "learning_rate": 0.01, "max_new_tokens": 8}
    declared = {
        "name": "any",
        "owner": "tests",
        "records": {"source": "a.jsonl"},
        "sample": {"prompt": "{text}\nqueue:", "near_duplicates": None, "validation_share": 0.2},
        "output": OUTPUTS[kind],
        "finetuning": few | finetuning,
        "gate": [{"metric": "answered", "at_least": 0}],
    }
    return Process.model_validate(declared)


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rehearsal without a process of its own, which takes seconds."""

    def rehearse(process: str, version: str, proof: Path) -> int:
        lines = [json.loads(line) for line in proof.read_text(encoding="utf-8").splitlines()]
        with scratch() as folder:
            predictor = Predictor.load(fetch_version(open_store(), process, version, folder))
            assert different(lines, answered(predictor, [line["prompt"] for line in lines])) == 0
        return len(lines)

    monkeypatch.setattr("tasks.publishing.rehearse", rehearse)


def published(run: Run, folder: Path) -> str:
    """The stages from checked records to the champion's alias."""
    states = ["lost" if "丢" in text else "late" for text in TEXTS]
    rows = [
        {"text": text, "state": state, "answer": f"it is {state}", "what": text.split()[-1], "count": int(text.split()[1])}
        for text, state in zip(TEXTS, states, strict=True)
    ]
    write_lines(folder / "in" / "records.jsonl", (Record(str(n), row, "a.jsonl", n) for n, row in enumerate(rows)))
    samples = prepare.fn(store_folder(open_store(), folder / "in", f"{run.prefix}/validated"), run)
    model = finetune.fn(samples, run)
    evaluation = evaluate.fn(model, samples, None, run)
    verdict = judge(run.process.gate.rules, read_json(open_store(), evaluation, "metrics.json"))
    return str(publish.fn(model, evaluation, verdict, run).version)


@pytest.mark.parametrize(
    ("family", "kind", "tuning"),
    [
        ("LlamaTokenizer", "label", {}),
        ("Qwen2Tokenizer", "fields", {"lora": {"r": 2}}),
        ("GPTNeoXTokenizer", "text", {"lora": {"r": 2, "merged": False}}),
    ],
)
def test_another_family_is_tuned_published_and_scores(tmp_path: Path, family: str, kind: str, tuning: Any) -> None:
    run = begin(process(kind, base=base(tmp_path / "base", family), **tuning), "train")
    version = published(run, tmp_path)
    (tmp_path / "new.jsonl").write_text('{"id": "a", "text": "快递 3 😀"}\n{"id": "b", "text": "parcel </s><|endoftext|>"}\n')
    batch = score_batch.fn(str(tmp_path / "new.jsonl"), run)
    assert batch.facts["rows"] == batch.facts["done"] + batch.facts["dead"] == 2
    assert kind == "text" or batch.facts["done"] == 2

    folder = fetch_version(open_store(), "any", version, settings().cache)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.model_type == FAMILIES[family](300).model_type
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id is not None
    history = json.loads((folder / "training.json").read_text())["history"]
    assert history[-1]["validation_loss"] < history[0]["validation_loss"]
    own = Predictor.load(folder)
    assert own.encode(["快递 😀 ñ"]) == [tokenizer("快递 😀 ñ", add_special_tokens=False).input_ids]


@pytest.mark.parametrize("tuning", [{}, {"lora": {"r": 2}}])
def test_a_base_without_a_tokenizer_gets_one_of_its_size_and_is_tuned_published_and_asked_with_it(tmp_path: Path, tuning: Any) -> None:
    with seeded(1):
        AutoModelForCausalLM.from_config(FAMILIES["LlamaTokenizer"](270)).save_pretrained(tmp_path / "base")
    run = begin(process("text", base=str(tmp_path / "base"), **tuning), "train")
    folder = fetch_version(open_store(), "any", published(run, tmp_path), settings().cache)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer) == 270  # 256 bytes, the end, and some of the texts
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == tokenizer.convert_tokens_to_ids(EOS)
    history = json.loads((folder / "training.json").read_text())["history"]
    assert history[-1]["validation_loss"] < history[0]["validation_loss"]
    own = Predictor.load(folder)
    assert own.encode(["快递 😀 ñ"]) == [tokenizer("快递 😀 ñ", add_special_tokens=False).input_ids]
    assert len(own.predict([f"{text}\nqueue:" for text in TEXTS[:3]])) == 3


@pytest.mark.parametrize("kind", ["label", "fields"])
@pytest.mark.parametrize("family", FAMILIES)
def test_whatever_the_weights_of_a_base_say_its_answers_are_as_declared(tmp_path: Path, family: str, kind: str) -> None:
    declared = process(kind, base=base(tmp_path / "base", family))
    tokenizer = make_tokenizer(declared, [], [])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval()
    model.resize_token_embeddings(max(len(tokenizer), model.config.vocab_size), mean_resizing=False)
    predictor = Predictor(declared, model, tokenizer, {"labels": ["late", "lost", "lost 丢"], "max_new_tokens": 8})
    prompts = [predictor.prompt_of({"text": text}) for text in (*TEXTS[:6], "快递 3 😀", 'a "b" \\ c\nd', "<|im_end|></s>")]
    for prompt, prediction in zip(prompts, predictor.predict(prompts), strict=True):
        assert prediction.problem is None
        assert prediction.output in predictor.labels if kind == "label" else prediction.output["what"] in prompt[: -len("\nqueue:")]
    alone = [predictor.predict([prompt])[0].output for prompt in prompts]
    assert alone == [prediction.output for prediction in predictor.predict(prompts)]


def test_an_end_that_a_base_has_not_is_added_and_padding_is_the_end(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(process("text", base=base(tmp_path / "neox", "GPTNeoXTokenizer")), [], [])
    assert tokenizer.eos_token == tokenizer.pad_token == EOS
    assert tokenizer.eos_token_id == base_tokenizer(str(tmp_path / "neox")).get_vocab_size()
    tokenizer = make_tokenizer(process("text", base=base(tmp_path / "llama", "LlamaTokenizer")), [], [])
    assert tokenizer.eos_token == tokenizer.pad_token == "</s>"


def test_a_base_that_needs_code_of_its_own_or_writes_nothing_is_refused_before_anything_is_prepared(tmp_path: Path) -> None:
    folder = base(tmp_path, "Qwen2Tokenizer")
    own = {"model_type": "ours", "auto_map": {"AutoConfig": "ours.Config", "AutoModelForCausalLM": "ours.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(own))
    with pytest.raises(ValueError, match=r"needs code of its own .*never run here"):
        make_tokenizer(process("text", base=folder), [], [])
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(ValueError, match="'t5', which is no causal language model"):
        refuse_unknown(folder)


def test_a_base_of_pickles_only_is_refused_by_whoever_asks_for_it(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"whatever this would run")
    with pytest.raises(ValueError, match=r"only pytorch_model\.bin: reading these may run"):
        base_folder(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert base_folder(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("base", ["/nowhere/base", "~/nowhere", "~nobody-here/base", "./nowhere", "models/tuned/base", "/" + "a" * 300])
def test_a_base_written_as_a_path_must_be_a_folder(base: str) -> None:
    for look in (base_folder, base_tokenizer):
        with pytest.raises(ValueError, match=r"finetuning\.base is .*, and there is no such folder"):
            look(base)


@pytest.mark.parametrize("base", ["scratch", "gpt2", "org/name"])
def test_a_base_of_the_hub_is_no_folder(base: str) -> None:
    assert base_folder(base) is None


def test_a_home_is_written_with_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "base").mkdir()
    byte_level().save(str(tmp_path / "base" / "tokenizer.json"))
    assert base_folder("~/base") == tmp_path / "base"
    assert base_tokenizer("~/base").encode("12").tokens == ["1", "2"]
