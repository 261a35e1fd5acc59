"""Again: the commands that explain runs and answers, and repeat them: clerkflow {why, explain, retry, replay, watchdog}."""

from collections.abc import Callable
from typing import Annotated, Any, cast

import typer

from flows import console
from infra.settings import settings
from tasks.declaration import load_process
from tasks.reasons import Reason

Name = Annotated[str, typer.Argument(metavar="PROCESS", help="A folder of data/processes, or the path of one.")]
SHOWN: dict[str, Callable[[Any, str], None]] = {  # flows that can be asked for again
    "train": console.show_verdict,
    "score": console.show_batches,
    "monitor": console.show_drift,
    "backfill": console.show_filled,
    "replay": console.show_batches,
}


def why(
    process: Name,
    run: Annotated[str | None, typer.Argument(help="The name of its folder in runs/; the newest training when absent.")] = None,
) -> None:
    """Say of each stage of a run why it was done, or was not: which code, library, setting, data or input had changed."""
    from infra.store import open_store
    from tasks.runs import STAGES, newest, record_of
    from tasks.stories import stories_of

    name, store = load_process(process, settings().processes).name, open_store()
    id = run or newest(store, name, "train")
    if id is None:
        raise ValueError(f"{name} was never trained; there is nothing to explain. Train it: clerkflow train {process}")
    record = record_of(store, name, id)
    console.show_why(record, stories_of(store, f"{name}/runs/{id}"), STAGES if record["flow"] == "train" else ())


def explain(
    process: Name,
    batch: Annotated[str, typer.Argument(help="Its name, as its folder says it.")],
    record: Annotated[str, typer.Argument(help="The record's id.")],
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show all that led to a record's output: input, model, its data, gate and approval, answer, threshold, reviewer."""
    from infra.store import open_store
    from tasks.explaining import as_json
    from tasks.explaining import explain as work

    chains = work(open_store(), load_process(process, settings().processes), batch, record)
    if json:
        console.out.print_json(as_json(chains))
        return
    for number, chain in enumerate(chains, start=1):
        if len(chains) > 1:
            console.out.print(f"record {number} of the {len(chains)} of {batch} that have this id")
        console.show_chain(chain)


def retry(process: Name, run: Annotated[str, typer.Argument(help="The name of its folder in runs/.")]) -> None:
    """Ask for a run again, with all it was asked for; stages that are done and whole are found."""
    from infra.store import open_store
    from tasks.runs import record_of

    name = load_process(process, settings().processes).name
    record = record_of(open_store(), name, run)
    if record["flow"] not in SHOWN or "parameters" not in record.get("asked", {}):
        raise ValueError(f"{run} is a run of {record['flow']}, which cannot be asked for again; those of {', '.join(SHOWN)} can")
    console.quiet_libraries()
    from importlib import import_module

    flow = cast(Any, getattr(import_module(f"flows.{record['flow']}"), record["flow"]))
    with console.told(1):
        found = console.worked(flow(**record["asked"]["parameters"]))
        console.out.print(f"{name}: {record['flow']} was done again, as run {run} was asked for")
        SHOWN[record["flow"]](found, name)
    if getattr(found, "became", "") in console.NOT_RELEASED:
        raise typer.Exit(1)


def replay(
    process: Name,
    batch: Annotated[str, typer.Argument(help="Its name, as its folder says it.")],
    reason: Annotated[Reason | None, typer.Option("--reason", help="Only the dead letters of this code.")] = None,
) -> None:
    """Ask again about the dead letters of a batch, after the data or the model was mended; what comes of them is a batch of its own."""
    from infra.store import open_store
    from tasks.replays import letters_of

    letters_of(open_store(), load_process(process, settings().processes).name, batch, reason)
    console.quiet_libraries()
    from flows.replay import replay as flow

    with console.told(1):
        console.show_batches(console.worked(flow(process, batch, reason)), process)


def watchdog(process: Name) -> None:
    """Find runs that died without a word, mark them as crashed, and start crashed ones again, a bounded number of times."""
    load_process(process, settings().processes)
    console.quiet_libraries()
    from flows.watchdog import watchdog as flow

    with console.told(1):
        found = console.worked(flow(process))
    for word, runs in found.items():
        console.out.print(f"{process}: {word}: {', '.join(runs) or 'none'}", soft_wrap=True)


COMMANDS: tuple[Callable[..., None], ...] = (why, explain, retry, replay, watchdog)  # in the order of --help
