"""What became of a model, in one line of words that claims no more than was shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from paredown.language import clauses, listed, say
from paredown.spec.scores import Comparison, Outcome, TaskScore

if TYPE_CHECKING:
    from paredown.spec.result import TrialResult

_SAME_SIZE = 0.005
_LEVEL_95 = 1.96
MOST_COVERED = 0.9
"""A lower share is worth a word: routers and the like take a few hundredths of a block."""
_ORDER: tuple[Outcome, ...] = ("loss", "small loss", "gain", "no loss", "unclear")


def verdict(result: TrialResult) -> str | None:
    """One line, e.g. "4.1x smaller; no measurable loss on arc_easy (n=500, -0.4 ± 1.9 points)".

    Where no benchmark was compared with the base, perplexity and agreement speak. None for a
    failure, and for the base itself.
    """
    compared = {s.name: s.versus_base for s in result.scores if s.versus_base is not None}
    quality = _on_benchmarks(compared) if compared else _on_text(result)
    parts = [_size(result), _reach(result), *quality, _stopped(result.scores)]
    return clauses(part or "" for part in parts) or None


def in_words(name: str, found: Comparison) -> str:
    """One benchmark, e.g. "loss on arc_easy (n=100, -30.0 ± 9.1 points)"."""
    return _claim(found.outcome, found.margin, _numbers(name, found))


def _on_benchmarks(compared: dict[str, Comparison]) -> list[str]:
    parts = []
    for outcome in _ORDER:
        alike = [(name, found) for name, found in compared.items() if found.outcome == outcome]
        if alike:
            where = listed(_numbers(*each) for each in alike)
            parts.append(_claim(outcome, alike[0][1].margin, where))
    counted = [(c.changed, c.n) for c in compared.values() if c.changed is not None]
    if counted:
        share = sum(changed for changed, _ in counted) / sum(n for _, n in counted)
        parts.append(say("{count} in 100 answers changed", count=in_hundred(share)))
    return parts


def _claim(outcome: Outcome, margin: float, where: str) -> str:
    points = f"{100 * margin:g}"
    match outcome:
        case "no loss":
            return say("no measurable loss on {where}", where=where)
        case "small loss":
            return say(
                "a loss, but less than {points} points, on {where}", points=points, where=where
            )
        case "unclear":
            return say(
                "too few items to tell whether {points} points are lost on {where}",
                points=points, where=where,
            )  # fmt: skip
        case "loss":
            return say("a loss on {where}", where=where)
        case "gain":
            return say("a gain on {where}", where=where)


def _numbers(name: str, found: Comparison) -> str:
    return say(
        "{name} (n={n}, {change} ± {half} points)",
        name=name, n=found.n, change=f"{100 * found.difference:+.1f}",
        half=f"{100 * found.half_width:.1f}",
    )  # fmt: skip


def in_hundred(share: float) -> str:
    """`0.034` -> `'3'`; a share below one in a hundred keeps a digit."""
    percent = 100 * share
    return f"{percent:.1f}" if 0 < percent < 1 else f"{percent:.0f}"


def _size(result: TrialResult) -> str | None:
    ratio = result.value("compression_ratio")
    if ratio is None or abs(ratio - 1) < _SAME_SIZE:
        return None
    if ratio > 1:
        return say("{ratio}x smaller", ratio=f"{ratio:.1f}")
    return say("{ratio}x larger", ratio=f"{1 / ratio:.1f}")


def _reach(result: TrialResult) -> str | None:
    """A word on an artifact that leaves much of the model as it was."""
    share = result.value("coverage")
    if share is None or share >= MOST_COVERED:
        return None
    return say("only {count} in 100 weights of the blocks are compressed", count=in_hundred(share))


def _on_text(result: TrialResult) -> list[str | None]:
    rise, agree = result.get("perplexity_ratio"), result.get("top1_agreement")
    if rise is None or agree is None or agree.value == 1.0:
        return []
    half = "" if rise.stderr is None else f" ± {100 * _LEVEL_95 * rise.stderr:.1f}"
    return [
        say("perplexity {change} %", change=f"{100 * (rise.value - 1):+.1f}{half}"),
        say("{count} in 100 next tokens changed", count=in_hundred(1 - agree.value)),
    ]


def _stopped(scores: Sequence[TaskScore]) -> str | None:
    names = [score.name for score in scores if score.stopped is not None]
    return say("stopped early: {names}", names=listed(names)) if names else None
