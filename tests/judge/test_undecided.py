"""Which decisions are open, and whose items would close them."""

from __future__ import annotations

from paredown.judge.findings import Findings, judge
from paredown.judge.undecided import undecided
from paredown.spec.result import TrialResult
from paredown.spec.run import OBJECTIVES
from paredown.spec.target import Limits
from tests.report.report_samples import baseline, failed, point, scored

BASE = scored(baseline(), 0.6)


def found(*results: TrialResult, loss: float | None = None) -> Findings:
    return judge((BASE, *results), OBJECTIVES, Limits(max_accuracy_loss=loss))


def small(score: float, half: float) -> TrialResult:
    return scored(point(1, "rtn(bits=4)", 1.01, 0.30, 0.6, 0.5), score, half=half)


LARGE = scored(point(2, "int8", 1.0, 0.55, 0.6, 0.5), 0.6, half=0.0)


def test_where_both_ends_say_the_same_nothing_is_open() -> None:
    assert undecided(found(small(0.60, 0.01), LARGE, failed(3), loss=5)) == ()
    assert undecided(found(small(0.30, 0.05), LARGE, loss=5)) == ()
    assert undecided(found(LARGE)) == ()


def test_a_limit_within_the_interval_is_open_and_so_is_what_follows_from_it() -> None:
    open_now = undecided(found(small(0.58, 0.05), LARGE, loss=5))
    assert [(u.decision, u.episode, u.items) for u in open_now] == [
        ("recommendation", 1, 900), ("limit", 1, 900),
    ]  # fmt: skip
    assert "quality loss 3.33 %" in open_now[1].reason
    assert open_now[0].reason == (
        "what is recommended depends on how good episode 1, rtn(bits=4) is"
    )


def test_a_place_on_the_front_may_be_open() -> None:
    """As large as the other: only its score can keep it on the front."""
    twin = scored(point(1, "rtn(bits=8)", 1.0, 0.55, 0.6, 0.5), 0.57, half=0.06)
    rival = scored(point(2, "int8", 1.0, 0.55, 0.6, 0.5), 0.57, half=0.06)
    nearer = [
        r.model_copy(
            update={"measurements": tuple(
                m.model_copy(update={"value": kl}) if m.name == "kl" else m
                for m in r.measurements
            )}
        )
        for r, kl in ((twin, 0.2), (rival, 0.1))
    ]  # fmt: skip
    open_now = undecided(found(*nearer))
    assert {(u.decision, u.episode) for u in open_now} >= {("front", 1), ("front", 2)}


def test_who_has_no_items_left_or_was_stopped_decides_nothing() -> None:
    close = small(0.58, 0.05)
    used_up = [s.model_copy(update={"n": s.n_available}) for s in close.scores]
    stopped = [s.model_copy(update={"stopped": "lost too much"}) for s in close.scores]
    for scores in (used_up, stopped):
        result = close.model_copy(update={"scores": tuple(scores)})
        assert undecided(found(result, LARGE, loss=5)) == ()


def test_of_equal_decisions_the_cheaper_one_comes_first() -> None:
    other = scored(point(3, "rtn(bits=3)", 1.02, 0.25, 0.5, 0.4), 0.58, half=0.05, n=500)
    limits = [u for u in undecided(found(small(0.58, 0.05), other, LARGE, loss=5))
              if u.decision == "limit"]  # fmt: skip
    assert [(u.episode, u.items) for u in limits] == [(3, 500), (1, 900)]
