"""Metrics: true outputs and a model's answers -> named measures; the same functions judge the model, the champion and the baselines.

A measure that has no meaning here (nothing to divide by, no confidence, no number) is absent, never 0, 1 or NaN.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tasks.cleaning import fold
from tasks.records import as_text

AUTOMATED = ("straight_through_rate", "accepted_error")  # shares of test records that had no part in choosing a threshold
MAIN = {
    "label": ("accuracy", *AUTOMATED, "macro_f1", "auc", "ece", "answered", "perplexity"),
    "fields": ("field_f1", *AUTOMATED, "field_precision", "field_recall", "exact_match", "ece", "answered", "perplexity"),
    "text": ("chrf", *AUTOMATED, "bleu", "facts_stated", "exact_match", "answered", "perplexity"),
}
EACH = {"label": "f1.", "fields": "field_f1."}  # the beginning of one more for each label or field
LOWER_IS_BETTER = frozenset({"perplexity", "ece", "accepted_error"})
MODELS_ONLY = frozenset({"perplexity", "ece", *AUTOMATED})  # these need probabilities, which no baseline gives
TOLERANCE = 1e-12  # of a bound on measures: bounds are inclusive, and 0.9 - 0.01 is not exactly 0.89

NO_ANSWER = "(none)"
OTHER = "(other)"
BINS = 10
SLICE_VALUES = 100  # of one column; a column with more is no slice but an id
CONFUSION_LABELS = 20
CJK = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff]")
THOUSANDS = re.compile(r"(?<!\d{4})(?<=\d),(?=\d{3}(?!\d))")
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class Case:
    """One prompt of the test split and what is known to be right."""

    output: Any
    references: tuple[str, ...] = ()  # every right text, the own output too
    facts: tuple[str, ...] = ()  # what the text must state
    slices: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answers:
    """What one model, champion or baseline said to each case, in their order."""

    outputs: Sequence[Any | None]
    confidences: Sequence[float] | None = None  # 0-1
    losses: Sequence[tuple[float, int]] | None = None  # nats of the right completion, and its tokens
    accepted: Sequence[bool | None] | None = None  # without a person; None for a case that chose thresholds
    ranks: Mapping[str, Sequence[float]] | None = None  # label -> how much speaks for it in each case, on any scale

    def of(self, indices: Sequence[int]) -> "Answers":
        """The answers to some of the cases."""
        confidences, losses, accepted, ranks = self.confidences, self.losses, self.accepted, self.ranks
        return Answers(
            [self.outputs[index] for index in indices],
            None if confidences is None else [confidences[index] for index in indices],
            None if losses is None else [losses[index] for index in indices],
            None if accepted is None else [accepted[index] for index in indices],
            None if ranks is None else {label: [values[index] for index in indices] for label, values in ranks.items()},
        )


def measures(kind: str, parts: Iterable[str] = ()) -> tuple[str, ...]:
    """Every measure that an output of this kind can have: all that `measure` gives, and all that a gate may name.

    Args:
        parts: its labels or fields; a text has none.
    """
    return (*MAIN[kind], *(EACH[kind] + part for part in parts))


def main_metrics(kind: str) -> tuple[str, ...]:
    """The measures of an output kind that a table shows, the most telling first."""
    return MAIN[kind]


def measure(kind: str, cases: Sequence[Case], answers: Answers) -> dict[str, float]:
    """Every measure that has a meaning for these answers.

    Args:
        kind: label, fields or text.

    Returns:
        Shares and F1 are 0-1, chrF and BLEU 0-100, perplexity is 1 or more.
    """
    if not cases:
        return {}
    found: dict[str, float | None] = {
        "answered": sum(output is not None for output in answers.outputs) / len(cases),
        "perplexity": perplexity(answers.losses or ()),
    }
    if kind == "label":
        found |= label_measures(cases, answers.outputs) | {"auc": area_under_curve(cases, answers)}
    elif kind == "fields":
        found |= field_measures(cases, answers.outputs)
    else:
        found |= text_measures(cases, answers.outputs)
    if kind != "text" and answers.confidences is not None:  # a text's confidence is a mean over its tokens, no chance of being right
        found["ece"] = calibration_error(reliability(answers.confidences, correct(kind, cases, answers.outputs)))
    if answers.accepted is not None:
        found |= automation_measures(kind, cases, answers.outputs, answers.accepted)
    return {name: float(value) for name, value in found.items() if value is not None and math.isfinite(value)}


def automation_measures(
    kind: str, cases: Sequence[Case], outputs: Sequence[Any | None], accepted: Sequence[bool | None]
) -> dict[str, float | None]:
    """How many of the measured cases no person has to look at, and how many of those are wrong."""
    measured = [index for index, taken in enumerate(accepted) if taken is not None]
    through = [index for index in measured if accepted[index]]
    wrong = sum(not acceptable(kind, cases[index], outputs[index]) for index in through)
    return {"straight_through_rate": ratio(len(through), len(measured)), "accepted_error": ratio(wrong, len(through))}


def acceptable(kind: str, case: Case, output: Any | None) -> bool:
    """Whether a business may act on an answer: it is wholly right; or a text that states all its facts, in whatever words."""
    if kind == "text":
        return output is not None and all(states(str(output), fact) for fact in case.facts)
    return correct(kind, [case], [output])[0]


def correct(kind: str, cases: Sequence[Case], outputs: Sequence[Any | None]) -> list[bool]:
    """Whether each answer is wholly right: the label, the whole form (lists in their order), or one of the right texts."""
    pairs = zip(cases, outputs, strict=True)
    if kind == "label":
        return [output == case.output for case, output in pairs]
    if kind == "fields":
        return [output is not None and _form(output) == _form(case.output) for case, output in pairs]
    return [output is not None and _folded(output) in {_folded(text) for text in _references(case)} for case, output in pairs]


def perplexity(losses: Sequence[tuple[float, int]]) -> float | None:
    """exp of the mean loss of a token; None without tokens or beyond every float."""
    tokens = sum(count for _, count in losses)
    mean = math.fsum(nats for nats, _ in losses) / tokens if tokens else math.nan
    return math.exp(mean) if mean < 700 else None


# Labels


def label_measures(cases: Sequence[Case], outputs: Sequence[Any | None]) -> dict[str, float | None]:
    """Accuracy (an unanswered case is wrong), macro-F1 over the labels that occur, and each label's F1."""
    scores = {label: values["f1"] for label, values in per_class(cases, outputs).items() if "f1" in values}
    right = sum(correct("label", cases, outputs))
    each = {EACH["label"] + label: value for label, value in scores.items()}
    return {"accuracy": right / len(cases), "macro_f1": ratio(sum(scores.values()), len(scores)), **each}


