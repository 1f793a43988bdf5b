"""One table: whatever is in it can be traded off, bounded, measured by the search, and read."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from pydantic import Field

from paredown.judge.findings import judge
from paredown.judge.front import find_front
from paredown.judge.hypervolume import gains, scores
from paredown.judge.limits import breaks, check, in_limits, unmet, violations
from paredown.judge.phrases import compared
from paredown.judge.quantities import BOUNDED, QUANTITIES, in_force
from paredown.judge.quantity import Limit, Quantity, Reading
from paredown.report.html import front_html
from paredown.spec.result import TrialResult
from paredown.spec.run import DEFAULT_OBJECTIVES, OBJECTIVES, Objective
from paredown.spec.target import Limits
from paredown.spec.units import Unit
from tests.report.report_samples import BASE, baseline, findings, measurement, ok, point


class MoreLimits(Limits):
    """What a new limit takes beside its row: a field."""

    max_first_token: float | None = Field(default=None, gt=0)


FIRST_TOKEN = Quantity(
    measurement="prefill_latency",
    unit=Unit.MS_PER_TOKEN,
    best=1 / 4,
    worst=2.0,
    title="time to the first token",
    axis="time to the first token, ms",
    less="sooner",
    more="later",
    limit=Limit(
        field="max_first_token",
        name="first token",
        unit="x",
        upper=True,
        seen_from=lambda over: over,
        shown=lambda over: f"{over:.1f}x",
    ),
)


def with_prefill(result: TrialResult, ms: float) -> TrialResult:
    new = measurement("decode_latency", ms).model_copy(update={"name": "prefill_latency"})
    return result.model_copy(update={"measurements": (*result.measurements, new)})


def _both(*names: Objective) -> tuple[Objective, ...]:
    return names


def test_adding_a_quantity_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name: Objective = "first_token"  # type: ignore[assignment]
    monkeypatch.setitem(QUANTITIES, name, FIRST_TOKEN)
    base = with_prefill(baseline(), 8.0)
    soon = with_prefill(point(1, "rtn(bits=4)", 1.02, 0.5, 1.0, 1.0), 4.0)
    late = with_prefill(point(2, "gptq(bits=4)", 1.01, 0.5, 1.0, 1.0), 12.0)
    results, pair = (base, soon, late), _both("quality", name)
    assert find_front(results, pair).episodes == (0, 1)
    limits = MoreLimits(max_first_token=0.75)
    assert in_limits(limits) == "first token <= 0.75x"
    assert unmet(soon, base, limits) == ()
    assert unmet(late, base, limits) == ("first token 1.5 x > 0.75 x",)
    (missed,) = check(late, base, limits)
    assert (missed.has, missed.mend) == ("1.5x", "--max-first-token 1.5")
    assert violations(late, base, limits) == {"max_first_token": pytest.approx(1.0)}
    assert breaks({name: 0.8}, limits)
    assert not breaks({name: 0.7}, limits)
    assert [g > 0 for g in gains(results, pair, limits)] == [True, False]
    assert scores(results, pair, limits)[0].costs[1] == pytest.approx(math.log(1 / 2))
    found = judge(results, pair, limits)
    assert found.recommendation.episode == 1
    assert judge(results, pair, MoreLimits()).recommendation.runner_up is None
    # The record knows no new field of limits, the page all that is in the table.
    monkeypatch.setitem(QUANTITIES, name, replace(FIRST_TOKEN, limit=None))
    page = front_html(findings(tmp_path / "x", results))
    assert "time to the first token, ms" in page.split('id="chart-first_token"')[1]


def test_the_table_and_the_names_that_a_request_may_use_agree() -> None:
    assert tuple(QUANTITIES) == get_args(Objective) == DEFAULT_OBJECTIVES
    rows = [*QUANTITIES.values(), *(row for _, row in BOUNDED)]
    bounded = {row.limit.field for row in rows if row.limit is not None}
    assert sorted(bounded) == sorted(Limits.model_fields)
    assert all(row.best < row.worst for row in QUANTITIES.values())


def test_an_interval_is_the_one_that_was_computed_or_that_of_the_error() -> None:
    plain = measurement("speedup", 2.0, 0.1)
    assert Reading.of(plain) == Reading(value=2.0, low=2.0 - 0.196, high=2.0 + 0.196)
    computed = plain.model_copy(update={"low": 1.9, "high": 2.3})
    assert Reading.of(computed) == Reading(value=2.0, low=1.9, high=2.3)
    turned = Reading.of(computed).mapped(lambda x: 1 / x)
    assert (turned.low, turned.value, turned.high) == (1 / 2.3, 0.5, 1 / 1.9)


def test_what_was_compared_side_by_side_comes_before_two_measurements() -> None:
    result = ok(1, "int8", {**BASE, "decode_latency": 60.0, "speedup": 1.5})
    over = QUANTITIES["latency"].over(result, baseline())
    assert over is not None
    assert over.value == pytest.approx(1 / 1.5)  # not 60 ms over 30 ms
    alone = ok(1, "int8", {**BASE, "decode_latency": 60.0})
    over = QUANTITIES["latency"].over(alone, baseline())
    assert over is not None
    assert over.value == pytest.approx(2.0)
    assert QUANTITIES["latency"].over(alone, None) is None
    text = ok(1, "int8", {**BASE, "perplexity_ratio": 1.25})
    over = QUANTITIES["quality"].over(text, baseline())
    assert over is not None
    assert over.value == pytest.approx(1.25)


def test_the_front_takes_speed_as_it_was_compared_in_turns() -> None:
    """The second was timed in a busy hour; against the base in turns it is as fast as the first."""
    first = point(1, "rtn(bits=4)", 1.02, 0.5, 0.6, 0.5)
    busy = ok(2, "gptq(bits=4)", {
        "perplexity": 20.2, "size": 270e6 * 0.5, "decode_latency": 90.0, "peak_memory": 450e6,
        "speedup": 1 / 0.6, "compression_ratio": 2.0,
    })  # fmt: skip
    assert find_front((baseline(), first, busy), OBJECTIVES).episodes == (0, 2)
    found = judge((baseline(), first, busy), OBJECTIVES, Limits()).best("latency")
    assert found is not None
    assert found.episode == 1  # equally fast: the first of them


def _with_energy(result: TrialResult, joules: float, source: str = "measured") -> TrialResult:
    new = measurement("energy", joules).model_copy(update={"source": source})
    return result.model_copy(update={"measurements": (*result.measurements, new)})


def test_energy_counts_where_it_was_measured_and_nowhere_else() -> None:
    base = _with_energy(baseline(), 2.0)
    one = _with_energy(point(1, "int8", 1.02, 0.5, 0.6, 0.5), 1.9)
    other = _with_energy(point(2, "rtn(bits=4)", 1.03, 0.5, 0.6, 0.5), 1.0)
    assert find_front((base, one, other), DEFAULT_OBJECTIVES).objectives == DEFAULT_OBJECTIVES
    assert find_front((base, one, other), DEFAULT_OBJECTIVES).episodes == (0, 1, 2)
    guessed = _with_energy(point(2, "rtn(bits=4)", 1.03, 0.5, 0.6, 0.5), 1.0, "estimated")
    front = find_front((base, one, guessed), DEFAULT_OBJECTIVES)
    assert (front.objectives, front.episodes) == (OBJECTIVES, (0, 1))
    assert in_force(DEFAULT_OBJECTIVES, (baseline(),)) == OBJECTIVES
    limits = Limits(max_energy=0.6)
    assert unmet(other, base, limits) == ()
    assert unmet(one, base, limits) == ("energy 0.95 x > 0.6 x",)
    assert unmet(guessed, base, limits) == ("energy was not measured",)


def test_what_is_not_positive_has_no_ratio() -> None:
    broken = ok(1, "int8", {**BASE, "peak_memory": 0.0})
    assert QUANTITIES["memory"].value(broken) is None
    assert find_front((baseline(), broken), OBJECTIVES).compared == (0,)


def _on(machine: str | None, result: TrialResult) -> TrialResult:
    return result.model_copy(update={"machine": machine})


def _without(result: TrialResult, name: str) -> TrialResult:
    left = tuple(m for m in result.measurements if m.name != name)
    return result.model_copy(update={"measurements": left})


def test_latencies_and_energies_of_two_machines_are_kept_apart() -> None:
    base = _on("a", _with_energy(baseline(), 2.0))
    one = _on("a", _with_energy(point(1, "int8", 1.02, 0.5, 0.6, 0.5), 1.0))
    latency, energy, size = (QUANTITIES[n] for n in ("latency", "energy", "size"))
    there = _on("b", one)
    bare, bare_there = _without(one, "speedup"), _without(there, "speedup")
    for row, here, elsewhere in ((latency, bare, bare_there), (energy, one, there)):
        assert row.over(here, base) is not None
        assert row.over(elsewhere, base) is None
        assert row.over(_on(None, elsewhere), base) is not None  # an older record
    assert latency.over(there, base) == latency.over(one, base)  # in turns, on its own machine
    assert size.over(there, base) == size.over(one, base)
    assert in_force(DEFAULT_OBJECTIVES, [base, one]) == DEFAULT_OBJECTIVES
    # Not on one front: how much faster it is than the base differs from machine to machine, too.
    assert in_force(DEFAULT_OBJECTIVES, [base, one, there]) == ("quality", "size", "memory")


def test_no_sentence_compares_the_energy_of_two_machines() -> None:
    base = _on("a", baseline())
    one = _on("a", _with_energy(point(1, "int8", 1.02, 0.5, 0.6, 0.5), 1.0))
    other = _on("a", _with_energy(point(2, "rtn(bits=4)", 1.02, 0.5, 0.6, 0.5), 2.0))
    assert "less energy" in compared(one, other, base)
    assert "energy" not in compared(one, _on("b", other), base)
