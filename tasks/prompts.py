"""Prompts: a record's values -> the prompt and the completion as the model sees them, and back; one home for all stages."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tasks.cleaning import CLEANERS
from tasks.expectations import kind_of, kinds_for, within
from tasks.process import PLACEHOLDER, OutputField, Process
from tasks.records import as_text, lookup, number_of

LABEL_TOKEN = "<|label:{}|>"  # noqa: S105 - a token of a vocabulary


def render(template: str, values: Mapping[str, Any]) -> str:
    """A template with every {path} replaced by the value's text; {{ and }} are plain braces."""
    return PLACEHOLDER.sub(lambda match: match[0][0] if match[1] is None else as_text(lookup(values, match[1].strip())), template)


def regions_of(process: Process, inputs: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Where the values stand in the prompt, in characters from .. to; the template's own words are no part of them.

    Args:
        inputs: path -> cleaned value.
    """
    found, at, end = list[tuple[int, int]](), 0, 0
    for match in PLACEHOLDER.finditer(process.sample.prompt):
        at += match.start() - end
        text = match[0][0] if match[1] is None else as_text(lookup(inputs, match[1].strip()))
        if match[1] is not None and text:
            found.append((at, at + len(text)))
        at, end = at + len(text), match.end()
    return found


def regions_in(process: Process, prompt: str) -> list[tuple[int, int]]:
    """The same of a prompt alone; a value that holds the template's next words ends there, and one behind it begins."""
    return [region for region in values_in(process, prompt) if region[0] < region[1]]


def values_in(process: Process, prompt: str) -> list[tuple[int, int]]:
    """Where each value stands in a prompt alone, in the order of the template; an empty one from where it would stand to there."""
    return places_in(process, prompt) or [(0, len(prompt))]


def places_in(process: Process, prompt: str) -> list[tuple[int, int]] | None:
    """The same; None when the prompt is of another template."""
    words = own_words(process.sample.prompt)
    at, last = len(words[0]), len(prompt) - len(words[-1])
    found = []
    for before in words[1:-1]:
        found.append((at, prompt.find(before, at, last)))
        at = found[-1][1] + len(before)
    if not prompt.startswith(words[0]) or not prompt.endswith(words[-1]) or at > last or any(stop < 0 for _, stop in found):
        return None
    return [*found, (at, last)]


def leaves_of(process: Process, inputs: Mapping[str, Any], flags: bool = False) -> Iterator[tuple[str, str]]:
    """(path, text) of every name, word and number that the prompt shows; the keys of an object each on their own.

    Args:
        flags: values that are true or false, too.
    """
    for path in process.input_columns:
        yield from _leaves(path, lookup(inputs, path), flags)


def _leaves(path: str, value: Any, flags: bool) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(f"{path}.{key}", inner, flags)
    elif isinstance(value, str | int | float) and (flags or not isinstance(value, bool)) and value != "":
        yield path, as_text(value)


def read_of(process: Process, prompt: str) -> str:
    """A prompt without the words that every prompt begins and ends with."""
    words = own_words(process.sample.prompt)
    return prompt.removeprefix(words[0]).removesuffix(words[-1])


def clean(process: Process, text: str) -> str:
    """The declared cleaners, in their order."""
    for name in process.sample.cleaning:
        text = CLEANERS[name](text)
    return text


def clean_value(process: Process, value: Any) -> Any:
    """A value with every string in it cleaned."""
    if isinstance(value, str):
        return clean(process, value)
    if isinstance(value, Mapping):
        return {key: clean_value(process, inner) for key, inner in value.items()}
    return [clean_value(process, inner) for inner in value] if isinstance(value, list) else value


def prompt_of(process: Process, values: Mapping[str, Any]) -> str:
    """The prompt: the cleaned input values in the declared template."""
    inputs = {path: clean_value(process, lookup(values, path)) for path in process.input_columns}
    return render(process.sample.prompt, inputs)


def output_of(process: Process, values: Mapping[str, Any]) -> Any:
    """The true output of a record: a label, a dict of fields, or a text; None when the record is not labelled."""
    output = process.output
    if output.kind != "fields":
        value = lookup(values, output.label or output.text or "")
        return None if value is None or value == "" else as_text(value)
    stated = any(lookup(values, path) is not None for path in process.output_columns)
    if not stated and not isinstance(lookup(values, output.within or ""), Mapping):
        return None
    found = {name: lookup(values, output.column_of(name)) for name in output.fields or {}}
    return {name: value for name, value in found.items() if value not in (None, "", [])}


def columns_of(process: Process, output: Any) -> dict[str, Any]:
    """An output as values by path: the other way round than `output_of`."""
    if process.output.kind == "fields":
        return {process.output.column_of(name): value for name, value in (output or {}).items()}
    return dict.fromkeys(process.output_columns, output)


def completion_of(process: Process, output: Any) -> str:
    """The completion that a right model writes for an output; a label that is one token is that token and nothing else."""
    if process.output.kind == "fields":
        return " " + json.dumps(output, ensure_ascii=False)
    if process.label_tokens:
        return LABEL_TOKEN.format(output)
    if process.output.kind == "text":
        output = clean(process, output).strip()
    return PLACEHOLDER.sub(lambda match: match[0][0] if match[1] is None else output, process.completion)


def parse(process: Process, completion: str) -> Any:
    """The output that a completion states.

    Raises:
        ValueError: it states none: not a declared label, not JSON, a field that is unknown or missing, or a value that the
            declaration would not take from a record either.
    """
    text = completion.strip()
    if process.output.kind == "fields":
        return _parse_fields(process.output.fields or {}, text)
    before, _, after = (LABEL_TOKEN.format("\0") if process.label_tokens else _around(process.completion)).partition("\0")
    text = text.removeprefix(before.strip()).removesuffix(after.strip()).strip()
    check_output(process, text)
    return text


def check_output(process: Process, output: Any) -> None:
    """That an output is one by the declaration as it stands, with nothing mended.

    Raises:
        ValueError: it is not; see `parse`.
    """
    if process.output.kind == "fields":
        _check_fields(process.output.fields or {}, output)
    elif not isinstance(output, str) or not output:
        raise ValueError("the answer is empty")
    elif process.output.labels is not None and output not in process.output.labels:
        raise ValueError("the answer is not a declared label")
    elif not all(within(column, output) for column in process.output_columns.values()):
        raise ValueError("the answer is outside its declared values, length or pattern")


def own_words(template: str) -> list[str]:
    """A template's own words before its first value, between each two, and after its last."""
    return _around(template).split("\0")


def _around(template: str) -> str:
    """A template's own words, with NUL where a value stands."""
    return PLACEHOLDER.sub(lambda match: match[0][0] if match[1] is None else "\0", template)


def _parse_fields(fields: Mapping[str, OutputField], text: str) -> Any:
    try:
        found = json.loads(text)
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()  # NaN and half a surrogate pair are read, but cannot be stored
    except (ValueError, RecursionError):
        raise ValueError("the answer is not JSON") from None
    _check_fields(fields, found)
    return found


def _check_fields(fields: Mapping[str, OutputField], found: Any) -> None:
    if not isinstance(found, Mapping):
        raise ValueError("the answer is not a JSON object")
    unknown = [name for name in found if name not in fields]
    if unknown:
        raise ValueError("the answer has an undeclared field")
    missing = [name for name, field in fields.items() if not field.optional and name not in found]
    if missing:
        raise ValueError(f"required fields are missing: {', '.join(missing)}")
    for name, value in found.items():
        if isinstance(value, list) != fields[name].list:
            raise ValueError(f"field {name} is {'one value, a list' if fields[name].list else 'a list, one value'} is declared")
        if not all(fits(fields[name], inner) for inner in (value if fields[name].list else [value])):
            raise ValueError(f"field {name} is not a {fields[name].type} as declared")


def fits(field: OutputField, value: Any) -> bool:
    """Whether one value, or one of a list, is what records are held to: of the type, within values, bounds, length and pattern."""
    return kind_of([value] if field.list else value, field) in kinds_for(field) and within(field, value)


def typed(field: OutputField, text: str) -> Any:
    """A text as a value of the field's type; None when it is none that the declaration takes."""
    value = number_of(text) if field.is_number else text
    return value if fits(field, value) else None
