"""Reviewing: what waits for people -> a person's word on each record, written once -> labelled records.

A record is known by its id and its inputs, whichever batch it stood in: it is looked at once. A word is one object of reviews/, written
with `If-None-Match`, and never changed; of two people the second is told. An answer that the declaration no longer knows (its label is
gone) is void: the record waits again, and what is said then is `<id>.2`; one that came while a page was open may be of a newer
declaration than the page's, and stands. What was accepted or corrected comes back as a labelled record: the first ones, up to the quota,
as gold, which only measures; the later ones to be trained on. A text that is gold stays gold, for all its records, so that none is ever
measured with and trained on; preparation checks this again.
"""

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from infra.store import Conflict, MissingObject, Store
from infra.transfer import in_parallel
from tasks.cleaning import fold
from tasks.expectations import kind_of, kinds_for, within
from tasks.process import Column, Process, digest_of
from tasks.prompts import check_output, columns_of, prompt_of
from tasks.records import as_text
from tasks.repairs import mend
from tasks.reviews import Reviewed, Said, Side, Word, last_of, place_of, read_word, review_key, words_in
from tasks.splitting import group_of
from tasks.waiting import Item, View, Waiting

logger = logging.getLogger(__name__)

LONGEST = 2_000  # characters of a reason
SPLITS: dict[Side, str] = {"gold": "test", "train": "train"}


def text_key(process: Process, inputs: Mapping[str, Any]) -> str:
    """A record as the splitter tells it from others: by its group, else by its folded prompt."""
    group = group_of(process, inputs)
    return digest_of(["group", group] if group else fold(prompt_of(process, inputs)))


@cache
def _words_read(place: str) -> dict[tuple[str, str], Reviewed]:
    """Name and etag -> words of a place that this program has read: a word never changes, and many batches ask for all of them."""
    return {}


class Queue:
    """What waits in a process's batches, and what people have said."""

    def __init__(self, store: Store, process: Process) -> None:
        self.store, self.process = store, process
        self._words = _words_read(store.address(f"{process.name}/reviews"))
        self._first: frozenset[str] | None = None  # words that were there when these were first asked for
        self._holding: dict[tuple[str, datetime], bool] = {}

    @cached_property
    def _waiting(self) -> Waiting:
        return Waiting(self.store, self.process.name)

    def waiting(self) -> Waiting:
        """Records without a word that stands; the same object each time, as it is now."""
        with self._waiting.lock:  # words that were read before others must not come after them
            said = self.said()
            void = {id for id, word in said.standing().items() if not self._stands(word)}
            self._waiting.refresh({place_of(name)[0] for name in said.names} - void)
            return self._waiting

    def seen_from(self, id: str) -> View:
        """One moment of what waits, seen from a record; empty: from none."""
        with self._waiting.lock:
            return self.waiting().view(id)

    def known(self, id: str) -> Item | None:
        """A record of any finished batch, whether it waits or not, as it was when this was last looked at."""
        return self._waiting.known(id)

    def said(self, strict: bool = False) -> Said:
        """All words.

        Raises:
            ValueError: one is damaged, where that is asked for strictly; else it is left out, with a warning.
        """
        there = words_in(self.store, self.process.name)
        known = {each: word for each in there.items() if (word := self._words.get(each))}
        new = [each for each in there.items() if each not in known]
        read = zip(new, in_parallel(lambda each: self._read(each[0], strict), new), strict=True)
        fresh = {each: word for each, word in read if word}
        self._words |= fresh
        for each in list(self._words):
            if there.get(each[0]) != each[1]:
                self._words.pop(each, None)
        if self._first is None:
            self._first = frozenset(there)
        return Said(frozenset(there), tuple(sorted((known | fresh).values(), key=lambda word: (word.decided, word.id))))

    def _read(self, name: str, strict: bool) -> Reviewed | None:
        try:
            return read_word(self.store, review_key(self.process.name, name))
        except MissingObject:  # deleted since it was listed, to ask again
            return None
        except ValueError as error:
            if strict:
                raise
            logger.warning("reviews: %s", error)
            return None

    def holding(self, strict: bool = False) -> list[Reviewed]:
        """Of each record the last word, where its answer is one by the declaration, in the order in which they were given.

        Raises:
            ValueError: see `said`.
        """
        return [word for word in self.said(strict).standing().values() if self._holds(word)]

    def _holds(self, word: Reviewed) -> bool:
        """Whether a word's answer is one by the declaration; words never change, so each is looked at once."""
        key = word.id, word.decided
        if key not in self._holding:
            self._holding[key] = fits(self.process, word)
        return self._holding[key]

    def _stands(self, word: Reviewed) -> bool:
        """Whether a record's last word is not to be asked for again: one that came meanwhile may know a newer declaration."""
        return word.id not in (self._first or ()) or self._holds(word)

    def _name(self, said: Said, id: str) -> str:
        """Of the next word on a record; that of the word that stands, where one does."""
        last = next(iter(last_of(name for name in said.names if place_of(name)[0] == id)), id)
        word = next((word for word in said.words if word.id == last), None)  # none: nobody has looked at it, or it is damaged
        return last if word is None or self._stands(word) else f"{id}.{place_of(last)[1] + 1}"

    def _side(self, said: Said, text: str) -> Side:
        """Where an answer on a text goes: a text stays where its first record went; gold until the quota of texts that are gold is met."""
        given = next((word.side for word in said.words if word.side and word.text == text), None)
        gold = {word.text for word in said.standing().values() if word.side == "gold" and self._holds(word)}
        return given or ("gold" if len(gold) < self.process.review.gold else "train")

    def _right(self, word: Word, proposed: Any, corrected: Any) -> Any:
        """What is right by a word; a proposal of a model that another declaration made may no longer be as declared."""
        if word != "accepted":
            return checked_output(self.process, corrected) if word == "corrected" else None
        try:
            check_output(self.process, proposed)
        except ValueError as error:
            raise ValueError(f"the proposal cannot be accepted, correct it: {error}") from None
        return proposed

    def decide(self, item: Item, word: Word, reviewer: str, output: Any = None, reason: str = "") -> Reviewed:
        """A person's word on a record; accepted: the proposal is right.

        Raises:
            ValueError: the output is not as declared, a rejection has no reason, or nobody is named.
            Conflict: somebody was faster; the message says who, when and what.
        """
        proposed, reviewer, reason = item.proposed, reviewer.strip(), reason.strip()
        if not reviewer or not reviewer.isprintable():
            raise ValueError("a reviewer needs a name")
        if len(reason) > LONGEST or (word == "rejected" and not reason):
            raise ValueError(f"a rejection needs a reason, of {LONGEST:,} characters at most")
        right, said = self._right(word, proposed.output, output), self.said()
        text = text_key(self.process, proposed.inputs)
        made = Reviewed(
            id=self._name(said, item.id),
            batch=item.batch,
            line=proposed.line,
            record_id=proposed.record_id,
            inputs=proposed.inputs,
            text=text,
            proposed=proposed.output,
            confidence=proposed.confidence,
            threshold=proposed.threshold,
            why=proposed.reason,
            model_version=proposed.model_version,
            word=word,
            kind=self.process.output.kind,
            output=right,
            side=None if right is None else self._side(said, text),
            reviewer=reviewer,
            reason=reason,
            decided=datetime.now(UTC),
        )
        key = review_key(self.process.name, made.id)
        try:
            self.store.write(key, made.model_dump_json().encode(), if_absent=True)
        except Conflict:
            other = read_word(self.store, key)
            raise Conflict(f"{other.word} by {other.reviewer} at {other.decided:%Y-%m-%d %H:%M}Z; a decision is never changed") from None
        return made


