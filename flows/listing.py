"""Listing: published versions, who vouches for them, and what a collection removed, as the command line prints them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from flows import console
from flows.console import figure, mebibytes, minute, next_command
from infra.settings import settings

if TYPE_CHECKING:
    from tasks.aliases import Move
    from tasks.audit import Audit
    from tasks.manifests import Manifest
    from tasks.retention import Collection
    from tasks.verification import Finding


def show_models(
    manifests: Sequence["Manifest"], aliases: Mapping[str, str], log: Sequence["Move"], process: str, audit: "Audit | None" = None
) -> None:
    """Published versions, newest first, who was champion when and why, and what people found among its accepted answers."""
    table = Table(title=f"models of {process}", title_justify="left")
    for heading in ("version", "", "run began", "size", "measures"):
        table.add_column(heading, no_wrap=heading in ("version", "size"))
    for manifest in manifests:
        marks = [f"[green]{name}[/]" if name == "champion" else name for name, version in aliases.items() if version == manifest.version]
        if not _is_trusted(manifest):
            marks.append("[red]not trusted[/]")
        elif manifest.signature:
            marks.append("signed")
        measures = ", ".join(f"{name} {figure(value)}" for name, value in manifest.metrics.items())
        table.add_row(manifest.version, "\n".join(marks), minute(manifest.created), mebibytes(manifest.size), escape(measures))
    console.out.print(table)
    if not manifests:
        console.out.print(f"no version yet in {settings().store}")
        next_command(f"clerkflow train {process}")
    elif log:
        console.out.print(log_table(log[-20:]))
    if audit:
        console.out.print(escape(audit.told))


def _is_trusted(manifest: "Manifest") -> bool:
    """Whether a version is signed as this machine asks, which may ask for nothing."""
    from tasks.manifests import check_signature

    try:
        check_signature(manifest)
    except ValueError:
        return False
    return True


def log_table(log: Sequence["Move"]) -> Table:
    """Moves of the champion, the newest last."""
    table = Table(title="champions", title_justify="left")
    for heading in ("", "since", "champion", "was", "why"):
        table.add_column(heading, no_wrap=heading in ("champion", "was"))
    for move in log:
        why = f"{move.reason} (run {move.run})" if move.run else move.reason
        table.add_row(str(move.number), minute(move.since), move.version, move.previous or "–", escape(why))
    return table


def show_findings(manifest: "Manifest", findings: Sequence["Finding"], replaceable: bool) -> None:
    """What verification found: each part that is not what it was, then the sum of it.

    Args:
        replaceable: whether it is the champion, and another one was before.
    """
    wrong = [finding for finding in findings if finding.fault]
    if wrong:
        table = Table(title=f"{manifest.process} {manifest.version} is not what was published", title_justify="left")
        table.add_column("part")
        table.add_column("fault", overflow="fold")
        for finding in wrong:
            table.add_row(escape(finding.part), f"[red]{escape(finding.fault)}[/]")
        console.out.print(table)
    size = mebibytes(sum(finding.size for finding in findings))
    console.out.print(f"{manifest.process} {manifest.version}: {len(findings)} parts, {size} read, {len(wrong)} wrong")
    console.out.print(f"  root {manifest.root}, commit {manifest.commit or 'unknown'}")
    show_signature(manifest)
    if wrong and replaceable:
        next_command(f"clerkflow rollback {manifest.process}")


def show_signature(manifest: "Manifest") -> None:
    """Who vouches for a version."""
    who = f"signed by {manifest.signature.public_key}" if manifest.signature else "not signed"
    here = "" if _is_trusted(manifest) else ", [red]not trusted here[/]"
    console.out.print(f"  {manifest.version}: {who}{here}", soft_wrap=True)


def show_collection(found: "Collection", process: str, deleted: bool) -> None:
    """What went, or would go."""
    verb = "removed" if deleted else "would remove"
    console.out.print(f"{process}: {verb} {len(found.dropped)} versions and {len(found.objects)} objects, {mebibytes(found.size)}")
    for version in found.dropped:
        console.out.print(f"  {version}")
    console.out.print(f"  {len(found.kept)} versions stay: {', '.join(found.kept) or 'none'}")
