"""Baselines: the training split -> what simple methods answer on the test split, so that a model's figures mean something.

majority gives the most frequent answer; tfidf_linear (labels, fields) is a linear classifier on words and characters, and
for open fields a linear tagger over a window of tokens; nearest_neighbour (text) gives the most alike sample's text. For labels of
tables there are methods made for tables, too: tasks/tabular.py.
All of them see at most TRAIN_ROWS samples and the first CHARACTERS of each, so their cost has a bound.
"""

import json
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction import FeatureHasher
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import FeatureUnion
from sklearn.svm import LinearSVC

from tasks.linear import WORD
from tasks.metrics import Answers
from tasks.process import OutputField, Process
from tasks.prompts import read_of, typed
from tasks.records import as_text
from tasks.tabular import CHARACTERS, tabular_answers
from tasks.windows import shape_of

TRAIN_ROWS = 20_000
CLASSES = 200  # most frequent ones; each class costs one linear model
TAGGER_TOKENS = 300_000
CLOSED_VALUES = 50  # a field (or input) with at most so many different values is chosen, not found in the text
FEATURES = 100_000  # of words, and again of characters
BATCH = 500  # test samples answered at a time

Row = Mapping[str, Any]  # a line of samples/: prompt, output, inputs

CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
TOKEN = re.compile(rf"\d+|[{CJK}]|[^\W\d_{CJK}]+|[^\s]")
ABSENT = "null"  # the JSON of a field without a value


def drawn(train: Sequence[Row], seed: int, limit: int = TRAIN_ROWS) -> Iterator[Row]:
    """At most `limit` rows, drawn by the seed, in a drawn order, one by one."""
    order = np.random.default_rng(seed).permutation(len(train))[:limit]
    return (train[int(index)] for index in order)


def sampled(train: Sequence[Row], seed: int, limit: int = TRAIN_ROWS) -> list[Row]:
    """The same rows together."""
    return list(drawn(train, seed, limit))


def baseline_answers(kind: str, train_rows: Sequence[Row], test_rows: Sequence[Row], process: Process) -> dict[str, Answers]:
    """What each baseline answers to each test row.

    Args:
        train_rows: what `sampled` gave; not empty.
        test_rows: anything with a length and rows by number, such as a dataset on disk.
    """
    outputs = [json.loads(row["output"]) for row in train_rows]
    found = {"majority": Answers([majority(kind, outputs, process)] * len(test_rows))}
    if kind == "label":
        found["tfidf_linear"] = label_answers(train_rows, test_rows, process)
        found |= tabular_answers(train_rows, test_rows, outputs, process)
    elif kind == "fields":
        found["tfidf_linear"] = Answers(field_answers(train_rows, test_rows, process))
    else:
        found["nearest_neighbour"] = Answers(neighbour_answers(train_rows, test_rows, process))
    return found


def majority(kind: str, outputs: Sequence[Any], process: Process) -> Any:
    """The most frequent label or text; for fields the most frequent value of each, which may be none. The first in order wins a tie."""
    if kind != "fields":
        return _most_frequent(outputs)
    chosen = {name: json.loads(_most_frequent(_classes(outputs, name))) for name in process.output.fields or {}}
    return _filled(chosen)


def _most_frequent(values: Iterable[str]) -> str:
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], value))


def _classes(outputs: Iterable[Mapping[str, Any]], name: str) -> list[str]:
    """A field's values as JSON, so that lists and numbers are classes too."""
    return [json.dumps(output.get(name), ensure_ascii=False, sort_keys=True) for output in outputs]


def _filled(form: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in form.items() if value is not None}


# Words and characters


def texts_of(rows: Iterable[Row], process: Process) -> list[str]:
    """The prompts without the words that every prompt begins and ends with."""
    return [read_of(process, row["prompt"])[:CHARACTERS] for row in rows]


def word_and_character_features() -> FeatureUnion:
    """TF-IDF of words and of characters; the characters carry languages that are written without blanks."""
    words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=WORD, sublinear_tf=True, max_features=FEATURES)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, max_features=FEATURES)
    return FeatureUnion([("words", words), ("characters", characters)])


