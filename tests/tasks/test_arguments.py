"""What is wrong with the arguments of a declared expectation is told before any row is judged by it."""

from typing import Any

import pytest

from tasks.arguments import mistakes_in
from tasks.process import Column


def test_mistakes_name_what_was_meant_and_what_there_is() -> None:
    columns = {"id": None, "text": Column()}
    assert "expect_column_values_to_not_be_null" in next(iter(mistakes_in("expect_column_values_not_null", {"column": "text"}, columns)))
    told = " | ".join(mistakes_in("expect_column_values_to_be_between", {"column": "txt", "minimum": 3}, columns))
    for part in ("'txt'", "id, text", "'minimum'", "'min_value' or 'max_value'"):
        assert part in told
    assert "regular expression" in " ".join(mistakes_in("expect_column_values_to_match_regex", {"column": "text", "regex": "("}, columns))
    assert not list(mistakes_in("expect_column_values_to_not_be_null", {"column": "text", "mostly": 0.9}, columns))


COLUMNS = {"id": None, "text": Column(), "age": Column(type="integer"), "day": Column(type="date"), "paid": Column(type="boolean")}
BETWEEN, IN_SET = "expect_column_values_to_be_between", "expect_column_values_to_be_in_set"


@pytest.mark.parametrize(
    ("type", "kwargs", "mistake"),
    [
        ("expect_column_value_lengths_to_equal", {"column": "text", "value": "5"}, "value must be a whole number, 0 or more, got '5'"),
        ("expect_column_value_lengths_to_be_between", {"column": "text", "min_value": 1.5}, "min_value must be a whole number"),
        ("expect_table_row_count_to_be_between", {"min_value": "many"}, "min_value must be a whole number, 0 or more, got 'many'"),
        ("expect_table_row_count_to_equal", {"value": True}, "value must be a whole number"),
        ("expect_column_mean_to_be_between", {"column": "age", "max_value": float("inf")}, "max_value must be a number, got inf"),
        ("expect_column_mean_to_be_between", {"column": "text", "max_value": 3}, "does not take column text, whose type is string"),
        ("expect_column_proportion_of_unique_values_to_be_between", {"column": "text", "min_value": 2}, "must be a share from 0 to 1"),
        (BETWEEN, {"column": "age", "min_value": "5"}, "min_value must be of numbers, as column age holds, got '5'"),
        (BETWEEN, {"column": "text", "min_value": 5}, "min_value must be of text, as column text holds"),
        (BETWEEN, {"column": "day", "max_value": "1.2.2024"}, "max_value must be of days such as '2024-01-31'"),
        (BETWEEN, {"column": "age", "min_value": [1]}, "min_value must be a text or a number"),
        (BETWEEN, {"column": "age", "min_value": 5, "max_value": 1}, "min_value 5 is above max_value 1"),
        (BETWEEN, {"column": "age", "min_value": 5, "strict_min": "yes"}, "strict_min must be true or false"),
        (IN_SET, {"column": "age", "value_set": [1, "2"]}, "value_set must be of numbers"),
        (IN_SET, {"column": "paid", "value_set": [1]}, "value_set must be of true or false"),
        (IN_SET, {"column": "text", "value_set": [["a"]]}, "value_set must be a list of texts, numbers, or true and false"),
        (IN_SET, {"column": "text", "value_set": []}, "value_set must be a list"),
        ("expect_column_distinct_values_to_equal_set", {"column": "day", "value_set": ["soon"]}, "value_set must be of days"),
        ("expect_column_values_to_not_be_null", {"column": ["text"]}, "names column \"['text']\""),
        ("expect_column_values_to_not_be_null", {"column": "text", "mostly": True}, "mostly must be a share, above 0"),
        ("expect_column_values_to_match_regex_list", {"column": "text", "regex_list": ["a", 5]}, "regex_list must be a list of regular"),
        ("expect_column_values_to_match_strftime_format", {"column": "text", "strftime_format": "%Q"}, "that can be read back"),
        ("expect_column_values_to_match_strftime_format", {"column": "age", "strftime_format": "%Y"}, "does not take column age"),
        ("expect_multicolumn_sum_to_equal", {"column_list": ["age", "text"], "sum_total": "1"}, "sum_total must be a number"),
        ("expect_multicolumn_sum_to_equal", {"column_list": ["age", "text"], "sum_total": 1}, "does not take column text"),
    ],
)
def test_an_argument_that_no_row_could_be_judged_by_is_a_mistake(type: str, kwargs: dict[str, Any], mistake: str) -> None:
    assert mistake in " | ".join(mistakes_in(type, kwargs, COLUMNS))
