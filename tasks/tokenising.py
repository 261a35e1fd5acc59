"""Tokenising: samples -> the tokens a model is taught, as a dataset on disk; and what whoever asks the model must know of them.

Prompt and completion are encoded apart and put together, so that the prompt's tokens are the same when the model is asked.
"""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from tokenizers import AddedToken, Tokenizer

from tasks.bases import base_folder, config_of, is_own, lacks_tokenizer, refuse_unknown, unopened
from tasks.cleaning import fold
from tasks.columns import Columns, Parts, learn_columns
from tasks.duplicates import digest
from tasks.facts import PARTIAL, WHOLE, copied_marks, tells_apart, whole
from tasks.forms import Form, Writing, learn_form
from tasks.mentions import LEARNED, Mentions, spread
from tasks.process import Process
from tasks.prompts import LABEL_TOKEN
from tasks.records import as_text, lookup
from tasks.vocabulary import EOS, SMALLEST, as_written, completion_ids, train_vocabulary

logger = logging.getLogger(__name__)

BATCH = 1000  # samples tokenised or written at a time
Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Sample:
    """One record as the model is taught it, before its tokens."""

    record_id: str
    prompt: str
    completion: str
    output: Any
    inputs: dict[str, Any]  # path -> cleaned value, side columns too
    slices: dict[str, str]
    prose: str  # what near duplicates are found by


def in_parts(rows: Iterable[Row], count: int) -> Iterator[list[Row]]:
    """So many at a time as memory need hold; the last ones may be fewer."""
    rows = iter(rows)
    while part := list(islice(rows, count)):
        yield part