class Vectors:
    """Texts as TF-IDF vectors, as the training texts define them."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._union = word_and_character_features()
        self._blank = not any(text.strip() for text in texts)  # then there is no word to count
        self.train = self._union.fit_transform(["-"] * len(texts) if self._blank else texts)

    def batches(self, rows: Sequence[Row], process: Process) -> Iterator[Any]:
        """Vectors of the rows, a batch at a time."""
        for batch in _batches(rows):
            yield self._union.transform(texts_of(batch, process))


def _batches(rows: Sequence[Row]) -> Iterator[list[Row]]:
    for start in range(0, len(rows), BATCH):
        yield [rows[index] for index in range(start, min(start + BATCH, len(rows)))]


class Chooser:
    """A linear classifier over the most frequent classes; with a single class it gives that one."""

    def __init__(self, vectors: Any, classes: Sequence[str]) -> None:
        counts = Counter(classes)
        kept = set(sorted(counts, key=lambda name: (-counts[name], name))[:CLASSES])
        self.only = next(iter(kept)) if len(kept) == 1 else None
        if self.only is None:
            rows = np.array([index for index, name in enumerate(classes) if name in kept])
            self.model = fitted(vectors[rows], [classes[index] for index in rows])

    def choose(self, vectors: Any) -> list[str]:
        """The class of each row."""
        if self.only is not None:
            return [self.only] * vectors.shape[0]
        return [str(name) for name in self.model.predict(vectors)]

    def ranks(self, vectors: Any) -> dict[str, list[float]]:
        """How much speaks for each of two classes in each row, on a scale of its own; nothing where there are more or fewer."""
        if self.only is not None or len(self.model.classes_) != 2:
            return {}
        far = self.model.decision_function(vectors)
        first, second = map(str, self.model.classes_)
        return {first: (-far).tolist(), second: far.tolist()}


def fitted(vectors: Any, classes: Sequence[str]) -> LinearSVC:
    """A linear support-vector classifier; one that has not wholly settled is good enough for a comparison."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LinearSVC(random_state=0, C=0.5, tol=1e-2, max_iter=300).fit(vectors, classes)


def label_answers(train_rows: Sequence[Row], test_rows: Sequence[Row], process: Process) -> Answers:
    """The label that the linear classifier gives to each test row; of two labels, how much speaks for each."""
    vectors = Vectors(texts_of(train_rows, process))
    chooser = Chooser(vectors.train, [json.loads(row["output"]) for row in train_rows])
    labels, ranks = list[str](), dict[str, list[float]]()
    for batch in vectors.batches(test_rows, process):
        labels += chooser.choose(batch)
        for label, far in chooser.ranks(batch).items():
            ranks.setdefault(label, []).extend(far)
    return Answers(labels, ranks=ranks or None)


def neighbour_answers(train_rows: Sequence[Row], test_rows: Sequence[Row], process: Process) -> list[str]:
    """The output of the training row whose words and characters are most alike; the first one wins a tie."""
    vectors = Vectors(texts_of(train_rows, process))
    transposed = vectors.train.T.tocsr()
    nearest = [
        int(index) for batch in vectors.batches(test_rows, process) for index in np.asarray((batch @ transposed).argmax(axis=1)).ravel()
    ]
    return [json.loads(train_rows[index]["output"]) for index in nearest]


# Fields


def field_answers(train_rows: Sequence[Row], test_rows: Sequence[Row], process: Process) -> list[dict[str, Any]]:
    """A form for each test row: closed fields chosen by a classifier, open ones found in the text by a tagger."""
    outputs = [json.loads(row["output"]) for row in train_rows]
    fields = process.output.fields or {}
    closed = [name for name, field in fields.items() if is_closed(field, _classes(outputs, name))]
    open_fields = {name: field for name, field in fields.items() if name not in closed}
    forms: list[dict[str, Any]] = [{} for _ in range(len(test_rows))]
    for name, values in closed_answers(closed, train_rows, outputs, test_rows, process).items():
        for form, value in zip(forms, values, strict=True):
            form[name] = json.loads(value)
    if open_fields:
        tagger = Tagger(open_fields, train_rows, outputs, process)
        found = (answer for batch in _batches(test_rows) for answer in tagger.answers(batch))
        for form, answer in zip(forms, found, strict=True):
            form |= answer
    return [_filled({name: form.get(name) for name in fields}) for form in forms]


