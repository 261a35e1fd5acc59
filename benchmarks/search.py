"""What stopping bad trials saves: curves of real trainings, recorded once, then searched again and again in other orders.

Run: make bench-search          (or: .venv/bin/python -m benchmarks.search --process ticket_routing --trials 16 --minutes 0.3)
Settings are drawn at random from the space that `clerkflow tune` searches by itself. Each is trained to its end, and its validation
losses are kept in build/search-<process>.json; a second call only replays. Bars: 1.8 times fewer tokens, at the same best trial.
"""

import argparse
import json
import random
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ORDERS = 50
BAR = 1.8


def main() -> int:
    """Record what is missing, replay, print; 1 when pruning saves less than the bar or loses the best."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--process", default="ticket_routing")
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--minutes", type=float, default=0.3, help="finetuning.budget_minutes of each trial")
    asked = parser.parse_args()
    file = ROOT / "build" / f"search-{asked.process}.json"
    curves = json.loads(file.read_text()) if file.is_file() else record(asked.process, asked.trials, asked.minutes, file)
    found = [replay(curves, seed) for seed in range(ORDERS)]
    saved = [whole / used for used, whole, _ in found]
    regrets = [regret for *_, regret in found]
    kept = sum(regret == 0 for regret in regrets)
    losses = sorted(min(each["losses"]) for each in curves)
    print(f"{asked.process}: {len(curves)} trials, losses {losses[0]:.4f} to {losses[-1]:.4f}, {ORDERS} orders")
    print(f"tokens without pruning / with: {statistics.mean(saved):.2f} times (least {min(saved):.2f}, most {max(saved):.2f}); bar {BAR}")
    print(
        f"the best trial was found in {kept} of {ORDERS} orders; mean regret {statistics.mean(regrets):.4f} nats, most {max(regrets):.4f}"
    )
    return 0 if statistics.mean(saved) >= BAR and statistics.median(regrets) == 0 else 1


def record(name: str, trials: int, minutes: float, file: Path) -> list[dict[str, Any]]:
    """Train with settings drawn at random, each to its end; the curves, also kept as JSON."""
    from infra.threads import calm_openmp

    calm_openmp()
    import optuna

    from infra.settings import settings
    from tasks.budget import settle
    from tasks.declaration import load_process
    from tasks.search import counted, space_around, suggested

    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="clerkflow-bench-") as place:
        open_fields = {"budget_minutes": minutes, "size": None, "num_train_epochs": None, "learning_rate": None}
        process = load_process(name, settings().processes, {"finetuning": open_fields})
        samples = prepared(process, Path(place))
        counts = counted(samples)
        space = space_around(process, settle(process.finetuning, process.output.kind, counts), counts)
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=7))
        for number in range(trials):
            chosen = suggested(study.ask(), space, process, counts)
            found.append(curve(process, samples, chosen, Path(place) / str(number)))
            print(number, f"{min(found[-1]['losses']):.4f}", f"{found[-1]['tokens'][-1]:,} tokens", chosen, flush=True)
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(found))
    return found


def prepared(process: Any, folder: Path) -> Path:
    """samples/ of a declared process, by its own stages as plain functions."""
    from tasks.preparation import write_samples
    from tasks.readers import Reader
    from tasks.records import Record
    from tasks.repairs import repair

    (folder / "working").mkdir()
    source = process.records.sources[0]
    rows = (row for row in Reader(process.folder / source, source, process) if isinstance(row, Record))
    mended = (repair(process, row, process.labels) for row in rows)
    label, labels = process.output.label or "", process.labels
    valid = (row for row in mended if labels is None or row.values.get(label) in labels)  # the others validation would put aside
    write_samples(process, valid, folder / "samples", folder / "working")
    return folder / "samples"


def curve(process: Any, samples: Path, chosen: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The validation losses of one training, and the tokens seen until each."""
    from infra.store import LocalStore
    from tasks.checkpoints import Checkpoints
    from tasks.finetuning import train_model
    from tasks.search import with_settings

    tokens: list[int] = []
    losses: list[float] = []

    def watch(progress: Any) -> None:
        if len(progress.history) > len(losses):
            losses.append(progress.history[-1]["validation_loss"])
            tokens.append(progress.tokens)

    train_model(with_settings(process, chosen), samples, folder / "model", Checkpoints(LocalStore(folder / "store"), "c"), watch, 1e9)
    return {"settings": chosen, "losses": losses, "tokens": tokens}


def replay(curves: Sequence[dict[str, Any]], seed: int) -> tuple[float, float, float]:
    """Tokens with pruning, tokens without, and by how much the best trial found is worse than the best there is (nats)."""
    import optuna

    from tasks.search import pruner

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    order = random.Random(seed).sample(list(curves), len(curves))
    study, used, best = optuna.create_study(pruner=pruner()), 0.0, float("inf")
    for each in order:
        trial = study.ask()
        for step, (loss, tokens) in enumerate(zip(each["losses"], each["tokens"], strict=True), 1):
            trial.report(loss, step)
            if step < len(each["losses"]) and trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                used += tokens
                break
        else:
            study.tell(trial, min(each["losses"]))
            used, best = used + each["tokens"][-1], min(best, *each["losses"])
    whole = sum(each["tokens"][-1] for each in order)
    return used, whole, best - min(min(each["losses"]) for each in curves)


if __name__ == "__main__":
    raise SystemExit(main())