def make_tokenizer(process: Process, texts: Iterable[str], labels: list[str]) -> Any:
    """The tokenizer of the declared base, or one trained on the texts where it has none, with a token for each label if labels are tokens.

    Special tokens in a text are read as plain text (`split_special_tokens`): no customer can write a label or an end.

    Raises:
        ValueError: the vocabulary is too small for the labels, or the base or its tokenizer cannot be had.
    """
    from transformers import AutoTokenizer

    special = [LABEL_TOKEN.format(label) for label in labels] if process.label_tokens else []
    settings = process.finetuning
    if settings.base == "scratch":
        return own_tokenizer(texts, process.sample.vocabulary_size, special, process.field_tokens)
    if lacks_tokenizer(settings.base):
        return _in_place_of_none(process, texts, special)
    options: dict[str, Any] = {"revision": settings.revision or "main", "trust_remote_code": False, "split_special_tokens": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(base_folder(settings.base) or settings.base, **options)
    except (OSError, ValueError) as error:
        raise unopened(settings.base, "tokenizer", error) from None
    refuse_unknown(settings.base, settings.revision)
    if tokenizer.eos_token is None:
        tokenizer.add_special_tokens({"eos_token": EOS})
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


def _in_place_of_none(process: Process, texts: Iterable[str], special: Sequence[str]) -> Any:
    """A tokenizer of as many tokens as a base without one has rows for."""
    refuse_unknown(process.finetuning.base)
    size = max(rows_of(process), SMALLEST + 1 + len(special))
    logger.warning("preparation: %s has no tokenizer; one of up to %d tokens is trained on the samples", process.finetuning.base, size)
    return own_tokenizer(texts, size, special, process.field_tokens)


def rows_of(process: Process) -> int:
    """The tokens that a base can tell apart, as its config.json says."""
    return int(config_of(process.finetuning.base).get("vocab_size") or process.sample.vocabulary_size)


def own_tokenizer(texts: Iterable[str], size: int, special: Sequence[str], characters: bool) -> Any:
    """A tokenizer trained on texts; see `train_vocabulary`."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=train_vocabulary(texts, size, special, characters=characters),
        eos_token=EOS,
        pad_token=EOS,
        unk_token=EOS,  # never used, as every byte is a token; CTranslate2 dies without one
        split_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )


@dataclass(slots=True)
class Tally:
    """What is learned about one side while it is tokenised."""

    samples: int = 0
    tokens: int = 0
    prompt_tokens_max: int = 0
    completion_tokens_max: int = 0  # the end included
    partial: int = 0  # texts that leave something out, where this is told apart
    too_long: list[str] = field(default_factory=list)  # ids

    def count(self, prompt: list[int], completion: list[int]) -> None:
        """Take in one sample."""
        self.samples += 1
        self.tokens += len(prompt) + len(completion)
        self.prompt_tokens_max = max(self.prompt_tokens_max, len(prompt))
        self.completion_tokens_max = max(self.completion_tokens_max, len(completion))


class Encoder:
    """Samples -> their tokens, in the words of one tokenizer."""

    def __init__(self, process: Process, tokenizer: Any, form: Form | None, columns: Columns, mentions: Mentions | None = None) -> None:
        self.process, self.eos, self.mentions = process, int(tokenizer.eos_token_id), mentions
        self.tokens: Tokenizer = as_written(tokenizer.backend_tokenizer)
        self.whole, self.partial = self.tokens.token_to_id(WHOLE), self.tokens.token_to_id(PARTIAL)
        self.writing = Writing(process, form, self.tokens) if form else None
        self.parts = Parts(columns, self.tokens)

    def encode(self, batch: list[Sample]) -> Iterator[tuple[list[int], list[int], list[int]]]:
        """Tokens of each prompt, of its completion with the end, and the marks of the prompt's tokens."""
        prompts = self.tokens.encode_batch([sample.prompt for sample in batch], add_special_tokens=False)
        if self.writing is None and self.process.output.kind == "text":
            yield from self._texts(batch, prompts)
            return
        for sample, prompt, completion in zip(batch, prompts, self._completions(batch), strict=True):
            marks = self.writing.marks(sample, prompt.offsets) if self.writing else []
            nothing = self.writing.mark_ids[:1] if self.writing else []
            asked = self.asked(self.parts.placed(sample.prompt, prompt))
            yield asked, [*completion, self.eos], marks if prompt.ids else nothing

    def _texts(self, batch: list[Sample], prompts: Sequence[Any]) -> Iterator[tuple[list[int], list[int], list[int]]]:
        """The same of texts, whose marks say which values were copied from the prompt."""
        completions = self.tokens.encode_batch([sample.completion for sample in batch], add_special_tokens=False)
        for sample, prompt, completion, told in zip(batch, prompts, completions, self._told(batch), strict=True):
            asked = self.asked(prompt.ids, told)
            parts = [(sample.prompt, prompt.offsets), (sample.completion, completion.offsets)]
            marks = copied_marks(self.process, sample.inputs, parts) if prompt.ids else [0] * len(completion.ids)
            before = len(asked) - (len(marks) - len(completion.ids))
            marks = [*marks[: len(prompt.ids)], *[0] * before, *marks[len(prompt.ids) :], 0]
            yield asked, [*completion.ids, self.eos], marks if any(marks) else []

    def prompts(self, prompts: Sequence[str]) -> list[list[int]]:
        """The tokens of prompts as the model sees them."""
        encodings = self.tokens.encode_batch(list(prompts), add_special_tokens=False)
        return [self.asked(self.parts.placed(prompt, encoding)) for prompt, encoding in zip(prompts, encodings, strict=True)]

    def asked(self, prompt: list[int], told: list[int] | None = None) -> list[int]:
        """A prompt's tokens as the model sees them; an empty one begins with an end, to have something to go on from.

        Args:
            told: what is said of the completion that follows; that it states all facts when absent, where this is said at all.
        """
        wanted = [] if self.whole is None else [self.whole]
        return [*(prompt or [self.eos]), *(wanted if told is None else told)]

    def _told(self, batch: list[Sample]) -> list[list[int]]:
        """What is said of each completion: whether it states all facts."""
        if self.whole is None or self.partial is None:
            return [[] for _ in batch]
        return [[self.whole if states_all else self.partial] for states_all in whole(self.process, batch, self.mentions)]

    def _completions(self, batch: list[Sample]) -> list[list[int]]:
        if self.writing:
            return [self.writing.completion(sample.output) for sample in batch]
        if self.process.label_tokens:
            return [completion_ids(self.tokens, sample.completion, True) for sample in batch]
        spelled = self.tokens.encode_batch_fast([sample.completion for sample in batch], add_special_tokens=False)
        return [encoding.ids for encoding in spelled]


def learned_form(process: Process, tokenizer: Any, samples: Callable[[], Iterable[Sample]]) -> Form | None:
    """How declared fields are filled in, and the tokens for it added to the tokenizer; None when they are written as JSON.

    Args:
        samples: gives the training samples, as often as it is called.
    """
    if not process.field_tokens:
        return None
    tokens = as_written(tokenizer.backend_tokenizer)
    form = learn_form(process, samples, lambda prompt: tokens.encode(prompt, add_special_tokens=False).offsets)
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in form.vocabulary])
    return form.measured(process, samples, as_written(tokenizer.backend_tokenizer))