def is_closed(field: OutputField, classes: Sequence[str]) -> bool:
    """Whether a field is chosen from few values, rather than copied from the text."""
    declared = field.values is not None or field.type == "boolean"
    return declared or (not field.verbatim and len({*classes} - {ABSENT}) <= CLOSED_VALUES)


def closed_answers(
    names: Sequence[str], train_rows: Sequence[Row], outputs: Sequence[Mapping[str, Any]], test_rows: Sequence[Row], process: Process
) -> dict[str, list[str]]:
    """Field -> the JSON of its value for each test row."""
    if not names:
        return {}
    vectors = Vectors(texts_of(train_rows, process))
    choosers = {name: Chooser(vectors.train, _classes(outputs, name)) for name in names}
    found: dict[str, list[str]] = {name: [] for name in names}
    for batch in vectors.batches(test_rows, process):
        for name, chooser in choosers.items():
            found[name] += chooser.choose(batch)
    return found


@dataclass(frozen=True, slots=True)
class Token:
    """A word, a number, one Chinese character or one sign, and where it stands."""

    text: str  # lower case
    shape: str
    start: int
    end: int


def tokens_of(text: str) -> list[Token]:
    """The tokens of a text, in order."""
    return [Token(match[0].lower(), shape_of(match[0]), match.start(), match.end()) for match in TOKEN.finditer(text)]


