"""Reasons: why a record got no output, as short codes that stay what they are: rules, counts and `clerkflow replay --reason` go by them."""

from enum import StrEnum


class Reason(StrEnum):
    """A code; the words beside it in a dead letter say more."""

    UNREADABLE = "unreadable"  # the row is no record
    INPUT_MISSING = "input_missing"
    INPUT_TYPE = "input_type"
    INPUT_OUTSIDE = "input_outside"  # declared values, bounds or pattern
    INPUT_BLANK = "input_blank"  # nothing is left after cleaning
    INPUT_NONE = "input_none"  # every input is missing
    REJECTED = "rejected"  # by a person who reviewed it before
    TOO_LONG = "too_long"  # for the model
    UNKNOWN_LABEL = "unknown_label"
    UNPARSEABLE = "unparseable"
    UNFINISHED = "unfinished"
    NO_OUTPUT = "no_output"  # what else a model may say instead of an output
    DOUBLED_ID = "doubled_id"  # a record before it in the batch has its id, and holds something else
    REPEATED = "repeated"  # it came before in the batch, and is answered there
    GONE = "gone"  # asked about again, and not in the source any more
    OUTDATED = "outdated"  # a person's word, on what the record held before

    @property
    def stage(self) -> str:
        """The step that gave the record up: reading, inputs, review or prediction."""
        return _STAGES.get(self, "prediction")


_STAGES = {
    Reason.UNREADABLE: "reading",
    Reason.GONE: "reading",
    Reason.INPUT_MISSING: "inputs",
    Reason.INPUT_TYPE: "inputs",
    Reason.INPUT_OUTSIDE: "inputs",
    Reason.INPUT_BLANK: "inputs",
    Reason.INPUT_NONE: "inputs",
    Reason.REJECTED: "review",
    Reason.OUTDATED: "review",
    Reason.DOUBLED_ID: "inputs",
    Reason.REPEATED: "inputs",
}


def reason_of(problem: str | None) -> Reason:
    """The code of a prediction's problem."""
    return Reason(problem) if problem in set(Reason) else Reason.NO_OUTPUT
