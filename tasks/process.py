"""Process: what a process.yaml may say, typed and frozen; unknown keys are refused."""

import hashlib
import json
import re
import reprlib
from collections.abc import Iterable, Mapping
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from tasks.bases import is_own
from tasks.terms import Automation, Batches, Declared, Gate, Keep, Notify, Review, Scoring
from tasks.terms import Rule as Rule
from tasks.tuning import SEEDS, Compression
from tasks.tuning import Finetuning as Finetuning
from tasks.tuning import Lora as Lora
from tasks.tuning import Size as Size

PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")
IN_ORDER = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"))
LONGEST_NAME = 255  # bytes between two slashes of a path
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


class Column(Declared):
    """What one value of a record must be."""

    type: Literal["string", "integer", "number", "boolean", "date", "object"] = "string"
    optional: bool = False
    list: bool = False
    values: tuple[str, ...] | None = None  # a closed set; spelling variants are mapped onto it
    minimum: float | None = None
    maximum: float | None = None
    max_characters: int = Field(20_000, ge=1)
    pattern: str | None = None

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return pattern

    @model_validator(mode="after")
    def _fits_its_type(self) -> Self:
        mistakes = list(_mistakes_of_column(self))
        if mistakes:
            raise ValueError("\n".join(mistakes))
        return self

    @property
    def is_number(self) -> bool:
        """Whether its value, or each of a list, is one."""
        return self.type in ("integer", "number")


class OutputField(Column):
    """One field that the model fills in."""

    column: str | None = None  # path of the true value in a record; the field's own name when absent
    verbatim: bool = False  # the value stands word for word in the input


class Records(Declared):
    """Where records come from and what their columns are."""

    source: str | tuple[str, ...]  # files beside process.yaml; labelled files of the store's inbox/ are added
    validation: str | None = None  # a fixed validation set
    test: str | None = None  # a fixed test set; without it, test_share of the source
    key: str = "id"
    columns: dict[str, Column] = Field({})
    timestamp: str | None = None
    group: str | None = None  # records of one group never stand on both sides of the split
    slices: tuple[str, ...] = ()
    encoding: str | None = None  # else detected, and written to the report
    sheet: str | None = None
    inbox: bool = True

    @field_validator("source", mode="before")
    @classmethod
    def _one_or_more(cls, source: Any) -> Any:
        names = [source] if isinstance(source, str) else source
        if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) for name in names):
            raise ValueError(f"expected a file or a list of files, got {reprlib.repr(source)}")
        return source

    @field_validator("source", "validation", "test")
    @classmethod
    def _names_files(cls, value: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        for name in (value,) if isinstance(value, str) else value or ():
            if not name.strip() or "\0" in name or max(len(part.encode()) for part in name.split("/")) > LONGEST_NAME:
                raise ValueError(f"{name[:40]!r} is no file's name")
        return value

    @field_validator("encoding")
    @classmethod
    def _decodes(cls, encoding: str | None) -> str | None:
        if encoding is not None:
            from tasks.encodings import codec_of

            codec_of(encoding)
        return encoding

    @field_validator("columns", mode="before")
    @classmethod
    def _short_forms(cls, columns: Any) -> Any:
        if isinstance(columns, list | tuple):
            return {str(name): {} for name in columns}
        if isinstance(columns, Mapping):
            return {name: {"type": spec} if isinstance(spec, str) else spec or {} for name, spec in columns.items()}
        return columns

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,) if isinstance(self.source, str) else self.source


