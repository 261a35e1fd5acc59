"""Beginnings: a text goes on only where it can become what the declaration takes."""

from typing import Any

import pytest

from tasks.beginnings import begins
from tasks.process import Column


@pytest.mark.parametrize(
    ("declared", "left", "good", "bad"),
    [
        ({"type": "integer"}, 3, ["-", "0", "-0", "12", "-901"], ["--", "00", "01", "1.", "1-", "+1", "1" * 19]),
        ({"type": "integer"}, 0, ["0", "12"], ["-"]),
        ({"type": "integer", "minimum": 30, "maximum": 250}, 2, ["1", "3", "9", "30", "250", "2"], ["-", "0", "251", "29999", "26000"]),
        ({"type": "integer", "minimum": 30, "maximum": 250}, 1, ["3", "25", "12"], ["1", "2", "26000"]),
        ({"type": "integer", "maximum": -5}, 2, ["-", "-1", "-5"], ["1", "0", "-0"]),
        ({"type": "number"}, 1, ["1.", "1.2", "0", "-1."], ["1.2.", "1..", ".", ".5", "-."]),
        ({"type": "number"}, 0, ["1", "1.2"], ["1.", "-"]),
        ({"type": "number", "minimum": 0.5, "maximum": 9.25}, 3, ["0", "0.", "9", "9.2", "9.25"], ["-", "9.3", "0.4", "10", "0.24"]),
        ({"type": "number", "minimum": 0.5}, 1, ["0.", "1"], ["0"]),
        ({"type": "date"}, 9, ["2", "2024-1", "2024-02-2", "2023-02-2", "2024-02-29", "000"], ["0000", "2024-19", "2024-3", "2024-02-3"]),
        ({"type": "date"}, 9, ["2024-01-3", "2024-12-31"], ["2024-01-39", "2023-02-29", "2024-04-31", "20240", "2024-1-", "2024-01-011"]),
        ({"type": "date"}, 2, ["2024-01-"], ["2024-01", "2"]),
    ],
)
def test_a_text_begins_a_value_only_where_one_can_come_of_it(declared: Any, left: int, good: list[str], bad: list[str]) -> None:
    assert [text for text in good if not begins(Column(**declared), text, left)] == []
    assert [text for text in bad if begins(Column(**declared), text, left)] == []
