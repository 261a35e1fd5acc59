"""Forms: how a model fills in declared fields, learned from the training samples: chosen, marked in the prompt, or spelled.

A field of few values is chosen: each value is one token. A field whose values stand in the prompt is marked: the prompt is
read a second time, and each of its tokens is told to begin a value, to go on with one, or neither; so nothing can be invented.
What is neither is spelled. The tokens of a sample are

    prompt <read> prompt <form> <field:a> value <field:b> value <end>

and without marked fields the second reading is left out. The second reading has the positions of the first one.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tasks.days import day_of, days_in
from tasks.numerals import numeral_of, numerals_in
from tasks.process import OutputField, Process
from tasks.prompts import clean_value, regions_of, typed
from tasks.records import as_text
from tasks.spans import Mark, Region, Spelling, marks_of, place, spellings, trimmed

READ, FORM, ABSENT, NEXT, AND = (f"<|{name}|>" for name in ("read", "form", "absent", "next", "and"))
MARKED_SHARE = 0.8  # of a field's values that stand in the prompt, from which on they are marked there
CLOSED_SHARE = 0.98  # the same for a field of few values, which could as well be chosen
FEW_VALUES = 50
CHOICES = 200  # the most values of a field that are a token each without being declared
VALUES_EACH = 5  # samples for each value, on average, without which nobody knows all values
MARKS = 1_000  # the most frequent ones; each is a token
SPARE_TOKENS = 8  # a spelled value may be so much longer than the longest in training
ITEMS = 50  # of a chosen list at most

How = Literal["chosen", "marked", "spelled"]
Words = Sequence[tuple[str, Region]]


@dataclass(slots=True)
class Seen:
    """What the training samples show of a field."""

    values: Counter[str] = field(default_factory=Counter)  # JSON of each
    found: int = 0  # of them, in the prompt
    items: int = 1  # of the longest list

    def take(self, values: Sequence[Any], found: int) -> None:
        """Take in one sample's values."""
        self.values.update(json.dumps(value, ensure_ascii=False) for value in values)
        self.found += found
        self.items = max(self.items, len(values))

    def how(self, declared: OutputField) -> How:
        """How the field is filled in."""
        if declared.values is not None or declared.type == "boolean":
            return "chosen"
        count = self.values.total()
        share = self.found / count if count else 0.0
        if declared.verbatim and (share >= 0.5 or not count):
            return "marked"
        known = len(self.values) <= CHOICES and count >= VALUES_EACH * len(self.values) > 0
        text = declared.type in ("string", "date")
        if text and known and len(self.values) <= FEW_VALUES and share < CLOSED_SHARE:
            return "chosen"
        if share >= MARKED_SHARE and declared.type != "object":
            return "marked"
        return "chosen" if known else "spelled"


@dataclass(frozen=True, slots=True)
class Form:
    """How each declared field is filled in; what of it is in contract.json."""

    names: list[str]  # every field, in the order of the declaration; JSON objects lose theirs
    how: dict[str, How]
    choices: dict[str, list[Any]]  # of the chosen fields
    marks: list[Mark]  # () first; empty when no field is marked
    longest: dict[str, int]  # tokens of a spelled value
    items: dict[str, int]  # of a list

    @classmethod
    def read(cls, written: Mapping[str, Any]) -> "Form":
        """The form of a contract."""
        return cls(**{**written, "marks": [tuple(mark) for mark in written["marks"]]})

    def measured(self, process: Process, samples: Callable[[], Iterable[Any]], tokens: Any) -> "Form":
        """The form with the length of the longest spelled values, as the training samples show them.

        Args:
            tokens: a tokenizer that has the form's tokens.
        """
        writing, fields = Writing(process, self, tokens), process.output.fields or {}
        longest = {name: 1 for name in self.written if self.how[name] == "spelled"}
        for sample in samples() if longest else ():
            for name in longest:
                lengths = [len(writing.value_ids(name, value)) for value in values_of(fields[name], sample.output.get(name))]
                longest[name] = max(longest[name], *lengths, 1)
        return replace(self, longest={name: length + SPARE_TOKENS for name, length in longest.items()})

    @property
    def written(self) -> list[str]:
        """The fields that are chosen or spelled, in their order."""
        return [name for name in self.names if self.how[name] != "marked"]

    @property
    def marked(self) -> list[str]:
        """The fields whose values are marked in the prompt."""
        return [name for name in self.names if self.how[name] == "marked"]

    @property
    def vocabulary(self) -> list[str]:
        """Every token of its own that the form needs."""
        fields = [field_token(name) for name in self.written]
        choices = [choice_token(name, value) for name in self.written for value in self.choices.get(name, ())]
        return [READ, FORM, ABSENT, NEXT, AND, *fields, *choices, *map(mark_token, self.marks)]

    @property
    def most_tokens(self) -> int:
        """The longest completion that can be written."""
        return 2 + sum(2 + self.items[name] * (1 + self.longest.get(name, 1)) for name in self.written)


