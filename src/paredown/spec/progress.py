"""How work that takes long tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[float, str], None]
"""Called with the share done, 0 to 1, and a message."""
StageProgress = Callable[[str, float, str], None]
"""Called with the stage (`compress`, `verify`, ...), the share of it done, and a message."""


def unheard(share: float, message: str) -> None:
    """The progress that nobody listens to."""


def part(progress: Progress, low: float, high: float) -> Progress:
    """A progress for the part of some work that lies between two shares of all of it."""
    return lambda share, message: progress(low + (high - low) * share, message)
