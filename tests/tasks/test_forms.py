"""Forms: what the samples show decides how a field is filled in, and whatever a model says, a declared form comes out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import load_from_disk
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, LlamaConfig, PreTrainedTokenizerFast

from infra.store import LocalStore
from tasks.batching import Row, TokenRows, batch_of
from tasks.checkpoints import Checkpoints
from tasks.filling import Filled, Grammar, Guide, Marker
from tasks.finetuning import train_model
from tasks.forms import Form, Writing, places_of
from tasks.generation import Predictor, token_losses
from tasks.models import logits_at, seeded
from tasks.preparation import write_samples
from tasks.process import Process
from tasks.prompts import fits
from tasks.records import Record
from tasks.spans import place as place_of
from tasks.spans import trimmed
from tasks.swapping import Swaps, written_fields
from tasks.vocabulary import EOS, train_vocabulary

NAMES = ("Ann Lee", "Bo", "李安", "Cy Young", "王小明", "Di Mu", "Ed", "赵云", "Flo", "Gus Oz")
DAYS = {"tomorrow": "2025-01-02", "on Friday": "2025-01-03"}
FIELDS = {
    "name": {"verbatim": True},
    "count": {"type": "integer", "minimum": 1, "maximum": 99},
    "size": {"values": ["small", "large"], "optional": True},
    "items": {"list": True, "verbatim": True},
    "day": {"type": "date", "optional": True},
    "gift": "boolean",
}


def process(fields: dict[str, Any] = FIELDS, sample: dict[str, Any] | None = None, **finetuning: Any) -> Process:
    tiny = {"size": {"n_layer": 1, "n_embd": 32, "n_head": 2}, "max_length": 96, "tokens_per_batch": 512, "dropout": 0.0, "evaluations": 1}
    declared = {
        "name": "orders",
        "owner": "tests",
        "records": {"source": "a.jsonl", "validation": "b.jsonl", "test": "c.jsonl"},
        "sample": {"prompt": "Mail: {text}\nForm:", "near_duplicates": None, "vocabulary_size": 400, **(sample or {})},
        "output": {"fields": fields},
        "finetuning": {**tiny, "learning_rate": 0.01, "num_train_epochs": 1, "early_stopping_patience": None, **finetuning},
        "gate": [{"metric": "answered", "at_least": 0.5}],
    }
    return Process.model_validate(declared)


def order(number: int, split: str = "") -> Record:
    name, count, day = NAMES[number % 10], 1 + number % 19, list(DAYS)[number % 2]
    size, things = ("small", "large")[number % 3 % 2], ("pens", "米饼", "ink")[: 1 + number % 3]
    text = f"{name} wants {count} {size} {' and '.join(things)} {day}{', wrapped' if number % 4 == 0 else ''}"
    form = {"name": name, "count": count, "size": size, "items": list(things), "day": DAYS[day], "gift": number % 4 == 0}
    return Record(f"{split}{number}", {"text": text, **form}, "a.jsonl", number + 1, (), split)


def prepared(declared: Process, folder: Path) -> Path:
    (folder / "working").mkdir(parents=True)
    records = [order(number) for number in range(50)]
    records += [order(100 + number, split) for split, start in (("validation", 0), ("test", 6)) for number in range(start, start + 6)]
    write_samples(declared, records, folder / "samples", folder / "working")
    return folder / "samples"


def writing_of(declared: Process, samples: Path) -> Writing:
    contract = json.loads((samples / "contract.json").read_text())
    return Writing(declared, Form.read(contract["form"]), AutoTokenizer.from_pretrained(samples / "tokenizer").backend_tokenizer)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(process(), tmp_path_factory.mktemp("orders"))


@pytest.fixture(scope="module")
def clerk(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    folder = tmp_path_factory.mktemp("clerk")
    train_model(
        process(num_train_epochs=20, value_swaps=0.0),
        samples,
        folder / "model",
        Checkpoints(LocalStore(folder / "store"), "c"),
        lambda _: None,
    )
    return Predictor.load(folder / "model")


def wild(declared: Process, samples: Path, kind: str) -> Predictor:
    """A predictor with random weights."""
    tokenizer = AutoTokenizer.from_pretrained(samples / "tokenizer")
    small: dict[str, Any] = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    llama = LlamaConfig(**small, num_key_value_heads=1, vocab_size=len(tokenizer), max_position_embeddings=300)
    gpt2 = GPT2Config(n_layer=2, n_embd=32, n_head=2, n_positions=300, vocab_size=len(tokenizer), initializer_range=0.3)
    with seeded(4):
        model = AutoModelForCausalLM.from_config(llama if kind == "llama" else gpt2).eval()
    return Predictor(declared, model, tokenizer, json.loads((samples / "contract.json").read_text()))


def test_what_stands_in_the_prompt_is_marked_what_has_few_values_is_chosen_and_the_rest_is_spelled(samples: Path) -> None:
    form = writing_of(process(), samples).form
    assert form.how == {"name": "marked", "count": "marked", "size": "chosen", "items": "marked", "day": "chosen", "gift": "chosen"}
    assert form.choices["gift"] == [False, True]
    assert form.items["items"] == 3


def test_the_marks_of_each_sample_state_its_values(samples: Path) -> None:
    writing = writing_of(process(), samples)
    for row in load_from_disk(str(samples / "train")):
        assert len(row["marks"]) == row["prompt_tokens"]
        ids, output = row["input_ids"], json.loads(row["output"])
        begins = [at for at, mark in enumerate(row["marks"]) if "B:name" in writing.form.marks[writing.mark_ids.index(mark)]]
        ends = [at for at, mark in enumerate(row["marks"]) if "I:name" in writing.form.marks[writing.mark_ids.index(mark)]]
        assert writing.tokens.decode(ids[begins[0] : max(begins + ends) + 1]).strip() == output["name"]
        assert ids[row["prompt_tokens"]] == writing.begin


def test_a_form_is_learned_and_filled_in_for_names_in_any_script(clerk: Predictor) -> None:
    records = [order(number) for number in range(100, 112)]
    predictions = clerk.predict([clerk.prompt_of(record.values) for record in records])
    true = [{name: record.values[name] for name in FIELDS} for record in records]
    outputs = [prediction.output or {} for prediction in predictions]
    for name in ("name", "count", "gift"):
        assert sum(output.get(name) == form[name] for output, form in zip(outputs, true, strict=True)) >= 9
    assert list(predictions[0].output or ()) == list(FIELDS)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_whatever_the_weights_say_every_output_is_as_declared_and_nothing_marked_is_invented(samples: Path, kind: str) -> None:
    declared = process()
    predictor = wild(declared, samples, kind)
    prompts = [predictor.prompt_of(order(number).values) for number in range(12)]
    for prompt, prediction in zip(prompts, predictor.predict(prompts), strict=True):
        for name, value in (prediction.output or {}).items():
            field = (declared.output.fields or {})[name]
            assert all(fits(field, each) for each in (value if field.list else [value]))
        assert str((prediction.output or {"name": ""})["name"]) in prompt
        assert 0 <= prediction.confidence <= 1
    alone = [predictor.predict([prompt])[0].output for prompt in prompts]
    assert alone == [prediction.output for prediction in predictor.predict(prompts)]


def test_the_words_of_the_template_are_never_a_value(samples: Path) -> None:
    writing = writing_of(process(), samples)
    for prompt, name in (("Mail: Ann\nForm:", "Ann"), ("Mail: \nForm:", None)):
        tokens = writing.tokens.encode(prompt, add_special_tokens=False).offsets
        shares = np.full((len(tokens), len(writing.form.marks)), -9.0)
        shares[:, writing.form.marks.index(("B:name",))] = [{"Ann": -0.1, "Form": -0.01}.get(prompt[a:b].strip(), -2.0) for a, b in tokens]
        assert Marker(writing).fill(prompt, tokens, shares).values.get("name") == name


def said_of(samples: Path, prompt: str, chances: dict[str, tuple[str, float]]) -> Filled:
    """What comes of a prompt some of whose words are likely to be marked as values of a field."""
    writing = writing_of(process(), samples)
    tokens = writing.tokens.encode(prompt, add_special_tokens=False).offsets
    shares = np.full((len(tokens), len(writing.form.marks)), 1e-4)
    shares[:, 0] = 0.999
    for word, (name, chance) in chances.items():
        for start in (at for at in range(len(prompt)) if prompt.startswith(word, at)):
            inside = [place for place, (first, last) in enumerate(trimmed(prompt, tokens)) if start <= first < last <= start + len(word)]
            shares[inside, 0] = 0.999 - chance
            for place in inside:
                shares[place, writing.form.marks.index((f"{'B' if place == inside[0] else 'I'}:{name}",))] = chance
    return Marker(writing).fill(prompt, tokens, np.log(shares))


def test_numbers_in_words_are_marked_and_read_as_numbers(samples: Path) -> None:
    for number in ("7", "seven", "七"):
        found = said_of(samples, f"Mail: Bo {number} ink\nForm:", {"Bo": ("name", 0.95), number: ("count", 0.9), "ink": ("items", 0.99)})
        assert found.values == {"name": "Bo", "count": 7, "items": ["ink"]}
        assert found.sure["count"] == pytest.approx(0.9, abs=1e-3)


@pytest.mark.parametrize(
    ("text", "value", "place"),
    [
        ("三十天内请发十箱", 10, "十箱"),
        ("Within twenty-one days please send one pallet", 1, "one p"),
        ("一百二十天内发二十箱", 20, "二十箱"),
        ("please send 6, no, six boxes", 6, "6, no"),
        ("seven boxes", 6, None),
    ],
)
def test_a_number_in_words_is_placed_where_it_stands_alone(text: str, value: int, place: str | None) -> None:
    declared, prompt = process(), f"Mail: {text}\nForm:"
    places = places_of(declared, (declared.output.fields or {})["count"], value, prompt)
    found = place_of(prompt, [(6, 6 + len(text))], [("count", places)])[0]
    assert (found and found[1][0]) == (None if place is None else prompt.index(place))


def test_a_value_that_had_to_be_found_is_as_sure_as_its_marks_not_as_their_absence(samples: Path) -> None:
    found = said_of(samples, "Mail: Bo 2025 12 ink\nForm:", {"Bo": ("name", 0.9), "12": ("count", 0.03), "ink": ("items", 0.9)})
    assert found.values["count"] == 12
    assert found.sure["count"] == pytest.approx(0.03, abs=1e-3)
    assert found.log_probability == pytest.approx(np.log(0.03), abs=0.05)


def test_what_is_marked_and_left_out_makes_a_field_doubtful(samples: Path) -> None:
    marked = {"Bo": ("name", 0.9), "Ed": ("name", 0.8), "12": ("count", 0.9), "ink": ("items", 0.9)}
    assert said_of(samples, "Mail: Bo Ed 12 ink\nForm:", marked).sure["name"] == pytest.approx(0.2, abs=1e-3)
    assert said_of(samples, "Mail: Bo 12 ink Bo\nForm:", marked).sure["name"] == pytest.approx(0.9, abs=1e-3)  # said twice
    unread = said_of(samples, "Mail: Bo 12 ink\nForm:", marked | {"ink": ("count", 0.7)})
    assert unread.values["count"] == 12
    assert unread.sure["count"] == pytest.approx(0.3, abs=1e-3)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_second_reading_sees_the_first_and_stands_at_the_same_positions(samples: Path, kind: str) -> None:
    predictor = wild(process(), samples, kind)
    assert predictor.writing is not None
    one, other = ([7, 8, 9, 10, predictor.writing.begin, 0], [7, 8, 9, 11, predictor.writing.begin, 0])
    batch = batch_of([Row(ids, 4, [5] * 4) for ids in (one, other)], predictor.writing.read)
    assert batch.positions is not None
    assert batch.positions[0].tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5]
    where = torch.zeros_like(batch.input_ids, dtype=torch.bool)
    where[:, 5] = True  # the first token again: only what was read before can tell the two apart
    whole, changed = logits_at(predictor.model, batch.input_ids, where, True, batch.positions)
    assert not torch.allclose(whole, changed)


def test_losses_are_those_of_marks_and_written_fields(samples: Path) -> None:
    predictor = wild(process(), samples, "gpt2")
    row = load_from_disk(str(samples / "test"))[0]
    ((nats, tokens),) = token_losses(predictor, [Row(row["input_ids"], row["prompt_tokens"], row["marks"])])
    assert tokens == len(row["input_ids"]) - 1  # a mark for each of the prompt's, and all of the completion but its beginning
    assert nats > 0


def test_a_text_that_was_spelled_can_only_be_what_its_type_takes(tmp_path: Path) -> None:
    fields = {
        "amount": "number",
        "day": "date",
        "count": {"type": "integer", "minimum": 30, "maximum": 250},
        "loss": {"type": "number", "maximum": -0.5, "list": True},
        "word": {"optional": True},
    }
    form = Form(
        list(fields),
        dict.fromkeys(fields, "spelled"),
        {},
        [],
        {"amount": 3, "day": 10, "count": 4, "loss": 5, "word": 5},
        dict.fromkeys(fields, 2),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=train_vocabulary(["a 1"], 300), eos_token=EOS)
    tokenizer.add_tokens(form.vocabulary, special_tokens=True)
    writing = Writing(process(fields), form, tokenizer.backend_tokenizer)
    random, grammar = np.random.default_rng(3), Grammar(writing, 0)
    for _ in range(30):
        guide = Guide(grammar)
        for _ in range(form.most_tokens):
            allowed = guide.allowed().tolist()
            chosen = int(random.choice(allowed))
            if chosen == 0:
                break
            guide.take(chosen)
        assert chosen == 0
        output = guide.output()
        assert set(output) >= {"amount", "day", "count", "loss"}
        for name, field in writing.fields.items():
            values = output.get(name, [])
            assert all(fits(field, value) for value in (values if field.list else [values] if name in output else []))


def test_a_chosen_list_may_have_as_many_values_as_in_training() -> None:
    fields = {"tags": {"values": list("abcdefgh"), "list": True}, "gift": "boolean"}
    form = Form(
        list(fields), dict.fromkeys(fields, "chosen"), {"tags": list("abcdefgh"), "gift": [False, True]}, [], {}, {"tags": 6, "gift": 1}
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=train_vocabulary(["a 1"], 300), eos_token=EOS)
    tokenizer.add_tokens(form.vocabulary, special_tokens=True)
    writing = Writing(process(fields), form, tokenizer.backend_tokenizer)
    written = writing.completion({"tags": list("abcdef"), "gift": True})
    assert len([*written[1:], tokenizer.eos_token_id]) <= form.most_tokens  # the beginning of a form belongs to its prompt


def test_fields_as_json_stay_when_declared_or_when_a_base_has_its_own_tokens(tmp_path: Path) -> None:
    assert not process(base="/some/base").field_tokens
    samples = prepared(process(sample={"field_tokens": False}), tmp_path)
    assert "form" not in json.loads((samples / "contract.json").read_text())
    assert load_from_disk(str(samples / "train"))[0]["marks"] == []


def test_swapped_values_keep_their_marks_and_the_rest_of_the_sample(samples: Path) -> None:
    writing = writing_of(process(), samples)
    rows = TokenRows(samples / "train", writing.read).rows(range(30))
    swaps = Swaps(rows, writing, 1.0, 0.5, 96)
    changed = 0
    for number, row in enumerate(rows):
        other = swaps.swapped(row, np.random.default_rng(number))
        assert len(other.marks) == other.prompt_tokens
        assert other.input_ids[other.prompt_tokens :] == row.input_ids[row.prompt_tokens :]
        assert [m for m in other.marks if writing.form.marks[writing.mark_ids.index(m)][:1] == ("B:name",)] == [
            m for m in row.marks if writing.form.marks[writing.mark_ids.index(m)][:1] == ("B:name",)
        ]
        assert other == swaps.swapped(row, np.random.default_rng(number))
        changed += other.input_ids != row.input_ids
    assert changed > 20


@pytest.mark.parametrize("step", [1, 4])
def test_a_tuning_with_swaps_that_was_killed_ends_as_one_that_was_not(samples: Path, tmp_path: Path, step: int) -> None:
    declared = process(num_train_epochs=1, token_dropout=0.2, value_swaps=0.5, paraphrases=["Hi, {text}"])

    def stop(progress: Any) -> None:
        if progress.step == step:
            raise KeyboardInterrupt

    train_model(declared, samples, tmp_path / "whole", Checkpoints(LocalStore(tmp_path / "a"), "c"), lambda _: None)
    stopped = Checkpoints(LocalStore(tmp_path / "b"), "c")
    with pytest.raises(KeyboardInterrupt):
        train_model(declared, samples, tmp_path / "resumed", stopped, stop, checkpoint_seconds=0)
    train_model(declared, samples, tmp_path / "resumed", stopped, lambda _: None)
    assert (tmp_path / "whole" / "model.safetensors").read_bytes() == (tmp_path / "resumed" / "model.safetensors").read_bytes()


@pytest.mark.parametrize(("country", "exchanged"), [(lambda city, number: city < "M", False), (lambda city, number: number % 2 == 0, True)])
def test_a_value_that_settles_another_field_is_never_exchanged(tmp_path: Path, country: Any, exchanged: bool) -> None:
    cities = ("Ulm", "Rome", "Graz", "Bern", "Nice", "Linz", "Oslo", "Bari")
    declared = process({"city": {"verbatim": True}, "inland": "boolean"})
    rows = [
        {"text": f"Send it to {cities[n % 8]} by {n}", "city": cities[n % 8], "inland": country(cities[n % 8], n // 8)} for n in range(64)
    ]
    records = [
        Record(str(n), row, "a.jsonl", n + 1, (), "test" if n > 59 else "validation" if n > 55 else "") for n, row in enumerate(rows)
    ]
    (tmp_path / "working").mkdir()
    write_samples(declared, records, tmp_path / "samples", tmp_path / "working")
    writing = writing_of(declared, tmp_path / "samples")
    train = TokenRows(tmp_path / "samples" / "train", writing.read).rows(range(50))
    swaps = Swaps(train, writing, 1.0, 0.0, 96)
    changed = [swaps.swapped(row, np.random.default_rng(number)).input_ids != row.input_ids for number, row in enumerate(train)]
    assert any(changed) == exchanged


def test_a_form_of_marked_fields_alone_is_exchanged_and_has_nothing_written(tmp_path: Path) -> None:
    declared = process({"name": {"verbatim": True}})
    samples = prepared(declared, tmp_path)
    writing = writing_of(declared, samples)
    rows = TokenRows(samples / "train", writing.read).rows(range(30))
    assert not list(written_fields(rows[0], writing))
    swaps = Swaps(rows, writing, 1.0, 0.0, 96)
    assert any(swaps.swapped(row, np.random.default_rng(number)) != row for number, row in enumerate(rows))
