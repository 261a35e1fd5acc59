"""Studies: the trials of a search -> plain data, and one HTML page that needs no network."""

import html
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

DECLARED = "declared"  # attribute of a trial that changes nothing


def story_of(study: optuna.Study) -> dict[str, Any]:
    """Every trial, the best one, and the loss of the one that changes nothing of what was declared or settled; None where none did."""
    trials = [_told(trial) for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.WAITING]
    done = [trial for trial in trials if trial["state"] == "complete"]
    declared = next((trial["loss"] for trial in done if trial["declared"]), None)
    return {"trials": trials, "best": min(done, key=lambda trial: trial["loss"], default=None), "declared": declared}


def _told(trial: FrozenTrial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "loss": trial.value if trial.state == TrialState.COMPLETE else None,
        "settings": trial.user_attrs.get("settings", {}),
        "losses": {str(step): value for step, value in sorted(trial.intermediate_values.items())},
        "tokens": trial.user_attrs.get("tokens", 0),
        "declared": trial.user_attrs.get(DECLARED, False),
    }


def page_of(study: optuna.Study, story: Mapping[str, Any], name: str, lines: str) -> str:
    """What was found, and the study's plots."""
    rows = "".join(
        f"<tr><td>{trial['number']}<td>{trial['state']}<td>{'' if trial['loss'] is None else format(trial['loss'], '.4f')}"
        f"<td>{html.escape(', '.join(f'{key} {_short(value)}' for key, value in trial['settings'].items()))}"
        for trial in sorted(story["trials"], key=lambda trial: (trial["loss"] is None, trial["loss"]))
    )
    declared = "" if story["declared"] is None else f", as declared {story['declared']:.4f}"
    return (
        f'<!doctype html><meta charset="utf-8"><title>{name}: search</title>'
        "<style>body{font-family:sans-serif;margin:2em auto;max-width:70em}td,th{padding:.2em .8em;text-align:left}</style>"
        f"<h1>{name}: {len(story['trials'])} trials</h1><p>Best validation loss {story['best']['loss']:.4f} nats{declared}."
        f" For process.yaml:<pre>{html.escape(lines)}</pre>{''.join(_plots(study))}"
        f"<table><tr><th>trial<th>state<th>loss<th>settings{rows}</table>"
    )


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plots(study: optuna.Study) -> Iterator[str]:
    """History, importances where there are enough trials to tell, and the losses on the way; the first one brings the script of all."""
    from optuna import visualization

    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    differ = len({tuple(sorted(trial.params.items())) for trial in done}) > 1
    plots = [visualization.plot_optimization_history, visualization.plot_intermediate_values]
    script: bool = True
    for plot in [*plots, *([visualization.plot_param_importances] if differ else [])]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of trials that were stopped, and of few trials
            yield plot(study).to_html(full_html=False, include_plotlyjs=script)
        script = False
