"""Numbers as a report shows them, with a word of its language where there is none."""

from __future__ import annotations

from typing import final

from paredown.lab.checkpoints import Expectation
from paredown.lab.sentences import Words
from paredown.spec.units import human_bytes


@final
class Shown:
    """Numbers that may be missing."""

    def __init__(self, words: Words) -> None:
        self.words = words

    def known(self, value: int | None) -> str:
        """A count."""
        return self.words("unknown") if value is None else str(value)

    def nbytes(self, value: float | None) -> str:
        """Bytes in decimal units."""
        return self.words("unknown") if value is None else human_bytes(value)

    def ms(self, seconds: float | None) -> str:
        """Seconds as milliseconds."""
        return self.words("unknown") if seconds is None else f"{1e3 * seconds:.3g} ms"

    def yes(self, value: bool | None) -> str:
        """Yes, no, or unknown."""
        return self.words("unknown" if value is None else "fits_yes" if value else "fits_no")

    def interval(self, found: Expectation | None, unit: str) -> str:
        """A value and the ends of its interval, where it has one."""
        if found is None:
            return self.words("unknown")
        value = f"{found.value:.3g}{unit}"
        if found.low == found.high:
            return value
        return f"{value} ({found.low:.3g} – {found.high:.3g})"  # noqa: RUF001

    def number(self, value: float | None, shape: str) -> str:
        """A measured number in a format such as `{:.3g}`."""
        return self.words("not_measured") if value is None else shape.format(value)


def paired(value: float, unit: str) -> str:
    """A number of a server in its unit."""
    return human_bytes(value) if unit == "bytes" else f"{value:.3g} {unit}"
