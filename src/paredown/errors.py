"""Every deliberate exception of paredown.

::

    ParedownError
    |-- ConfigError           the request is wrong; raised before weights are loaded (exit code 2)
    |   |-- StrategyError     a strategy text or a step's parameter is wrong
    |   |-- ModelError        the model folder is missing, incomplete or unsafe to read
    |   |-- DataError         a text source is missing, malformed or would leak
    |   |-- ExperimentError   an experiment folder cannot be created, resumed or read
    |   |-- GroupSizeError    a group size does not divide a layer's input width
    |   `-- MissingExtraError an optional library is not installed
    |-- AdviceError           an LLM gave no usable advice; the search goes on without it
    |-- ServerError           a server does not start, or does not answer as it should
    `-- MethodError           this strategy failed on this model; recorded as a failure
        |-- NumericsError     a tensor holds NaN or infinity, or a solve broke down
        |-- DivergedError     training made the model worse, or its outputs are not finite
        |-- ScreenedError     few tokens show that an artifact is not worth measuring
        `-- VerificationError an artifact does not reload to what was compressed

Anything else that is raised is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ParedownError(Exception):
    """Root of all deliberate exceptions."""


class ConfigError(ParedownError):
    """The request is wrong; the message says where, what, and how to mend it."""


class StrategyError(ConfigError):
    """A strategy cannot be parsed, or a step's method or parameter is wrong."""


class ModelError(ConfigError):
    """A model folder is missing, incomplete, or in a format that is refused."""


class DataError(ConfigError):
    """A text source is missing, malformed, too short, or overlaps with evaluation text."""


class ExperimentError(ConfigError):
    """An experiment folder cannot be created, resumed or read."""


class GroupSizeError(ConfigError):
    """A layer's input width cannot be cut into whole groups."""

    def __init__(self, layer: str, width: int, group_size: int) -> None:
        self.layer, self.width, self.group_size = layer, width, group_size
        fits = [g for g in (256, 128, 64, 32, 16) if width % g == 0][:3]
        hint = f"use group_size in {fits}" if fits else "use group_size=-1 (one group per row)"
        super().__init__(
            f"layer {layer!r}: {width} input features do not divide into groups of "
            f"{group_size} ({width % group_size} left over); {hint}, or add the layer to `skip`"
        )


class MissingExtraError(ConfigError):
    """An optional library is needed and not installed."""

    def __init__(self, what: str, package: str, extra: str) -> None:
        super().__init__(
            f"{what} needs {package}, which is not installed: pip install 'paredown[{extra}]'"
        )


class AdviceError(ParedownError):
    """An LLM gave no usable advice; the classical search goes on."""


class ServerError(ParedownError):
    """A server does not start, does not answer in time, or answers nonsense."""


class TrackingError(ParedownError):
    """A tracker cannot be reached, or refuses what it is told; the experiment is not touched."""


class MethodError(ParedownError):
    """A strategy failed on this model; the search records it and goes on."""


class NumericsError(MethodError):
    """A tensor holds NaN or infinity, or a numerical solve broke down."""


class DivergedError(MethodError):
    """Training made the model worse, or its loss or the model's outputs are not finite."""


class ScreenedError(MethodError):
    """An artifact is so bad on few tokens that nothing else of it is measured."""


class VerificationError(MethodError):
    """An artifact, reloaded from disk, is not the model that was compressed."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint for an unknown `word`: the nearest of `known`, or all of them."""
    choices = sorted(known)
    near = difflib.get_close_matches(word, choices, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(choices)}"
