"""What strategies would bring, before any of them runs: size, memory, speed, quality, limits.

Every prediction is a record like that of a trial, its measurements marked `derived` or `estimated`
with their intervals, so that the same judge decides on it that decides on what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import le
from typing import final

from paredown.coordinate.expectation import Expected, expected_quality, shipped
from paredown.coordinate.skills import Skill
from paredown.coordinate.versions import stored_version, strategy_version
from paredown.errors import ConfigError
from paredown.hardware.engines import ENGINES, Habits
from paredown.hardware.estimate import Estimate
from paredown.hardware.here import Here, on_processor
from paredown.hardware.memory import Version, Work
from paredown.judge.front import find_front
from paredown.judge.limits import Check, check
from paredown.judge.quantities import BITS_PER_WEIGHT
from paredown.judge.recommend import Recommendation, recommend
from paredown.methods import registry
from paredown.runtimes.calibration import Calibration
from paredown.spec.model import ModelSpec
from paredown.spec.result import Measurement, Source, TrialResult
from paredown.spec.run import EvaluateConfig, Objective
from paredown.spec.strategy import Strategy
from paredown.spec.target import Target
from paredown.spec.units import Unit

MOST = 12
"""Strategies that are shown where the user names none."""
RATIO_ERROR = 1.4
"""Factor within which one speed over another is expected: errors of the time model are mostly the
same in both, which leaves less than each has alone."""
_OBJECTIVES: tuple[Objective, ...] = ("quality", "size")


@final
@dataclass(frozen=True, kw_only=True)
class Ground:
    """What predictions are made from.

    Attributes:
        spec: of the model.
        target: device, runtime and the user's limits.
        skills: of the user's earlier experiments, as far as they carry over.
        calibration: of the target's runtime on this machine; None: speed stays unknown.
        tokens: of the sequence that memory and speed are for: prompt, and decoded behind it.
        free_bytes: memory that is free.
    """

    spec: ModelSpec
    target: Target
    skills: tuple[Skill, ...] = ()
    calibration: Calibration | None = None
    tokens: tuple[int, int] = (EvaluateConfig().prompt_tokens, EvaluateConfig().decode_tokens)
    free_bytes: int = 0


@final
@dataclass(frozen=True, kw_only=True)
class Predicted:
    """One strategy, or the base (`result.strategy` None).

    Attributes:
        result: the numbers; what is unknown is not among them.
        quality: behind it; None: unknown.
        checks: the user's limits.
    """

    result: TrialResult
    quality: Expected | None
    checks: tuple[Check, ...]


@final
@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What is expected of all of them.

    Attributes:
        base: the uncompressed model.
        rows: strategies that can run, in the order in which they were named.
        refused: why others cannot, by label.
        choice: which of them the judge would take, unknown quality counting as none.
    """

    base: Predicted
    rows: tuple[Predicted, ...]
    refused: dict[str, str]
    choice: Recommendation


def predict(strategies: Sequence[Strategy], ground: Ground) -> Predictions:
    """Predictions of strategies (canonical); none: the best of those that something is known of."""
    chosen = list(strategies) or _candidates(ground)
    base_version = stored_version(ground.spec, "base")
    base_here = _here(base_version, ground)
    known = Expected(value=1.0, low=1.0, high=1.0, n=1, basis="the base itself")
    base = _result(0, None, base_version, base_version, base_here, base_here, known)
    rows, refused = [], {}
    for number, strategy in enumerate(chosen, 1):
        try:
            version = strategy_version(ground.spec, strategy, ground.target)
        except ConfigError as error:
            refused[registry.label(strategy)] = str(error)
            continue
        quality = expected_quality(strategy, ground.spec, ground.skills)
        here = _here(version, ground)
        result = _result(number, strategy, version, base_version, here, base_here, quality)
        checks = tuple(check(result, base, ground.target.limits))
        rows.append(Predicted(result=result, quality=quality, checks=checks))
    results = [base, *(row.result for row in rows)]
    front = find_front(results, _OBJECTIVES)
    return Predictions(
        base=Predicted(
            result=base, quality=known, checks=tuple(check(base, base, ground.target.limits))
        ),
        rows=tuple(rows),
        refused=refused,
        choice=recommend(results, base, ground.target.limits, front),
    )


