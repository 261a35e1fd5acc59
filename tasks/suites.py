"""Suites: expectations and rows -> what Great Expectations says of them, by position; values never leave the frame."""

import logging
import os
import re
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from tasks.expectations import ALLOWED, NULLS, TYPE, columns_of

if TYPE_CHECKING:
    import pandas as pd

COUNTS = (
    "row_count",
    "unique_value_count",
    "proportion_of_unique_values",
    "column_mean",
    "column_stdev",
)  # no single record shows in these
RANDOM_NAME = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
LOGO_TIME = re.compile(r"(?<=\.png)\?d=[0-9TZ.]+")


@dataclass(slots=True)
class Finding:
    """One expectation and what was found; positions count from 0 over all rows."""

    type: str
    kwargs: dict[str, Any]
    source: Literal["derived", "declared"]
    elements: int = 0
    missing: int = 0
    unexpected: "array[int]" = field(default_factory=lambda: array("Q"))
    success: bool = False  # until an answer says otherwise
    observed: float | None = None

    @property
    def scope(self) -> str:
        """What it looks at: row, rows, column or table."""
        return ALLOWED[self.type].scope

    @property
    def name(self) -> str:
        """Its type and columns, as people count by."""
        return f"{self.type}({', '.join(columns_of(self.kwargs))})"

    @property
    def reason(self) -> str:
        """Why a row that fails it is refused, without values of the row."""
        words = self.type.removeprefix("expect_").replace("column_", "").replace("_", " ").replace(" to ", " must ", 1)
        limits = [f"{name} {limit}" for name, limit in self.kwargs.items() if isinstance(limit, int | float)]
        told = f" ({', '.join(limits)})" if limits else ""
        return f"{', '.join(columns_of(self.kwargs))}: {words}{told}"

    def judge(self) -> None:
        """Set `success` from the counts of all rows; with `mostly`, that share of the rows must hold."""
        judged = self.elements - (0 if self.type in NULLS else self.missing)
        holding = judged - len(self.unexpected)
        self.success = not self.unexpected or holding >= self.kwargs.get("mostly", 1.0) * judged

    def as_report(self) -> dict[str, Any]:
        """For report.json: no value of any row."""
        facts = {"type": self.type, "kwargs": self.kwargs, "source": self.source, "success": self.success}
        if self.scope in ("row", "rows"):
            return facts | {"unexpected": len(self.unexpected)}
        return facts | ({} if self.observed is None else {"observed": self.observed})


def check_rows(findings: Sequence[Finding], rows: Sequence[Mapping[str, Any]], first: int) -> None:
    """Ask Great Expectations about some rows and add what it says to the findings of scope "row".

    Args:
        rows: as `tasks.expectations.look` gives them.
        first: position of the first of them among all rows.
    """
    nulls = [finding for finding in findings if finding.type in NULLS]
    others = [finding for finding in findings if finding.scope == "row" and finding.type not in NULLS]
    for chosen, key in ((nulls, TYPE.format), (others, str)):
        names = dict.fromkeys(name for finding in chosen for name in columns_of(finding.kwargs))
        columns = {name: [row.get(key(name), row.get(name)) for row in rows] for name in names}
        _ask(chosen, _frame(columns), first)


def check_all(
    findings: Sequence[Finding], hashes: Mapping[str, Sequence[int | None]], values: Mapping[str, Sequence[Any]], rows: int
) -> None:
    """Ask about what only the whole set can tell: uniqueness by hashes, figures of columns, the number of rows."""
    import pandas as pd

    unique = [finding for finding in findings if finding.scope == "rows"]
    _ask(unique, _frame({name: list(column) for name, column in hashes.items()}), 0)
    _ask([finding for finding in findings if finding.scope == "table"], pd.DataFrame(index=range(rows)), 0)
    for name, column in values.items():
        known = [value for value in column if value is not None]
        texts = any(isinstance(value, str) for value in known)
        about = [finding for finding in findings if finding.scope == "column" and name in columns_of(finding.kwargs)]
        _ask(about, pd.DataFrame({name: pd.Series(known, dtype=object if texts else None)}), 0)


def _frame(columns: Mapping[str, list[Any]]) -> "pd.DataFrame":
    """A frame of objects: pandas would make texts of its own type and whole numbers with gaps into fractions."""
    import pandas as pd

    return pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})


