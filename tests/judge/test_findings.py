"""What is kept, what has held up, and what is best."""

from __future__ import annotations

from paredown.judge.findings import judge
from paredown.judge.front import find_front
from paredown.spec.run import OBJECTIVES
from paredown.spec.target import Limits
from tests.report.report_samples import baseline, failed, point, several


def test_kept_are_the_front_and_whatever_is_recommended() -> None:
    found = judge(several(), OBJECTIVES, Limits())
    assert found.kept == {0, 1, 2, 3}


def test_what_the_limits_choose_off_the_front_is_kept() -> None:
    """Episode 2 is dominated, but only it is small enough in memory."""
    results = (
        baseline(),
        point(1, "gptq(bits=4)", 1.02, 0.30, 0.6, 0.9),
        point(2, "rtn(bits=4)", 1.04, 0.35, 0.6, 0.4),
        point(3, "rtn(bits=8)", 1.05, 0.40, 0.6, 0.45),
    )
    found = judge(results, ("quality", "size"), Limits(max_memory_gb=0.5))
    assert 2 not in found.front.episodes
    assert found.kept == {0, 1, 2}


def test_the_nearest_to_limits_that_nothing_meets_is_kept() -> None:
    results = (
        baseline(),
        point(1, "gptq(bits=4)", 1.02, 0.30, 0.6, 0.9),
        point(2, "rtn(bits=4)", 1.04, 0.35, 0.6, 0.4),
    )
    found = judge(results, ("quality", "size"), Limits(max_memory_gb=0.3))
    assert found.recommendation.nearest == 2
    assert found.kept == {0, 1, 2}


def test_what_holds_is_on_the_front_and_within_the_limits() -> None:
    good, beyond = several()[1], several()[2].model_copy(update={"unmet": ("ratio 2 x < 3 x",)})
    found = judge((baseline(), good, beyond, *several()[4:]), OBJECTIVES, Limits())
    assert [found.holds(r) for r in found.results] == [True, True, False, False, False]


def test_the_best_is_the_first_of_equals_among_the_trials_that_finished() -> None:
    twin = point(4, "rtn(bits=4)", 1.2, 0.28, 0.5, 0.5)
    found = judge((*several()[:4], twin, failed(5)), OBJECTIVES, Limits())
    best = {name: found.best(name) for name in OBJECTIVES}
    assert {name: r and r.episode for name, r in best.items()} == {
        "quality": 1, "size": 3, "latency": 3, "memory": 3,
    }  # fmt: skip
    assert judge((baseline(),), OBJECTIVES, Limits()).best("size") is None


def test_a_baseline_that_failed_is_none() -> None:
    broken = failed(0).model_copy(update={"strategy": None})
    found = judge((broken, several()[1]), OBJECTIVES, Limits())
    assert found.baseline is None
    assert found.front == find_front((several()[1],), OBJECTIVES)
