"""Plots: PNG bytes that do not change, without a warning, in every script."""

from typing import Any

import pytest

from tasks import plots
from tasks.metrics import Bin, Case, confusion

HISTORY = [{"step": 10, "loss": 2.0, "validation_loss": 2.2}, {"step": 20, "loss": 1.0}, {"step": 30, "loss": 0.5, "validation_loss": 1.2}]
LABELS = ["开户", "$x_{1$ refund", "a very long name of a queue that nobody reads"]
CONFUSION = confusion([Case(label) for label in LABELS], [LABELS[0], LABELS[0], None])
FIELDS = {"customer": {"precision": 0.9, "recall": 0.8, "f1": 0.85, "support": 3.0}, "日期": {"recall": 0.0, "f1": 0.0, "support": 9.0}}


@pytest.mark.parametrize(
    ("draw", "values"),
    [
        (plots.learning_curve, (HISTORY, 30)),
        (plots.learning_curve, ([{"step": 1, "loss": 1.0}], None)),
        (plots.confusion_matrix, (CONFUSION,)),
        (plots.reliability_diagram, ([Bin(0.4, 0.5, 7), Bin(0.9, 0.8, 8)],)),
        (plots.field_bars, (FIELDS,)),
    ],
)
def test_equal_measures_are_equal_bytes_of_a_png_without_a_date(draw: Any, values: tuple[Any, ...]) -> None:
    picture = draw(*values)
    assert picture.startswith(b"\x89PNG")
    assert b"tEXt" not in picture
    assert b"tIME" not in picture
    assert draw(*values) == picture


def test_names_are_numbered_when_no_font_can_write_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "_characters", lambda: frozenset(map(ord, "abc")))
    plots._writable.cache_clear()
    assert plots.legend_of(["ab", "开户"]) == {"1": "ab", "2": "开户"}
    assert plots.legend_of(["ab", "c"]) == {}
    plots._writable.cache_clear()