def _ask(findings: Sequence[Finding], frame: "pd.DataFrame", first: int) -> None:
    """Run one suite on one frame.

    Raises:
        ValueError: an expectation could not be computed; that is never taken for a pass.
        RuntimeError: an expectation got no answer, or two.
    """
    if not findings:
        return
    results = _results(findings, frame)
    answers = Counter(place for place, _ in results)
    if unanswered := [finding.name for place, finding in enumerate(findings) if answers[place] != 1]:
        raise RuntimeError(f"no answer to {', '.join(unanswered)}, or more than one; nothing is taken for valid, please report this")
    for place, result in results:
        finding = findings[place]
        if _raised(result.exception_info):
            raise ValueError(f"{finding.name} cannot be computed; the column holds values of a type that it does not take")
        told = result.result
        if finding.scope in ("row", "rows"):
            finding.elements += told["element_count"]
            finding.missing += told.get("missing_count") or 0
            finding.unexpected.extend(sorted(first + int(position) for position in told.get("unexpected_index_list") or ()))
        else:
            finding.success = bool(result.success)
            observed = told.get("observed_value")
            shown = any(part in finding.type for part in COUNTS) and isinstance(observed, int | float)
            finding.observed = float(observed) if shown else None


def _results(findings: Sequence[Finding], frame: "pd.DataFrame") -> list[tuple[int, Any]]:
    """Each result with the place of its expectation; `mostly` is left out, for it is a share of all rows.

    The suite gets all of them at once: adding one to a suite replaces another of its type that looks at the same column.
    """
    from great_expectations.core.expectation_suite import ExpectationSuite
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    asked = []
    for place, finding in enumerate(findings):
        kwargs = {name: value for name, value in finding.kwargs.items() if name != "mostly"} | ALLOWED[finding.type].fixed
        asked.append(ExpectationConfiguration(type=finding.type, kwargs=kwargs, meta={"place": place}))
    suite = ExpectationSuite(name="records", expectations=asked)
    wanted = {
        "result_format": "COMPLETE",
        "partial_unexpected_count": 0,
        "exclude_unexpected_values": True,
        "return_unexpected_index_query": False,  # grows with every failing row
    }
    answer = _batch_definition().get_batch({"dataframe": frame}).validate(suite, result_format=wanted)
    return [(result.expectation_config.meta["place"], result) for result in answer.results]


def _raised(info: Any) -> bool:
    """Whether the library met an exception: it says so for the expectation, or for each metric."""
    if not isinstance(info, Mapping):
        return False
    return bool(info.get("raised_exception")) or any(_raised(inner) for inner in info.values())


@cache
def _batch_definition() -> Any:
    """Great Expectations in memory: no files, no bars, nothing sent anywhere."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    for name in ("great_expectations", "great_expectations.data_context.types.base"):  # the second sets its own level
        logging.getLogger(name).setLevel(logging.CRITICAL)  # their tracebacks carry values
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    asset = context.data_sources.add_pandas("records").add_dataframe_asset("records")
    return asset.add_batch_definition_whole_dataframe("records")


def data_docs(findings: Sequence[Finding]) -> str:
    """Great Expectations' own page of the results, with counts of all rows and without values or times."""
    from great_expectations.core.expectation_validation_result import ExpectationSuiteValidationResult, ExpectationValidationResult
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
    from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaPageView

    results = [
        ExpectationValidationResult(
            success=finding.success,
            expectation_config=ExpectationConfiguration(type=finding.type, kwargs=dict(finding.kwargs)),
            result=_counts(finding),
            exception_info={"raised_exception": False, "exception_traceback": None, "exception_message": None},
            meta={},
        )
        for finding in findings
    ]
    good = sum(finding.success for finding in findings)
    page = ExpectationSuiteValidationResult(
        success=good == len(findings),
        results=results,
        suite_name="records",
        statistics={
            "evaluated_expectations": len(findings),
            "successful_expectations": good,
            "unsuccessful_expectations": len(findings) - good,
            "success_percent": 100.0 * good / max(1, len(findings)),
        },
        meta={"run_id": {"run_name": "records", "run_time": "1970-01-01T00:00:00+00:00"}},
    )
    html: str = DefaultJinjaPageView().render(ValidationResultsPageRenderer().render(page))
    places: dict[str, str] = {}  # the page's elements have random names; equal results should be equal bytes
    html = LOGO_TIME.sub("", html)
    return RANDOM_NAME.sub(lambda name: places.setdefault(name[0], f"element-{len(places)}"), html)


def _counts(finding: Finding) -> dict[str, Any]:
    if finding.scope not in ("row", "rows"):
        return {} if finding.observed is None else {"observed_value": finding.observed}
    judged = max(1, finding.elements - finding.missing)
    return {
        "element_count": finding.elements,
        "missing_count": finding.missing,
        "missing_percent": 100.0 * finding.missing / max(1, finding.elements),
        "unexpected_count": len(finding.unexpected),
        "unexpected_percent": 100.0 * len(finding.unexpected) / judged,
        "unexpected_percent_total": 100.0 * len(finding.unexpected) / max(1, finding.elements),
        "unexpected_percent_nonmissing": 100.0 * len(finding.unexpected) / judged,
        "partial_unexpected_list": [],
    }
