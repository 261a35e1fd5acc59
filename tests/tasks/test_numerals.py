"""Numerals: however a whole number is written in words, it is the same one; what could be two is none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.numerals import SMALL, numeral_of, numerals_in

TENS = {number: word for word, number in SMALL.items()}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("six", 6), ("Twenty-one", 21), ("twenty one", 21), ("one hundred and five", 105), ("a hundred", 100), ("two dozen", 24),
        ("a dozen", 12), ("three thousand two hundred", 3200), ("forty thousand and six", 40006), ("zero", 0), ("nineteen", 19),
        ("two million three hundred thousand", 2_300_000), ("七", 7), ("两", 2), ("十", 10), ("十二", 12), ("二十", 20),
        ("三十五", 35), ("一百零五", 105), ("一百一十", 110), ("两百", 200), ("两千", 2000), ("三万五千", 35000),
        ("一万零三", 10003), ("壹佰零伍", 105), ("贰拾叁", 23), ("二〇二五", 2025), ("一亿两千万", 120_000_000),
        ("九千九百九十九", 9999), ("三萬五千", 35000), ("兩億", 200_000_000),
    ],
)  # fmt: skip
def test_a_number_is_read_however_it_is_written(text: str, number: int) -> None:
    assert numeral_of(text) == number
    assert (text, number) in list(numerals_in(f"please {text} 请发{text}托"))


@pytest.mark.parametrize(
    "text",
    ["", "two three", "twenty eleven", "hundred thousand hundred", "once", "sixty-", "and", "a", "a six", "third", "half", "12",
     "one fifty", "dozen dozen", "百", "百五", "一百五", "三万五", "十十", "两两", "万", "一二十", "零十", "half a dozen", "sixth",
     "三四", "二两", "一" * 5000, "one " * 5000],
)  # fmt: skip
def test_what_is_no_number_or_could_be_two_is_none(text: str) -> None:
    assert numeral_of(text) is None


def test_a_number_is_no_part_of_a_word() -> None:
    assert list(numerals_in("someone often weighs attentively")) == []
    assert list(numerals_in("第三次, 第十三, 百分之五, 万一, 千万, 百般")) == []
    assert list(numerals_in("Send six pallets and twenty-two boxes, 再要七托")) == [("six", 6), ("twenty-two", 22), ("七", 7)]


@given(st.integers(0, 9_999))
def test_every_number_in_words_is_that_number(number: int) -> None:
    assert numeral_of(english(number)) == number
    assert numeral_of(chinese(number)) == number


def english(number: int) -> str:
    if number in TENS:
        return TENS[number]
    if number < 100:
        return f"{TENS[number // 10 * 10]}-{TENS[number % 10]}"
    unit, name = (1000, "thousand") if number >= 1000 else (100, "hundred")
    rest = f" {english(number % unit)}" if number % unit else ""
    return f"{english(number // unit)} {name}{rest}"


def chinese(number: int) -> str:
    if number < 10:
        return "零一二三四五六七八九"[number]
    found = ""
    for unit, name in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit = number // unit % 10
        if digit:
            found += chinese(digit) + name
        elif found and not found.endswith("零") and number % unit:
            found += "零"
    return found
