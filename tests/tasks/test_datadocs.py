"""The page of results opens without a network."""

import re

from tasks.datadocs import self_contained
from tasks.suites import Finding, data_docs


def page() -> str:
    finding = Finding(type="expect_column_values_to_not_be_null", kwargs={"column": "text"}, source="declared")
    return self_contained(data_docs([finding]))


def test_nothing_is_loaded_from_elsewhere_and_no_link_leads_nowhere() -> None:
    html = page()
    assert not re.findall(r'(?:src|href)="(?:https?:)?//|url\(.?https?:|href="\.\./', html)
    assert "newsletter" not in html
    assert "1970" not in html


def test_what_was_found_is_still_there() -> None:
    assert "values must never be null" in page()
    assert "<style>" in page().split("</head>")[0]
