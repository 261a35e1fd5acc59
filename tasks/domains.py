"""Domains: data/bases/<name>.yaml -> whose texts a base model reads before any process is taught, and how it is trained."""

import os
from pathlib import Path

from pydantic import Field, ValidationError, field_validator

from tasks.declaration import DeclarationError, read_mapping
from tasks.process import NAME, Finetuning
from tasks.terms import Declared


class Domain(Declared):
    """A base model that is made here, of the texts of some processes."""

    name: str
    owner: str
    processes: tuple[str, ...] = Field(min_length=1)  # whose records it reads: training side and unlabelled ones, never what measures
    corpus: tuple[str, ...] = ()  # further text files beside the declaration, one text a line
    vocabulary_size: int = Field(4096, ge=300)
    finetuning: Finetuning = Finetuning()

    @field_validator("name")
    @classmethod
    def _safe_name(cls, name: str) -> str:
        if not NAME.fullmatch(name) or not name.startswith("base-"):
            raise ValueError(f"{name!r}: write base- and lower-case letters, digits, _ and -")
        return name

    @field_validator("finetuning")
    @classmethod
    def _from_nothing(cls, finetuning: Finetuning) -> Finetuning:
        if finetuning.base != "scratch":
            raise ValueError("a base is made from scratch; leave finetuning.base out")
        if finetuning.paraphrases:
            raise ValueError("a base reads texts as they are; leave finetuning.paraphrases out")
        return finetuning


def load_domain(name: str, folder: Path) -> Domain:
    """The declaration of one base.

    Raises:
        DeclarationError: there is no such file, or one or more mistakes in it.
    """
    file = folder / f"{name}.yaml"
    if not os.path.isfile(file):  # noqa: PTH113 - Path.is_file raises for a name that is too long
        known = sorted(path.stem for path in folder.glob("*.yaml"))
        raise DeclarationError(f"no base {name!r}: {file} is missing; declared are: {', '.join(known) or 'none'}")
    try:
        found = Domain.model_validate(read_mapping(file))
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, fault['loc']))}: {fault['msg'].removeprefix('Value error, ')}" for fault in error.errors()]
        raise DeclarationError(f"{file}: {len(lines)} mistakes\n" + "\n".join(lines)) from None
    if found.name != name:
        raise DeclarationError(f"{file}: name is {found.name!r}; make it {name!r}")
    return found
