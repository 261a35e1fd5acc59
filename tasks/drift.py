"""Drift: the champion's reference and what recent batches were asked -> drift/<run>/: drift.json, evidently.html, evidently.json.

What people found among its accepted answers is told, too; where that refutes its certificate, it is drift.

Every column has an effect size, not a p-value, so that many records do not turn a trifle into drift; and its threshold is that effect
beyond what two samples of these sizes show by chance, so that few records do not either. Texts never go into the report, only a score.
"""

import json
import logging
import math
import os
import re
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from prefect import task
from prefect.cache_policies import NO_CACHE

from infra.settings import settings
from infra.store import MissingObject, Store, open_store
from tasks.aliases import Alias, champion_of
from tasks.artifacts import Artifact, fetch_file, scratch, store_folder, write_json
from tasks.audit import Audit, audit_of
from tasks.batches import read_batch
from tasks.features import Reservoir, Row
from tasks.process import Drift, Process
from tasks.registry import fetch_version
from tasks.runs import Run, once, told
from tasks.scoring import store_was_away

logger = logging.getLogger(__name__)

Numbers = npt.NDArray[np.float64]

EFFECT = {  # how far apart counts, beyond chance
    "wasserstein": 0.1,  # of the reference's standard deviation
    "jensenshannon": 0.1,  # distance, 0 to 0.83
    "domain_classifier": 0.1,  # area under the curve above 0.5
}
SPLITS = 40  # of both samples mixed: the largest distance among them is what chance gives
NAMED_FROM = 5  # records that must share a value before reports name it
OWN_VALUES = 0.5  # share of such rare values from which a column is no set of categories
TEXTS = 2_000  # a side; enough to see half a percent in the area under the curve
FEWEST_TEXTS = 30
MISSING, OTHER = "(missing)", "(other)"


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one column."""

    method: str
    score: float
    threshold: float
    drifted: bool


@dataclass(frozen=True, slots=True)
class Column:
    """One column on both sides, ready to be compared: floats, or names of categories."""

    method: str
    reference: Sequence[Any]
    current: Sequence[Any]
    threshold: float


def chosen_columns(process: Process, there: Sequence[str]) -> list[str]:
    """The columns to compare: those declared in drift.columns, else all.

    The output's own name means the prediction, an object's name its parts.

    Raises:
        ValueError: a declared column is not there; the message lists those that are.
    """
    declared = process.drift.columns
    if declared is None:
        return list(there)
    found: dict[str, None] = {}
    for name in declared:
        parts = [column for column in there if column == name or column.startswith(f"{name}.")]
        if not parts and name in (process.output.label, process.output.text, process.output.within):
            parts = [column for column in there if column.partition(".")[0] == "prediction"]
        if not parts:
            raise ValueError(f"{process.name}: drift.columns names {name!r}; there are: {', '.join(there)}")
        found |= dict.fromkeys(parts)
    return list(found)


def columns_of(
    names: Sequence[str], reference: Sequence[Row], current: Sequence[Row], declared: bool
) -> tuple[dict[str, Column], dict[str, str]]:
    """Columns ready to be compared; and those that cannot be, with the reason.

    Args:
        declared: whether the process names its columns: then one that lost all its values has changed, and is compared.
    """
    found: dict[str, Column] = {}
    left: dict[str, str] = {}
    for name in names:
        before, now = [row.get(name) for row in reference], [row.get(name) for row in current]
        empty = "reference" if all(value is None for value in before) else "recent" if all(value is None for value in now) else None
        if empty and not declared:
            left[name] = f"no {empty} record has a value"
        elif all(isinstance(value, float | None) for value in (*before, *now)) and not empty:
            found[name] = numbers(before, now)
        elif (column := categories(before, now, closed=name.partition(".")[0] == "prediction")) is not None:
            found[name] = column
        else:
            left[name] = "nearly every record has a value of its own"
    return found, left


def numbers(before: Sequence[Any], now: Sequence[Any]) -> Column:
    """A column of numbers; missing ones are left out."""
    reference, current = (np.array([value for value in side if value is not None], np.float64) for side in (before, now))
    scale = max(float(np.std(reference)), 0.001)  # as Evidently norms it

    def distance(one: Numbers, other: Numbers) -> float:
        from scipy.stats import wasserstein_distance

        return float(wasserstein_distance(one, other)) / scale

    threshold = EFFECT["wasserstein"] + by_chance(distance, reference, current)
    return Column("wasserstein", reference.tolist(), current.tolist(), threshold)


def categories(before: Sequence[Any], now: Sequence[Any], closed: bool) -> Column | None:
    """A column of names; None when it holds hardly any name twice.

    Args:
        closed: whether the names are declared, or are the model's labels: these may be named however rare they are.
    """
    before, now = ([MISSING if value is None else str(value) for value in side] for side in (before, now))
    seen = Counter(before)
    named = {name for name, count in seen.items() if count >= (1 if closed else NAMED_FROM) or name == MISSING}
    reference, current = ([name if name in named else OTHER for name in side] for side in (before, now))
    if not closed and reference.count(OTHER) > OWN_VALUES * len(reference):
        return None
    codes = {name: code for code, name in enumerate(sorted({*reference, *current}))}

    def distance(one: Numbers, other: Numbers) -> float:
        from scipy.spatial.distance import jensenshannon

        shares = [np.bincount(side.astype(int), minlength=len(codes)) / len(side) for side in (one, other)]
        return float(jensenshannon(*shares)) if len(codes) > 1 else 0.0

    sides = [np.array([codes[name] for name in side], np.float64) for side in (reference, current)]
    return Column("jensenshannon", reference, current, EFFECT["jensenshannon"] + by_chance(distance, *sides))


def by_chance(distance: Callable[[Numbers, Numbers], float], reference: Numbers, current: Numbers) -> float:
    """The largest distance between two samples of these sizes, both drawn at random from all the values."""
    random, mixed = np.random.default_rng(len(reference)), np.concatenate([reference, current])
    found = []
    for _ in range(SPLITS):
        random.shuffle(mixed)
        found.append(distance(mixed[: len(reference)], mixed[len(reference) :]))
    return max(found)


def compare_texts(reference: Sequence[str], current: Sequence[str]) -> Finding:
    """How well a classifier tells recent texts from those of the reference, on texts that it was not fitted to; 0.5 is not at all.

    It reads characters, not words, so that Chinese counts as English does; every digit is the same digit, for numbers always change.
    """
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    texts = [re.sub(r"\d", "0", text) for text in (*reference, *current)]
    sides = np.array([0] * len(reference) + [1] * len(current))
    counts = HashingVectorizer(analyzer="char", ngram_range=(1, 3), n_features=2**16, alternate_sign=False).transform(texts)
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    model = LogisticRegression(C=10, solver="liblinear", class_weight="balanced")
    score = float(roc_auc_score(sides, cross_val_predict(model, counts, sides, cv=folds, method="decision_function")))
    spread = math.sqrt((len(texts) + 1) / (12 * len(reference) * len(current)))  # of the area, when there is no difference
    threshold = 0.5 + EFFECT["domain_classifier"] + 2 * spread
    return Finding("domain_classifier", round(score, 4), round(threshold, 4), score >= threshold)


def verdict(drift: Drift, findings: dict[str, Finding]) -> tuple[bool, float, str]:
    """Drifted or not, the share of columns that did, and why in words."""
    drifted = [name for name, finding in findings.items() if finding.drifted]
    share = len(drifted) / len(findings)
    names = f" ({', '.join(drifted)})" if drifted else ""
    why = f"{len(drifted)} of {len(findings)} columns drifted{names}; {drift.drift_share:.0%} of them make a drift"
    return share >= drift.drift_share, share, why


def evidently_report(columns: dict[str, Column], drift_share: float, folder: Path) -> dict[str, Finding]:
    """Write Evidently's report of the columns as evidently.html and evidently.json, and return its scores."""
    with _quiet_evidently():
        import pandas
        from evidently import DataDefinition, Dataset, Report
        from evidently.presets import DataDriftPreset

        kinds = [[name for name, column in columns.items() if column.method == method] for method in ("wasserstein", "jensenshannon")]
        definition = DataDefinition(numerical_columns=kinds[0], categorical_columns=kinds[1])
        sides = {}
        for side in ("current", "reference"):
            frame = pandas.DataFrame({name: pandas.Series(getattr(column, side)) for name, column in columns.items()})
            sides[side] = Dataset.from_pandas(frame, data_definition=definition)
        preset = DataDriftPreset(
            columns=list(columns),
            drift_share=drift_share,
            per_column_method={name: column.method for name, column in columns.items()},
            per_column_threshold={name: column.threshold for name, column in columns.items()},
        )
        report = Report([preset]).run(sides["current"], sides["reference"])
        report.save_html(str(folder / "evidently.html"))
        told = report.dict()
    write_json(folder / "evidently.json", json.loads(json.dumps(told, default=float)))
    scores = {metric["config"]["column"]: float(metric["value"]) for metric in told["metrics"] if "column" in metric["config"]}
    return {
        name: Finding(column.method, round(scores[name], 4), round(column.threshold, 4), scores[name] >= column.threshold)
        for name, column in columns.items()
    }