def learned_columns(process: Process, tokenizer: Any, samples: Iterable[Sample]) -> Columns:
    """What is known of a table's columns, and its tokens added to the tokenizer."""
    columns = learn_columns(process, samples)
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in columns.tokens])
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in columns.part_tokens])
    return columns


def tell_facts_apart(process: Process, tokenizer: Any, samples: Iterable[Sample]) -> Mentions | None:
    """Add the tokens that say whether a text states all facts, where this is worth saying; what judges values said in other words."""
    if process.output.kind != "text" or not is_own(process.finetuning.base):
        return None
    rows = spread(samples, LEARNED)
    mentions = Mentions.learn(process, rows)
    if tells_apart(whole(process, rows, mentions)):
        tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in (WHOLE, PARTIAL)])
    return mentions


def tokenise(
    encoder: Encoder, samples: Iterable[Sample], several: Mapping[int, list[str]], keep_long: bool, tally: Tally
) -> Iterator[dict[str, Any]]:
    """Samples -> rows of a dataset; what is counted goes to the tally.

    Args:
        several: right answers of prompts that have more than one.
        keep_long: keep samples of more than max_length tokens: only for the test side.
    """
    process = encoder.process
    for batch in in_parts(samples, BATCH):
        for sample, (prompt, completion, marks) in zip(batch, encoder.encode(batch), strict=True):
            if len(prompt) + len(completion) > process.finetuning.max_length:
                tally.too_long.append(sample.record_id)
                if not keep_long:
                    continue
            tally.count(prompt, completion)
            tally.partial += encoder.partial is not None and prompt[-1] == encoder.partial
            ids = {"input_ids": prompt + completion, "prompt_tokens": len(prompt), "marks": marks}
            yield _row(sample, right_answers(process, sample, several)) | ids


def _row(sample: Sample, answers: list[Any]) -> dict[str, Any]:
    plain = {"output": sample.output, "references": answers, "inputs": sample.inputs, "slices": sample.slices}
    written = {name: json.dumps(value, ensure_ascii=False) for name, value in plain.items()}
    return {"record_id": sample.record_id, "prompt": sample.prompt, "completion": sample.completion} | written


def right_answers(process: Process, sample: Sample, several: Mapping[int, list[str]]) -> list[Any]:
    """Every right output of a sample, its own first: those of the same prompt, and those that the record names."""
    if process.output.kind != "text":
        return [sample.output]
    named = lookup(sample.inputs, process.output.references or "") or []
    same = several.get(digest(fold(sample.prompt)), []) if several else []
    return list(dict.fromkeys([sample.output, *same, *map(as_text, named if isinstance(named, list) else [named])]))


def write_dataset(rows: Iterable[dict[str, Any]], folder: Path, name: str, more: Mapping[str, Any] | None = None) -> None:
    """Rows -> a Hugging Face dataset folder in Arrow, written batch by batch; equal rows are equal bytes.

    Args:
        more: columns that not all such datasets have -> their feature.
    """
    import pyarrow as pa  # type: ignore[import-untyped]
    from datasets import Dataset, Features, List, Value, disable_progress_bars

    disable_progress_bars()
    text = ("record_id", "prompt", "completion", "output", "references", "inputs", "slices")
    numbers = {"input_ids": List(Value("int32")), "prompt_tokens": Value("int32"), "marks": List(Value("int32"))}
    features = Features({column: Value("string") for column in text} | numbers | dict(more or {}))
    stream = folder.parent / f"{name}.arrow"
    with pa.ipc.new_stream(str(stream), features.arrow_schema) as writer:
        for batch in in_parts(rows, BATCH):
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=features.arrow_schema))
    dataset = Dataset.from_file(str(stream))
    dataset._fingerprint = name  # drawn from the clock otherwise, and then equal rows would not be equal bytes
    dataset.save_to_disk(str(folder / name))
    del dataset
    stream.unlink()


def contract_of(
    process: Process, tokenizer: Any, labels: list[str], form: Form | None, columns: Columns, train: Tally, longest: int
) -> dict[str, Any]:
    """What whoever asks the model must know.

    Args:
        longest: tokens of the longest prompt of all sides.
    """
    ids = tokenizer.convert_tokens_to_ids([LABEL_TOKEN.format(label) for label in labels]) if process.label_tokens else None
    most = form.most_tokens if form else train.completion_tokens_max
    found = {
        "kind": process.output.kind,
        "labels": labels,
        "label_ids": ids,
        "max_new_tokens": process.finetuning.max_new_tokens or most,
        "prompt_tokens_max": longest,
    }
    return found | ({"form": asdict(form)} if form else {}) | ({"columns": asdict(columns)} if columns.tokens else {})