def _candidates(ground: Ground) -> list[Strategy]:
    """Strategies of which something is known, on the front of what is expected of them: of size,
    loss, and the loss that is still possible, so that what is sure stands beside what is hoped for.

    Sizes come from the methods' predictions alone: what kernels compute here is asked of those
    only that are left, because asking takes seconds the first time.
    """
    own = [skill.strategy for skill in ground.skills]
    found = []
    for strategy in {s.hash: s for s in (*own, *(row.strategy for row in shipped()))}.values():
        quality = expected_quality(strategy, ground.spec, ground.skills)
        size = _predicted_bytes(strategy, ground.spec)
        if quality is not None and size is not None and size < ground.spec.weight_bytes:
            found.append(((size, quality.value, quality.high), strategy))
    front = [
        row for row in found
        if not any(o != row[0] and all(map(le, o, row[0])) for o, _ in found)
    ]  # fmt: skip
    front.sort(key=lambda row: row[0][1])
    return [strategy for _, strategy in front[:MOST]]


def _predicted_bytes(strategy: Strategy, spec: ModelSpec) -> int | None:
    """Of the weights after a strategy; None where a method does not know such a model."""
    try:
        for method, params in registry.resolve(strategy):
            spec = method.predict(spec, params)
    except ConfigError:
        return None
    return spec.weight_bytes


def _here(version: Version, ground: Ground) -> Here | None:
    """On this machine's processor; None on a GPU, or in an engine whose habits are not known."""
    engine: Habits | None = ENGINES.get(ground.target.runtime)
    if engine is None or ground.target.device != "cpu":
        return None
    known = ground.calibration
    prompt, decoded = ground.tokens
    return on_processor(
        version,
        Work(batch=1, context=prompt + decoded, prompt=prompt),
        engine,
        ground.free_bytes,
        rates=None if known is None else known.rates,
        process_bytes=None if known is None else known.process_bytes,
    )


def _result(
    number: int,
    strategy: Strategy | None,
    version: Version,
    base: Version,
    here: Here | None,
    base_here: Here | None,
    quality: Expected | None,
) -> TrialResult:
    """The record of a prediction."""
    ratio = base.nbytes / version.nbytes
    found = [
        _number("size", Estimate.exact(version.nbytes), Unit.BYTES, "the methods' own prediction"),
        _number("compression_ratio", Estimate.exact(ratio), Unit.RATIO,
                "files of the base over these", lower=False),
        _number(BITS_PER_WEIGHT, Estimate.exact(8 * version.nbytes / base.spec.parameters),
                Unit.BITS_PER_WEIGHT, "bits of the files over the parameters of the base"),
    ]  # fmt: skip
    if here is not None and here.memory.total is not None:
        how = f"weights, cache, activations and process of {here.engine.name}"
        found.append(_number("peak_memory", here.memory.total, Unit.BYTES, how))
    if here is not None and base_here is not None and here.tpot_s and base_here.tpot_s:
        how = "roofline with the rates of this machine's calibration"
        found.append(_number("decode_latency", here.tpot_s.mapped(1e3), Unit.MS_PER_TOKEN, how))
        faster = base_here.tpot_s.value / here.tpot_s.value
        speedup = Estimate.within(faster, RATIO_ERROR if strategy is not None else 1.0)
        found.append(_number("speedup", speedup, Unit.RATIO, how, lower=False))
    if quality is not None:
        ends = Estimate(value=quality.value, low=quality.low, high=quality.high, source="estimated")
        for name in ("perplexity_ratio", "perplexity"):  # of a base of 1: only ratios are known
            found.append(_number(name, ends, Unit.RATIO, quality.basis))
        # Of a base that knows its text, the rise of the loss is the divergence.
        value, low, high = (math.log(max(end, 1.0)) for end in (ends.value, ends.low, ends.high))
        nats = Estimate(value=value, low=low, high=high, source="estimated")
        basis = f"from the perplexity {quality.basis}"
        found.append(_number("kl", nats, Unit.NATS_PER_TOKEN, basis))
    return TrialResult(
        episode=number, strategy=strategy, status="ok", measurements=tuple(found),
        label="base" if strategy is None else registry.label(strategy),
        kind="baseline" if strategy is None else registry.kind_of(strategy),
    )  # fmt: skip


def _number(name: str, found: Estimate, unit: Unit, how: str, *, lower: bool = True) -> Measurement:
    source: Source = found.source
    return Measurement(
        name=name, value=found.value, unit=unit, n=1, stderr=None, low=found.low, high=found.high,
        lower_is_better=lower, source=source, how=how,
    )  # fmt: skip