def field_token(name: str) -> str:
    """The token after which a field's value is written."""
    return f"<|field:{name}|>"


def choice_token(name: str, value: Any) -> str:
    """The token of one value of a chosen field."""
    return f"<|choice:{name}={json.dumps(value, ensure_ascii=False)}|>"


def mark_token(mark: Mark) -> str:
    """The token that says what a token of the prompt is a part of."""
    return f"<|mark:{'+'.join(mark)}|>"


def values_of(declared: OutputField, value: Any) -> list[Any]:
    """A field's values one by one; none when it is empty."""
    if value in (None, "", []):
        return []
    return list(value) if declared.list and isinstance(value, list) else [value]


def learn_form(process: Process, samples: Callable[[], Iterable[Any]], offsets: Callable[[str], Sequence[Region]]) -> Form:
    """How the fields are filled in, as the training samples show it.

    Args:
        samples: gives the training samples, as often as it is called.
        offsets: characters of each token of a prompt.
    """
    fields = process.output.fields or {}
    seen = {name: Seen() for name in fields}
    for sample in samples():
        for name, values, found in _found(process, sample):
            seen[name].take(values, found)
    how: dict[str, How] = {name: seen[name].how(declared) for name, declared in fields.items()}
    choices = {name: _choices(fields[name], seen[name]) for name, way in how.items() if way == "chosen"}
    items = {name: min(ITEMS, seen[name].items) if fields[name].list else 1 for name in fields}
    form = Form(list(fields), how, choices, [], {}, items)
    marks: Counter[Mark] = Counter()
    if form.marked:
        for sample in samples():
            marks.update(sample_marks(process, form, sample, offsets(sample.prompt)))
    own = [(letter + name,) for name in form.marked for letter in ("B:", "I:")]
    frequent = sorted((mark for mark in marks if mark and mark not in own), key=lambda mark: (-marks[mark], mark))
    return replace(form, marks=[(), *own, *frequent[:MARKS]] if form.marked else [])


def _found(process: Process, sample: Any) -> Iterator[tuple[str, list[Any], int]]:
    """Each field's values, and how many of them stand in the prompt."""
    regions = regions_of(process, sample.inputs)
    for name, declared in (process.output.fields or {}).items():
        values = values_of(declared, sample.output.get(name))
        asked = [(name, places_of(process, declared, value, sample.prompt)) for value in values]
        yield name, values, sum(each is not None for each in place(sample.prompt, regions, asked))


def spellings_of(process: Process, declared: OutputField, value: Any, prompt: str) -> list[str]:
    """How a value may stand in a prompt."""
    found = spellings(value, as_text(value), as_text(clean_value(process, value)))
    if declared.type == "date":
        return [*found, *(text for text, day in days_in(prompt) if day == value)]
    return found


