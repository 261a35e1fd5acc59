"""Plots: measures -> PNG bytes; the same measures give the same bytes on one machine, and no date is in them."""

import io
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from tasks.metrics import Bin, calibration_error

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, GREY = "#2a6fbb", "#d9822b", "#3a8f5c", "#8a8f98"
DOTS_PER_INCH = 110
NAME_CHARACTERS = 26
FIELDS = 30  # most frequent ones
PLAIN_FONT = "DejaVu Sans"  # comes with matplotlib
CHINESE_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Microsoft YaHei",
    "PingFang SC",
    "Hiragino Sans GB",
    "SimHei",
    "Arial Unicode MS",
    "Noto Sans CJK JP",
    "Droid Sans Fallback",
)


def learning_curve(history: Sequence[Mapping[str, float]], best_step: int | None) -> bytes:
    """Training and validation loss over the steps; the best step is marked.

    Args:
        history: entries with step, loss and, where it was taken, validation_loss (nats a token).
    """
    figure, axes = _new(6.4, 3.6)
    axes.plot([entry["step"] for entry in history], [entry["loss"] for entry in history], color=BLUE, marker=".", label="training")
    taken = [(entry["step"], entry["validation_loss"]) for entry in history if entry.get("validation_loss") is not None]
    if taken:
        axes.plot([step for step, _ in taken], [loss for _, loss in taken], color=ORANGE, marker=".", label="validation")
    if best_step is not None:
        axes.axvline(best_step, color=GREY, linestyle=":", label=f"best: step {best_step}")
    axes.set(xlabel="step", ylabel="loss, nats a token", title="Learning curve")
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(frameon=False)
    return _png(figure)


def confusion_matrix(confusion: Mapping[str, Any]) -> bytes:
    """Counts of true (rows) against predicted (columns) labels, shaded by the share of their row.

    Args:
        confusion: what `metrics.confusion` gives.
    """
    rows, columns, counts = confusion["rows"], confusion["columns"], confusion["counts"]
    figure, axes = _new(2.4 + 0.42 * len(columns), 2.0 + 0.36 * len(rows))
    shares = [[count / max(1, sum(line)) for count in line] for line in counts]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, line in enumerate(counts):
        for column, count in enumerate(line):
            if count:
                color = "white" if shares[row][column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", fontsize=7, color=color)
    _name_axis(axes, "x", columns, rows)
    _name_axis(axes, "y", rows, rows)
    axes.set(xlabel="predicted", ylabel="true", title="Confusion")
    return _png(figure)


def reliability_diagram(bins: Sequence[Bin]) -> bytes:
    """Accuracy against confidence, one point a bin with its count; on the diagonal the model is as sure as it is right."""
    figure, axes = _new(4.6, 4.4)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="as sure as right")
    axes.plot([part.confidence for part in bins], [part.accuracy for part in bins], color=BLUE, marker="o", label="test samples")
    for part in bins:
        place = (part.confidence, part.accuracy)
        axes.annotate(str(part.count), place, (5, -11), textcoords="offset points", fontsize=7, color=GREY)
    error = calibration_error(bins)
    title = "Reliability" if error is None else f"Reliability: expected calibration error {error:.3f}"
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="confidence, mean of the bin", ylabel="share that is right", title=title)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, loc="upper left")
    return _png(figure)


def field_bars(per_field: Mapping[str, Mapping[str, float]]) -> bytes:
    """Precision, recall and F1 of each field; what is not defined has no bar."""
    names = shown_fields(per_field)
    figure, axes = _new(6.4, 1.4 + 0.5 * len(names))
    for place, (measure, color) in enumerate((("precision", BLUE), ("recall", ORANGE), ("f1", GREEN))):
        heights = [index + (place - 1) * 0.25 for index in range(len(names))]
        axes.barh(heights, [per_field[name].get(measure, 0.0) for name in names], height=0.22, color=color, label=measure)
    _name_axis(axes, "y", names, names)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), title="Fields")
    axes.grid(alpha=0.3, axis="x")
    axes.set_axisbelow(True)
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=3)
    return _png(figure)


def shown_fields(per_field: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The fields of the bar plot, the most frequent first."""
    return sorted(per_field, key=lambda name: (-per_field[name]["support"], name))[:FIELDS]


def legend_of(names: Sequence[str]) -> dict[str, str]:
    """Number -> name, when a plot shows numbers because no installed font can write the names; else empty."""
    return {} if _writable(tuple(names)) else {str(number): name for number, name in enumerate(names, 1)}


def _name_axis(axes: "Axes", axis: str, names: Sequence[str], numbered: Sequence[str]) -> None:
    """Names beside an axis, or their numbers; `numbered` are the names in the order of the legend."""
    numbers = {name: number for number, name in legend_of(numbered).items()}
    texts = [_short(numbers.get(name, name)) for name in names]
    place: dict[str, Any] = {"rotation": 60, "ha": "right", "rotation_mode": "anchor"} if axis == "x" and not numbers else {}
    setter = axes.set_xticks if axis == "x" else axes.set_yticks
    setter(range(len(names)), texts, fontsize=8, parse_math=False, **place)


def _short(name: str) -> str:
    name = " ".join(name.split())
    return name if len(name) <= NAME_CHARACTERS else f"{name[: NAME_CHARACTERS - 1]}…"


@cache
def _fonts() -> tuple[str, ...]:
    """Families to write with, the first one that has a character writes it."""
    from matplotlib.font_manager import fontManager

    installed = set(fontManager.get_font_names())
    return (PLAIN_FONT, *[name for name in CHINESE_FONTS if name in installed][:1])


@cache
def _characters() -> frozenset[int]:
    """Every character that the families can write."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return frozenset(code for family in _fonts() for code in get_font(findfont(FontProperties(family=family))).get_charmap())


@cache
def _writable(names: tuple[str, ...]) -> bool:
    return all(ord(character) in _characters() for name in names for character in _short(name))


def _new(width: float, height: float) -> "tuple[Figure, Axes]":
    """A figure of inches, apart from pyplot's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _png(figure: "Figure") -> bytes:
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_fontfamily(list(_fonts()))
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return data.getvalue()
