"""Stage 2: which strategies are worth carrying out, by what is known before any of them runs."""

from __future__ import annotations

from collections.abc import Sequence

from paredown.coordinate.ground import ground_of
from paredown.coordinate.prediction import Predicted, Predictions, predict
from paredown.errors import ConfigError
from paredown.judge.limits import Check
from paredown.judge.quantity import Reading
from paredown.lab.checkpoints import Analysis, Candidate, Design, Expectation, Limit
from paredown.lab.context import Lab, now
from paredown.methods import registry
from paredown.methods.recommend import recommend
from paredown.spec.lab import LabConfig
from paredown.spec.result import TrialResult
from paredown.spec.serial import content_hash
from paredown.spec.sizing import PredictRequest
from paredown.spec.strategy import Strategy

_CODE = 1


def depends_on(lab: Lab, analysis: Analysis) -> dict[str, str]:
    """What the stage is made from."""
    config = lab.config
    asked = (config.strategies, config.trials, config.skills, config.device)
    return {
        "analysis": analysis.content,
        "constraints": content_hash(config.constraints),
        "strategies": content_hash([str(part) for part in asked]),
        "code": str(_CODE),
    }


def design(lab: Lab, analysis: Analysis) -> Design:
    """Predict what strategies would bring, and choose those to carry out.

    Raises:
        ConfigError: a strategy is misspelt, or none of them can run on this model.
    """
    found = _predicted(lab)
    rows = found.rows
    if not rows:
        why = "; ".join(f"{label}: {reason}" for label, reason in found.refused.items())
        raise ConfigError(f"no strategy can run on {lab.config.model} ({why}); name others")
    labels = {row.result.episode: row.result.label for row in rows}
    favourite = labels.get(found.choice.episode or 0)
    return Design(
        made_at=now(), made_from=depends_on(lab, analysis),
        candidates=tuple(_candidate(row) for row in rows), refused=found.refused,
        favourite=favourite, chosen=chosen(rows, favourite, lab.config),
    )  # fmt: skip


def chosen(rows: Sequence[Predicted], favourite: str | None, config: LabConfig) -> tuple[str, ...]:
    """What is carried out: the favourite, and by turns the next smaller and the next larger.

    A prediction is an interval: whether the bold neighbour still does, and what the safe one is
    worth, only a measurement tells. What is known to break a constraint is tried last. Strategies
    that the user has named are all carried out, as many as `trials` allows, in the user's order.
    """
    if config.strategies:
        return tuple(row.result.label for row in rows)[: config.trials]
    by_size = sorted(rows, key=lambda row: row.result.value("size") or 0.0)
    labels = [row.result.label for row in by_size]
    middle = labels.index(favourite) if favourite in labels else _least_loss(by_size)
    order = sorted(
        range(len(by_size)),
        key=lambda i: (_is_broken(by_size[i]), abs(i - middle), i > middle),
    )
    return tuple(labels[i] for i in order[: config.trials])


def _least_loss(rows: Sequence[Predicted]) -> int:
    """Index of what is expected to lose least; unknown is worse than known."""

    def lost(i: int) -> float:
        quality = rows[i].quality
        return float("inf") if quality is None else quality.value

    return min(range(len(rows)), key=lost)


def _is_broken(row: Predicted) -> bool:
    return any(check.state == "broken" for check in row.checks)


def _predicted(lab: Lab) -> Predictions:
    config = lab.config
    request = PredictRequest(
        model=config.model, strategies=config.strategies, device=config.device,
        runtime=config.constraints.runtime, skills=config.skills, limits=config.constraints.limits,
    )  # fmt: skip
    strategies: list[Strategy] = [registry.canonical(text) for text in config.strategies]
    ground = ground_of(request, config.model)
    found = predict(strategies, ground)
    if found.rows or strategies:
        return found
    # Nothing is known of such a model: what suits it by its shapes alone, quality unknown.
    suited = recommend(lab.base.spec, lab.machine)
    return predict([registry.canonical(one.strategy) for one in suited], ground)


def _candidate(row: Predicted) -> Candidate:
    result, quality = row.result, row.quality
    memory = result.value("peak_memory")
    return Candidate(
        strategy=result.label, size_bytes=round(result.value("size") or 0.0),
        ratio=result.value("compression_ratio") or 0.0,
        memory_bytes=None if memory is None else round(memory),
        speedup=expectation(result, "speedup"),
        perplexity_ratio=None if quality is None
        else Expectation(value=quality.value, low=quality.low, high=quality.high),
        known_from="" if quality is None else quality.basis,
        limits=tuple(limit_of(check) for check in row.checks),
    )  # fmt: skip


def expectation(result: TrialResult, name: str) -> Expectation | None:
    """A measurement with its interval; None where there is none."""
    found = result.get(name)
    if found is None:
        return None
    reading = Reading.of(found)
    return Expectation(value=reading.value, low=reading.low, high=reading.high)


def limit_of(check: Check) -> Limit:
    """A check of the judge, as a checkpoint keeps it."""
    seen = check.seen
    return Limit(
        field=check.limit.field, bound=check.bound, unit=check.limit.unit, state=check.state.value,
        seen=None if seen is None
        else Expectation(value=seen.value, low=seen.low, high=seen.high),
    )  # fmt: skip