def places_of(process: Process, declared: OutputField, value: Any, prompt: str) -> list[Spelling]:
    """How a value may stand in a prompt, and where it stands in words."""
    found: list[Spelling] = [*spellings_of(process, declared, value, prompt)]
    if not declared.is_number:
        return found
    return [*found, *(region for region, number in numerals_in(prompt) if number == value)]


def _choices(declared: OutputField, seen: Seen) -> list[Any]:
    if declared.values is not None:
        return list(declared.values)
    if declared.type == "boolean":
        return [False, True]
    return [json.loads(value) for value in sorted(seen.values)]


def sample_marks(process: Process, form: Form, sample: Any, offsets: Sequence[Region]) -> list[Mark]:
    """The mark of each token of a sample's prompt."""
    fields = process.output.fields or {}
    asked = [
        (name, places_of(process, fields[name], value, sample.prompt))
        for name in form.marked
        for value in values_of(fields[name], sample.output.get(name))
    ]
    placed = place(sample.prompt, regions_of(process, sample.inputs), asked)
    return marks_of(trimmed(sample.prompt, offsets), [each for each in placed if each])


class Writing:
    """A form in the tokens of one tokenizer."""

    def __init__(self, process: Process, form: Form, tokens: Any) -> None:
        self.process, self.form, self.tokens = process, form, tokens
        self.fields = process.output.fields or {}
        self.read, self.begin, self.absent, self.next, self.also = (tokens.token_to_id(name) for name in (READ, FORM, ABSENT, NEXT, AND))
        self.field_ids = {name: tokens.token_to_id(field_token(name)) for name in form.written}
        self.choice_ids = {name: [tokens.token_to_id(choice_token(name, value)) for value in form.choices[name]] for name in form.choices}
        self.mark_ids = [tokens.token_to_id(mark_token(mark)) for mark in form.marks]
        self._mark_id = dict(zip(form.marks, self.mark_ids, strict=True))
        self._choice_id = {
            (name, json.dumps(value, ensure_ascii=False)): token
            for name, ids in self.choice_ids.items()
            for value, token in zip(form.choices[name], ids, strict=True)
        }

    def marks(self, sample: Any, offsets: Sequence[Region]) -> list[int]:
        """The mark's token for each token of a sample's prompt; none when no field is marked."""
        if not self.form.marked:
            return []
        nothing = self._mark_id[()]
        return [self._mark_id.get(mark, nothing) for mark in sample_marks(self.process, self.form, sample, offsets)]

    def completion(self, output: Mapping[str, Any]) -> list[int]:
        """The tokens that state the chosen and the spelled fields, without the end."""
        ids = [self.begin]
        for name in self.form.written:
            ids += [self.field_ids[name], *self._value(name, values_of(self.fields[name], output.get(name)))]
        return ids

    def _value(self, name: str, values: Sequence[Any]) -> list[int]:
        """A field's values in tokens; a chosen one that is no choice counts as absent."""
        written = [each for value in values if (each := self.value_ids(name, value))][: self.form.items[name]]
        if not written:
            return [self.absent]
        ids = [token for each in written for token in (*each, self.also)][:-1]
        return ids if self.form.how[name] == "chosen" and not self.fields[name].list else [*ids, self.next]

    def value_ids(self, name: str, value: Any) -> list[int]:
        """The tokens of one value."""
        if self.form.how[name] == "chosen":
            token = self._choice_id.get((name, json.dumps(value, ensure_ascii=False)))
            return [] if token is None else [token]
        return list(self.tokens.encode(spelled(self.fields[name], value), add_special_tokens=False).ids)


def spelled(declared: OutputField, value: Any) -> str:
    """A value as it is spelled."""
    return json.dumps(value, ensure_ascii=False) if declared.type == "object" else as_text(value)


def read_value(declared: OutputField, text: str) -> Any:
    """The value that a spelled or marked text states; None when it is none that the declaration takes."""
    if declared.is_number and (number := numeral_of(text)) is not None:
        return typed(declared, str(number))
    if declared.type != "object":
        return typed(declared, (declared.type == "date" and day_of(text)) or text)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
