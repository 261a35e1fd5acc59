"""Mentions: what a text leaves out is found whatever words people use, of values that people mostly say, and of no others."""

import random
from typing import Any, NamedTuple

import pytest

from tasks.linear import CHARACTERS
from tasks.mentions import FEWEST, MOST_VALUES, Mentions, spread
from tasks.process import Process

SAID = {
    ("price", "low"): ("it costs next to nothing", "a bargain", "价格很便宜", "花不了多少钱"),
    ("price", "high"): ("bring your savings", "anything but a bargain for most", "价格昂贵", "要花不少钱"),
    ("children", True): ("kids are welcome", "a place for the family", "欢迎带孩子", "适合全家"),
    ("children", False): ("adults only", "leave the little ones at home", "谢绝儿童", "只接待成人"),
}
FIRST, LAST = ("Indian", "Golden", "Old", "万象", "Quiet"), ("House", "Garden", "Mill", "东门店", "Corner")
PLACES = [f"{first} {last}" for first in FIRST for last in LAST]


class Told(NamedTuple):
    record_id: str
    inputs: dict[str, Any]
    output: str


def process() -> Process:
    declared = {
        "name": "reviews",
        "owner": "tests",
        "records": {"source": "a.jsonl", "columns": {"place": "object"}},
        "sample": {"prompt": "{place}\nText:"},
        "output": {"text": "text"},
        "finetuning": {},
        "gate": [{"metric": "answered", "at_least": 0.5}],
    }
    return Process.model_validate(declared)


def written(number: int, keeps: float = 0.85) -> tuple[Told, list[str]]:
    """A record's text, and the paths of what it leaves out."""
    rng = random.Random(number)
    place: dict[str, Any] = {"name": rng.choice(PLACES), "price": rng.choice(["low", "high"]), "children": rng.choice([True, False])}
    place |= {"code": rng.choice("ABC"), "food": rng.choice(["Indian", "French"])}
    kept = [path for path in ("price", "children", "food") if rng.random() < keeps]
    words = [place["food"] + " food" if path == "food" else rng.choice(SAID[path, place[path]]) for path in kept]
    rng.shuffle(words)
    left_out = [f"place.{path}" for path in ("children", "food", "price") if path not in kept]
    return Told(f"r{number}", {"place": place}, f"{place['name']}: {', '.join(words)}."), left_out


@pytest.fixture(scope="module")
def texts() -> list[tuple[Told, list[str]]]:
    return [written(number) for number in range(800)]


@pytest.fixture(scope="module")
def mentions(texts: list[tuple[Told, list[str]]]) -> Mentions:
    found = Mentions.learn(process(), [told for told, _ in texts])
    assert found
    return found


def test_what_a_text_leaves_out_is_found_in_whatever_words(mentions: Mentions, texts: list[tuple[Told, list[str]]]) -> None:
    found = mentions.left_out([told for told, _ in texts])
    both = sum(len(set(missing) & set(true)) for missing, (_, true) in zip(found, texts, strict=True))
    assert both >= 0.9 * sum(len(true) for _, true in texts)
    assert both >= 0.95 * sum(map(len, found))


def test_texts_that_were_not_learned_are_judged_too(mentions: Mentions) -> None:
    fresh = [written(number) for number in range(2000, 2200)]
    found = mentions.left_out([told for told, _ in fresh])
    assert sum(missing == true for missing, (_, true) in zip(found, fresh, strict=True)) >= 0.9 * len(fresh)


def test_a_text_is_judged_alike_alone_and_beside_others(mentions: Mentions, texts: list[tuple[Told, list[str]]]) -> None:
    rows = [told for told, _ in texts[:20]]
    assert [mentions.left_out([row])[0] for row in rows] == mentions.left_out(rows)


def test_a_column_that_no_text_speaks_of_is_none_that_must_be_said(mentions: Mentions) -> None:
    assert mentions.paths == ["place.children", "place.food", "place.price"]


def test_what_people_mostly_leave_out_is_none_that_must_be_said() -> None:
    assert Mentions.learn(process(), [written(number, 0.3)[0] for number in range(600)]) is None


def test_a_name_that_holds_a_value_says_nothing_of_it(mentions: Mentions) -> None:
    place = {"name": "Indian House", "food": "Indian", "price": "low", "children": True}
    told = [Told(f"x{number}", {"place": place}, "Indian House: kids are welcome, a bargain.") for number in range(8)]
    assert mentions.left_out(told) == [["place.food"]] * 8


def test_a_text_that_is_too_long_to_be_read_leaves_nothing_out(mentions: Mentions) -> None:
    place = {"name": "Old Mill", "food": "French", "price": "low", "children": True}
    told = [Told(f"x{number}", {"place": place}, "." * length) for number in range(4) for length in (CHARACTERS, CHARACTERS + 1)]
    assert [bool(missing) for missing in mentions.left_out(told)] == [True, False] * 4


def test_a_value_that_few_texts_or_none_have_is_not_judged(texts: list[tuple[Told, list[str]]]) -> None:
    rare = [Told(told.record_id, {"place": told.inputs["place"] | {"price": "daily"}}, told.output) for told, _ in texts[: FEWEST - 1]]
    found = Mentions.learn(process(), [*rare, *(told for told, _ in texts[FEWEST - 1 :])])
    assert found
    place = {"name": "Old Mill", "food": "French", "children": True}
    prices = enumerate(("daily", "never seen", "low") * 4)
    told = [Told(f"x{number}", {"place": place | {"price": price}}, "...") for number, price in prices]
    assert ["place.price" in missing for missing in found.left_out(told)] == [False, False, True] * 4


@pytest.mark.parametrize("output", ["", "...", "no news"])
def test_texts_that_say_nothing_are_not_judged(output: str) -> None:
    told = [Told(str(number), {"place": {"price": "low" if number % 2 else "high"}}, output) for number in range(100)]
    assert Mentions.learn(process(), told) is None


def test_nothing_is_learned_of_no_texts_and_of_names_alone() -> None:
    assert Mentions.learn(process(), []) is None
    named = [Told(str(number), {"place": {"name": f"Place {number}"}}, f"Place {number} is open") for number in range(2 * MOST_VALUES)]
    assert Mentions.learn(process(), named) is None


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 1000])
def test_of_many_rows_some_are_kept_all_alike_far_apart(count: int) -> None:
    kept = spread(range(count), 8)
    assert len(kept) == count if count <= 8 else 4 <= len(kept) <= 8
    assert kept == list(range(0, count, kept[1] if len(kept) > 1 else 1))
