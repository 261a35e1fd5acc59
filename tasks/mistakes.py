"""Mistakes: a declaration whose sections are each right -> what in it does not hang together, in a person's words.

Nothing heavy is imported: every command begins with it.
"""

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator

from pydantic import ValidationError

from tasks.arguments import mistakes_in
from tasks.cleaning import CLEANERS, alike, fold
from tasks.deliveries import MOST_SHEETS, deliverable, split_values
from tasks.expectations import column_of, computed_names
from tasks.features import watched_columns, watched_paths
from tasks.metrics import AUTOMATED, EACH, MODELS_ONLY, NO_ANSWER, measures
from tasks.process import PLACEHOLDER, Finetuning, Process, Rule, named_in, placeholders
from tasks.prompts import clean, own_words
from tasks.records import as_text
from tasks.results import OWN as RESULT_COLUMNS
from tasks.results import STAGED as STAGED_COLUMNS
from tasks.results import output_columns as result_columns
from tasks.spaces import Choices
from tasks.terms import Documents
from tasks.vocabulary import too_small


def mistakes_of(process: Process) -> Iterator[str]:
    """Everything that no single section can see, each with the place to mend."""
    yield from _in_sample(process)
    yield from _in_output(process)
    yield from _in_automation(process)
    for place, rule in enumerate(process.gate.rules):
        for mistake in (*_in_metric(process, rule), *_in_slice(process, rule)):
            yield f"gate.rules.{place}: {mistake}"
    yield from _in_drift(process)
    yield from _in_batch(process)
    yield from _in_paraphrases(process)
    yield from _in_search(process)
    yield from _in_compression(process)
    for path in sorted(computed_names(process.columns).intersection((process.records.key, *process.columns))):
        yield f"{path!r} is what validation calls a column of its own; give it another name"
    columns = {process.records.key: None} | {path: column_of(process, path) for path in process.columns}
    for expectation in process.expectations:
        yield from mistakes_in(expectation.type, expectation.kwargs, columns)


def _in_sample(process: Process) -> Iterator[str]:
    sample, output = process.sample, process.output
    if not placeholders(sample.prompt):
        yield "sample.prompt names no column: write at least one {column}"
    if "" in placeholders(sample.prompt):
        yield "sample.prompt has an empty {}: name a column, or write {{}} for plain braces"
    answers = [*process.output_columns, *filter(None, (output.within, output.references))]
    leaked = [path for path in placeholders(sample.prompt) if any(_holds(path, answer) or _holds(answer, path) for answer in answers)]
    if leaked:
        yield f"sample.prompt shows the answer to the model: {', '.join(leaked)}"
    if output.kind == "fields" and sample.completion is not None:
        yield "sample.completion: fields are written in a form of their own; leave it out"
    elif output.kind != "fields" and placeholders(process.completion) != (output.label or output.text,):
        yield f"sample.completion must name {{{output.label or output.text}}} and nothing else"
    if sample.label_tokens and output.kind != "label":
        yield f"sample.label_tokens needs output.label; this output is {output.kind}"
    if sample.field_tokens and output.kind != "fields":
        yield f"sample.field_tokens needs output.fields; this output is {output.kind}"
    if sample.test_share + sample.validation_share >= 1:
        yield "sample.test_share + validation_share must leave something to train on"
    unknown = [name for name in sample.cleaning if name not in CLEANERS]
    if unknown:
        yield f"sample.cleaning has {', '.join(unknown)}; there are: {', '.join(CLEANERS)}"


def _in_output(process: Process) -> Iterator[str]:
    output = process.output
    if output.kind == "label":
        yield from _in_labels(process)
    for path in output.facts or ():
        if not any(_holds(column, path) for column in (*process.records.columns, *process.input_columns)):
            yield f"output.facts names {path!r}, which is not a column"


def _in_automation(process: Process) -> Iterator[str]:
    if process.automation and process.output.kind == "text" and not process.output.facts:
        yield "automation of a text needs output.facts: without them nobody can tell whether a text may go out"


