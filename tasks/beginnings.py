"""Beginnings: whether a text can still become a whole number, a number or a day that the declaration takes."""

import math
import re
from collections.abc import Iterator

from tasks.expectations import is_day
from tasks.process import Column

EXACT = ("integer", "number", "date")  # types of which not every text is one
NUMERAL = re.compile(r"(?P<minus>-?)(?:(?P<whole>0|[1-9][0-9]{0,17})(?P<decimals>\.[0-9]{0,17})?)?")
DIGITS = 18  # of a whole number
LATE = ("4444-11-11", "4444-11-10")  # whatever a day may begin with goes on as one of these


def begins(declared: Column, text: str, left: int = DIGITS) -> bool:
    """Whether a text begins a value as declared, or is one.

    Args:
        left: characters that may follow.
    """
    if declared.type == "date":
        return len(text) + left >= len(LATE[0]) and any(is_day(text + day[len(text) :]) for day in LATE)
    found = NUMERAL.fullmatch(text)
    if not found or (declared.type == "integer" and found["decimals"] is not None):
        return False
    low = -math.inf if declared.minimum is None else declared.minimum
    high = math.inf if declared.maximum is None else declared.maximum
    if found["minus"]:
        low, high = -high, -low
    return any(least <= high and most >= low for least, most in _sizes(found, left, declared.type == "number"))


def _sizes(found: re.Match[str], left: int, decimals: bool) -> Iterator[tuple[float, float]]:
    """From .. to, without the sign: what a numeral may become, for each number of further digits."""
    whole, behind = found["whole"] or "", found["decimals"]
    if behind is not None:
        if len(behind) + left > 1:  # a dot alone is no number
            yield float(whole + behind), float(whole + behind) + _tail(len(behind) - 1, left)
        return
    size, most = int(whole or 0), 0 if whole == "0" else min(left, DIGITS - len(whole))
    for more in range(0 if whole else 1, most + 1):
        yield size * 10**more, (size + 1) * 10**more - 1 + (_tail(0, left - more - 1) if decimals else 0)


def _tail(decimals: int, left: int) -> float:
    """The most that further decimals add behind so many."""
    return 10.0**-decimals - 10.0 ** -(decimals + left) if left > 0 else 0.0
