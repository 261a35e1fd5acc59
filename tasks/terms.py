"""Terms: the parts of a declaration that say when a model is released, who must agree, who is told, and what is kept how long."""

import re
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

VARIABLE = re.compile(r"[A-Z][A-Z0-9_]{0,127}")
Event = Literal["success", "refusal", "failure", "drift", "approval", "alarm"]


class Declared(BaseModel):
    """What a person writes in YAML: nothing unknown, nothing changed afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Rule(Declared):
    """One rule of the gate: a metric, a bound, and what the bound is measured from."""

    metric: str
    slice: str | None = None  # "column=value"
    at_least: float | None = None
    at_most: float | None = None
    above_champion_at_least: float | None = None
    below_champion_at_most: float | None = None
    above_baseline_at_least: float | None = None
    below_baseline_at_most: float | None = None

    BOUNDS: ClassVar = (
        "at_least",
        "at_most",
        "above_champion_at_least",
        "below_champion_at_most",
        "above_baseline_at_least",
        "below_baseline_at_most",
    )

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        given = [name for name in self.BOUNDS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one bound of {', '.join(self.BOUNDS)}; got {', '.join(given) or 'none'}")
        return self

    @property
    def bound(self) -> tuple[str, float]:
        """The bound's name and its value."""
        return next((name, getattr(self, name)) for name in self.BOUNDS if getattr(self, name) is not None)


class Approval(Declared):
    """Who must agree before a model that holds every rule becomes champion."""

    by: tuple[str, ...] = Field(min_length=1)  # roles; one person of any of them decides
    expires_hours: float = Field(48, gt=0, le=24 * 366)

    @field_validator("by", mode="before")
    @classmethod
    def _short_form(cls, by: Any) -> Any:
        return [by] if isinstance(by, str) else by

    @field_validator("by")
    @classmethod
    def _has_names(cls, by: tuple[str, ...]) -> tuple[str, ...]:
        if any(not role.strip() for role in by):
            raise ValueError("a role has no name")
        return by


class Gate(Declared):
    """What must hold before a model is released: every rule, and then perhaps a person's word. A list is the rules alone."""

    rules: tuple[Rule, ...] = Field(min_length=1)
    approval: Approval | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, gate: Any) -> Any:
        return long_gate(gate)


def long_gate(gate: Any) -> Any:
    """A gate as a mapping: a list is its rules."""
    return {"rules": list(gate)} if isinstance(gate, list | tuple) else gate


class Notify(Declared):
    """Who is told of what. A target is the NAME of an environment variable that holds an Apprise address: addresses are secrets."""

    success: tuple[str, ...] = ()
    refusal: tuple[str, ...] = ()
    failure: tuple[str, ...] = ()
    drift: tuple[str, ...] = ()
    approval: tuple[str, ...] = ()
    alarm: tuple[str, ...] = ()

    @field_validator("*", mode="before")
    @classmethod
    def _short_form(cls, names: Any) -> Any:
        return [names] if isinstance(names, str) else names

    @field_validator("*")
    @classmethod
    def _are_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not all(VARIABLE.fullmatch(name) for name in names):  # what was written is not repeated: it may be an address with a password
            raise ValueError("expected names of environment variables, such as OPS_WEBHOOK; an address belongs into the environment")
        return names

    def targets(self, event: Event) -> tuple[str, ...]:
        """Names of the variables that hold the addresses for an event, each once."""
        names: tuple[str, ...] = getattr(self, event)
        return tuple(dict.fromkeys(names))


class Keep(Declared):
    """How long what runs leave behind is kept; what an alias, a kept version or an open request refers to stays in any case."""

    runs_days: int = Field(90, ge=1)  # folders of runs, what stages remember, checkpoints
    batches_days: int = Field(365, ge=1)  # predictions and drift reports
    ledger_days: int = Field(365, ge=1)  # entries of inbox files that are gone
    answers_days: int = Field(365, ge=1)  # what models have answered; asked again after that, a record is paid again
    versions: int = Field(20, ge=1)  # the newest ones, beside those that an alias names