def area_under_curve(cases: Sequence[Case], answers: Answers) -> float | None:
    """How often the second of two labels is thought likelier where it is true than where it is not; 0.5 is chance.

    None unless two labels are true, every case is answered with one of them, and there are ranks or confidences.
    """
    from sklearn.metrics import roc_auc_score

    labels = sorted({str(case.output) for case in cases})
    if len(labels) != 2 or not {*answers.outputs} <= {*labels}:
        return None
    chances = _chances(answers, labels[1])
    return None if chances is None else float(roc_auc_score([case.output == labels[1] for case in cases], chances))


def _chances(answers: Answers, label: str) -> Sequence[float] | None:
    """How much speaks for one of two labels in each case."""
    if answers.ranks is not None:
        return answers.ranks.get(label)
    if answers.confidences is None:
        return None
    return [sure if output == label else 1 - sure for output, sure in zip(answers.outputs, answers.confidences, strict=True)]


def per_class(cases: Sequence[Case], outputs: Sequence[Any | None]) -> dict[str, dict[str, float]]:
    """Label -> precision, recall, f1 and support, for every label that is true or predicted somewhere."""
    from sklearn.metrics import precision_recall_fscore_support

    true = [str(case.output) for case in cases]
    predicted = ["\0" if output is None else str(output) for output in outputs]  # no label holds NUL, so nothing else is counted
    labels = sorted({*true, *predicted} - {"\0"})
    if not labels:
        return {}
    columns = precision_recall_fscore_support(true, predicted, labels=labels, zero_division=math.nan)
    return {label: _scores(*map(float, values)) for label, *values in zip(labels, *columns, strict=True)}


