"""Objects: whatever is said, the JSON that comes out is as declared, and ends in time."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from tasks.objects import JsonGuide, JsonRules, copied
from tasks.process import Process
from tasks.prompts import parse
from tasks.vocabulary import EOS, train_vocabulary

TEXT = 'Mail of "李安 😀":\norder AB-1234, 20 pens\nForm:'
FIELDS: dict[str, Any] = {
    "name": {"verbatim": True},
    "order": {"verbatim": True, "pattern": "^[A-Z]{2}-[0-9]{4}$"},
    "size": {"values": ["small", '"large"'], "optional": True},
    "days": {"type": "date", "list": True, "optional": True},
    "count": {"type": "integer", "minimum": 30, "maximum": 250},
    "price €": {"type": "number", "minimum": 0.5, "optional": True},
    "items": {"list": True, "verbatim": True, "max_characters": 9},
    "gift": "boolean",
    "note": {"optional": True, "max_characters": 5},
    "more": {"type": "object", "optional": True},
}


def process(fields: dict[str, Any]) -> Process:
    declared = {
        "name": "orders",
        "owner": "tests",
        "records": {"source": "a.jsonl"},
        "sample": {"prompt": "Mail of {text}\nForm:", "field_tokens": False},
        "output": {"fields": fields},
        "gate": [{"metric": "answered", "at_least": 0.5}],
    }
    return Process.model_validate(declared)


def rules_for(fields: dict[str, Any], added: Sequence[str] = ()) -> JsonRules:
    tokens = train_vocabulary([TEXT, json.dumps(FIELDS), '"a", "b"}, {"c": "d"], '], 420, ["<|special|>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token=EOS, additional_special_tokens=["<|special|>"])
    tokenizer.add_tokens(list(added))
    return JsonRules(process(fields), tokenizer, len(tokenizer) + 9, 0)


@pytest.fixture(scope="module")
def rules() -> JsonRules:
    return rules_for(FIELDS)


def said(rules: JsonRules, seed: int, most: int) -> tuple[str, bool]:
    """What chance writes under a guide, and whether it came to an end."""
    random, guide, found = np.random.default_rng(seed), JsonGuide(rules, TEXT, most), b""
    for _ in range(most):
        token = int(random.choice(guide.allowed().numpy()))
        guide.take(token)
        if token == 0:
            return found.decode(), True
        found += rules.bytes[token]
    return found.decode(errors="replace"), False


@pytest.mark.parametrize("free", [0, 60, 200])
def test_what_chance_writes_is_as_declared_and_ends(rules: JsonRules, free: int) -> None:
    for seed in range(12):
        text, ended = said(rules, seed, free + rules.room)
        assert ended, text
        output = parse(rules.process, text)
        assert copied(rules.process, TEXT, output) == output
        assert (output["order"] == "AB-1234" and output["name"].strip() == output["name"]) or free
        assert "special" not in text and list(output) == [name for name in FIELDS if name in output]


@pytest.mark.parametrize("many", [False, True])
def test_a_token_that_is_a_whole_value_with_its_quotes_is_held_to_the_prompt_too(many: bool) -> None:
    rules = rules_for({"name": {"verbatim": True, "list": many, "max_characters": 4}}, ['"pens"', '"Anna"', '"order"'])
    guide, tokens = JsonGuide(rules, TEXT, 200), {text: number for number, text in enumerate(rules.bytes)}
    for byte in b'{"name": [' if many else b'{"name": ':
        guide.take(tokens[bytes([byte])])
    allowed = set(guide.allowed().tolist())
    assert [tokens[text] in allowed for text in (b'"', b'"pens"', b'"Anna"', b'"order"')] == [True, True, False, False]


def test_a_list_ends_in_time_whatever_is_likeliest() -> None:
    rules = rules_for({"days": {"type": "date", "list": True}, "names": {"list": True}, "count": "integer"})
    guide, longest, found = JsonGuide(rules, TEXT, 40 + rules.room), np.array([len(each) for each in rules.bytes]), b""
    while not found.endswith(b"}"):
        allowed = guide.allowed().numpy()
        more = [token for token in allowed.tolist() if rules.bytes[token] == b'",']
        token = int(more[0] if more else allowed[longest[allowed].argmax()])
        guide.take(token)
        found += rules.bytes[token]
        assert guide.left > 0, found
    assert parse(rules.process, found.decode())


@pytest.mark.parametrize("verbatim", [False, True])
@pytest.mark.parametrize(
    "pattern", [r"^[0-9]+ \$", "^.{1,2000}$", r"^\\d$"]
)  # xgrammar makes nothing of the second, too little of the third
def test_a_pattern_that_no_grammar_can_be_made_of_stops_nobody(pattern: str, verbatim: bool) -> None:
    rules = rules_for({"price": {"pattern": pattern, "verbatim": verbatim, "max_characters": 12}})
    for seed in range(3):
        text, ended = said(rules, seed, 60 + rules.room)
        assert ended and len(text) < len(' {"price": ""}') + 24


def test_an_answer_has_room_for_the_longest_value_of_each_field_not_for_all() -> None:
    assert rules_for({"size": {"values": ["small", "medium"]}, "note": {}}).room == 2 * 48 + len("size") + len("note") + len("medium")


def test_a_verbatim_value_that_is_not_in_the_input_is_left_out_and_a_required_one_is_no_answer() -> None:
    declared = process({"name": {"verbatim": True}, "total": {"type": "integer", "verbatim": True, "optional": True}, "note": {}})
    prompt = "Mail of Bo, 1,200 pens\nForm:"
    assert copied(declared, prompt, {"name": "Bo", "total": 1200, "note": "x"}) == {"name": "Bo", "total": 1200, "note": "x"}
    assert copied(declared, prompt, {"name": "Bo", "total": 7}) == {"name": "Bo"}
    for invented in ("Form", "Ann", ""):
        with pytest.raises(ValueError, match="field name is declared verbatim"):
            copied(declared, prompt, {"name": invented})
    several = process({"names": {"verbatim": True, "list": True}})
    assert copied(several, prompt, {"names": ["Ann", "pens"]}) == {"names": ["pens"]}
