"""The command line: clerkflow {check, train, tune, pretrain, approvals, approve, reject, score, review, monitor, backfill, models,
rollback, verify, export, sign, gc, tidy, why, retry, replay, watchdog, deploy, serve, watch, reconcile, demo}.

Nothing heavy is imported before a command needs it, so `--help` and `check` answer at once. Exit status: 0 done,
1 a gate refused or a run was stopped, 2 a mistake in what was asked for.
"""

import os
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer
import yaml

from flows import again, console, versions
from flows.again import Name
from flows.console import told as _told
from infra.settings import settings
from tasks.declaration import declared_processes, load_process, merge
from tasks.domains import load_domain
from tasks.process import Process
from tasks.runs import Stage
from tasks.sinks import OutputFormat

app = typer.Typer(
    name="clerkflow",
    help="Business paperwork as batch jobs of small fine-tuned GPT models, kept honest.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="For this run only: finetuning.num_train_epochs=2")]


@app.callback()
def _begin(context: typer.Context) -> None:
    """Before every command that uses the store: a file in its place would look like a store with nothing in it."""
    place = settings().store
    if context.invoked_subcommand == "check" or "://" in place:
        return
    folder = Path(place).expanduser().absolute()
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not there.is_dir():
        raise ValueError(f"CLERKFLOW_STORE is {place!r}, and {there} is no folder; name a folder, or s3://bucket[/prefix]")


@app.command()
def check(process: Name, set_: Overrides = None) -> None:
    """Say every mistake of a declaration at once, and show its first prompt and completion as the model will see them."""
    from tasks.preview import preview, show

    declared = load_process(process, settings().processes, _overrides(set_))
    show(found := preview(declared), console.out)
    if found.mistakes:
        raise typer.Exit(2)
    console.next_command(f"clerkflow train {process}")


@app.command()
def train(
    process: Name,
    set_: Overrides = None,
    from_stage: Annotated[Stage | None, typer.Option("--from-stage", help="Do this stage and all after it again.")] = None,
) -> None:
    """Train a model on the declared records and the inbox; publish it when its gate lets it pass."""
    overrides = _overrides(set_)
    load_process(process, settings().processes, overrides)
    console.quiet_libraries()
    from flows.parameters import Overrides
    from flows.train import train as flow

    with _told(1):
        outcome = console.worked(flow(process, Overrides.model_validate(overrides), from_stage=from_stage))
    console.show_verdict(outcome, process)
    if outcome.became in console.NOT_RELEASED:
        raise typer.Exit(1)


@app.command()
def tune(
    process: Name,
    set_: Overrides = None,
    minutes: Annotated[float | None, typer.Option("--minutes", min=0.01, help="How long; as declared when absent.")] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, max=64, help="Processes at once, which share the cores.")] = None,
) -> None:
    """Search for better settings of the training, and print them for process.yaml; the same command again goes on searching."""
    overrides = _overrides(set_)
    load_process(process, settings().processes, overrides)
    console.quiet_libraries()
    from flows.parameters import Overrides
    from flows.tune import tune as flow

    with _told(1):
        console.show_search(console.worked(flow(process, Overrides.model_validate(overrides), minutes, workers)), process)


@app.command()
def pretrain(base: Annotated[str, typer.Argument(metavar="BASE", help="A file of data/bases, without its ending.")]) -> None:
    """Make a base model on the texts of the processes that it names, and publish it for them to be tuned from."""
    load_domain(base, settings().bases)
    console.quiet_libraries()
    from flows.pretrain import pretrain as flow

    with _told(1):
        alias = flow(base)
    console.out.print(f"{base}: version {alias.version} is published; tune from it with finetuning: {{base: 'store:{base}'}}")


Request = Annotated[str, typer.Argument(help="As 'clerkflow approvals' says it.")]
As = Annotated[str, typer.Option("--as", metavar="NAME", help="Who decides, a name in the file that CLERKFLOW_APPROVERS names.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept in the champion's log.")]


