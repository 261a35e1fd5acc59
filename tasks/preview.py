"""Preview: a declaration and its first records -> what `clerkflow check` shows. Nothing heavy is imported, nothing is stored."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Literal

from tokenizers import Tokenizer

from infra.cluster import check_installed
from tasks import expectations
from tasks.bases import base_folder, brings_tokenizer
from tasks.cleaning import alike
from tasks.process import Process
from tasks.prompts import completion_of, output_of, prompt_of
from tasks.readers import Reader
from tasks.records import Record, Rejected
from tasks.repairs import repair
from tasks.vocabulary import EOS, base_tokenizer, completion_ids, train_vocabulary

if TYPE_CHECKING:
    from rich.console import Console

FIRST = 100  # records looked at
FORM_NOTE = (
    "the model marks these values in the prompt, chooses or spells them, as training finds best; this JSON, counted below, comes out"
)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token counts of the first records, the end of the text included in the completion's."""

    prompt: int  # of the record shown
    completion: int
    longest: int  # prompt and completion together, of all the first records
    too_long: int  # records above max_length
    vocabulary: str  # which tokens were counted


@dataclass(frozen=True, slots=True)
class Finding:
    """What one expectation says about the first records."""

    origin: Literal["declared", "derived"]
    type: str
    about: str  # its columns
    says: str
    failed: int


@dataclass(frozen=True, slots=True)
class Preview:
    """A declaration as its first records look through it."""

    process: Process
    source: str
    readable: int
    unreadable: dict[str, int]  # reason -> rows
    unlabelled: int
    record_id: str = ""
    prompt: str = ""
    completion: str = ""
    tokens: Tokens | None = None
    problem: str = ""  # why tokens could not be counted
    findings: tuple[Finding, ...] = ()
    labels: dict[str, int] = field(default_factory=dict)  # most frequent first
    doubts: tuple[str, ...] = ()  # what the first records make unlikely to be meant
    mistakes: tuple[str, ...] = ()  # what no declaration shows by itself


def preview(process: Process) -> Preview:
    """Look at the first records of the first source, and into the other files for what they lack.

    Raises:
        FileNotFoundError: the first source is not there.
        ValueError: it cannot be read as a whole.
    """
    source = process.records.sources[0]
    rows = list(islice(Reader(process.folder / source, source, process), FIRST))
    records = [repair(process, row, process.labels) for row in rows if isinstance(row, Record)]
    unreadable = Counter(row.reason for row in rows if isinstance(row, Rejected))
    outputs = [(record, output_of(process, record.values)) for record in records]
    labelled = [(record, output) for record, output in outputs if output is not None]
    pairs = [(prompt_of(process, record.values), completion_of(process, output)) for record, output in labelled]
    tokens, problem = _count(process, pairs)
    labels = dict(Counter(output for _, output in labelled).most_common()) if process.output.kind == "label" else {}
    return Preview(
        process=process,
        source=source,
        readable=len(records),
        unreadable=dict(unreadable),
        unlabelled=len(records) - len(labelled),
        record_id=labelled[0][0].id if labelled else "",
        prompt=pairs[0][0] if pairs else "",
        completion=pairs[0][1] if pairs else "",
        tokens=tokens,
        problem=problem,
        findings=tuple(_findings(process, records)),
        labels=labels,
        doubts=tuple(_doubts(process, labels)),
        mistakes=tuple(_mistakes(process, records)),
    )


def _mistakes(process: Process, records: Sequence[Record]) -> Iterator[str]:
    """Names that stand for nothing here: of a file, a column that is neither declared nor in a record, a base model's folder; and Ray."""
    others, unread = _others(process)
    yield from unread
    named = [("records.timestamp", process.records.timestamp), ("records.group", process.records.group)]
    named += [*(("records.slices", path) for path in process.records.slices), ("output.references", process.output.references)]
    known = {path for path in process.columns if expectations.column_of(process, path)}
    known.update(*(each.values for each in (*records, *others)))
    for where, path in named:
        if path and records and path not in known:
            yield f"{where} names {path!r}, which records.columns does not declare and none of the first records has"
    for check in (partial(base_folder, process.finetuning.base), partial(check_installed, process.scoring.workers)):
        try:
            check()
        except ValueError as error:
            yield str(error)