class Automation(Declared):
    """How often an answer that is accepted without a person may be wrong; from which confidence on this holds is found at evaluation."""

    max_error: float = Field(gt=0, lt=1)  # of the accepted records
    confidence: float = Field(0.95, ge=0.5, lt=1)  # that it holds, for records like those of the test split
    calibration_share: float = Field(0.5, gt=0, lt=1)  # of the test split chooses the thresholds; the rest measures what they give
    out_of_scope: float | None = Field(0.01, gt=0, le=0.5)  # share of held-out records that may pass for strange; null: nothing does
    # Of the accepted answers that a person looks at afterwards; 0, nobody does, is no part of any digest.
    audit: float = Field(0.0, ge=0, lt=1, exclude_if=lambda share: not share)


class Review(Declared):
    """Where the records go that a person has looked at: the first ones measure models, the later ones teach them."""

    gold: int = Field(200, ge=0)  # records of the test split, by text; beyond that they are trained on


class SourceTable(Declared):
    """A SQL table or view whose rows are records. `database` is the NAME of an environment variable that holds its URL: a secret."""

    database: str
    table: str = Field(min_length=1)  # or schema.table
    key: tuple[str, ...] = Field(("id",), min_length=1)  # columns that tell rows apart; read in their order

    @field_validator("database")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        return a_variable(name)

    @field_validator("key", mode="before")
    @classmethod
    def _short_form(cls, key: Any) -> Any:
        return [key] if isinstance(key, str) else key


class SinkTable(Declared):
    """A SQL table that holds a row for each accepted record; made when it is not there."""

    database: str | None = None  # the name of an environment variable that holds its URL; without one the ledger's own database
    table: str = Field(min_length=1)  # or schema.table

    @field_validator("database")
    @classmethod
    def _is_a_name(cls, name: str | None) -> str | None:
        return name if name is None else a_variable(name)


class Sheet(Declared):
    """Accepted records as a table for people, in columns of the record and of its answer."""

    format: Literal["csv", "xlsx"] = "xlsx"
    columns: tuple[str, ...] = Field(min_length=1)  # paths; also `confidence` and `model_version`
    split_by: str | None = None  # a file of its own for each value of this column


class Documents(Declared):
    """A document for each accepted record. {path} stands for a value of the record or of its answer."""

    format: Literal["docx", "html", "markdown"] = "docx"
    title: str = Field(min_length=1)
    text: str | dict[str, str]  # paragraphs, with a blank line between them; or for each label its own
    columns: tuple[str, ...] = ()  # values that stand in a table below the text
    file_name: str = ""  # behind the record's line; its id when absent


class Batches(Declared):
    """What a batch job reads and writes beside its own files, and when it gives up."""

    source: SourceTable | None = None  # scored by every run, beside the inbox
    sink: SinkTable | None = None
    sheet: Sheet | None = None
    documents: Documents | None = None
    max_dead: float = Field(0.1, gt=0, le=1)  # share of dead letters from which on a batch is stopped


def a_variable(name: str) -> str:
    """The name of an environment variable; what was written is not repeated, for it may be a URL with a password.

    Raises:
        ValueError: it is none.
    """
    if not VARIABLE.fullmatch(name):
        raise ValueError("expected the name of an environment variable, such as ORDERS_DATABASE; its URL belongs into the environment")
    return name


class Scoring(Declared):
    """Who answers, and through what."""

    # What writes token by token; checked when a model is evaluated, and kept by the version. auto: CTranslate2 where it answers the same.
    engine: Literal["auto", "transformers", "ctranslate2"] = "auto"
    workers: int = Field(1, ge=1, le=64)  # processes of a batch, each with a model; several are Ray's, here or where RAY_ADDRESS says