def _in_labels(process: Process) -> Iterator[str]:
    """Labels that nobody could tell apart, that no completion could state, or that are too many for the vocabulary."""
    where = "output.labels" if process.output.labels is not None else f"records.columns.{process.output.label}.values"
    labels = _parts(process)
    if labels is None:
        return
    if len(set(labels)) < 2:
        yield f"{where} needs at least two different labels"
    if twice := [label for label, count in Counter(labels).items() if count > 1]:
        yield f"{where} names {', '.join(map(repr, twice))} more than once"
    if spaced := [label for label in labels if not fold(label) or label != label.strip()]:
        yield f"{where} has blanks before, after or instead of a label: {', '.join(map(repr, spaced))}"
    for group in alike(labels):
        yield f"{where} has labels that differ only in case, width or blanks: {', '.join(map(repr, group))}; keep one of them"
    if process.label_tokens and process.finetuning.base == "scratch":
        yield from filter(None, [too_small(process.sample.vocabulary_size, len(set(labels)))])


def _in_paraphrases(process: Process) -> Iterator[str]:
    """Ways to say a prompt that are about none of its columns, or say nothing, and prompts in which nobody sees where a value ends."""
    shown = named_in(process.sample.prompt)
    for place, template in enumerate(process.finetuning.paraphrases if shown else ()):
        named = named_in(template)
        if len(named) != 1 or shown.count(named[0]) != 1:
            yield (
                f"finetuning.paraphrases.{place}: name one column that stands once in sample.prompt, with the words around it, "
                f"as in 'Hi, {{{shown[0]}}} Thanks.'"
            )
        elif CLEANERS.keys() >= set(process.sample.cleaning) and not fold(clean(process, PLACEHOLDER.sub("", template))):
            yield f"finetuning.paraphrases.{place} puts no words around its column"
    if process.finetuning.paraphrases and not all(map(fold, own_words(process.sample.prompt)[1:-1])):
        yield "finetuning.paraphrases needs words between the columns of sample.prompt, as in 'From: {name}\\nMessage: {text}'"


def _in_compression(process: Process) -> Iterator[str]:
    """Measures that are none, a student that is as large as what it learns from, int8 where nothing is written by CTranslate2."""
    compression = process.compression
    if compression is None:
        return
    for place, loss in enumerate(compression.gate):
        for mistake in _in_metric(process, Rule(metric=loss.metric, at_least=0)):
            yield f"compression.gate.{place}: {mistake}"
        if loss.metric in (*AUTOMATED, "perplexity"):
            yield f"compression.gate.{place}: {loss.metric} is not measured there; name what the answers are worth, such as accuracy"
    if compression.student and compression.student == process.finetuning.size:
        yield "compression.student is finetuning.size: a student is smaller than its teacher"
    if compression.quantization and (process.label_tokens or process.field_tokens or process.scoring.engine == "transformers"):
        yield "compression.quantization is for what CTranslate2 writes: a text, or fields as JSON (sample.field_tokens: false)"


def _in_metric(process: Process, rule: Rule) -> Iterator[str]:
    """A measure that evaluation never gives for this output, or no baseline does."""
    kind, parts = process.output.kind, _parts(process)
    if rule.metric not in measures(kind, parts or ()) and not (parts is None and rule.metric.startswith(EACH[kind])):
        yield f"metric {rule.metric!r} is none of {kind}; {_meant(rule.metric, measures(kind, parts or ()))}"
    elif rule.metric in AUTOMATED and process.automation is None:
        yield f"{rule.metric} needs automation: declare max_error there"
    elif "baseline" in rule.bound[0] and rule.metric in MODELS_ONLY:
        yield f"no baseline has {rule.metric}; set a bound from a constant or from the champion"


def _parts(process: Process) -> tuple[str, ...] | None:
    """What has a measure of its own, each label or field; None when only the records tell the labels."""
    output = process.output
    if output.kind == "label":
        return process.labels
    return tuple(output.fields or ())


