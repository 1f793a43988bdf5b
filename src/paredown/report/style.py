"""Colours, markers and fonts that figures and pages share; colours are told apart by the
colour-blind, too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from paredown.language import Language
from paredown.spec.result import TrialResult

# Okabe and Ito 2008, "Color universal design"; yellow is left out: too faint on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F3C8D", "#8C8C8C")
INK = "#222222"
MUTED = "#888888"
BASELINE = "baseline"
SINGLE, COMBINED = "single method", "pipeline"
Paint = Literal["method", "kind"]
"""What colours of a figure tell apart."""
FONTS: dict[Language, str] = {
    "en": "system-ui, sans-serif",
    "zh-TW": 'system-ui, "PingFang TC", "Microsoft JhengHei", "Noto Sans CJK TC", "Noto Sans TC", '
    "sans-serif",
    "zh-CN": 'system-ui, "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "Noto Sans SC", '
    "sans-serif",
    "ja": 'system-ui, "Hiragino Sans", "Yu Gothic UI", Meiryo, "Noto Sans CJK JP", "Noto Sans JP", '
    "sans-serif",
}
"""Fonts of a page, those of the language's own letters among them: the same code point is drawn
otherwise in Chinese and in Japanese."""


def method_of(result: TrialResult) -> str:
    """What gives a point its colour: the last step, which decides how weights are stored."""
    return BASELINE if result.strategy is None else result.strategy.steps[-1].method


def is_pipeline(result: TrialResult) -> bool:
    """Whether the strategy has more than one step."""
    return result.strategy is not None and len(result.strategy.steps) > 1


def colours(results: Iterable[TrialResult], paint: Paint = "method") -> dict[str, str]:
    """A colour per method, or per kind, the same in every figure of an experiment."""
    if paint == "kind":
        return {SINGLE: PALETTE[0], COMBINED: PALETTE[1], BASELINE: INK}
    return colours_of(method_of(r) for r in results)


def colours_of(methods: Iterable[str]) -> dict[str, str]:
    """A colour per method, in the order of their names."""
    methods = sorted(set(methods) - {BASELINE})
    return {m: PALETTE[i % len(PALETTE)] for i, m in enumerate(methods)} | {BASELINE: INK}


def hue_of(result: TrialResult, colour: Mapping[str, str]) -> str:
    """The colour of a result among `colours`."""
    kind = COMBINED if is_pipeline(result) else SINGLE
    return colour[method_of(result)] if kind not in colour else colour[kind]