class Tagger:
    """Open fields found token by token: each token begins (B) a field's value, is inside (I) one, or neither."""

    def __init__(
        self, fields: Mapping[str, OutputField], train_rows: Sequence[Row], outputs: Sequence[Mapping[str, Any]], process: Process
    ) -> None:
        self._fields, self._process = fields, process
        self._hasher = FeatureHasher(n_features=2**19, input_type="string")
        leaves = [dict(leaves_of(row, process)) for row in train_rows]
        self._context = _closed_inputs(leaves)
        features, tags = [], list[str]()
        for row, output in zip(train_rows, outputs, strict=True):
            text, context = self._read(row)
            tokens = tokens_of(text)
            features += list(window_features(tokens, context))
            tags += tags_of(text, tokens, output, fields)
            if len(tags) > TAGGER_TOKENS:
                break
        self._chooser = Chooser(self._hasher.transform(features), tags) if tags else None

    def _read(self, row: Row) -> tuple[str, list[str]]:
        """The text that is searched, and the small inputs that say what to look for."""
        leaves = leaves_of(row, self._process)
        text = "\n".join(text for path, text in leaves if path not in self._context)
        return text[:CHARACTERS], [f"{path}={text}" for path, text in leaves if path in self._context]

    def answers(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """The open fields of each row."""
        read = [self._read(row) for row in rows]
        tokens = [tokens_of(text) for text, _ in read]
        features = [line for part, (_, context) in zip(tokens, read, strict=True) for line in window_features(part, context)]
        tags = iter(self._chooser.choose(self._hasher.transform(features)) if features and self._chooser else ["O"] * len(features))
        return [fields_in(text, part, [next(tags) for _ in part], self._fields) for part, (text, _) in zip(tokens, read, strict=True)]


def leaves_of(row: Row, process: Process) -> list[tuple[str, str]]:
    """(path, text) of every input the prompt uses; the keys of an object each on their own."""
    inputs = json.loads(row["inputs"])
    return [leaf for path in process.input_columns for leaf in _leaves(path, inputs.get(path))]


def _leaves(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(f"{path}.{key}", inner)
    else:
        yield path, as_text(value)


def _closed_inputs(leaves: Sequence[Mapping[str, str]]) -> frozenset[str]:
    """Inputs of few different texts, unless all are such: then all are searched."""
    values: dict[str, set[str]] = {}
    for row in leaves:
        for path, text in row.items():
            seen = values.setdefault(path, set())
            if len(seen) <= CLOSED_VALUES:
                seen.add(text)
    closed = frozenset(path for path, seen in values.items() if len(seen) <= CLOSED_VALUES)
    return frozenset() if len(closed) == len(values) else closed


def window_features(tokens: Sequence[Token], context: Sequence[str]) -> Iterator[list[str]]:
    """The features of each token: itself, two neighbours on each side, pairs of them, and the context."""
    words = ["<s>", "<s>", *(token.text for token in tokens), "</s>", "</s>"]
    shapes = ["", "", *(token.shape for token in tokens), "", ""]
    for place in range(2, len(tokens) + 2):
        near = [f"{offset}:{words[place + offset]}" for offset in range(-2, 3)]
        near += [f"s{offset}:{shapes[place + offset]}" for offset in range(-2, 3)]
        word = words[place]
        pairs = [f"l:{words[place - 1]}|{word}", f"r:{word}|{words[place + 1]}", f"ll:{words[place - 2]}|{words[place - 1]}"]
        pairs += [f"rr:{words[place + 1]}|{words[place + 2]}", f"s:{shapes[place - 1]}|{shapes[place]}|{shapes[place + 1]}"]
        asked = [*(f"c:{item}" for item in context), *(f"cw:{item}|{word}" for item in context)]
        yield [*near, *pairs, f"p:{word[:3]}", f"e:{word[-3:]}", *(f"cs:{item}|{shapes[place]}" for item in context), *asked, "bias"]


def tags_of(text: str, tokens: Sequence[Token], output: Mapping[str, Any], fields: Mapping[str, OutputField]) -> list[str]:
    """B-field, I-field or O for each token: the first free place of each true value; one that stands nowhere is not learned."""
    tags = ["O"] * len(tokens)
    starts, ends = ({getattr(token, edge): index for index, token in enumerate(tokens)} for edge in ("start", "end"))
    for name in fields:
        value = output.get(name)
        for part in value if isinstance(value, list) else [value]:
            first, last = _place_of(as_text(part), text, starts, ends, tags)
            for index in range(first, last + 1):
                tags[index] = f"{'B' if index == first else 'I'}-{name}"
    return tags


def _place_of(value: str, text: str, starts: Mapping[int, int], ends: Mapping[int, int], tags: Sequence[str]) -> tuple[int, int]:
    """First and last token of a value's first free place; (0, -1) when there is none."""
    if not value:
        return 0, -1
    text, value = text.casefold() if len(text.casefold()) == len(text) else text, value.casefold()
    start = text.find(value)
    while start >= 0:
        first, last = starts.get(start), ends.get(start + len(value))
        if first is not None and last is not None and all(tag == "O" for tag in tags[first : last + 1]):
            return first, last
        start = text.find(value, start + 1)
    return 0, -1


def fields_in(text: str, tokens: Sequence[Token], tags: Sequence[str], fields: Mapping[str, OutputField]) -> dict[str, Any]:
    """Tags -> the fields' values as they stand in the text, in the declared type; a value that does not fit is left out."""
    found: dict[str, list[Any]] = {}
    for name, span in _spans(tags):
        value = typed(fields[name], text[tokens[span[0]].start : tokens[span[-1]].end])
        if value is not None:
            found.setdefault(name, []).append(value)
    return {name: values if fields[name].list else values[0] for name, values in found.items()}


def _spans(tags: Sequence[str]) -> Iterator[tuple[str, list[int]]]:
    """(field, indices of its tokens) for every run of one field; B begins a new one."""
    starts = np.cumsum([tag.startswith("B-") for tag in tags]).tolist()
    for (name, _), run in groupby(range(len(tags)), key=lambda index: (tags[index][2:], starts[index])):
        if name:
            yield name, list(run)