def _others(process: Process) -> tuple[list[Record], list[str]]:
    """The first records of the declared files but for the first one, and why some have none."""
    records, files = process.records, [("records.source", name) for name in process.records.sources[1:]]
    files += [(f"records.{split}", name) for split, name in (("validation", records.validation), ("test", records.test)) if name]
    found: list[Record] = []
    unread = []
    for where, name in files:
        try:
            found += [row for row in islice(Reader(process.folder / name, name, process), FIRST) if isinstance(row, Record)]
        except FileNotFoundError:
            unread.append(f"{where} names {name!r}, and {process.folder / name} does not exist")
        except ValueError as error:
            unread.append(f"{where}: {error}")
    return found, unread


def _doubts(process: Process, labels: Iterable[str]) -> Iterator[str]:
    """What a declaration may say, but the first records speak against."""
    if process.labels is None:
        for group in alike(labels):
            yield (
                f"labels that differ only in case, width or blanks are labels of their own: {', '.join(map(repr, group))}; "
                "declare output.labels, and each spelling becomes the one that stands there"
            )


def _count(process: Process, pairs: Sequence[tuple[str, str]]) -> tuple[Tokens | None, str]:
    """Token counts, or why there are none."""
    if not pairs:
        return None, "no record could be made into a prompt and a completion"
    try:
        tokenizer, told = _tokenizer(process, pairs)
    except ValueError as error:
        return None, str(error)
    prompts = [len(encoding.ids) for encoding in tokenizer.encode_batch_fast([prompt for prompt, _ in pairs], add_special_tokens=False)]
    one = process.label_tokens  # a base model's tokenizer gets its label tokens in preparation
    completions = [1 + (1 if one else len(completion_ids(tokenizer, completion, False))) for _, completion in pairs]
    both = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
    too_long = sum(count > process.finetuning.max_length for count in both)
    return Tokens(prompts[0], completions[0], max(both), too_long, told), ""


def _tokenizer(process: Process, pairs: Sequence[tuple[str, str]]) -> tuple[Tokenizer, str]:
    base = process.finetuning.base
    if brings_tokenizer(base):
        return base_tokenizer(base, process.finetuning.revision), f"the vocabulary of {base}"
    special = sorted({completion for _, completion in pairs}) if process.label_tokens else []
    texts = [text for pair in pairs for text in (pair[:1] if process.label_tokens else pair)]
    size = process.sample.vocabulary_size
    return train_vocabulary(texts, size, special), f"vocabulary of these records only; training learns one of up to {size:,}"


def _findings(process: Process, records: Sequence[Record]) -> list[Finding]:
    """What the derived and the declared expectations say, those that fail first."""
    rows = [expectations.look(process, record.id, record.values) for record in records]
    derived = [("derived", name, kwargs) for name, kwargs in expectations.derived(process, process.labels)]
    declared = [("declared", each.type, each.kwargs) for each in process.expectations]
    found = []
    for origin, name, kwargs in (*declared, *derived):
        if expectations.TOKENS in expectations.columns_of(kwargs):
            continue  # told by the token counts
        says = expectations.preview(name, kwargs, rows)
        about = ", ".join(expectations.columns_of(kwargs))
        found.append(Finding("declared" if origin == "declared" else "derived", name, about, str(says), says.failed or 0))
    return sorted(found, key=lambda finding: -finding.failed)


