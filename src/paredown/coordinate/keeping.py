"""Which artifacts of an experiment stay on the disk."""

from __future__ import annotations

import shutil

from paredown.judge.findings import judge
from paredown.judge.undecided import undecided
from paredown.spec.run import RunConfig
from paredown.store.experiment import Experiment


def keep_front_only(experiment: Experiment, config: RunConfig, *, ended: bool = False) -> None:
    """Delete the artifacts that the judge does not keep; measurements stay.

    Args:
        ended: nothing will be asked any more. Until then, those whose further benchmark items may
            turn a decision stay: without its artifact nobody can be asked.
    """
    results = experiment.results()
    found = judge(results, config.objectives, config.limits)
    kept = found.kept
    if config.further_rounds and not ended:
        kept |= {each.episode for each in undecided(found)}
    for result in results:
        if result.artifact is not None and result.episode not in kept:
            shutil.rmtree(experiment.folder / result.artifact, ignore_errors=True)
            experiment.finish(result.model_copy(update={"artifact": None}))
