"""Bases: what `finetuning.base` names -> a folder of this machine, or a model of the hub; nothing that would run somebody's code.

Nothing heavy is imported before a base is looked into: `clerkflow check` asks here, too.
"""

import os
from pathlib import Path
from typing import Any

SCRATCH = "scratch"
STORED = "store:"  # what was published here, such as by `clerkflow pretrain`; store:<name>@<version> stays the same
TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")  # loading these may run code


def base_folder(base: str) -> Path | None:
    """The folder of a base that is one; None for scratch and for the id of a model on the hub, such as gpt2 or org/name.

    Raises:
        ValueError: it is written as a path, and no folder is there; or its weights are pickles only.
    """
    if base == SCRATCH:
        return None
    if base.startswith(STORED):
        return _stored(base)
    folder = os.path.expanduser(base)  # noqa: PTH111 - a home that is not there stays as it is written
    if os.path.isdir(folder):  # noqa: PTH112 - Path.is_dir raises for a name that is too long
        _refuse_pickles(Path(folder), base)
        return Path(folder)
    if base.startswith(("/", "~", ".")) or base.count("/") > 1:
        raise ValueError(f"finetuning.base is {base!r}, and there is no such folder; save the base model there, or name one of the hub")
    return None


def _stored(base: str) -> Path:
    """The folder of a published model, every byte checked against its manifest.

    Raises:
        ValueError: nothing of this name is published, or it is damaged.
    """
    from infra.settings import settings
    from infra.store import open_store
    from tasks.aliases import champion_of
    from tasks.registry import fetch_version

    name, _, version = base.removeprefix(STORED).partition("@")
    champion = None if version else champion_of(open_store(), name)
    if not version and champion is None:
        raise ValueError(f"finetuning.base is {base!r}, and no such model is published; make it: clerkflow pretrain {name}")
    return fetch_version(open_store(), name, version or (champion.version if champion else ""), settings().cache)


def is_own(base: str) -> bool:
    """Whether a base is as small as what is made from scratch, and was made here."""
    return base == SCRATCH or base.startswith(STORED)


def _refuse_pickles(folder: Path, base: str) -> None:
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles and not any(folder.glob("*.safetensors")):
        told = f"has no weights in safetensors, only {', '.join(pickles[:3])}: reading these may run whatever is in them"
        raise ValueError(f"finetuning.base {base!r} {told}; save it once more with save_pretrained of transformers")


def lacks_tokenizer(base: str) -> bool:
    """Whether a base is a folder with a model and no tokenizer of any kind; of a model of the hub this is not asked."""
    folder = None if is_own(base) else base_folder(base)
    return folder is not None and (folder / "config.json").is_file() and not any((folder / name).is_file() for name in TOKENIZERS)


def brings_tokenizer(base: str) -> bool:
    """Whether a vocabulary comes with a base, and is not trained for it."""
    return base != SCRATCH and not lacks_tokenizer(base)


def config_of(base: str, revision: str | None = None) -> dict[str, Any]:
    """A base's config.json.

    Raises:
        ValueError: it cannot be read.
    """
    from transformers import PretrainedConfig

    try:
        found: dict[str, Any] = PretrainedConfig.get_config_dict(base_folder(base) or base, revision=revision or "main")[0]
    except OSError as error:
        raise unopened(base, "config.json", error) from None
    return found


def refuse_unknown(base: str, revision: str | None = None) -> None:
    """See from a base's config.json that transformers itself has its architecture, before any time is spent on it.

    Raises:
        ValueError: it cannot be read, needs code of its own, or writes no text from left to right.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as KNOWN

    config = config_of(base, revision)
    kind = config.get("model_type")
    if kind in KNOWN:
        return
    if config.get("auto_map"):
        told = f"needs code of its own (model_type {kind!r}, auto_map), which is never run here"
    else:
        told = f"is of type {kind!r}, which is no causal language model of transformers"
    raise ValueError(f"finetuning.base {base!r} {told}; choose a base that AutoModelForCausalLM opens without trust_remote_code")


def unopened(base: str, part: str, error: Exception) -> ValueError:
    """What to raise when transformers cannot open a part of a base."""
    return ValueError(f"finetuning.base {base!r} has no {part} that can be opened: {(str(error).splitlines() or [''])[0]}")
