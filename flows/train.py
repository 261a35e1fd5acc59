"""Train: raw records -> validated -> samples -> model -> gate -> published shards."""

from prefect import flow

from flows import pages, telling, turns
from flows.opening import open_run, run_name
from flows.parameters import Overrides
from tasks import arrivals, runs
from tasks.compression import compress
from tasks.evaluation import evaluate
from tasks.finetuning import finetune
from tasks.gate import pass_gate
from tasks.ingestion import ingest
from tasks.preparation import prepare
from tasks.publishing import Outcome, champion_to_meet, outcome_of, publish
from tasks.runs import Stage
from tasks.validation import validate


@flow(name="train", flow_run_name=run_name, on_failure=[telling.tell_failure], on_crashed=[telling.tell_failure])
@turns.alone
def train(
    process: str, overrides: Overrides | None = None, dry_run: bool = False, from_stage: Stage | None = None, arrived: str | None = None
) -> Outcome:
    """Train a process's model and publish it when its gate lets it pass.

    Args:
        process: Name of a declared process, a folder of data/processes.
        overrides: Parts of the declaration that differ for this run only, such as {"finetuning": {"num_train_epochs": 2}}.
        dry_run: Everything up to the gate's verdict; nothing is published, and new files of the inbox still wait.
        from_stage: Do this stage and all after it again, whatever is remembered. Without it, begin at the first one that changed.
        arrived: The key whose arrival started this run.
    """
    run = open_run(process, "train", overrides, from_stage)
    if arrived:
        arrivals.begin_training(run)
    raw = ingest(run)
    validated = validate(raw, run)
    pages.show_validation(validated, run)
    samples = prepare(validated, run)
    model = finetune(samples, run)
    model = compress(model, samples, run)
    pages.show_compression(model, run)
    champion = champion_to_meet(model, run)
    evaluation = evaluate(model, samples, champion, run)
    pages.show_evaluation(evaluation, run)
    verdict = pass_gate(evaluation, run)
    pages.show_verdict(verdict, run)
    release = publish(model, evaluation, verdict, run) if verdict.passed and not dry_run else None
    outcome = outcome_of(verdict, release, dry_run)
    pages.show_request(release, run)
    if not dry_run:
        arrivals.learned_from(raw, run)
    runs.finish(run, outcome.became, [raw, validated, samples, model, evaluation])
    telling.tell_outcome(outcome, evaluation, run)
    return pages.told_as_state(outcome, run)