@contextmanager
def _quiet_evidently() -> Iterator[None]:
    """Nothing is sent anywhere; its imports of older libraries and its division by a constant column's deviation warn."""
    os.environ.setdefault("DO_NOT_TRACK", "1")
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def recent_rows(store: Store, process: str, champion: Alias, limit: int) -> tuple[list[Row], list[str]]:
    """Monitoring rows of the batches that the champion has scored since it is champion, the newest first, and the names of those batches.

    A damaged batch is left out with a warning: the others are enough to watch by.

    Args:
        limit: rows at most; of the batch that goes beyond, a fair sample.
    """
    listed = [info for info in store.list(f"{process}/batches/") if info.key.endswith("/manifest.json")]
    rows: list[Row] = []
    batches: list[str] = []
    for info in sorted(listed, key=lambda info: (info.modified, info.key), reverse=True):
        if len(rows) >= limit:
            break
        try:
            batch = read_batch(store, info.key)
            if batch.version == champion.version and batch.finished >= datetime.fromisoformat(champion.since):
                rows += _monitoring(store, batch.artifact, limit - len(rows))
                batches.append(batch.batch)
        except (MissingObject, ValueError, KeyError) as error:
            logger.warning("drift: %s is left out: %s", info.key, error)
    return rows, batches


def _monitoring(store: Store, batch: Artifact, limit: int) -> list[Row]:
    with scratch() as folder:
        return sample_rows(fetch_file(store, batch, "monitoring.jsonl", folder), limit)