def _in_slice(process: Process, rule: Rule) -> Iterator[str]:
    """A part of the test split that no sample can be in."""
    if rule.slice is None:
        return
    name, equals, value = rule.slice.partition("=")
    sliced = process.records.slices
    if not equals or name not in sliced:
        there = f"records.slices has: {', '.join(sliced)}" if sliced else "records.slices is empty"
        yield f"slice {rule.slice!r}: expected column=value, with a column of records.slices; {there}"
        return
    column = column_of(process, name)
    known = (as_text(True), as_text(False)) if column and column.type == "boolean" else column.values if column else None
    if known is not None and value not in (*known, NO_ANSWER):
        yield f"slice {rule.slice!r}: {name} is one of {', '.join(known)}, or {NO_ANSWER} where it is missing"


def _in_drift(process: Process) -> Iterator[str]:
    """Columns that no monitoring row can have."""
    there, output = watched_columns(process), process.output
    objects = [path for path in watched_paths(process) if _has_parts(process, path)]
    for name in process.drift.columns or ():
        known = name in (output.label, output.text, output.within) or any(_holds(name, column) for column in there)
        if not known and not any(_holds(path, name) for path in objects):
            yield f"drift.columns names {name!r}, which is not watched; {_meant(name, there)}"


def _in_batch(process: Process) -> Iterator[str]:
    """Outputs that have the name of a column which every table of results has."""
    taken = [name for name in result_columns(process) if name.casefold() in RESULT_COLUMNS + STAGED_COLUMNS]
    if process.batch.sink and taken:
        yield f"batch.sink: {', '.join(taken)} is what every table of results has for itself; give the output another name"
    if sheet := process.batch.sheet:
        yield from _unknown("batch.sheet.columns", sheet.columns, process)
        yield from _in_split(process, sheet.split_by)
    if process.batch.documents:
        yield from _in_documents(process, process.batch.documents)


def _in_documents(process: Process, declared: Documents) -> Iterator[str]:
    """Values and labels that a document's text cannot have."""
    texts = [declared.text] if isinstance(declared.text, str) else list(declared.text.values())
    templates = {"title": [declared.title], "text": texts, "file_name": [declared.file_name]}
    named = {name: [path for each in parts for path in placeholders(each)] for name, parts in templates.items()}
    for name, paths in {**named, "columns": declared.columns}.items():
        yield from _unknown(f"batch.documents.{name}", paths, process)
    labels = process.labels or ()
    if not isinstance(declared.text, str) and set(declared.text) != set(labels):
        yield f"batch.documents.text: one text, or one for each declared label: {', '.join(labels) or 'there is none'}"


def _unknown(place: str, paths: Iterable[str], process: Process) -> Iterator[str]:
    """Values that neither a record nor its answer has."""
    there = deliverable(process)
    for path in paths:
        if not any(_holds(known, path) for known in there):
            yield f"{place} names {path!r}, which is no column; {_meant(path, there)}"


def _in_split(process: Process, path: str | None) -> Iterator[str]:
    """A column whose values, and so the number of files, nobody knows."""
    values = ("",) if path is None else split_values(process, path)
    if values is None:
        yield f"batch.sheet.split_by: {path!r} is no column with declared values; name a label, or a column with values"
    elif len(values) > MOST_SHEETS:
        yield f"batch.sheet.split_by: {path!r} has {len(values):,} values; {MOST_SHEETS} files are the most"


def _in_search(process: Process) -> Iterator[str]:
    """Ends of ranges, and choices, that the setting itself could not be."""
    for name, part in (process.finetuning.search.space or {}).items():
        for value in part.choices if isinstance(part, Choices) else (part.low, part.high):
            try:
                Finetuning.model_validate({name: value})
            except ValidationError as error:
                yield f"finetuning.search.space.{name}: {value}: {error.errors()[0]['msg'].removeprefix('Value error, ')}"


def _has_parts(process: Process, path: str) -> bool:
    """Whether the value at a path is, or may be, an object."""
    column = column_of(process, path)
    return column is None or column.type == "object"


def _meant(name: str, there: Iterable[str]) -> str:
    """What was probably meant, and everything there is."""
    there = list(there)
    close = difflib.get_close_matches(name, there, n=1)
    return f"{f'did you mean {close[0]}? ' if close else ''}there are: {', '.join(there)}"


def _holds(path: str, other: str) -> bool:
    """Whether a path is another, or that of an object which the other is in."""
    return f"{other}.".startswith(f"{path}.")