def show(preview: Preview, console: "Console") -> None:
    """Print a preview; derived expectations that hold are only counted."""
    from rich.text import Text

    process = preview.process
    console.print(Text.assemble((process.name, "bold"), f" version {process.version}, {process.output.kind} output, owner {process.owner}"))
    rejected = sum(preview.unreadable.values())
    told = f"{preview.source}: of the first {preview.readable + rejected} records {preview.readable} are readable"
    console.print(told + (f", {preview.unlabelled} of them without an output" if preview.unlabelled else ""), markup=False)
    _show_release(process, console)
    for reason, count in preview.unreadable.items():
        console.print(Text(f"  {count} unreadable: {reason}", "yellow"))
    if preview.prompt:
        _show_sample(preview, console)
    if preview.problem and preview.problem not in preview.mistakes:
        console.print(Text(preview.problem, "yellow"))
    _show_findings(preview, console)
    if preview.labels:
        shares = ", ".join(f"{label} {count}" for label, count in preview.labels.items())
        console.print(Text.assemble(("\nlabels      ", "bold"), shares))
    for doubt in preview.doubts:
        console.print(Text(doubt, "yellow"))
    for mistake in preview.mistakes:
        console.print(Text(mistake, "bold red"))


def _show_release(process: Process, console: "Console") -> None:
    """Who must agree to a model that holds every rule, what is accepted, and who is told of what; which addresses are not set here."""
    from rich.text import Text

    rules, approval = len(process.gate.rules), process.gate.approval
    then = f"then {' or '.join(approval.by)} approves it within {approval.expires_hours:g} hours" if approval else "then it is champion"
    console.print(f"a model is released when {rules} rule{'s' * (rules > 1)} hold{'s' * (rules == 1)}, {then}", markup=False)
    if terms := process.automation:
        audit = f"; a person looks at {terms.audit:.3g} of them afterwards" if terms.audit else ""
        certified = f"at most {terms.max_error:g} of them are wrong, with confidence {terms.confidence:g}{audit}"
        console.print(f"answers are accepted without a person where {certified}", markup=False)
    for event, names in process.notify:
        missing = [name for name in names if not os.environ.get(name)]
        told = f"on {event}, a message to {', '.join(names)}" + (f"; not set here: {', '.join(missing)}" if missing else "")
        if names:
            console.print(Text(told, "yellow" if missing else ""))


def _show_sample(preview: Preview, console: "Console") -> None:
    """The first sample; quotes, \\n and the end token show what the model gets, blanks included."""
    from rich.text import Text

    tokens, limit = preview.tokens, preview.process.finetuning.max_length
    end = EOS if preview.process.finetuning.base == "scratch" else "<end>"
    console.print(Text.assemble(("\nrecord      ", "bold"), preview.record_id))
    console.print(Text.assemble(("prompt      ", "bold"), repr(preview.prompt)))
    console.print(Text.assemble(("completion  ", "bold"), f"{preview.completion!r} {end}"))
    if preview.process.field_tokens:
        console.print(Text(f"            {FORM_NOTE}"))
    if tokens is None:
        return
    counts = f"prompt {tokens.prompt}, completion {tokens.completion}, longest of all both {tokens.longest}, max_length {limit}"
    console.print(Text.assemble(("tokens      ", "bold"), f"{counts} ({tokens.vocabulary})"))
    if tokens.too_long:
        console.print(Text(f"            {tokens.too_long} are longer than max_length and would be left out of training", "yellow"))


def _show_findings(preview: Preview, console: "Console") -> None:
    from rich.table import Table

    shown = [finding for finding in preview.findings if finding.failed or finding.origin == "declared"]
    quiet = len(preview.findings) - len(shown)
    if shown:
        table = Table(box=None, padding=(0, 2, 0, 0), title_justify="left")
        for heading in ("expectation", "about", "the first records", "from"):
            table.add_column(heading, overflow="fold")
        for finding in shown:
            style = "yellow" if finding.failed else None
            table.add_row(finding.type, finding.about, finding.says, finding.origin, style=style)
        console.print()
        console.print(table)
    if quiet:
        console.print(f"{quiet} more follow from the declaration; none fails on the first records", markup=False)