@app.command()
def approvals(process: Name) -> None:
    """List the models that passed their gate and wait, or waited, for a person's word."""
    from infra.store import open_store
    from tasks.approvals import standings

    name = load_process(process, settings().processes).name
    console.show_standings(standings(open_store(), name), name)


@app.command()
def approve(process: Name, request: Request, as_: As, reason: Reason) -> None:
    """Make a model that waits the champion; the same command again finishes what was killed in between."""
    _decide(process, request, "approved", as_, reason)


@app.command()
def reject(process: Name, request: Request, as_: As, reason: Reason) -> None:
    """Leave the champion where it is, for good as far as this request goes."""
    _decide(process, request, "rejected", as_, reason)


def _decide(process: str, request: str, decision: Literal["approved", "rejected"], name: str, reason: str) -> None:
    declared = load_process(process, settings().processes)
    console.quiet_libraries()
    from flows.telling import tell_decision
    from infra.store import open_store
    from tasks.decisions import decide

    with _told(1):
        found = decide(open_store(), declared.name, request, decision, name, reason)
    tell_decision(found, declared)
    console.show_standings([found], declared.name)
    console.next_command(f"clerkflow models {process}")


@app.command()
def score(
    process: Name,
    input_: Annotated[str | None, typer.Option("--input", metavar="FILE_OR_KEY", help="Without it, all that waits in the inbox.")] = None,
    format_: Annotated[OutputFormat, typer.Option("--format", help="How predictions are written.")] = "jsonl",
) -> None:
    """Give the champion new records; write predictions, and dead letters for what it could not do."""
    source = _source(input_, load_process(process, settings().processes))
    console.quiet_libraries()
    from flows.score import score as flow

    with _told(1):
        console.show_batches(console.worked(flow(process, source, format_)), process)


