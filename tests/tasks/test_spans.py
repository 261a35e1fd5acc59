"""Spans: values are found in a text as a whole, and marks give the very same values back."""

import numpy as np
import pytest

from tasks.spans import Follows, Mark, Region, joined, marks_of, occurrences, place, regions_at, required_spans, spans_of, trimmed

TEXT = "From Boston to Denver on flight 201, not 2012"
ALL = [(0, len(TEXT))]


def tokens_of(text: str) -> list[Region]:
    """Every character a token of its own, with the blank before it as GPT-2 has it."""
    return trimmed(text, [(max(0, at - (text[at - 1 : at] == " ")), at + 1) for at in range(len(text)) if text[at] != " "])


def test_a_number_is_not_found_within_another_one_nor_a_word_within_a_word() -> None:
    assert list(occurrences(TEXT, "201", ALL)) == [(32, 35)]
    assert list(occurrences(TEXT, "Den", ALL)) == []
    assert list(occurrences("4pm", "4", [(0, 3)])) == [(0, 1)]


def test_chinese_needs_no_blanks() -> None:
    assert list(occurrences("客户:成都恒兴公司要3箱", "成都恒兴公司", [(0, 13)])) == [(3, 9)]


def test_the_words_of_the_template_are_no_place_for_a_value() -> None:
    assert place("Form: form", [(6, 10)], [("title", ["Form", "form"])]) == [("title", (6, 10))]


def test_equal_values_of_two_fields_stand_in_two_places_and_one_that_is_nowhere_has_none() -> None:
    placed = place("two for two", [(0, 11)], [("people", ["two"]), ("tables", ["two"]), ("chairs", ["six"])])
    assert placed == [("people", (0, 3)), ("tables", (8, 11)), None]


def test_a_value_within_another_ones_is_marked_with_both() -> None:
    text = "I am Ann Lee"
    tokens = trimmed(text, [(0, 1), (1, 4), (4, 8), (8, 12)])
    placed = [each for each in place(text, [(0, 12)], [("name", ["Ann Lee"]), ("last", ["Lee"])]) if each]
    marks = marks_of(tokens, placed)
    assert marks == [(), (), ("B:name",), ("B:last", "I:name")]
    assert spans_of(marks, "name") == [(2, 3)]
    assert spans_of(marks, "last") == [(3, 3)]


@pytest.mark.parametrize("text", ["Book for Ann Lee at 12:30", "请为李安订两位，12点半"])
@pytest.mark.parametrize("values", [{"a": "12"}, {"a": "Ann Lee", "b": "12"}, {"a": "李安", "b": "两位"}])
def test_marks_give_back_the_values_they_were_made_of(text: str, values: dict[str, str]) -> None:
    there = {name: value for name, value in values.items() if value in text}
    tokens = tokens_of(text)
    marks = marks_of(tokens, [each for each in place(text, [(0, len(text))], [(name, [there[name]]) for name in there]) if each])
    read = {name: text[tokens[first][0] : tokens[last][1]] for name in there for first, last in spans_of(marks, name)}
    assert read == there


def test_no_value_goes_on_where_none_has_begun() -> None:
    marks: list[Mark] = [(), ("B:a",), ("I:a",), ("B:b",), ("I:b",)]
    shares = np.log(np.array([[0.1, 0.2, 0.6, 0.05, 0.05], [0.1, 0.05, 0.05, 0.2, 0.6], [0.3, 0.1, 0.5, 0.05, 0.05]]))
    path = [marks[number] for number in Follows(marks).likeliest(shares, [False] * 3)]
    for before, after in zip([(), *path], path, strict=False):
        assert all(name[2:] in {other[2:] for other in before} for name in after if name.startswith("I:"))
    assert Follows(marks).likeliest(shares[:0], []) == []


def test_a_value_that_must_be_somewhere_is_put_where_it_is_likeliest() -> None:
    marks: list[Mark] = [(), ("B:a",), ("I:a",)]
    shares = np.array([[0.9, 0.1, 0.0], [0.6, 0.4, 0.0], [0.2, 0.0, 0.8], [0.7, 0.0, 0.3]])
    assert next(required_spans(shares, marks, "a", [False] * 4)) == (1, 2)
    assert next(required_spans(shares, marks, "a", [False, True, False, True])) == (0, 3)
    assert list(required_spans(shares[:0], marks, "a", [])) == []


def test_no_value_begins_or_ends_within_a_word() -> None:
    tokens = [(0, 2), (2, 4), (5, 6)]
    assert joined("Anna B", tokens) == [False, True, False]
    assert joined("李安", [(0, 1), (1, 2)]) == [False, False]
    assert joined("李", [(0, 1), (0, 1)]) == [False, True]  # two bytes of one character
    marks: list[Mark] = [(), ("B:a",), ("I:a",)]
    shares = np.log(np.array([[0.3, 0.7, 1e-9], [0.6, 0.1, 0.3], [0.9, 0.1, 1e-9]]))
    assert Follows(marks).likeliest(shares, [False, True, False]) == [1, 2, 0]


def test_a_blank_within_a_value_goes_on_with_it() -> None:
    text, tokens = "May 3 now", [(0, 3), (3, 3), (4, 5), (5, 9)]
    assert marks_of(tokens, [("day", (0, 5))]) == [("B:day",), ("I:day",), ("I:day",), ()]
    assert spans_of(marks_of(tokens, [("day", (0, 5))]), "day") == [(0, 2)]
    assert text[0:5] == "May 3"


def test_a_token_belongs_to_the_region_it_shares_a_character_with_and_none_to_an_empty_one() -> None:
    regions = [(0, 0), (2, 5), (5, 5), (6, 9)]
    tokens = [(0, 2), (1, 3), (3, 5), (5, 6), (4, 7), (8, 12), (9, 12), (3, 3), (2, 2)]
    assert regions_at(tokens, regions) == [None, 1, 1, None, 3, 3, None, 1, None]
    assert regions_at(tokens, []) == [None] * len(tokens)
