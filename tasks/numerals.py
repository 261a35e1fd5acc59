"""Numerals: whole numbers that people write in words, English or Chinese -> the number; what could be two is none.

Read are `twenty-one`, `one hundred and five`, `two dozen`, 二十一, 一百零五, 两千, 三万五千, and 壹佰零伍 as on an invoice. A row of digits
such as 二〇二五 is read, too. Not read are parts (two thirds), order (第三), what leaves out its last unit (三万五, one fifty), and words
that only sound like a number (no one, 十分, 一起).
"""

import re
from collections.abc import Iterator

from tasks.spans import Region

ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
SMALL = {word: number for number, word in enumerate(ONES.split())} | {word: 10 * (number + 2) for number, word in enumerate(TENS.split())}
SCALES = {"dozen": 12, "hundred": 100, "thousand": 1_000, "million": 1_000_000}
WORD = "|".join(sorted([*SMALL, *SCALES], key=len, reverse=True))
GAP = r"[\s\xa0-]{1,3}"
# ASCII, or ſ would be an s; and Chinese characters would be letters of a word, that it ends in
ENGLISH = re.compile(rf"\b(?:an?{GAP}(?={'|'.join(SCALES)}))?(?:{WORD})(?:{GAP}(?:and{GAP})?(?:{WORD}))*\b", re.ASCII | re.IGNORECASE)
PARTS = re.compile(rf"{GAP}(?:and{GAP}a{GAP})?(?:[bt]rillion|billion|hal(?:f|ves)|thirds?|quarters?|point|off)\b", re.ASCII | re.IGNORECASE)
BEFORE = re.compile(r"\b(?:no|point)\s{1,3}$", re.ASCII | re.IGNORECASE)

DIGITS = {"两": 2, "兩": 2, "貳": 2, "參": 3, "陸": 6}
DIGITS |= {sign: number for signs in ("〇一二三四五六七八九", "零壹贰叁肆伍陆柒捌玖") for number, sign in enumerate(signs)}
ZERO, PAIR, PLACES = "零〇", "两兩", "零陆陸伍"  # 大陆 is a place, 零钱 is change: alone they are no number within a text
UNITS = {"十": 10, "百": 100, "千": 1_000, "拾": 10, "佰": 100, "仟": 1_000}
LARGE = {"亿": 100_000_000, "億": 100_000_000, "万": 10_000, "萬": 10_000}  # those before count in these
SIGNS = "".join([*DIGITS, *UNITS, *LARGE])
CHINESE = re.compile(f"(?<![{SIGNS}第周])(?<!分之)(?<!星期)(?<!礼拜)[{SIGNS}]+")
WORDS = re.compile("一[些下起般定样直旦切共致律并经]|十[分足](?!钟)")
LONGEST = 24  # characters of a Chinese number


def numerals_in(text: str) -> Iterator[tuple[Region, int]]:
    """Where in a text a number stands in words, and which."""
    for pattern, is_other in ((ENGLISH, _is_part), (CHINESE, _is_word)):
        for region in (match.span() for match in pattern.finditer(text)):
            if not is_other(text, *region) and (number := numeral_of(text[slice(*region)])) is not None:
                yield region, number


def _is_part(text: str, start: int, end: int) -> bool:
    """Whether English words are a part of another number, or none: two thirds, no one."""
    return bool(PARTS.match(text, end) or BEFORE.search(text[max(0, start - 9) : start]))


def _is_word(text: str, start: int, end: int) -> bool:
    """Whether a Chinese numeral is a part of a word: 一起."""
    return end == start + 1 and (text[start] in PLACES or WORDS.match(text, start) is not None)


def numeral_of(text: str) -> int | None:
    """The number that a text in words is, and nothing else; None when it is none."""
    text = text.strip()
    if ENGLISH.fullmatch(text):
        return _english(re.split(r"[\s\xa0-]+", text.lower()))
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
            if not 0 < part < (10 if total else 100) or (word == "dozen" and word != words[-1]):
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
        return int("".join(str(DIGITS[sign]) for sign in text)) if len(text) == 1 or _is_row(text) else None
    for sign, scale in LARGE.items():
        before, found, behind = text.partition(sign)
        if found:
            many, rest = _chinese(before), _rest(behind, scale)
            return None if many is None or rest is None or not 0 < many < 10_000 else many * scale + rest
    return _below_ten_thousand(text)


def _is_row(text: str) -> bool:
    """Whether digits are meant as one number: 二〇二五 is, 三四 is three or four, and 一三五 may be days of the week."""
    return len(text) > 2 and text[0] not in ZERO and not {*PAIR} & {*text} and (len(text) > 3 or bool({*ZERO} & {*text}))


def _rest(text: str, scale: int) -> int | None:
    """What stands behind a large unit; without a zero between them it begins with the unit below: 三万五 and 一亿三千 are not read."""
    below = text.lstrip(ZERO)
    if not text:
        return 0
    number = _chinese(below)
    return None if number is None or number >= scale or (below == text and number < scale // 10) else number


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
            last = last // 10 if digit == 0 else last  # a zero stands for a unit that is left out
        else:
            return None
    if (digit and last > 10 and text[-2] not in ZERO) or text[-1] in PAIR:  # 一百五 is 150, and 十两 is a weight
        return None
    return total + (digit or 0)
