"""Validation: raw/ -> validated/records.jsonl, validated/report.json and quarantine/rows.jsonl; rows in = valid + quarantined.

Two passes: the first mends every record and asks Great Expectations about it, a chunk at a time; the second, when it is known
what the whole set looks like, sends each record to one of the two sides.
"""

import hashlib
import heapq
import itertools
import json
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from infra.store import Store
from tasks.artifacts import Artifact, fetch_file, scratch, store_folder, write_json
from tasks.bases import brings_tokenizer
from tasks.datadocs import self_contained
from tasks.expectations import TOKENS, columns_of, derived, look_at, shown
from tasks.ingestion import of_kind
from tasks.ledger import Kind
from tasks.process import Process
from tasks.prompts import completion_of, output_of, prompt_of
from tasks.records import Record, Rejected, as_text, read_records, to_line
from tasks.repairs import repair
from tasks.runs import Run, once
from tasks.suites import Finding, check_all, check_rows, data_docs
from tasks.vocabulary import base_tokenizer, train_vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CHUNK_ROWS = 50_000
CHUNK_CHARACTERS = 64 * 2**20  # a chunk ends earlier where texts are long
PROVISIONAL_PROMPTS = 20_000  # from which a vocabulary is learned to count tokens with, where the base has none yet
KEEP_FIRST = {"test": 0, "validation": 1, "train": 2, "": 2}  # of two equal records the one of a fixed split stays
DUPLICATE = "the record is the only one of its kind"
CONFLICT = "the id stands for one record"


class Tokens:
    """Counts the tokens of prompt, completion and end of text.

    A byte-level token is at least one byte, so a text that is short enough in bytes is not tokenised: its bytes are the bound.
    """

    def __init__(self, process: Process, raw: Path) -> None:
        self.process, self.raw = process, raw
        self._tokenizer: Tokenizer | None = None

    def count(self, records: Sequence[Record], rows: Sequence[Mapping[str, Any]]) -> list[int | None]:
        """Tokens of each record; None where a value is missing or is refused for its length anyway."""
        longest = self.process.finetuning.max_length
        texts = [self._texts(record, row) for record, row in zip(records, rows, strict=True)]
        counts = [None if text is None else len(text[0].encode()) + len(text[1].encode()) + 1 + self.process.label_tokens for text in texts]
        if long := [place for place, count in enumerate(counts) if count is not None and count > longest]:
            pairs = [text for place in long if (text := texts[place]) is not None]
            encoded = self.tokenizer.encode_batch([part for pair in pairs for part in pair], add_special_tokens=False)
            for place, prompt, completion in zip(long, encoded[::2], encoded[1::2], strict=True):
                counts[place] = len(prompt.ids) + len(completion.ids) + 1 + self.process.label_tokens
        return counts

    def _texts(self, record: Record, row: Mapping[str, Any]) -> tuple[str, str] | None:
        """Prompt and completion; a label that is one token is counted, not spelled."""
        columns = self.process.input_columns
        if any(isinstance(row.get(path), str) and len(row[path]) > column.max_characters for path, column in columns.items()):
            return None
        output = output_of(self.process, record.values)
        if output is None:
            return None
        return prompt_of(self.process, record.values), _stated(self.process, output)

    @property
    def tokenizer(self) -> "Tokenizer":
        """The base's own, or one learned from the first prompts where it has none."""
        if self._tokenizer is None:
            tuning = self.process.finetuning
            own = brings_tokenizer(tuning.base)
            self._tokenizer = base_tokenizer(tuning.base, tuning.revision) if own else self._provisional()
        return self._tokenizer

    def _provisional(self) -> "Tokenizer":
        first = itertools.islice(read_records(self.raw), PROVISIONAL_PROMPTS)
        return train_vocabulary(
            (prompt_of(self.process, record.values)[:2_000] for record in first), self.process.sample.vocabulary_size, ()
        )


