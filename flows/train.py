"""Train: raw records -> validated -> samples -> model -> gate -> published shards."""

from typing import Any

from prefect import flow

from flows import pages, telling
from flows.opening import open_run, run_name
from tasks import runs
from tasks.evaluation import evaluate
from tasks.finetuning import finetune
from tasks.gate import pass_gate
from tasks.ingestion import ingest
from tasks.preparation import prepare
from tasks.publishing import Outcome, champion_to_meet, outcome_of, publish
from tasks.validation import validate


@flow(name="train", flow_run_name=run_name, on_failure=[telling.tell_failure], on_crashed=[telling.tell_failure])
def train(process: str, overrides: dict[str, Any] | None = None) -> Outcome:
    """Train a process's model and publish it when its gate lets it pass.

    Args:
        process: Name of a declared process, a folder of data/processes.
        overrides: Parts of the declaration that differ for this run only, such as {"finetuning": {"num_train_epochs": 2}}.
    """
    run = open_run(process, "train", overrides)
    raw = ingest(run)
    validated = validate(raw, run)
    pages.show_validation(validated, run)
    samples = prepare(validated, run)
    model = finetune(samples, run)
    champion = champion_to_meet(model, run)
    evaluation = evaluate(model, samples, champion, run)
    pages.show_evaluation(evaluation, run)
    verdict = pass_gate(evaluation, run)
    pages.show_verdict(verdict, run)
    release = publish(model, evaluation, verdict, run) if verdict.passed else None
    outcome = outcome_of(verdict, release)
    pages.show_request(release, run)
    runs.finish(run, outcome.became, [raw, validated, samples, model, evaluation])
    telling.tell_outcome(outcome, evaluation, run)
    return pages.told_as_state(outcome, run)