def sample_rows(path: Path, limit: int) -> list[Row]:
    """A fair sample of a file of monitoring rows, the same each time."""
    sample = Reservoir[Row](limit, "drift")
    with path.open(encoding="utf-8", newline="\n") as stream:
        for line in stream:
            sample.offer(lambda line=line: json.loads(line))  # type: ignore[misc]
    return sample.rows


def judge(process: Process, reference: Sequence[Row], current: Sequence[Row], folder: Path) -> dict[str, Any]:
    """Compare both sides column by column, write Evidently's report, and return what drift.json says of it.

    Raises:
        ValueError: drift.columns names what is not there, or no column can be compared.
    """
    drift = process.drift
    if len(current) < drift.min_records:
        short = f"not enough records: {len(current):,} of the {drift.min_records:,} that drift.min_records asks for"
        return uncompared(short, folder)
    names = chosen_columns(process, sorted({name for row in (*reference, *current) for name in row}))
    columns, left = columns_of([name for name in names if name != "text"], reference, current, drift.columns is not None)
    findings = evidently_report(columns, drift.drift_share, folder) if columns else {}
    texts = [_some_texts(reference), _some_texts(current)] if "text" in names else []
    if texts and min(map(len, texts)) >= FEWEST_TEXTS:
        findings["text"] = compare_texts(*texts)
    elif texts:
        left["text"] = f"fewer than {FEWEST_TEXTS} texts on one side"
    if not findings:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left.items())
        raise ValueError(f"{process.name}: no column can be compared: {reasons or 'the reference is empty'}")
    drifted, share, why = verdict(drift, findings)
    if not columns:
        _write_page(folder, why)
    told = {name: asdict(finding) for name, finding in findings.items()}
    return {"drifted": drifted, "share": round(share, 4), "why": why, "columns": told, "not_compared": left}


