"""A prompt in the declared words asks for the same: its value, its answer and its marks stay, and the same draw gives the same words."""

import re
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from tasks.batching import Row
from tasks.columns import Columns, Parts
from tasks.facts import WHOLE
from tasks.paraphrasing import Paraphrases
from tasks.process import Process
from tasks.vocabulary import train_vocabulary

TEXTS = ["my card is lost", "fly from Zürich to Oslo", "我的卡丢了", "Message: twice\nQueue:", "2 boxes", "Ünlü  müşteri\n\tüber"]
WAYS = ("Hi, {text}", "{text} Thanks!", "Bonjour {{}} : {text} ?", "您好，{ text }谢谢")
SAID = [("Hi, ", ""), ("", " Thanks!"), ("Bonjour {} : ", " ?"), ("您好，", "谢谢")]
NOTHING, BEGIN, INSIDE = 7, 8, 9


@pytest.fixture(scope="module")
def tokens() -> Tokenizer:
    texts = [f"Message: {text}\nQueue:" for text in [*TEXTS, "Oslox"]] * 3
    return train_vocabulary(texts, 420, ["<|label:card|>", WHOLE], characters=True)


@pytest.fixture(autouse=True)
def every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.paraphrasing.SHARE", 1.0)


def process(prompt: str = "Message: {text}\nQueue:", ways: tuple[str, ...] = WAYS, **sample: Any) -> Process:
    declared = {
        "name": "tickets",
        "owner": "support",
        "records": {"source": "sample.jsonl"},
        "sample": {"prompt": prompt, **sample},
        "output": {"label": "queue"},
        "finetuning": {"paraphrases": ways},
        "gate": [{"metric": "accuracy", "at_least": 0.5}],
    }
    return Process.model_validate(declared)


def row_of(tokens: Tokenizer, prompt: str) -> Row:
    ids = tokens.encode(prompt).ids
    return Row([*ids, 1, 0], len(ids))


def ways_of(declared: Process, tokens: Tokenizer, rows: list[Row], nothing: int | None, longest: int, columns: Any = None) -> Paraphrases:
    return Paraphrases(declared, tokens, Parts(columns or Columns(), tokens), rows, nothing, longest)


def prompts_of(tokens: Tokenizer, declared: Process, row: Row, draws: int = 60, longest: int = 500) -> set[str]:
    ways = ways_of(declared, tokens, [row], None, longest)
    found = [ways.reworded(row, np.random.default_rng(seed)) for seed in range(draws)]
    assert all(list(each.input_ids[each.prompt_tokens :]) == list(row.input_ids[row.prompt_tokens :]) for each in found)
    prompts = {tokens.decode(list(each.input_ids[: each.prompt_tokens])): each for each in found}
    assert all(tokens.encode(prompt).ids == list(each.input_ids[: each.prompt_tokens]) for prompt, each in prompts.items())
    return set(prompts)


@pytest.mark.parametrize("text", TEXTS)
def test_a_prompt_is_said_in_each_declared_way_and_in_the_tokens_that_it_will_be_asked_in(tokens: Tokenizer, text: str) -> None:
    found = prompts_of(tokens, process(), row_of(tokens, f"Message: {text}\nQueue:"))
    assert found == {f"Message: {before}{text}{after}\nQueue:" for before, after in SAID}


def test_of_several_values_the_named_one_is_said_otherwise(tokens: Tokenizer) -> None:
    declared = process("From: {name}\nMessage: {text}\nQueue:", ("Hi, {text}", "Ms {name}"))
    found = prompts_of(tokens, declared, row_of(tokens, "From: Oslo\nMessage: my card\nQueue:"))
    assert found == {"From: Oslo\nMessage: Hi, my card\nQueue:", "From: Ms Oslo\nMessage: my card\nQueue:"}


def test_the_words_are_cleaned_as_records_are(tokens: Tokenizer) -> None:
    declared = process(ways=("Ｈｉ,\u3000{text} <b>thanks</b>",), cleaning=["normalise_unicode", "strip_html"])
    assert prompts_of(tokens, declared, row_of(tokens, "Message: my card\nQueue:")) == {"Message: Hi, my card thanks\nQueue:"}


def test_an_empty_value_and_a_prompt_that_would_be_too_long_stay(tokens: Tokenizer) -> None:
    empty, full = row_of(tokens, "Message: \nQueue:"), row_of(tokens, f"Message: {TEXTS[0]}\nQueue:")
    assert prompts_of(tokens, process(), empty) == {"Message: \nQueue:"}
    assert prompts_of(tokens, process(), full, longest=len(full.input_ids)) == {f"Message: {TEXTS[0]}\nQueue:"}