def _scores(precision: float, recall: float, f1: float, support: float) -> dict[str, float]:
    found = {"precision": precision, "recall": recall, "f1": f1, "support": support}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def confusion(cases: Sequence[Case], outputs: Sequence[Any | None]) -> dict[str, Any]:
    """Counts of true against predicted labels; the rarest are put together.

    Returns:
        rows: names of the true labels, most frequent first; columns: the same, and `(none)` when a case has no answer;
        counts: (rows, columns).
    """
    support = Counter(str(case.output) for case in cases)
    ranked = sorted(support, key=lambda label: (-support[label], label))
    shown = ranked[:CONFUSION_LABELS]
    named = {label: label for label in shown}
    true = [named.get(str(case.output), OTHER) for case in cases]
    predicted = [NO_ANSWER if output is None else named.get(str(output), OTHER) for output in outputs]
    rows = [*shown, *([OTHER] if OTHER in true else [])]
    columns = [*shown, *(name for name in (OTHER, NO_ANSWER) if name in predicted or name in rows)]
    counts = Counter(zip(true, predicted, strict=True))
    return {"rows": rows, "columns": columns, "counts": [[counts[row, column] for column in columns] for row in rows]}


# Fields


def field_measures(cases: Sequence[Case], outputs: Sequence[Any | None]) -> dict[str, float | None]:
    """Precision, recall and F1 over (field, value) pairs, each field's F1, and the share of forms that are wholly right."""
    tallies = _field_tallies(cases, outputs)
    hits, predicted, true = (sum(tally[part] for tally in tallies.values()) for part in range(3))
    each = {EACH["fields"] + name: ratio(2 * tally[0], tally[1] + tally[2]) for name, tally in tallies.items()}
    return {
        "field_f1": ratio(2 * hits, predicted + true),
        "field_precision": ratio(hits, predicted),
        "field_recall": ratio(hits, true),
        "exact_match": sum(correct("fields", cases, outputs)) / len(cases),
        **each,
    }


def per_field(cases: Sequence[Case], outputs: Sequence[Any | None]) -> dict[str, dict[str, float]]:
    """Field -> precision, recall, f1, support (true values) and predicted (values), for every field that is true or predicted somewhere."""
    found = {}
    for name, (hits, predicted, true) in _field_tallies(cases, outputs).items():
        scores = {"precision": ratio(hits, predicted), "recall": ratio(hits, true), "f1": ratio(2 * hits, predicted + true)}
        found[name] = {key: value for key, value in scores.items() if value is not None}
        found[name] |= {"support": float(true), "predicted": float(predicted)}
    return found


def _field_tallies(cases: Sequence[Case], outputs: Sequence[Any | None]) -> dict[str, tuple[int, int, int]]:
    """Field -> pairs that are right, predicted, true; sorted by field."""
    hits, predicted, true = Counter[str](), Counter[str](), Counter[str]()
    for case, output in zip(cases, outputs, strict=True):
        ours, theirs = set(_pairs(output or {})), set(_pairs(case.output))
        for tally, pairs in ((hits, ours & theirs), (predicted, ours), (true, theirs)):
            tally.update(name for name, _ in pairs)
    return {name: (hits[name], predicted[name], true[name]) for name in sorted({*predicted, *true})}


