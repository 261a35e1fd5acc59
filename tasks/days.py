"""Days: how people write a day of the calendar -> YYYY-MM-DD; what could be two days, such as 3/4/2025, is none."""

import re
from collections.abc import Iterator

from tasks.expectations import is_day

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
MONTH = rf"(?P<name>{'|'.join(MONTHS)})[a-z]*\.?"
ORDERS = (
    r"(?P<year>\d{4})\s*[-/.年]\s*(?P<month>\d{1,2})\s*[-/.月]\s*(?P<day>\d{1,2})(?!\d)\s*日?",
    rf"(?P<day>\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?{MONTH},?\s+(?P<year>\d{{4}})(?!\d)",
    rf"{MONTH}\s+(?P<day>\d{{1,2}})(?:st|nd|rd|th)?,?\s+(?P<year>\d{{4}})(?!\d)",
)
WRITTEN = tuple(re.compile(rf"(?<!\d){order}", re.IGNORECASE) for order in ORDERS)


def days_in(text: str) -> Iterator[tuple[str, str]]:
    """(as it is written, YYYY-MM-DD) of every day in a text."""
    for match in (match for written in WRITTEN for match in written.finditer(text)):
        if day := _day(match):
            yield match[0], day


def day_of(text: str) -> str | None:
    """The day that a text is, and nothing else; None when it is none."""
    return next((day for written in WRITTEN if (match := written.fullmatch(text.strip())) and (day := _day(match))), None)


def _day(match: re.Match[str]) -> str | None:
    parts = match.groupdict()
    month = int(parts["month"]) if "month" in parts else MONTHS.index(parts["name"].lower()) + 1
    day = f"{parts['year']}-{month:02}-{int(parts['day']):02}"
    return day if is_day(day) else None