def test_what_is_drawn_is_decided_by_the_generator_alone(tokens: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.paraphrasing.SHARE", 0.3)
    row = row_of(tokens, f"Message: {TEXTS[0]}\nQueue:")
    ways = ways_of(process(), tokens, [row], None, 500)
    found = [ways.reworded(row, np.random.default_rng(seed)) for seed in range(300)]
    assert found == [ways.reworded(row, np.random.default_rng(seed)) for seed in range(300)]
    assert 60 <= sum(each is not row for each in found) <= 120


@pytest.mark.parametrize(
    ("text", "value"), [("fly from Zürich to Oslo", "Zürich"), ("fly to Oslo", "fly"), ("fly to Oslo", "Oslo"), ("我的卡丢了", "卡丢了")]
)
def test_marks_stay_on_the_tokens_of_their_value(tokens: Tokenizer, text: str, value: str) -> None:
    prompt = f"Message: {text}\nQueue:"
    first, encoding = prompt.index(value), tokens.encode(prompt)
    inside = [end > first and start < first + len(value) for start, end in encoding.offsets]
    marks = [(BEGIN if at == inside.index(True) else INSIDE) if within else NOTHING for at, within in enumerate(inside)]
    row = Row([*encoding.ids, 1, 0], len(encoding.ids), marks)
    ways = ways_of(process(), tokens, [row], NOTHING, 500)
    found = [ways.reworded(row, np.random.default_rng(seed)) for seed in range(60)]
    assert len({tuple(each.input_ids) for each in found}) >= 3
    for each in found:
        assert len(each.marks) == each.prompt_tokens
        marked = [token for token, mark in zip(each.input_ids, each.marks, strict=False) if mark != NOTHING]
        assert tokens.decode(marked).strip() == value
        assert [mark for mark in each.marks if mark != NOTHING] == [mark for mark in marks if mark != NOTHING]


def test_what_is_asked_for_behind_a_prompt_and_the_marks_of_a_text_stay(tokens: Tokenizer) -> None:
    ids, whole = tokens.encode("Message: to Oslo\nQueue:").ids, tokens.token_to_id(WHOLE)
    place = next(at for at, token in enumerate(ids) if "Oslo" in tokens.decode(ids[: at + 1]))
    row = Row([*ids, whole, 5, 6, 0], len(ids) + 1, [2 if at == place else 0 for at in range(len(ids))] + [0, 2, 0, 0])
    ways = ways_of(process(), tokens, [row], None, 500)
    for seed in range(30):
        found = ways.reworded(row, np.random.default_rng(seed))
        assert found.prompt_tokens > row.prompt_tokens
        assert list(found.input_ids[found.prompt_tokens - 1 :]) == [whole, 5, 6, 0]
        assert list(found.marks[found.prompt_tokens - 1 :]) == [0, 2, 0, 0]
        assert len(found.marks) == len(found.input_ids)
        assert found.input_ids[found.marks.index(2)] == ids[place]


def test_a_value_whose_marked_token_is_gone_stays_as_it_was(tokens: Tokenizer) -> None:
    glued = process(ways=("{text}x",))  # "Oslox" is cut otherwise, and then nobody knows which tokens are the value's
    encoding = tokens.encode("Message: Oslo\nQueue:")
    row = Row([*encoding.ids, 1, 0], len(encoding.ids), [BEGIN if at >= 2 else NOTHING for at in range(len(encoding.ids))])
    assert tokens.encode("Message: Oslox\nQueue:").tokens[2] == "ĠOslox"
    assert ways_of(glued, tokens, [row], NOTHING, 500).reworded(row, np.random.default_rng(1)) is row


@pytest.mark.parametrize(
    ("prompt", "way", "text", "value"),
    [
        ("{text}", "您好，{text}谢谢", "好", "好"),
        ("Message: {text}\nQueue:", "at least 2, here {text}", "2", "2"),
        ('Message: "{text}"\nQueue:', "{text} Thanks.", "to Oslo.", "Oslo."),
    ],
)
def test_a_mark_never_comes_to_the_words_around(tokens: Tokenizer, prompt: str, way: str, text: str, value: str) -> None:
    shown = prompt.format(text=text)
    first, encoding = shown.index(value), tokens.encode(shown)
    marks = [BEGIN if end > first and start < first + len(value) else NOTHING for start, end in encoding.offsets]
    row = Row([*encoding.ids, 1, 0], len(encoding.ids), marks)
    found = ways_of(process(prompt, (way,)), tokens, [row], NOTHING, 500).reworded(row, np.random.default_rng(1))
    if found is row:  # a token holds the end of the value and what stands behind it
        assert any(start < first + len(value) < end for start, end in encoding.offsets)
        return
    said = way.format(text=text)
    at = shown.index(text) + way.index("{text}") + text.index(value)
    offsets = tokens.encode(prompt.format(text=said)).offsets
    assert [mark == BEGIN for mark in found.marks] == [end > at and start < at + len(value) for start, end in offsets]


def test_numbers_of_columns_are_told_as_ever(tokens: Tokenizer) -> None:
    cut = train_vocabulary([f"Message: {text}\nQueue:" for text in TEXTS] * 3, 420, ["<|part:0|>", "<|part:1|>"])
    cut.add_tokens([AddedToken("Amount: ", normalized=False)])
    columns = Columns(("Amount: ",), {"Amount: ": [10.0]}, False)
    parts, declared = Parts(columns, cut), process("Amount: {amount}\nMessage: {text}\nQueue:", ("Hi, {text}",))
    prompt = "Amount: {}\nMessage: {}\nQueue:"
    rows = [
        Row([*ids, 1, 0], len(ids))
        for n in (7, 12, 31)
        for ids in [parts.placed(prompt.format(n, "my card"), cut.encode(prompt.format(n, "my card")))]
    ]
    ways = ways_of(declared, cut, rows, None, 500, columns)
    for row, n in zip(rows, (7, 12, 31), strict=True):
        wanted = prompt.format(n, "Hi, my card")
        found = ways.reworded(row, np.random.default_rng(1))
        assert list(found.input_ids) == [*parts.placed(wanted, cut.encode(wanted)), 1, 0]
        assert cut.token_to_id(f"<|part:{int(n > 10)}|>") in found.input_ids


def test_a_column_that_is_one_token_at_the_end_of_a_prompt_is_a_part_of_it(tokens: Tokenizer) -> None:
    closed = Tokenizer.from_str(tokens.to_str())
    closed.add_tokens([AddedToken("\nChannel: e-mail", normalized=False)])
    row = row_of(closed, "Message: my card\nChannel: e-mail")
    found = prompts_of(closed, process("Message: {text}\nChannel: {channel}", ("Hi, {text}", "{text} Thanks.")), row)
    assert found == {"Message: Hi, my card\nChannel: e-mail", "Message: my card Thanks.\nChannel: e-mail"}


def test_a_value_that_holds_the_words_between_two_stays(tokens: Tokenizer) -> None:
    declared = process("From: {name}\nMessage: {text}\nQueue:", ("Hi, {text}", "Ms {name}"))
    plain, unclear = (row_of(tokens, f"From: {name}\nMessage: my card\nQueue:") for name in ("Oslo", "Oslo\nMessage: x"))
    ways = ways_of(declared, tokens, [plain], None, 500)
    assert ways.reworded(unclear, np.random.default_rng(1)) is unclear


@pytest.mark.parametrize("kind", ["lower", "prefix", "words"])
def test_a_tokenizer_that_changes_what_it_reads_is_refused_at_once(tokens: Tokenizer, kind: str) -> None:
    changed = Tokenizer.from_str(tokens.to_str())
    if kind == "lower":
        changed.normalizer = normalizers.Lowercase()
    elif kind == "prefix":
        changed.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    else:
        changed = Tokenizer(
            models.WordLevel({word: at for at, word in enumerate(["Message", ":", "my", "card", "Queue"])}, unk_token="Queue")
        )
        changed.pre_tokenizer = pre_tokenizers.Whitespace()
    row = row_of(changed, "Message: my card\nQueue:")
    with pytest.raises(ValueError, match="of 1 samples only 0 are"):
        ways_of(process(), changed, [row], None, 500)


def test_prompts_that_are_not_read_back_from_their_tokens_are_refused_at_once(tokens: Tokenizer) -> None:
    ids = [tokens.token_to_id("<|label:card|>"), *tokens.encode("my card").ids]
    with pytest.raises(ValueError, match=r"tickets: finetuning\.paraphrases needs prompts that are read back from their tokens"):
        ways_of(process(), tokens, [Row([*ids, 0], len(ids))], None, 500)


@pytest.mark.parametrize("way", ["Hi", "{text} {text}", "{queue}", "{}", "Hi, {txet}"])
def test_a_way_that_names_not_exactly_one_column_of_the_prompt_is_refused(way: str) -> None:
    with pytest.raises(ValidationError, match=r"finetuning\.paraphrases\.0: name one column that stands once in sample\.prompt"):
        process(ways=(way,))


@pytest.mark.parametrize(
    ("prompt", "way", "told"),
    [
        ("Message: {text}\nQueue:", "{text}", "paraphrases.0 puts no words around its column"),
        ("Message: {text}\nQueue:", "<b>{text}</b>", "paraphrases.0 puts no words around its column"),
        ("{name} {text}", "Hi, {text}", "needs words between the columns of sample.prompt"),
        ("A: {text} B: {text}", "Hi, {text}", "name one column that stands once in sample.prompt"),
        ("Message", "Hi, {text}", "sample.prompt names no column"),
    ],
)
def test_what_could_say_nothing_or_anything_is_refused(prompt: str, way: str, told: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(told)):
        process(prompt, (way,), cleaning=["strip_html"])