def _pairs(form: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(field, value) as compared; a list is a set of values."""
    for name, values in _form(form).items():
        yield from ((name, value) for value in values)


def _form(form: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Every filled field with its values as a person would write them, blanks folded."""
    filled = {name: value for name, value in form.items() if value not in (None, "", [])}
    return {name: tuple(map(_folded, value)) if isinstance(value, list) else (_folded(value),) for name, value in filled.items()}


def _folded(value: Any) -> str:
    return " ".join(as_text(value).split())


# Text


def text_measures(cases: Sequence[Case], outputs: Sequence[Any | None]) -> dict[str, float | None]:
    """chrF and BLEU against all references, share of the facts that are stated, share of texts that are word for word right."""
    from sacrebleu import corpus_bleu, corpus_chrf

    texts = ["" if output is None else str(output) for output in outputs]
    references = [_references(case) for case in cases]
    # sacrebleu wants one list for each position; None where a text has fewer references than another.
    positions = [[row[place] if place < len(row) else None for row in references] for place in range(max(map(len, references)))]
    stated = [states(text, fact) for case, text in zip(cases, texts, strict=True) for fact in case.facts]
    return {
        "chrf": corpus_chrf(texts, positions).score,
        "bleu": corpus_bleu(texts, positions, tokenize=bleu_tokenizer(cases), force=True).score,
        "facts_stated": ratio(sum(stated), len(stated)),
        "exact_match": sum(correct("text", cases, outputs)) / len(cases),
    }


def _references(case: Case) -> tuple[str, ...]:
    return case.references or (str(case.output),)


def bleu_tokenizer(cases: Sequence[Case]) -> str:
    """sacrebleu's `zh`, which takes each Chinese character as a word, where any true letter is Chinese, Japanese or Korean; else `13a`.

    Other words are cut alike by both, but for a full stop that ends a text right behind a digit: `zh` leaves it there.
    """
    return "zh" if any(CJK.search(text) for case in cases for text in _references(case)) else "13a"


def states(text: str, fact: str) -> bool:
    """Whether a fact occurs in a text, both folded; 1 is not found in 12, 1.5, 1,200 or A1, but 1200 is found in 1,200."""
    text, fact = _figures(text), _figures(fact)
    if not fact:
        return False
    plain = NUMBER.fullmatch(fact) is not None
    start = text.find(fact)
    while start >= 0:
        if _stands_alone(text, start, start + len(fact), plain):
            return True
        start = text.find(fact, start + 1)
    return False


def _figures(text: str) -> str:
    return THOUSANDS.sub("", fold(text))


def _stands_alone(text: str, start: int, end: int, number: bool) -> bool:
    """Whether no digit (nor, for a bare number, a letter before it) continues the found piece beyond its own ends."""
    before, after = text[max(0, start - 2) : start], text[end : end + 2]
    if text[start].isdigit() and (before[-1:].isdigit() or (before[-1:] in (".", ",") and before[:1].isdigit())):
        return False
    if number and before[-1:].isascii() and before[-1:].isalpha():
        return False
    continues = after[:1].isdigit() or (after[:1] in (".", ",") and after[1:].isdigit())
    return not (text[end - 1].isdigit() and continues)


# Confidence


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers of about the same confidence."""

    confidence: float  # mean, 0-1
    accuracy: float  # 0-1
    count: int


def reliability(confidences: Sequence[float], right: Sequence[bool]) -> list[Bin]:
    """Answers sorted by confidence, in at most 10 bins of about equal count; equal confidences stay in one bin."""
    pairs = sorted(zip(confidences, right, strict=True))
    found, start = [], 0
    for number in range(1, BINS + 1):
        end = max(start, math.ceil(number * len(pairs) / BINS))
        while start < end < len(pairs) and pairs[end][0] == pairs[end - 1][0]:
            end += 1
        if part := pairs[start:end]:
            mean = math.fsum(confidence for confidence, _ in part) / len(part)
            found.append(Bin(mean, sum(good for _, good in part) / len(part), len(part)))
        start = end
    return found


def calibration_error(bins: Sequence[Bin]) -> float | None:
    """Expected calibration error: how far confidence is from accuracy, on average over the answers."""
    return ratio(math.fsum(abs(part.confidence - part.accuracy) * part.count for part in bins), sum(part.count for part in bins))


# Slices


def slices(cases: Sequence[Case]) -> dict[str, list[int]]:
    """ "column=value" -> indices of its cases; of a column with many values only the most frequent."""
    found: dict[str, dict[str, list[int]]] = {}
    for index, case in enumerate(cases):
        for column, value in case.slices.items():
            found.setdefault(column, {}).setdefault(value or NO_ANSWER, []).append(index)
    kept: dict[str, list[int]] = {}
    for column, values in sorted(found.items()):
        ranked = sorted(values, key=lambda value: (-len(values[value]), value))[:SLICE_VALUES]
        kept |= {f"{column}={value}": values[value] for value in ranked}
    return kept


def measure_slices(kind: str, cases: Sequence[Case], answers: Answers) -> dict[str, dict[str, float]]:
    """ "column=value" -> its measures and `count`, the number of its cases."""
    found = {}
    for name, indices in slices(cases).items():
        part = measure(kind, [cases[index] for index in indices], answers.of(indices))
        found[name] = part | {"count": len(indices)}
    return found


def ratio(part: float, whole: float) -> float | None:
    """part / whole; None when there is nothing to divide by."""
    return part / whole if whole else None
