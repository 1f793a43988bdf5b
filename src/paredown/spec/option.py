"""How a setting is said on the command line, written beside the field that it sets.

The rule: an option is named by the path of its field, joined and written with dashes, the group's
name in front: `evaluate.window` is `--eval-window`, because the group `evaluate` is called `eval`.
An `Option` stands only at fields that are said in another way, or have a short form. Both records
are plain data: nothing of a command-line library is known here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

COMMON = "Common"
"""Panel of what most users set; it comes first in the help."""
LIMITS = "Limits"
"""Panel of what the user can accept; it comes second."""
OTHER = "More settings"
"""Panel of fields that name none; it comes last."""


@dataclass(frozen=True, init=False)
class Option:
    """Names and looks of one option; what is not given follows the rule.

    Attributes:
        names: `("--budget", "-b")`; for a switch `("--skills/--no-skills",)`.
        panel: heading of the help under which it stands; None: that of its group.
        metavar: the word for its value in the help.
        repeat: whether it may be given several times, each adding a value.
        complete: what a shell offers for it: a key of the table in `cli/complete.py`.
    """

    names: tuple[str, ...]
    panel: str | None
    metavar: str | None
    repeat: bool
    complete: str | None

    def __init__(
        self,
        *names: str,
        panel: str | None = None,
        metavar: str | None = None,
        repeat: bool = False,
        complete: str | None = None,
    ) -> None:
        for name, value in (
            ("names", names), ("panel", panel), ("metavar", metavar), ("repeat", repeat),
            ("complete", complete),
        ):  # fmt: skip
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class Group:
    """How the fields of a nested config are said.

    Attributes:
        prefix: in front of their names; empty: they are said by their names alone.
        panel: heading of the help under which they stand.
    """

    prefix: str
    panel: str


def in_order(panels: Iterable[str]) -> list[str]:
    """Headings as the help has them: the common one, the limits, the rest as they come."""
    first = {COMMON: 0, LIMITS: 1, OTHER: 3}
    return sorted(dict.fromkeys(panels), key=lambda panel: first.get(panel, 2))


def marker(metadata: Sequence[Any], kind: type[Any]) -> Any:
    """The last annotation of this kind at a field, or None: an outer one wins over an inner."""
    return next((item for item in reversed(metadata) if isinstance(item, kind)), None)
