"""What an experiment was made of, and where: a resumed one must be made of the same.

Results of other weights, texts or items are answers to another question; those of another machine
answer the same one, but for what they say of time and energy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from paredown.artifact.source import locate
from paredown.errors import ExperimentError
from paredown.evaluate.task_data import rows_hash
from paredown.methods import registry
from paredown.spec.benchmarks import expand
from paredown.spec.progress import Progress, unheard
from paredown.spec.run import RunConfig
from paredown.spec.strategy import Strategy
from paredown.store.content import model_files
from paredown.store.experiment import Experiment, ExperimentRecord
from paredown.text.texts import texts_content

CONTENT = "content"
"""In `run.json`: hash by what it is of, such as `model/config.json` or `items/gsm8k`."""
_SHOWN = 4
"""Differences that are named; more would hide what they have in common."""


def content_of(config: RunConfig, progress: Progress = unheard) -> dict[str, str]:
    """Hashes of all that the measurements of a request depend on: model, text, benchmark items.

    Args:
        config: the request.
        progress: told while large files are read for the first time.

    Raises:
        ModelError, DataError: something of it is not there.
    """
    calibration = config.calibration.source
    text = texts_content(config.data, calibration, data_dir=config.data_dir)
    items = {name: rows_hash(name, config.data_dir) for name in expand(config.evaluate.benchmarks)}
    model = model_files(locate(config.model), progress)
    return {
        **{f"model/{name}": found for name, found in model.items()},
        **{f"text/{part}": found for part, found in text.items()},
        **{f"items/{name}": found for name, found in items.items()},
    }


def inputs_of(strategy: Strategy, data_dir: Path | None) -> dict[str, str]:
    """Hashes of what a strategy only names: images, texts of its own."""
    return {
        f"step {number}/{name}": found
        for number, (_, params) in enumerate(registry.resolve(strategy), 1)
        for name, found in params.content(data_dir).items()
    }


def require_same_content(record: ExperimentRecord, now: Mapping[str, str]) -> None:
    """Refuse to go on with another model, text, set of items or images under the old names.

    Args:
        now: of `content_of`.

    Raises:
        ExperimentError: with what differs.
    """
    before = record.run.get(CONTENT)
    differ = [] if not isinstance(before, dict) else _differing(before, now)
    experiment = Experiment(record.folder)
    begun = [(r.episode, r.strategy) for r in record.trials if r.strategy is not None]
    for episode, strategy in (*begun, *experiment.in_flight()):
        kept = experiment.inputs(episode)
        if kept:
            found = _differing(kept, inputs_of(strategy, record.config.data_dir))
            differ += [f"{name} of episode {episode}" for name in found]
    if differ:
        more = f" and {len(differ) - _SHOWN} more" if len(differ) > _SHOWN else ""
        raise ExperimentError(
            f"experiment {record.name!r} was made of other content: "
            f"{', '.join(differ[:_SHOWN])}{more} is not what it was when the experiment began; "
            "bring that back, or choose another --experiment-name"
        )


def _differing(before: Mapping[str, Any], now: Mapping[str, str]) -> list[str]:
    names: Iterable[str] = sorted({*before, *now})
    return [name for name in names if before.get(name) != now.get(name)]
