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
    for around in ("please {} 请发", "请发{}托", "要{}箱"):
        assert numerals_of(around.format(text)) == [(text, number)]


@pytest.mark.parametrize(
    "text",
    ["", "two three", "twenty eleven", "hundred thousand hundred", "once", "sixty-", "and", "a", "a six", "third", "half", "12",
     "one fifty", "dozen dozen", "one thousand eleven hundred", "half a dozen", "sixth", "百", "百五", "一百五", "三万五",
     "一亿三千", "三亿五百", "十十", "两两", "万", "一二十", "零十", "三四", "二两", "十两", "一百二十两", "一三五", "零零五",
     "一千零一百", "一" * 5000, "one " * 5000, "one \u017fix", "one s\u0131x", "a thou\u017fand"],
)  # fmt: skip
def test_what_is_no_number_or_could_be_two_is_none(text: str) -> None:
    assert numeral_of(text) is None


@pytest.mark.parametrize(
    "text",
    ["someone often weighs attentively", "No one is a one-off", "one billion, two thirds, two and a half, three point five",
     "一起, 一些, 十分感谢",
     "第三次, 第十三, 百分之五, 星期三, 周二, 万一, 千万, 百般", "大陆仓库", "one \u017fix"],
)  # fmt: skip
def test_words_that_are_no_number_of_things_are_not_found(text: str) -> None:
    assert numerals_of(text) in ([], [("one", 1)] if "\u017f" in text else [])


def test_each_number_is_found_where_it_stands() -> None:
    text = "Send six pallets and twenty-two boxes, 再要七托, 要six箱, 三十天内请发十箱, 十分钟"
    assert numerals_of(text) == [("six", 6), ("twenty-two", 22), ("six", 6), ("七", 7), ("三十", 30), ("十", 10), ("十", 10)]


def numerals_of(text: str) -> list[tuple[str, int]]:
    return [(text[start:end], number) for (start, end), number in numerals_in(text)]


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
