"""Commands that a report or a terminal shows: each of them works when it is pasted."""

from __future__ import annotations

import shlex
from pathlib import Path

from paredown.judge.words import one_line
from paredown.spec.result import TrialResult
from paredown.spec.run import CalibrationConfig, RunConfig
from paredown.store.experiment import ExperimentRecord

_LONGEST = 2000
"""Characters of a strategy; plans of single layers are longer, and are no text to paste."""


def resume_command(record: ExperimentRecord) -> str:
    """The command that goes on with an experiment: its request stands in the folder."""
    return resume_command_of(record.folder)


def resume_command_of(folder: Path) -> str:
    """The same of an experiment's folder."""
    return shlex.join(["paredown", "resume", str(folder)])


def compress_command(result: TrialResult, config: RunConfig) -> str:
    """The command that makes a result's artifact again, byte for byte.

    It names all that decides over the bytes: besides the strategy the text, how much of it, and the
    seed. What is as usual is left out.
    """
    usual = RunConfig(model=config.model)
    words = ["paredown", "compress", "-m", config.model, "-s", one_line(result.label, _LONGEST)]
    said = {
        # Always: which text is usual may differ between the two commands one day.
        "--data": config.data,
        "--data-dir": config.data_dir,
        **_calibration(config.calibration),
        "--seed": config.seed if config.seed != usual.seed else None,
        "--device": config.device if config.device != usual.device else None,
        "--runtime": config.runtime if config.runtime != usual.runtime else None,
    }
    for flag, value in said.items():
        if value is not None:
            words += [flag, str(value)]
    if config.trust_remote_code:
        words.append("--trust-remote-code")
    return shlex.join([*words, "-o", "DIR"])


def _calibration(config: CalibrationConfig) -> dict[str, object | None]:
    usual = CalibrationConfig()
    return {
        "--calibration": config.source,
        "--samples": config.samples,
        "--length": config.length if config.length != usual.length else None,
    }
