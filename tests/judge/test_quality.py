"""What counts as quality: the benchmark that was named, before the text."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from paredown.judge.findings import judge
from paredown.judge.front import find_front
from paredown.judge.hypervolume import gains, scores
from paredown.judge.limits import State, broken, check, unmet, violations
from paredown.judge.quality import judged, with_quality
from paredown.judge.quantities import SCORED, loss, quantity
from paredown.spec.result import TrialResult
from paredown.spec.run import OBJECTIVES, EvaluateConfig, Objective, RunConfig
from paredown.spec.target import Limits
from tests.report.report_samples import BASE, baseline, measurement, ok, point, scored

PAIR: tuple[Objective, ...] = ("quality", "size")
ASKED = scored(baseline(), 0.6)


def of(result: TrialResult, name: str) -> float:
    value = result.value(name)
    assert value is not None
    return value


def test_quality_is_the_share_of_the_score_that_is_kept() -> None:
    found = scored(point(1, "rtn(bits=4)", 1.01, 0.3, 0.6, 0.5), 0.54)
    kept = found.get("quality")
    assert kept is not None
    assert (kept.value, kept.low, kept.high) == pytest.approx((0.9, 0.49 / 0.6, 0.59 / 0.6))
    assert loss(found, ASKED) == pytest.approx(100 * (1 - 0.9))
    assert of(ASKED, "quality") == 1.0
    assert quantity("quality", ASKED) is SCORED
    assert quantity("quality", baseline()) is not SCORED


def test_of_several_benchmarks_it_is_the_mean_and_their_errors_are_independent() -> None:
    found = scored(point(1, "rtn(bits=4)", 1.01, 0.3, 0.6, 0.5), 0.54, half=0.06)
    found = scored(found, 0.3, base=0.4, half=0.04, name="arc_easy")
    kept = found.get("quality")
    assert kept is not None
    assert kept.value == pytest.approx((0.9 + 0.75) / 2)
    half = math.sqrt(0.1**2 + 0.1**2) / 2
    assert (kept.low, kept.high) == pytest.approx((kept.value - half, kept.value + half))
    assert found.accuracy == kept.value
    points = found.get("quality_points")
    assert points is not None
    assert points.value == pytest.approx(-100 * (0.06 + 0.1) / 2)
    assert points.high is not None
    assert points.high - points.value == pytest.approx(50 * math.hypot(0.06, 0.04))
    only = with_quality(found, "arc_easy")
    assert (of(only, "quality"), only.accuracy) == pytest.approx((0.75, 0.3))


def test_accuracy_is_the_score_and_the_text_keeps_its_own_under_another_name() -> None:
    plain = ok(1, "rtn(bits=4)", {**BASE, "accuracy": 0.41})
    assert plain.accuracy == 0.41
    found = scored(plain, 0.54)
    assert (found.accuracy, of(found, "accuracy"), of(found, "token_accuracy")) == (
        0.54, 0.54, 0.41,
    )  # fmt: skip
    again = scored(found.model_copy(update={"scores": ()}), 0.57)
    assert (again.accuracy, of(again, "token_accuracy")) == (0.57, 0.41)
    assert sum(m.name == "accuracy" for m in again.measurements) == 1
    assert with_quality(again, "perplexity").accuracy == 0.41


def test_a_metric_that_falls_is_kept_as_far_as_it_has_not_risen() -> None:
    found = scored(point(1, "rtn(bits=4)", 1.01, 0.3, 0.6, 0.5), 0.0)
    (score,) = found.scores
    assert score.versus_base is not None
    # Bits per byte rose from 0.8 to 1.0: the change is said with better as positive.
    change = score.versus_base.model_copy(
        update={"base_value": 0.8, "difference": -0.2, "low": -0.2, "high": -0.2}
    )
    fields = {"value": 1.0, "higher_is_better": False, "versus_base": change}
    falling = found.model_copy(update={"scores": (score.model_copy(update=fields),)})
    assert of(with_quality(falling, "auto"), "quality") == pytest.approx(0.8)


def test_a_base_that_scores_nothing_says_nothing() -> None:
    found = scored(point(1, "rtn(bits=4)", 1.01, 0.3, 0.6, 0.5), 0.1, base=0.0)
    assert found.get("quality") is None
    assert with_quality(point(1, "int8", 1.0, 0.5, 0.6, 0.5), "auto").get("quality") is None


def test_kl_may_be_what_counts() -> None:
    found = with_quality(ok(1, "int8", {**BASE, "kl": 0.05}), "kl")
    assert of(found, "quality") == pytest.approx(math.exp(-0.05))
    base = with_quality(baseline(), "kl")
    assert loss(found, base) == pytest.approx(100 * (1 - math.exp(-0.05)))


RUINED = scored(point(1, "rtn(bits=4)", 1.015, 0.3, 0.6, 0.5), 0.02)
"""From 0.60 to 0.02 on the benchmark, while perplexity rises by 1.5 %."""


def test_what_ruins_the_benchmark_meets_no_limit_is_not_recommended_and_gains_nothing() -> None:
    limits = Limits(max_accuracy_loss=2)
    (words,) = unmet(RUINED, ASKED, limits)
    assert words == "quality loss 96.7 % > 2 %"
    assert violations(RUINED, ASKED, limits)["max_accuracy_loss"] == pytest.approx(0.947, abs=1e-3)
    found = judge((ASKED, RUINED), OBJECTIVES, limits)
    assert found.recommendation.episode == 0
    assert not found.holds(judged(RUINED, ASKED, quality="auto", limits=limits))
    good = scored(point(2, "int8", 1.015, 0.55, 0.9, 0.7), 0.6, half=0.005)
    found = judge((ASKED, RUINED, good), OBJECTIVES, Limits())
    assert found.recommendation.episode == 2
    # Without a limit, too: all but 1.5 % of the text's quality is kept, and nearly no score.
    assert gains((ASKED, RUINED), PAIR, Limits()) == [0.0]
    assert scores((ASKED, RUINED), PAIR, Limits())[0].costs[0] == pytest.approx(
        math.log(0.6 / 0.07)  # what the interval leaves, at best
    )


def test_a_candidate_that_was_not_scored_is_neither_met_nor_broken_nor_compared() -> None:
    bare = point(1, "rtn(bits=4)", 1.015, 0.3, 0.6, 0.5)
    limits = Limits(max_accuracy_loss=2)
    (found,) = check(bare, ASKED, limits)
    assert found.state is State.UNDECIDED
    assert broken(bare, ASKED, limits) == ()
    assert violations(bare, ASKED, limits) == {}
    assert find_front((ASKED, bare), OBJECTIVES).compared == (0,)
    assert gains((ASKED, bare), PAIR, Limits())[0] > 0  # the search goes by the text meanwhile


def test_a_limit_may_be_in_points() -> None:
    limits = Limits(max_accuracy_loss="2pt")
    bad = scored(point(1, "rtn(bits=4)", 1.0, 0.3, 0.6, 0.5), 0.54, half=0.02)
    assert unmet(bad, ASKED, limits) == ("quality loss 6 pt > 2 pt",)
    good = scored(point(1, "rtn(bits=4)", 1.0, 0.3, 0.6, 0.5), 0.595, half=0.01)
    assert unmet(good, ASKED, limits) == ()
    (open_limit,) = check(scored(point(1, "int8", 1.0, 0.3, 0.6, 0.5), 0.59), ASKED, limits)
    assert open_limit.state is State.UNDECIDED
    assert open_limit.mend == "--max-accuracy-loss 6.01pt"  # 6 itself would stay open


def test_among_results_that_the_score_cannot_tell_apart_the_divergence_decides() -> None:
    def near(episode: int, score: float, kl: float, size: float) -> TrialResult:
        values = {**BASE, "kl": kl, "size": BASE["size"] * size}
        return scored(ok(episode, "rtn(bits=4)", values), score, half=0.05)

    # One item better by luck, farther from the base, and larger: nothing to keep it for.
    lucky, faithful = near(1, 0.59, 0.30, 0.4), near(2, 0.58, 0.02, 0.3)
    assert find_front((ASKED, lucky, faithful), PAIR).episodes == (0, 2)
    # What the items do tell apart is kept although it diverges more.
    better, worse = near(1, 0.59, 0.30, 0.4), near(2, 0.40, 0.02, 0.3)
    assert find_front((ASKED, better, worse), PAIR).episodes == (0, 1, 2)


def told(result: TrialResult, *kls: tuple[float, float] | None) -> TrialResult:
    """The result with the divergence (and its error) after the prompts of each benchmark."""
    scores = []
    for score, kl in zip(result.scores, kls, strict=True):
        assert score.versus_base is not None
        update = {} if kl is None else {"kl": kl[0], "kl_stderr": kl[1]}
        versus = score.versus_base.model_copy(update=update)
        scores.append(score.model_copy(update={"versus_base": versus}))
    return with_quality(result.model_copy(update={"scores": tuple(scores)}), "auto")


def test_the_divergence_after_the_prompts_is_of_all_items() -> None:
    bare = scored(point(1, "int8", 1.0, 0.5, 0.9, 0.7), 0.6, n=100)
    two = scored(bare, 0.5, name="arc_easy", n=300)
    found = told(two, (0.04, 0.012), (0.08, 0.004)).get("benchmark_kl")
    assert found is not None
    assert found.value == pytest.approx((0.04 + 3 * 0.08) / 4)
    assert found.n == 400
    assert found.stderr == pytest.approx(math.hypot(0.012, 3 * 0.004) / 4)
    # Where one benchmark does not tell, a mean over the other would be of other items.
    assert told(two, (0.04, 0.012), None).get("benchmark_kl") is None
    # The benchmark that was named counts, and asked again on more items the old one goes.
    again = told(told(two, (0.04, 0.012), (0.08, 0.004)), (0.02, 0.01), (0.02, 0.01))
    assert [m.value for m in again.measurements if m.name == "benchmark_kl"] == [
        pytest.approx(0.02)
    ]


def test_the_divergence_on_the_prompts_breaks_ties_before_that_on_the_text() -> None:
    def near(episode: int, text: float, prompts: float | None, size: float) -> TrialResult:
        values = {**BASE, "kl": text, "size": BASE["size"] * size}
        bare = scored(ok(episode, "rtn(bits=4)", values), 0.58, half=0.05)
        return told(bare, None if prompts is None else (prompts, 0.001))

    # By the text the larger is nearer to the base, on the benchmark's prompts the smaller.
    larger, smaller = near(1, 0.01, 0.30, 0.4), near(2, 0.20, 0.02, 0.3)
    assert find_front((ASKED, larger, smaller), PAIR).episodes == (0, 2)
    # One that was not measured there makes the text the common ground.
    assert find_front((ASKED, larger, near(2, 0.20, None, 0.3)), PAIR).episodes == (0, 1, 2)


def test_the_search_sees_quality_on_the_prompts_but_never_better_than_the_score() -> None:
    close = told(scored(point(1, "int8", 1.5, 0.5, 0.9, 0.7), 0.6), (0.03, 0.001))
    assert scores((ASKED, close), PAIR, Limits())[0].costs[0] == pytest.approx(0.03)
    ruined = told(RUINED, (0.03, 0.001))
    assert scores((ASKED, ruined), PAIR, Limits())[0].costs[0] == pytest.approx(
        math.log(0.6 / 0.07)
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"quality": "gsm8k"}, "neither auto, perplexity, kl nor a benchmark"),
        ({"limits": {"max_accuracy_loss": "2pt"}}, "points of a benchmark's score"),
        (
            {"limits": {"max_accuracy_loss": "2pt"}, "quality": "kl",
             "evaluate": {"benchmarks": ["gsm8k"]}},
            "points of a benchmark's score",
        ),
    ],
)  # fmt: skip
def test_a_quality_that_is_not_measured_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RunConfig.model_validate({"model": "demo"} | fields)


def test_losses_are_read_in_percent_or_points() -> None:
    for given in (2, 2.0, "2", "2%", "2 %"):
        limits = Limits.model_validate({"max_accuracy_loss": given})
        assert (limits.loss_percent, limits.loss_points) == (2.0, None)
    for given in ("2pt", "2.0 pt"):
        limits = Limits.model_validate({"max_accuracy_loss": given})
        assert (limits.loss_percent, limits.loss_points) == (None, 2.0)
    for bad in ("-2pt", "2 points", "two", -1):
        with pytest.raises(ValidationError):
            Limits.model_validate({"max_accuracy_loss": bad})
    config = RunConfig(
        model="demo", evaluate=EvaluateConfig(benchmarks=("gsm8k",)), quality="gsm8k",
        limits=Limits.model_validate({"max_accuracy_loss": "2pt"}),
    )  # fmt: skip
    assert RunConfig.model_validate_json(config.model_dump_json()) == config


def test_of_a_result_with_a_measurement_too_many_only_the_newest_counts() -> None:
    twice = with_quality(RUINED, "auto")
    assert twice == RUINED
    assert measurement("size", 1.0).name == "size"