@app.command()
def review(
    process: Name,
    as_: Annotated[str, typer.Option("--as", metavar="NAME", help="Who reviews; kept with each decision.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="On loopback; any that is free when absent.")] = 0,
) -> None:
    """Open a page on which a person accepts, corrects or rejects what batches left to review, then what is audited; stop it with Ctrl-C."""
    declared = load_process(process, settings().processes)
    from flows.review import serve as show
    from infra.store import open_store

    def told(address: str) -> None:
        reading.stop()
        console.out.print(f"{declared.name}: {address}", soft_wrap=True)

    with _told(1), console.out.status("reading what waits for people") as reading:
        show(open_store(), declared, as_, port, told)


@app.command()
def monitor(
    process: Name,
    retrain: Annotated[bool, typer.Option("--train/--no-train", help="Start a training run when it drifts.")] = True,
) -> None:
    """Compare recent batches with what the champion was tested on; train again when they drifted."""
    load_process(process, settings().processes)
    console.quiet_libraries()
    from flows.monitor import monitor as flow

    with _told(1):
        console.show_drift(console.worked(flow(process, retrain)), process)


@app.command()
def backfill(
    process: Name,
    first: Annotated[datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="The first day, in UTC.")],
    last: Annotated[datetime, typer.Option("--to", formats=["%Y-%m-%d"], help="The last day; it belongs to the span.")],
    work: Annotated[
        Literal["score", "monitor"], typer.Option("--flow", help="Score each day, or compare it with its champion, too.")
    ] = "score",
    parallel: Annotated[int, typer.Option(min=1, max=16, help="So many days at a time, each with a model in memory.")] = 2,
    format_: Annotated[OutputFormat, typer.Option("--format", help="How predictions are written.")] = "jsonl",
) -> None:
    """Score or monitor past days of the inbox, each with the model that was champion on it; what is done already is found."""
    load_process(process, settings().processes)
    console.quiet_libraries()
    from flows.backfill import backfill as flow

    with _told(1):
        console.show_filled(console.worked(flow(process, first.date(), last.date(), work, parallel, format_)), process)


for command in versions.COMMANDS:
    app.command()(command)


@app.command()
def tidy(
    process: Name,
    delete: Annotated[bool, typer.Option("--delete", help="Without it, only say what would go.")] = False,
) -> None:
    """Remove old runs, batches, ledger entries and versions, as `keep:` of the declaration says; nothing that is still referred to."""
    declared = load_process(process, settings().processes)
    from infra.store import open_store
    from tasks.tidying import tidy as work

    with _told(1):
        console.show_tidied(work(open_store(), declared, dry_run=not delete).counts, declared.name, delete)
    if not delete:
        console.next_command(f"clerkflow tidy {process} --delete")


for command in again.COMMANDS:
    app.command()(command)

Names = Annotated[list[str] | None, typer.Argument(metavar="[PROCESS]...", help="All declared processes when absent.")]


@app.command()
def deploy(
    process: Names = None,
    pool: Annotated[str, typer.Option("--pool", help="Of the workers that run them; made when missing.")] = "clerkflow",
) -> None:
    """Make or update a deployment for each flow and process, and remove those that are declared no longer."""
    processes = _declared(process)
    from infra.dispatch import server_answers

    server_answers()  # said at once, before all that flows import
    from flows.serve import deploy as apply

    console.show_deployments(apply(processes, pool, everything=not process), pool)


@app.command()
def serve(process: Names = None) -> None:
    """Do the same without workers: run in this process what the Prefect server asks for."""
    processes = _declared(process)
    from infra.dispatch import server_answers

    server_answers()
    from flows.serve import serve_all

    serve_all(processes, everything=not process)


@app.command()
def watch(process: Names = None) -> None:
    """Tell the Prefect server of what arrives in the inboxes, so that runs start by themselves."""
    import signal
    import threading

    processes = _declared(process)
    from flows.watch import watch_all
    from infra.dispatch import server_answers

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with _told(1):
        server_answers()
        watch_all(processes, stop)


@app.command()
def reconcile(process: Name) -> None:
    """Start what events have missed, and say what became of everything that arrived."""
    load_process(process, settings().processes)
    console.quiet_libraries()
    from flows.reconcile import reconcile as flow

    with _told(1):
        state = cast(Any, flow)(process, return_state=True)
        result = state.result(raise_on_failure=False)
    console.show_arrivals(process, result if state.is_completed() else str(state.message))
    if not state.is_completed():
        raise typer.Exit(1)


@app.command()
def demo() -> None:
    """The whole life in a quarter of an hour: two models trained, a batch done, a drift caught, the champion replaced."""
    console.quiet_libraries()
    from flows.demo import demo as story

    story()


def _source(name: str | None, process: Process) -> str | None:
    """A file by its whole path, since flows may run elsewhere; a key of the store, and nothing, as they are."""
    if name is None:
        return None
    from infra.store import open_store
    from tasks.sources import check_source

    check_source(open_store(), name, process)
    return str(Path(name).resolve()) if os.path.isfile(name) else name  # noqa: PTH113 - Path.is_file raises for a name that is too long


def _declared(names: list[str] | None) -> list[Process]:
    """The named processes, or all."""
    return [load_process(name, settings().processes) for name in names or declared_processes(settings().processes)]


def _overrides(pairs: list[str] | None) -> dict[str, Any]:
    """["finetuning.num_train_epochs=2"] -> {"finetuning": {"num_train_epochs": 2}}; values are YAML."""
    overrides: dict[str, Any] = {}
    for pair in pairs or ():
        path, equals, value = pair.partition("=")
        if not equals or not path:
            raise ValueError(f"--set {pair}: expected key=value, such as finetuning.num_train_epochs=2")
        try:
            inner: Any = yaml.safe_load(value)
            for part in reversed(path.split(".")):
                inner = {part: inner}
            overrides = merge(overrides, inner)
        except yaml.YAMLError:
            raise ValueError(f"--set {pair!r}: what stands after = is not YAML; quote it, or close its brackets") from None
        except RecursionError:
            raise ValueError(f"--set {pair[:40]}…: too deep; expected key=value, such as finetuning.num_train_epochs=2") from None
    return overrides


def main() -> None:
    """Entry point of the `clerkflow` command."""
    with _told(2):
        app()


if __name__ == "__main__":
    main()
