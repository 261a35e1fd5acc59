"""Declaration: data/processes/<name>/process.yaml and this run's overrides -> Process; every mistake is told at once."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from tasks.process import Process
from tasks.terms import long_gate


class DeclarationError(ValueError):
    """One or more mistakes in a process.yaml; the message lists all of them."""


def merge(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides laid over the declaration, section by section; a list is replaced whole, or in the places that {"2": …} names."""
    merged = dict(base)
    for key, value in overrides.items():
        merged[key] = _laid_over(merged.get(key), value)
    return merged


def _laid_over(inner: Any, value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    if isinstance(inner, Mapping):
        return merge(inner, value)
    if isinstance(inner, list) and value and all(str(place).isdecimal() and int(place) < len(inner) for place in value):
        laid = {int(place): _laid_over(inner[int(place)], part) for place, part in value.items()}
        return [laid.get(place, part) for place, part in enumerate(inner)]
    return value


class _OneMeaning(yaml.SafeLoader):
    """YAML that refuses a key written twice: the second would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {str(key) for key in keys if keys.count(key) > 1}
        if twice:
            raise DeclarationError(f"line {node.start_mark.line + 1}: written twice: {', '.join(sorted(twice))}")
        return super().construct_mapping(node, deep)


def load_process(name: str, processes: Path, overrides: Mapping[str, Any] | None = None) -> Process:
    """The declaration of one process, with this run's overrides.

    Args:
        name: a folder of `processes`, or the path of any folder that holds a process.yaml.

    Raises:
        DeclarationError: no such process, or one or more mistakes in it; all are listed.
    """
    folder = Path(name) if "/" in name or name == "." else processes / name
    file = folder / "process.yaml"
    if not os.path.isfile(file):  # noqa: PTH113 - Path.is_file raises for a name that is too long
        known = sorted(path.parent.name for path in processes.glob("*/process.yaml"))
        raise DeclarationError(f"no process {name!r}: {file} is missing; declared are: {', '.join(known) or 'none'}")
    declared = _long_form(read_mapping(file))
    merged = merge(declared, _long_form(overrides or {}))
    _approval_stays(declared, merged, str(file))
    _tables_stay(declared, merged, str(file))
    process = parse_process(merged, str(file))
    if "/" not in name and process.name != name:
        raise DeclarationError(f"{file}: name is {process.name!r}, the folder is {name!r}; make them equal")
    process._folder = folder.resolve()
    return process


def read_mapping(file: Path) -> dict[Any, Any]:
    """What a YAML file declares.

    Raises:
        DeclarationError: it is no YAML, says something twice, or is no mapping.
    """
    try:
        declared = yaml.load(file.read_text(encoding="utf-8"), _OneMeaning)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError, DeclarationError) as error:
        raise DeclarationError(f"{file}: {error}") from None
    except RecursionError:
        raise DeclarationError(f"{file}: brackets or blocks within one another, too deep to be read") from None
    if not isinstance(declared, dict):
        raise DeclarationError(f"{file}: expected a mapping such as 'name: …', got {type(declared).__name__}")
    return declared


def _long_form(declared: Mapping[str, Any]) -> Mapping[str, Any]:
    """The declaration with its gate as a mapping, so that an override of the rules leaves the approval where it is."""
    return {**declared, "gate": long_gate(declared["gate"])} if "gate" in declared else declared


def _approval_stays(declared: Mapping[str, Any], merged: Mapping[str, Any], where: str) -> None:
    """Raise DeclarationError when overrides changed who must agree: whoever starts a run may not decide that."""
    before, now = (gate.get("approval") if isinstance(gate, Mapping) else None for gate in (declared.get("gate"), merged.get("gate")))
    if before and before != now:
        raise DeclarationError(f"{where}: gate.approval cannot be changed for one run; edit the declaration")


def _tables_stay(declared: Mapping[str, Any], merged: Mapping[str, Any], where: str) -> None:
    """Raise DeclarationError when overrides changed where rows come from or go to: whoever starts a run may not choose a database."""
    before, now = (found if isinstance(found := given.get("batch"), Mapping) else {} for given in (declared, merged))
    if any(before.get(name) != now.get(name) for name in ("source", "sink")):
        raise DeclarationError(f"{where}: batch.source and batch.sink cannot be changed for one run; edit the declaration")


def parse_process(declared: Mapping[str, Any], where: str) -> Process:
    """Plain data -> Process; every mistake in one DeclarationError."""
    declared = _long_form(declared)
    try:
        return _parse(declared, where)
    except RecursionError:
        raise DeclarationError(f"{where}: lists or sections within one another without end, or nearly so") from None


def _parse(declared: Mapping[str, Any], where: str) -> Process:
    try:
        return Process.model_validate(declared)
    except ValidationError as error:
        lines = [line for fault in _faults(declared, error.errors()) for line in _lines(fault)]
        raise DeclarationError(f"{where}: {len(lines)} mistake{'s' * (len(lines) > 1)}\n" + "\n".join(lines)) from None


def _faults(declared: Mapping[str, Any], faults: Sequence[Any]) -> list[Any]:
    """These faults, and those that show only once their places are left out: a section is checked as a whole when its parts are right."""
    places = [fault["loc"] for fault in faults]
    lists = [place[:-1] for place in places if place]
    found = [fault for fault in faults if fault["type"] != "too_short" or not any(_within(place, fault["loc"]) for place in lists)]
    while () not in places:  # the whole was not looked at yet
        try:
            Process.model_validate(_without(declared, places))
            break
        except ValidationError as error:
            more = [fault for fault in error.errors() if fault["loc"] not in places]
        if not more:
            break
        found += [fault for fault in more if not fault["loc"] or not any(_within(place, fault["loc"]) for place in places)]
        places += [fault["loc"] for fault in more]
    return found


def _within(place: tuple[int | str, ...], outer: tuple[int | str, ...]) -> bool:
    return place[: len(outer)] == outer


def _without(value: Any, places: Sequence[tuple[int | str, ...]]) -> Any:
    """Plain data without what stands at these places; list entries stay, so that the others keep their numbers."""
    if isinstance(value, Mapping):
        keys = [key for key in value if (key,) not in places]
        return {key: _without(value[key], [place[1:] for place in places if place and place[0] == key]) for key in keys}
    if isinstance(value, list):
        return [_without(inner, [place[1:] for place in places if place and place[0] == index]) for index, inner in enumerate(value)]
    return value


def _lines(fault: Any) -> list[str]:
    """A pydantic fault in a person's words, a line for each mistake."""
    words: str = "unknown key" if fault["type"] == "extra_forbidden" else fault["msg"].removeprefix("Value error, ")
    where = ".".join(map(str, fault["loc"]))
    return [f"  {where}: {line}" if where else f"  {line}" for line in words.split("\n")]


def declared_processes(processes: Path) -> list[str]:
    """Names of all declared processes, sorted."""
    return sorted(path.parent.name for path in processes.glob("*/process.yaml"))