def uncompared(why: str, folder: Path) -> dict[str, Any]:
    """The same where nothing is compared, and a page that says why."""
    _write_page(folder, why)
    return {"drifted": False, "share": 0.0, "why": why, "columns": {}, "not_compared": {}}


def with_audit(report: dict[str, Any], audit: Audit | None) -> dict[str, Any]:
    """The report with what people found among accepted answers; a refuted certificate is drift, whatever the columns say."""
    if audit is None:
        return report | {"audit": None, "refuted": False}
    told = report | {"audit": asdict(audit) | {"told": audit.told}, "refuted": audit.refuted}
    return told | ({"drifted": True, "why": f"{audit.told}; {report['why']}"} if audit.refuted else {})


def _some_texts(rows: Sequence[Row]) -> list[str]:
    """The texts of rows, a fair sample when there are many."""
    sample = Reservoir[str](TEXTS, "texts")
    for row in rows:
        if "text" in row:
            sample.offer(lambda row=row: str(row["text"]))  # type: ignore[misc]
    return sample.rows


def _write_page(folder: Path, words: str) -> None:
    """A page in the place of Evidently's, where there is nothing for it to compare."""
    page = f"<!doctype html><meta charset=utf-8><title>Drift</title><p>{escape(words)}</p>\n"
    (folder / "evidently.html").write_text(page, encoding="utf-8")
    write_json(folder / "evidently.json", {})


@task(
    task_run_name="drift-{run.process.name}",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=[1, 10],
    retry_condition_fn=store_was_away,
)
def measure_drift(run: Run) -> Artifact:
    """The champion's reference and recent batches -> drift/<run>/.

    Raises:
        ValueError: there is no champion, or nothing that can be compared.
    """
    started, store, process = time.perf_counter(), open_store(), run.process
    champion = champion_of(store, process.name)
    if champion is None:
        raise ValueError(f"{process.name} has no champion to compare with; train one: clerkflow train {process.name}")
    current, batches = recent_rows(store, process.name, champion, process.drift.max_records)
    told_of = {"model_version": champion.version, "champion_since": champion.since, "batches": batches}
    audit = audit_of(store, process, champion.version)
    artifact = report_drift(store, process, current, told_of, f"{process.name}/drift/{run.id}", audit)
    logger.info("drift: %s", told(artifact, time.perf_counter() - started, False))
    return artifact


def measure_day(day: str, version: str, batches: Sequence[Artifact], run: Run) -> Artifact:
    """What a version was tested on and the batches of one day -> drift/<day>-<digest>/; measured once.

    Args:
        day: in words, such as 2026-11-01.

    Raises:
        ValueError: nothing can be compared.
    """
    process = run.process

    def work(store: Store, _: str, fingerprint: str) -> Artifact:
        rows: list[Row] = []
        for batch in batches:
            rows += _monitoring(store, batch, max(0, process.drift.max_records - len(rows)))
        told_of = {"model_version": version, "day": day, "batches": [batch.facts["batch"] for batch in batches]}
        return report_drift(store, process, rows, told_of, f"{process.name}/drift/{day}-{fingerprint[:12]}")

    return once(run, f"drift-{day}", "drift", batches, process.part("drift", "output") | {"version": version}, work)


def report_drift(
    store: Store, process: Process, current: Sequence[Row], told_of: dict[str, Any], prefix: str, audit: Audit | None = None
) -> Artifact:
    """Judge rows against the reference of the version `told_of` names, and store the report with what it tells of below `prefix`."""
    version = fetch_version(store, process.name, told_of["model_version"], settings().cache)
    reference = sample_rows(version / "reference.jsonl", process.drift.max_records)
    with scratch() as folder:
        try:
            judged = judge(process, reference, current, folder)
        except ValueError as error:
            if not (audit and audit.refuted):
                raise
            judged = uncompared(str(error), folder)  # a refutation must be told in any case
        counts = {"reference_rows": len(reference), "current_rows": len(current), "drift_share": process.drift.drift_share}
        report = counts | with_audit(judged, audit) | told_of
        write_json(folder / "drift.json", report)
        facts = {name: report[name] for name in ("drifted", "share", "why", "reference_rows", "current_rows", "refuted")}
        drifted = [name for name, found in report["columns"].items() if found["drifted"]]
        return store_folder(store, folder, prefix, len(current), **facts, columns_drifted=drifted)