class Output(Declared):
    """What the model gives: one label, a set of fields, or free text; exactly one of the three."""

    label: str | None = None
    labels: tuple[str, ...] | None = None  # the closed set; those seen in the records when absent
    fields: dict[str, OutputField] | None = None
    within: str | None = None  # path of the object that holds the fields
    text: str | None = None
    references: str | None = None  # path of a list of further right answers
    facts: tuple[str, ...] | None = None  # columns whose values the text must state

    @field_validator("fields", mode="before")
    @classmethod
    def _short_forms(cls, fields: Any) -> Any:
        if isinstance(fields, Mapping):
            return {name: {"type": spec} if isinstance(spec, str) else spec or {} for name, spec in fields.items()}
        return fields

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [name for name in ("label", "fields", "text") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(f"give exactly one of label, fields, text; got {', '.join(given) or 'none'}")
        for option, kind in (("labels", "label"), ("within", "fields"), ("references", "text"), ("facts", "text")):
            if getattr(self, option) is not None and kind != given[0]:
                raise ValueError(f"{option} belongs to {kind}, this output is {given[0]}")
        return self

    @property
    def kind(self) -> Literal["label", "fields", "text"]:
        return "label" if self.label else "fields" if self.fields else "text"

    def column_of(self, field: str) -> str:
        """Path of a field's true value in a record."""
        path = (self.fields or {})[field].column or field
        return f"{self.within}.{path}" if self.within else path


class Expectation(Declared):
    """One Great Expectations expectation, in its own words."""

    type: str
    kwargs: dict[str, Any] = Field({})

    @field_validator("kwargs", mode="before")
    @classmethod
    def _days_as_text(cls, kwargs: Any) -> Any:
        """YAML makes a date of 2024-01-31; records hold its text."""
        if not isinstance(kwargs, Mapping):
            return kwargs
        return {name: [_day(each) for each in value] if isinstance(value, list) else _day(value) for name, value in kwargs.items()}


class Sample(Declared):
    """How a record becomes a prompt and a completion, and on which side of the split it stands."""

    prompt: str
    completion: str | None = None  # " {label}", " {text}"; fields have a form of their own
    cleaning: tuple[str, ...] = ("normalise_unicode", "strip_html", "strip_control", "normalise_line_breaks")
    near_duplicates: float | None = Field(0.9, gt=0, le=1)  # Jaccard similarity from which one of two is dropped
    repeats: Literal["drop", "keep"] = "drop"  # keep: equal records are events of their own, and how often each comes is to be learned
    validation_share: float = Field(0.1, gt=0, lt=1)
    test_share: float = Field(0.2, gt=0, lt=1)
    seed: int = Field(7, ge=0, lt=SEEDS)
    vocabulary_size: int = Field(3072, ge=300)
    label_tokens: bool | None = None  # each label one token; by default only when the base is scratch or store:
    field_tokens: bool | None = None  # fields as tokens and marks on the prompt, not as JSON; by default likewise


class Publishing(Declared):
    """How a model is cut into pieces."""

    shard_bytes: int = Field(32 * 2**20, ge=1024)


class Drift(Declared):
    """What is compared with the champion's reference, and from when on it counts as drift."""

    columns: tuple[str, ...] | None = Field(None, min_length=1)  # features or columns; all when absent
    drift_share: float = Field(0.5, gt=0, le=1)  # of the columns, as in Evidently's DataDriftPreset
    min_records: int = Field(200, ge=2)
    max_records: int = Field(5_000, ge=10)
    train: bool = True  # start a training run when it drifts

    @model_validator(mode="after")
    def _can_have_enough(self) -> Self:
        if self.max_records < self.min_records:
            raise ValueError(f"max_records ({self.max_records}) is below min_records ({self.min_records}): nothing would ever be compared")
        return self


class Arrivals(Declared):
    """When new files of the inbox start a run by themselves."""

    min_new_records: int = Field(200, ge=1)  # labelled and reviewed ones since the last training; then the next one starts
    settle_seconds: float = Field(5.0, ge=0, le=3600)  # a file of a folder that was changed within these waits: it may still be copied
    max_attempts: int = Field(5, ge=1, le=100)  # runs that take a file and do not finish it; then it is a dead letter


class Schedules(Declared):
    """Cron strings; a flow without one runs on demand."""

    train: str | None = None
    score: str | None = None
    monitor: str | None = None
    reconcile: str | None = "*/10 * * * *"  # within this time, whatever was missed is started
    watchdog: str | None = "*/5 * * * *"  # within this time, runs that died are found, and tried again
    tidy: str | None = "30 2 * * *"

    @field_validator("train", "score", "monitor", "reconcile", "watchdog", "tidy")
    @classmethod
    def _cron(cls, schedule: str | None) -> str | None:
        if schedule is not None:
            from croniter import croniter

            if not croniter.is_valid(schedule) or any(part[0] in "rR" for part in schedule.split()):  # Prefect draws no random times
                raise ValueError(f"{schedule!r} is not a cron string of five fields, such as '0 3 * * 1'")
            try:
                croniter(schedule).get_next()
            except ValueError:
                raise ValueError(f"{schedule!r} never comes, as on the 31st of February") from None
        return schedule


class Process(Declared):
    """A business process: what its records are, what the model gives, when a model is good enough."""

    name: str
    owner: str
    version: int = 1
    description: str = ""
    records: Records
    expectations: tuple[Expectation, ...] = ()
    min_valid_share: float = Field(0.95, gt=0, le=1)
    sample: Sample
    output: Output
    finetuning: Finetuning = Finetuning()
    compression: Compression | None = None
    gate: Gate
    automation: Automation | None = None  # without it every answer is accepted
    publishing: Publishing = Publishing()
    review: Review = Review()
    scoring: Scoring = Scoring()
    drift: Drift = Drift()
    batch: Batches = Batches()
    arrivals: Arrivals = Arrivals()
    schedules: Schedules = Schedules()
    keep: Keep = Keep()
    notify: Notify = Notify()

    _folder: Path | None = None

    @field_validator("name")
    @classmethod
    def _safe_name(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r}: use lower-case letters, digits, _ and -, beginning with a letter or digit")
        return name

    @model_validator(mode="after")
    def _hangs_together(self) -> Self:
        from tasks.mistakes import mistakes_of

        mistakes = list(mistakes_of(self))
        if mistakes:
            raise ValueError("\n".join(mistakes))
        return self

    @property
    def folder(self) -> Path:
        """The folder that holds process.yaml; relative sources are beside it.

        Raises:
            ValueError: the declaration came from a published model, not from a folder.
        """
        if self._folder is None:
            raise ValueError(f"{self.name}: this declaration has no folder, so its sources cannot be read")
        return self._folder

    @cached_property
    def input_columns(self) -> dict[str, Column]:
        """Path -> what the value must be, for every value the prompt uses."""
        return {path: self.column(path) for path in placeholders(self.sample.prompt)}

    @cached_property
    def output_columns(self) -> dict[str, Column]:
        """Path -> what the value must be, for every value the model is to give."""
        if self.output.kind == "fields":
            return {self.output.column_of(name): field for name, field in (self.output.fields or {}).items()}
        path = self.output.label or self.output.text or ""
        column = self.column(path)
        return {path: column.model_copy(update={"values": self.output.labels}) if self.output.labels else column}

    @cached_property
    def side_columns(self) -> tuple[str, ...]:
        """Paths that are carried along: declared columns, timestamp, group, slices, references, facts."""
        extra = (self.records.timestamp, self.records.group, self.output.references, *self.records.slices)
        paths = (*self.records.columns, *(path for path in extra if path), *(self.output.facts or ()))
        return tuple(dict.fromkeys(path for path in paths if path not in self.input_columns and path not in self.output_columns))

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Every path of a record that is read."""
        return (*self.input_columns, *(path for path in self.output_columns if path not in self.input_columns), *self.side_columns)

    def column(self, path: str) -> Column:
        """The declared column of a path; a required string when nothing is declared."""
        return self.records.columns.get(path) or Column()

    @property
    def completion(self) -> str:
        """The completion's template; the leading space belongs to the completion: GPT-2 tokens carry it."""
        return self.sample.completion or f" {{{self.output.label or self.output.text or 'fields'}}}"

    @property
    def label_tokens(self) -> bool:
        """Whether each label is one token."""
        given = self.sample.label_tokens
        return self.output.kind == "label" and (is_own(self.finetuning.base) if given is None else given)

    @property
    def field_tokens(self) -> bool:
        """Whether fields are filled in by tokens of their own and by marks on the prompt."""
        given = self.sample.field_tokens
        return self.output.kind == "fields" and (is_own(self.finetuning.base) if given is None else given)

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The closed set of labels; None when those of the records are welcome, or the output is no label."""
        label = self.output.label
        return (self.output.labels or self.column(label).values) if label else None

    @property
    def digest(self) -> str:
        """SHA-256 of the resolved declaration."""
        return digest_of(self.model_dump(mode="json"))

    def part(self, *names: str) -> dict[str, Any]:
        """The named sections as plain data: what a stage depends on."""
        return self.model_dump(mode="json", include=set(names))


def _day(value: Any) -> Any:
    return value.isoformat() if isinstance(value, date) else value


def digest_of(value: Any) -> str:
    """SHA-256 of plain data, whatever the order of its keys."""
    return hashlib.sha256(IN_ORDER.encode(value).encode()).hexdigest()


def placeholders(template: str) -> tuple[str, ...]:
    """The paths a template names, each once, in order; {{ and }} are plain braces."""
    return tuple(dict.fromkeys(named_in(template)))


def named_in(template: str) -> list[str]:
    """The same, as often as each is named."""
    return [match[1].strip() for match in PLACEHOLDER.finditer(template) if match[1] is not None]


def _mistakes_of_column(column: Column) -> Iterable[str]:
    """Options that no value of the column's type could keep, or that say nothing about it."""
    texts, numbers = ("string", "date"), ("integer", "number")
    for option, types in (("values", texts), ("pattern", texts), ("minimum", numbers), ("maximum", numbers)):
        if getattr(column, option) is not None and column.type not in types:
            yield f"{option} belongs to {' and '.join(types)}, this type is {column.type}"
    if column.minimum is not None and column.maximum is not None and column.minimum > column.maximum:
        yield f"minimum {column.minimum:g} is above maximum {column.maximum:g}: no value could keep both"
    if column.values == ():
        yield "values is empty, so no value could be one of them; name some, or leave it out"
