"""Checkpoints: a tuning under way -> <process>/checkpoints/<fingerprint>/<step>/ in the store, and back after a kill.

A checkpoint is tensors in safetensors, the rest in JSON, and complete.json with every file's digest, written last. One
that is torn or changed does not count. No pickle: whoever can write to the store must not be able to run code here.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from infra.store import MissingObject, Store, copy_to
from tasks.artifacts import file_digest, scratch, write_json
from tasks.claims import Hold, check

COMPLETE, WEIGHTS, OPTIMIZER, STATE = "complete.json", "weights.safetensors", "optimizer.safetensors", "state.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a tuning needs to go on as if it had never stopped."""

    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]


class Checkpoints:
    """The checkpoints of one tuning; nobody else writes below this prefix, for whoever has lost its claim stops at the next one."""

    def __init__(self, store: Store, prefix: str, hold: Hold | None = None) -> None:
        self.store, self.prefix, self.hold = store, prefix, hold

    def save(self, checkpoint: Checkpoint, keep: Collection[int] = ()) -> None:
        """Store a checkpoint, then remove all others but those of the steps in `keep`.

        Raises:
            Lost: another run works on this tuning now.
        """
        check(self.store, self.hold)
        tensors = {WEIGHTS: checkpoint.weights, OPTIMIZER: checkpoint.optimizer}
        with scratch() as folder:
            for name, content in tensors.items():
                save_file({key: tensor.detach().cpu().contiguous() for key, tensor in content.items()}, folder / name)
            write_json(folder / STATE, checkpoint.state)
            digests = {name: file_digest(folder / name) for name in (*tensors, STATE)}
            self.store.delete(self._key(checkpoint.step, COMPLETE))  # while files are replaced it is not whole
            for name in digests:
                self.store.upload(folder / name, self._key(checkpoint.step, name))
        self.store.write(self._key(checkpoint.step, COMPLETE), json.dumps(digests, sort_keys=True).encode())
        self._remove(step for step in self._steps() if step != checkpoint.step and step not in keep)

    def newest(self) -> Checkpoint | None:
        """The newest whole checkpoint whose best step is whole too; None when there is none."""
        for step in sorted(self._steps(), reverse=True):
            with scratch() as folder:
                if not self._fetch(step, folder):
                    continue
                state = json.loads((folder / STATE).read_text(encoding="utf-8"))
                best = state.get("best_step")
                if best in (None, step) or self.weights(best) is not None:
                    return Checkpoint(step, load_file(folder / WEIGHTS), load_file(folder / OPTIMIZER), state)
        return None

    def weights(self, step: int) -> dict[str, Tensor] | None:
        """The weights of one step; None when they are not whole."""
        with scratch() as folder:
            return load_file(folder / WEIGHTS) if self._fetch(step, folder, (WEIGHTS,)) else None

    def clear(self) -> None:
        """Remove all of them."""
        self._remove(self._steps())

    def _key(self, step: int, name: str) -> str:
        return f"{self.prefix}/{step:09d}/{name}"

    def _steps(self) -> set[int]:
        """Steps of which anything is there, whole or not."""
        folders = {info.key.removeprefix(f"{self.prefix}/").partition("/")[0] for info in self.store.list(f"{self.prefix}/")}
        return {int(name) for name in folders if name.isdecimal()}

    def _fetch(self, step: int, folder: Path, names: Collection[str] = (WEIGHTS, OPTIMIZER, STATE)) -> bool:
        """Copy a checkpoint's files, digests checked, and say whether it is whole."""
        try:
            digests: Mapping[str, str] = json.loads(self.store.read(self._key(step, COMPLETE))[0])
            for name in names:
                copy_to(self.store, self._key(step, name), folder / name, digests[name])
        except (MissingObject, ValueError, KeyError):
            return False
        return True

    def _remove(self, steps: Any) -> None:
        for step in list(steps):
            self.store.delete(self._key(step, COMPLETE))  # first, so that it is never half there and counted as whole
            for info in list(self.store.list(f"{self.prefix}/{step:09d}/")):
                self.store.delete(info.key)
