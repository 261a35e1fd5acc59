"""Versions: the commands that list published versions, move between them, prove, sign, take out and remove them.

clerkflow {models, rollback, verify, export, sign, gc}.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flows import console, listing
from flows.again import Name
from infra.settings import settings
from tasks.declaration import load_process
from tasks.shards import ADAPTER, LINEAR

if TYPE_CHECKING:
    from infra.store import Store

ALONE = f"a regression on words ({LINEAR}) answers with this model, which alone answers otherwise"


def models(process: Name) -> None:
    """List the published versions: which is champion, challenger, previous; how good each was; who was champion when and why.

    Where people have looked at accepted answers of the champion: how many of them were wrong.
    """
    from infra.store import open_store
    from tasks.aliases import aliases_of, log_of
    from tasks.audit import audit_of
    from tasks.registry import versions_of

    declared, store = load_process(process, settings().processes), open_store()
    name, aliases = declared.name, aliases_of(store, declared.name)
    audit = audit_of(store, declared, aliases.get("champion", ""))
    listing.show_models(versions_of(store, name, skip_damaged=True), aliases, log_of(store, name), name, audit)


def rollback(
    process: Name,
    version: Annotated[str | None, typer.Argument(help="The version before the champion when absent.")] = None,
    reason: Annotated[str, typer.Option(help="Kept in the champion's log.")] = "rolled back by hand",
) -> None:
    """Make an earlier version the champion again: one atomic move, kept in the log."""
    from infra.store import open_store
    from tasks.aliases import rollback as move
    from tasks.decisions import check_may_return

    name, store = load_process(process, settings().processes).name, open_store()
    if version:
        check_may_return(store, name, version)
    alias = move(store, name, version, reason)
    console.out.print(f"{name}: champion is {alias.version} again, was {alias.previous}")
    console.next_command(f"clerkflow models {process}")


Version = Annotated[str, typer.Argument(help="A version, or champion, challenger, previous.")]


def verify(process: Name, version: Version = "champion") -> None:
    """Read every byte of a version again, its data and its evaluation too, and say where they differ from what was published."""
    from infra.store import open_store
    from tasks.aliases import aliases_of, version_named
    from tasks.verification import verify_version

    name, store = load_process(process, settings().processes).name, open_store()
    found = version_named(store, name, version)
    with console.told(1):
        manifest, findings = verify_version(store, name, found)
        aliases = aliases_of(store, name)
        listing.show_findings(manifest, findings, aliases.get("champion") == manifest.version and "previous" in aliases)
    if any(finding.fault for finding in findings):
        raise typer.Exit(1)


Format = Literal["transformers", "ctranslate2"]
Quantization = Literal["float32", "int8"]


def export(
    process: Name,
    version: Version,
    folder: Annotated[Path, typer.Argument(help="New or empty.")],
    format: Annotated[
        Format, typer.Option(help="transformers: shards and model.safetensors.index.json; vLLM opens them, too.")
    ] = "transformers",
    quantization: Annotated[
        Quantization | None, typer.Option(help="Of CTranslate2's weights; as its compression was judged when absent.")
    ] = None,
) -> None:
    """Write a version as a folder that others open: transformers and vLLM, or CTranslate2."""
    from infra.store import open_store
    from tasks.aliases import version_named
    from tasks.registry import export_version

    if quantization and format != "ctranslate2":
        raise ValueError("--quantization belongs to --format ctranslate2; transformers quantizes when it opens a model")
    name, store = load_process(process, settings().processes).name, open_store()
    found = version_named(store, name, version)
    with console.told(1):
        doubt = _export_engine(store, name, found, folder, quantization) if format == "ctranslate2" else None
        if format == "transformers":
            export_version(store, name, found, folder)
    console.out.print(f"{name}: version {found} is in {folder}", soft_wrap=True)
    if doubt:
        console.out.print(f"  warning: {doubt}: measure what it answers before it is used", soft_wrap=True)
    if format == "transformers" and (folder / LINEAR).exists():
        console.out.print(f"  warning: {ALONE}, and others do not read it: finetuning.linear: false trains a version that is one model.")
    if (folder / ADAPTER).exists():
        console.out.print(
            f"  its LoRA adapter is a file of its own, {ADAPTER}: without peft, transformers opens the base alone; vLLM is given it"
        )
        console.out.print("  with --lora-modules. finetuning.lora.merged: true trains a version that is one model.")


def _export_engine(store: "Store", name: str, version: str, folder: Path, quantization: Quantization | None) -> str | None:
    """Why nobody knows what the exported weights are good for; None when it is known."""
    from tasks.engines import export, quantization_of, unjudged
    from tasks.registry import fetch_version, new_folder

    with new_folder(folder) as incoming:
        fetched = fetch_version(store, name, version, settings().cache)
        wanted = quantization or quantization_of(fetched)
        export(fetched, incoming, None if wanted == "float32" else wanted)
    alone = f"{ALONE}, and CTranslate2 does not read it" if (fetched / LINEAR).exists() else None
    return "; ".join(filter(None, (alone, unjudged(fetched, wanted)))) or None


def sign(process: Name, version: Version = "champion") -> None:
    """Put this machine's signature under a version whose bytes are all what they were."""
    from infra.store import open_store
    from tasks.aliases import version_named
    from tasks.verification import sign_verified

    name, store = load_process(process, settings().processes).name, open_store()
    found = version_named(store, name, version)
    with console.told(1):
        manifest = sign_verified(store, name, found)
    listing.show_signature(manifest)


def gc(
    process: Name,
    keep: Annotated[int, typer.Option("--keep", min=1, help="So many of the newest versions stay, beside those that an alias names.")],
    delete: Annotated[bool, typer.Option("--delete", help="Without it, only say what would go.")] = False,
    grace_hours: Annotated[float, typer.Option(min=0, help="What is younger stays.")] = 24.0,
) -> None:
    """Remove old versions and the shards that only they needed; safe while others publish."""
    from infra.store import open_store
    from tasks.retention import collect

    name = load_process(process, settings().processes).name
    with console.told(1):
        found = collect(open_store(), name, keep, grace_hours, dry_run=not delete)
        listing.show_collection(found, name, delete)
    if found.objects and not delete:
        grace = "" if grace_hours == 24 else f" --grace-hours {grace_hours:g}"
        console.next_command(f"clerkflow gc {process} --keep {keep}{grace} --delete")


COMMANDS: tuple[Callable[..., None], ...] = (models, rollback, verify, export, sign, gc)  # in the order of --help
