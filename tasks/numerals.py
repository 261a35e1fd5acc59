"""Numerals: whole numbers that people write in words, English or Chinese -> the number; what could be two is none.

Read are `twenty-one`, `one hundred and five`, `two dozen`, 二十一, 一百零五, 两千, 三万五千, and 壹佰零伍 as on an invoice. A row of digits
such as 二〇二五 is read, too. Not read are parts (half), order (third) and what leaves out its last unit (三万五, one fifty).
"""

import re
from collections.abc import Iterator

ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
SMALL = {word: number for number, word in enumerate(ONES.split())} | {word: 10 * (number + 2) for number, word in enumerate(TENS.split())}
SCALES = {"dozen": 12, "hundred": 100, "thousand": 1_000, "million": 1_000_000}
WORD = "|".join(sorted([*SMALL, *SCALES], key=len, reverse=True))
ENGLISH = re.compile(rf"\b(?:an?\s{{1,3}}(?={'|'.join(SCALES)}))?(?:{WORD})(?:[\s-]{{1,3}}(?:and\s{{1,3}})?(?:{WORD}))*\b", re.IGNORECASE)

DIGITS = {"两": 2, "兩": 2, "貳": 2, "參": 3, "陸": 6}
DIGITS |= {sign: number for signs in ("〇一二三四五六七八九", "零壹贰叁肆伍陆柒捌玖") for number, sign in enumerate(signs)}
ZERO = "零〇"
UNITS = {"十": 10, "百": 100, "千": 1_000, "拾": 10, "佰": 100, "仟": 1_000}
LARGE = {"亿": 100_000_000, "億": 100_000_000, "万": 10_000, "萬": 10_000}  # those before count in these
SIGNS = "".join([*DIGITS, *UNITS, *LARGE])
CHINESE = re.compile(f"(?<![{SIGNS}第])(?<!分之)[{SIGNS}]+")  # 第三 is an order, 百分之三 a part
PATTERNS = (ENGLISH, CHINESE)
LONGEST = 24  # characters of a Chinese number


def numerals_in(text: str) -> Iterator[tuple[str, int]]:
    """(as it is written, the number) of every number in words in a text."""
    for match in (match for pattern in PATTERNS for match in pattern.finditer(text)):
        if (number := numeral_of(match[0])) is not None:
            yield match[0], number


def numeral_of(text: str) -> int | None:
    """The number that a text in words is, and nothing else; None when it is none."""
    text = text.strip()
    if ENGLISH.fullmatch(text):
        return _english(re.split(r"[\s-]+", text.lower()))
    return _chinese(text) if CHINESE.fullmatch(text) else None


def _english(words: list[str]) -> int | None:
    """Words from the largest scale down; None where one stands in the wrong place, as in `two three`."""
    total, part, most = 0, 0, 10**9  # what is complete, what a scale may still follow, and the last scale
    room = 1_000  # a small number must be less
    for word in (word for word in words if word != "and"):
        if word in ("a", "an"):
            part, room = 1, 1
        elif word in SMALL:
            number = SMALL[word]
            if number >= room or (number == 0 and len(words) > 1):
                return None
            part, room = part + number, 10 if number >= 20 else 1  # twenty-one, but not twenty-eleven
        elif word in ("hundred", "dozen"):
            if not 0 < part < 100 or (word == "dozen" and word != words[-1]):
                return None
            part, room = part * SCALES[word], 100
        else:
            if not part or SCALES[word] >= most:
                return None
            most = SCALES[word]
            total, part, room = total + part * most, 0, 1_000
    return total + part


def _chinese(text: str) -> int | None:
    """Digits alone as they stand; else each digit by the unit behind it, from the largest down."""
    if not 0 < len(text) <= LONGEST:
        return None
    if all(sign in DIGITS for sign in text):
        row = len(text) == 1 or (len(text) > 2 and not {"两", "兩"} & {*text})  # 三四 is three or four
        return int("".join(str(DIGITS[sign]) for sign in text)) if row else None
    for sign, scale in LARGE.items():
        before, found, behind = text.partition(sign)
        if found:
            many, rest = _chinese(before), _rest(behind, scale)
            return None if many is None or rest is None or not 0 < many < 10_000 else many * scale + rest
    return _below_ten_thousand(text)


def _rest(text: str, scale: int) -> int | None:
    """What stands behind a large unit; a digit alone there, as in 三万五, would be of the unit below, and is not read."""
    if not text:
        return 0
    below = text.lstrip(ZERO)
    if not below or (below == text and text in DIGITS):
        return None
    number = _chinese(below)
    return None if number is None or number >= scale else number


def _below_ten_thousand(text: str) -> int | None:
    total, last, digit = 0, 10_000, None
    for place, sign in enumerate(text):
        if sign in UNITS:
            unit = UNITS[sign]
            if unit >= last or digit == 0 or (digit is None and not (unit == 10 and place == 0)):
                return None
            total, last, digit = total + (1 if digit is None else digit) * unit, unit, None
        elif digit is None or digit == 0:
            digit = DIGITS[sign]
        else:
            return None
    if digit and last > 10 and text[-2] not in ZERO:  # 一百五 is 150
        return None
    return total + (digit or 0)