def settled_words(store: Store, process: Process) -> list[str]:
    """Names of all words but void last ones: a declaration that knows their answer may come again, and they count then."""
    said = Queue(store, process).said()
    return sorted(said.names - {word.id for word in said.standing().values() if not fits(process, word)})


def fits(process: Process, word: Reviewed) -> bool:
    """Whether an answer is one by a declaration: a label may be gone, a field may have come, another kind of output may be asked for."""
    with suppress(ValueError):
        answer_by(process, word)
        return True
    return False


def answer_by(process: Process, word: Reviewed) -> Any:
    """What a word says by a declaration: without fields that it does not know, and in its spelling; None for a rejection.

    Raises:
        ValueError: the answer is none by the declaration.
    """
    output, fields = word.output, process.output.fields
    if output is None:
        return None
    if word.kind not in (None, process.output.kind) or isinstance(output, Mapping) != (fields is not None):
        raise ValueError("another kind of output was declared")
    if fields is None:
        output = as_text(output)
    elif not (output := {name: value for name, value in output.items() if name in fields}) and word.output:
        raise ValueError("no field of the answer is declared")
    with suppress(ValueError):
        check_output(process, output)
        return output
    return checked_output(process, output)


def checked_output(process: Process, output: Any) -> Any:
    """A corrected output as it is declared; small slips of spelling and form are mended.

    Args:
        output: a label or text; for fields their values by name, as a person writes them.

    Raises:
        ValueError: it is not as declared; the message names every field.
    """
    if process.output.kind != "fields":
        ((path, column),) = process.output_columns.items()
        labels = process.labels
        return as_text(_checked(path, column.model_copy(update={"values": labels}) if labels else column, output))
    found, mistakes = {}, []
    for name, field in (process.output.fields or {}).items():
        value = (output or {}).get(name)
        if value in (None, "", []):
            mistakes += [] if field.optional else [f"{name} is missing"]
            continue
        try:
            found[name] = _checked(name, field, value)
        except ValueError as error:
            mistakes.append(str(error))
    if mistakes:
        raise ValueError("; ".join(mistakes))
    return found


def _checked(name: str, column: Column, value: Any) -> Any:
    mended, _ = mend(value.strip() if isinstance(value, str) else value, column)
    if mended in (None, "", []):
        raise ValueError(f"{name} is missing")
    if kind_of(mended, column) not in kinds_for(column) or not all(within(column, each) for each in (mended if column.list else [mended])):
        allowed = f", one of {', '.join(column.values)}" if column.values else ""
        raise ValueError(f"{name} is not as declared: {column.type}{' list' if column.list else ''}{allowed}")
    return mended


def labelled(process: Process, word: Reviewed) -> dict[str, Any]:
    """A reviewed record as a row of a labelled file; values stand under their dotted paths."""
    row = {path: value for path, value in word.inputs.items() if path not in process.output_columns}
    return row | {process.records.key: word.record_id} | columns_of(process, answer_by(process, word))


def write_labelled(store: Store, process: Process, folder: Path) -> dict[str, Path]:
    """Split -> a file of all records that were reviewed for it; a split without one has none, and of a void word nothing is learned.

    Raises:
        ValueError: a word is damaged: a record may be missing that others are measured by.
    """
    words, found = Queue(store, process).holding(strict=True), {}
    for side, split in SPLITS.items():
        rows = [labelled(process, word) for word in words if word.side == side]
        if rows:
            folder.mkdir(parents=True, exist_ok=True)
            found[split] = folder / f"{side}.jsonl"
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            found[split].write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
    return found