def _stated(process: Process, output: Any) -> str:
    """The text of a completion that takes up tokens: none of a label that is one, of fields that are marked in the prompt no more."""
    if process.field_tokens:
        declared = process.output.fields or {}
        return " ".join(as_text(value) for name, value in output.items() if not declared[name].verbatim)
    return "" if process.label_tokens else completion_of(process, output)


def findings_for(process: Process, labels: Sequence[str] | None) -> list[Finding]:
    """The expectations of a process, each once: those derived from its declaration, then those it declares."""
    found = [Finding(type, kwargs, "derived") for type, kwargs in derived(process, labels)]
    found += [Finding(expectation.type, dict(expectation.kwargs), "declared") for expectation in process.expectations]
    return list({json.dumps([finding.type, finding.kwargs], sort_keys=True): finding for finding in reversed(found)}.values())[::-1]


def findings_on_inputs(process: Process) -> list[Finding]:
    """Those of them that a record without an output can be held to: about itself, and what its prompt shows."""
    found, inputs = findings_for(process, process.labels), shown(process)
    return [finding for finding in found if finding.scope == "row" and inputs.issuperset(columns_of(finding.kwargs))]


def chunks(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Records in lists that fit into memory."""
    chunk: list[Record] = []
    characters = 0
    for record in records:
        chunk.append(record)
        characters += sum(len(value) for value in record.values.values() if isinstance(value, str))
        if len(chunk) >= CHUNK_ROWS or characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


class Survey:
    """The first pass over all records: mended ones into a file, and what expectations find."""

    def __init__(self, process: Process, findings: Sequence[Finding]) -> None:
        self.process, self.findings, self.rows = process, findings, 0
        self.contents = array("Q")  # a hash of each record's values
        self.splits: dict[int, str] = {}  # position -> split, where one is declared
        self.hashes: dict[str, list[int | None]] = {name: [] for name in self._columns("rows")}
        self.values: dict[str, list[Any]] = {name: [] for name in self._columns("column")}
        self._same: dict[Any, Any] = {}  # equal texts are kept once

    def _columns(self, scope: str) -> Iterable[str]:
        return dict.fromkeys(name for finding in self.findings if finding.scope == scope for name in columns_of(finding.kwargs))

    def run(self, raw: Path, mended: Path) -> None:
        """Read raw records, write mended ones, and judge every expectation."""
        labels, tokens = self.process.labels, Tokens(self.process, raw)
        with mended.open("w", encoding="utf-8", newline="\n") as target:
            for chunk in chunks(repair(self.process, record, labels) for record in read_records(raw)):
                target.writelines(to_line(record) for record in chunk)
                rows = list(look_at(self.process, ((record.id, record.values) for record in chunk)))
                for row, count in zip(rows, tokens.count(chunk, rows), strict=True):
                    row[TOKENS] = count
                check_rows(self.findings, rows, self.rows)
                self._remember(chunk, rows)
        check_all(self.findings, self.hashes, self.values, self.rows)
        for finding in self.findings:
            if finding.scope in ("row", "rows"):
                finding.judge()

    def _remember(self, chunk: Sequence[Record], rows: Sequence[Mapping[str, Any]]) -> None:
        self.contents.extend(hash_of(record.values) for record in chunk)
        self.splits |= {self.rows + place: record.split for place, record in enumerate(chunk) if record.split}
        for name, column in self.hashes.items():
            column.extend(None if row.get(name) is None else hash_of(row[name]) for row in rows)
        for name, values in self.values.items():
            values.extend(self._same.setdefault(row.get(name), row.get(name)) for row in rows)
        self.rows += len(chunk)

    def refused(self) -> Iterator[tuple[int, list[tuple[str, str]]]]:
        """Position of each record that is not valid, in order, with expectation and reason of all that it fails."""
        key = self.process.records.key
        places: list[Iterable[tuple[int, str, str]]] = []
        for finding in self.findings:
            if finding.type == "expect_column_values_to_be_unique" and finding.kwargs["column"] == key:
                places.append(self._duplicates(finding))
            elif finding.scope in ("row", "rows") and not (finding.success and "mostly" in finding.kwargs):
                places.append([(position, finding.name, finding.reason) for position in finding.unexpected])
        for position, group in itertools.groupby(heapq.merge(*places, key=lambda place: place[0]), key=lambda place: place[0]):
            yield position, [(name, reason) for _, name, reason in group]

    def _duplicates(self, finding: Finding) -> list[tuple[int, str, str]]:
        """Of records with one id and equal values one stays; where the values differ, none can be trusted."""
        same: dict[int | None, list[int]] = {}
        for position in finding.unexpected:
            same.setdefault(self.hashes[self.process.records.key][position], []).append(position)
        found = []
        for positions in same.values():
            if len({self.contents[position] for position in positions}) > 1:
                reason = f"{len(positions)} records have this id and differ"
                found += [(position, CONFLICT, reason) for position in positions]
            else:
                kept = min(positions, key=lambda position: (KEEP_FIRST[self.splits.get(position, "")], position))
                found += [(position, DUPLICATE, "the same record stands in the data already") for position in positions if position != kept]
        return sorted(found)


def hash_of(value: Any) -> int:
    """63 bits that stand for a value: among ten million values, two different ones share them once in 180,000 sets."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


def divide(survey: Survey, mended: Path, rejected: Path, valid: Path, quarantine: Path) -> dict[str, Any]:
    """The second pass: each mended record to one side, rejected rows to quarantine, and the counts of both.

    Raises:
        RuntimeError: the counts do not add up; a row would be lost.
    """
    counts: Counter[str] = Counter()
    refused = survey.refused()
    upcoming = next(refused, None)
    quarantine.parent.mkdir(parents=True, exist_ok=True)
    valid.parent.mkdir(parents=True, exist_ok=True)
    kept = mended_rows = 0
    with (
        mended.open(encoding="utf-8", newline="\n") as lines,
        valid.open("w", encoding="utf-8", newline="\n") as good,
        quarantine.open("w", encoding="utf-8", newline="\n") as bad,
    ):
        rejected_rows = copy_lines(rejected, bad, counts)
        for position, line in enumerate(lines):
            if upcoming is None or upcoming[0] != position:
                good.write(line)
                kept += 1
                mended_rows += '"repairs": []' not in line
                continue
            row, refusal = refused_row(line, upcoming[1])
            bad.write(to_line(row))
            counts.update(refusal)
            upcoming = next(refused, None)
    quarantined = rejected_rows + survey.rows - kept
    if kept + quarantined != survey.rows + rejected_rows or upcoming is not None:
        raise RuntimeError(f"{survey.rows + rejected_rows} rows in, {kept} valid and {quarantined} quarantined: they must add up")
    rows = survey.rows + rejected_rows
    return {"rows": rows, "valid": kept, "quarantined": quarantined, "repaired": mended_rows, "by_expectation": dict(counts)}


def copy_lines(rejected: Path, target: Any, counts: Counter[str]) -> int:
    """Rows that were rejected at reading go to quarantine as they are."""
    with rejected.open(encoding="utf-8", newline="\n") as lines:
        number = 0
        for line in lines:
            target.write(line)
            counts[json.loads(line)["expectation"]] += 1
            number += 1
    return number


def refused_row(line: str, reasons: Sequence[tuple[str, str]]) -> tuple[Rejected, list[str]]:
    """A quarantined record with all reasons, and the names of the expectations that it fails, each once."""
    row = json.loads(line)
    names, words = list(dict.fromkeys(name for name, _ in reasons)), "; ".join(dict.fromkeys(reason for _, reason in reasons))
    content = json.dumps(row["values"], ensure_ascii=False)
    return Rejected(row["id"], row["file"], row["line"], names[0], words, content), names


def faults(process: Process, findings: Sequence[Finding], report: Mapping[str, Any]) -> list[str]:
    """Why the run must stop; nothing when it may go on. A table's or a column's expectation has no rows to take out."""
    broken = [finding.name for finding in findings if finding.scope in ("column", "table") and not finding.success]
    found = [f"an expectation of the whole set does not hold: {', '.join(broken)}"] if broken else []
    share = report["valid"] / report["rows"] if report["rows"] else 0.0
    if share < process.min_valid_share or not report["valid"]:
        most = ", ".join(f"{name} {count}" for name, count in Counter(report["by_expectation"]).most_common(10))
        counted = f"{report['valid']} of {report['rows']} rows are valid, min_valid_share is {process.min_valid_share}"
        found.append(f"{counted}; failures by expectation: {most}")
    return found


def inspect(process: Process, raw: Path, rejected: Path, out: Path, kind: Kind | None = None) -> tuple[dict[str, Any], list[str]]:
    """Validate raw records into folders validated/, quarantine/ and data_docs/ of `out`.

    Args:
        kind: of the records, when there are no others, and perhaps none at all. Those without an output stop no run.

    Returns:
        The report; and why the run must stop, if it must.
    """
    findings = findings_on_inputs(process) if kind == "unlabelled" else findings_for(process, process.labels)
    survey = Survey(process, findings)
    survey.run(raw, out / "mended.jsonl")
    report = divide(survey, out / "mended.jsonl", rejected, out / "validated" / "records.jsonl", out / "quarantine" / "rows.jsonl")
    report["expectations"] = [finding.as_report() for finding in findings]
    for folder in ("validated", "quarantine"):
        write_json(out / folder / "report.json", report)
    (out / "data_docs").mkdir()
    (out / "data_docs" / "index.html").write_text(self_contained(data_docs(findings)), encoding="utf-8")
    matters = kind is None or (kind == "labelled" and report["rows"] > 0)
    return report, faults(process, findings, report) if matters else []


@task(task_run_name="validate-{run.process.name}", cache_policy=NO_CACHE, retries=0)
def validate(raw: Artifact, run: Run, kind: Kind | None = None) -> Artifact:
    """raw/ -> validated/, quarantine/ and data_docs/; what was found is stored also when the run must stop.

    Args:
        kind: as for `ingest`; then <kind>/raw/ -> <kind>/validated/ and so on.

    Raises:
        ValueError: too few rows are valid, or an expectation of the whole set does not hold.
    """

    def work(store: Store, prefix: str, fingerprint: str) -> Artifact:
        with scratch() as folder:
            records = fetch_file(store, raw, "records.jsonl", folder / "in")
            rejected = fetch_file(store, raw, "rejected.jsonl", folder / "in")
            report, stop = inspect(run.process, records, rejected, folder, kind)
            apart = f"{run.prefix}/{of_kind('quarantine', kind)}"
            quarantine = store_folder(store, folder / "quarantine", apart, rows=report["quarantined"])
            docs = store_folder(store, folder / "data_docs", f"{run.prefix}/{of_kind('data_docs', kind)}")
            if stop:
                where = store.address(f"{apart}/rows.jsonl")
                raise ValueError(f"{run.process.name}: {'; '.join(stop)}. The rows are in {where}")
            counts = {name: report[name] for name in ("valid", "quarantined", "repaired")}
            return store_folder(
                store, folder / "validated", prefix, rows=report["valid"], **counts, quarantine=quarantine.key, data_docs=docs.key
            )

    tuning = run.process.finetuning
    settings = run.process.part("name", "records", "output", "expectations", "sample", "min_valid_share")
    settings |= {"tuning": [tuning.base, tuning.revision, tuning.max_length]}
    return once(run, of_kind("validation", kind), of_kind("validated", kind), [raw], settings, work)
