"""Scores and paired comparisons against closed forms and worked cases."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from paredown.analysis.paired import (
    is_equivalent,
    mcnemar_exact,
    paired_proportion_interval,
    wilson_interval,
)
from paredown.analysis.statistics import Interval
from paredown.evaluate.comparison import compare, score, surely_lost
from paredown.evaluate.items import Item, TaskItems
from paredown.runtimes.session import Likeliest


def items(
    scores: Sequence[float], answers: Sequence[int | None] | None = None, **more: Any
) -> TaskItems:
    answers = answers or [int(s) for s in scores]
    found = tuple(
        Item(
            id=f"{'ab'[i % 2]}/{i}", part="ab"[i % 2], hash=str(i), score=s, answer=answer,
            metrics={"acc": s, "other": 0.5}, truncated=i == 0,
        )
        for i, (s, answer) in enumerate(zip(scores, answers, strict=True))
    )  # fmt: skip
    settings: dict[str, Any] = {
        "name": "arc_easy", "metric": "acc", "higher_is_better": True, "chance": 0.25,
        "few_shot": 0, "n_available": 500, "rows": "here", "how": "so", **more,
    }  # fmt: skip
    return TaskItems(items=found, **settings)


def test_mcnemar_is_the_exact_binomial_test() -> None:
    # 2 * (1 + 5) / 2^5 for one of five; by counting all outcomes for the rest.
    assert mcnemar_exact(1, 4) == pytest.approx(0.375)
    assert mcnemar_exact(0, 6) == pytest.approx(2 / 64)
    assert mcnemar_exact(0, 0) == mcnemar_exact(3, 3) == 1.0
    for lost, gained in ((2, 7), (5, 3)):
        n = lost + gained
        extreme = sum(
            abs(sum(coins) - n / 2) >= abs(gained - n / 2) for coins in product((0, 1), repeat=n)
        )
        assert mcnemar_exact(lost, gained) == pytest.approx(extreme / 2**n)


def test_wilson_against_the_quadratic_that_defines_it() -> None:
    # The ends p solve (x/n - p)^2 = z^2 p (1 - p) / n.
    z = 1.959963984540054
    for x, n in ((1, 10), (50, 100), (499, 500)):
        found = wilson_interval(x, n)
        for p in (found.low, found.high):
            assert (x / n - p) ** 2 == pytest.approx(z * z * p * (1 - p) / n)
    assert wilson_interval(0, 10).low == 0.0
    assert wilson_interval(10, 10).high == 1.0


def test_paired_interval_of_the_papers_form() -> None:
    # n = 100, 4 gained and 9 lost: p = 5/102, q = 10/102.
    found = paired_proportion_interval(9, 4, 100)
    half = 1.959963984540054 * math.sqrt((15 / 102 - (5 / 102) ** 2) / 102)
    assert found.value == pytest.approx(-0.05)
    assert (found.low, found.high) == pytest.approx((-5 / 102 - half, -5 / 102 + half))
    none = paired_proportion_interval(0, 0, 50)
    assert none.low < 0 < none.high
    assert none.low == pytest.approx(-none.high)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(-0.01, 0.01, True), (-0.021, 0.01, False), (-0.01, 0.021, False), (-0.03, 0.03, False)],
)
def test_equivalence_needs_both_sides(low: float, high: float, expected: bool) -> None:
    interval = Interval(value=0.0, low=low, high=high, level=0.9)
    assert is_equivalent(interval, 0.02) is expected


@pytest.mark.parametrize(
    "call",
    [
        lambda: wilson_interval(11, 10),
        lambda: mcnemar_exact(-1, 0),
        lambda: paired_proportion_interval(6, 5, 10),
        lambda: is_equivalent(Interval(value=0, low=0, high=0, level=0.9), 0.0),
        lambda: wilson_interval(1, 2, level=1.0),
    ],
)
def test_impossible_counts_are_refused(call: Any) -> None:
    with pytest.raises(ValueError, match="must"):
        call()


def test_a_score_says_all_it_knows() -> None:
    found = score(items([1, 0, 1, 1], metric="acc"), items="items/arc_easy.jsonl")
    assert (found.value, found.n, found.n_available, found.n_truncated) == (0.75, 4, 500, 1)
    assert found.low < 0.75 < found.high
    assert found.other == {"other": 0.5}
    assert {k: (p.value, p.n) for k, p in found.parts.items()} == {"a": (1.0, 2), "b": (0.5, 2)}


def test_flips_are_counted_both_ways() -> None:
    base = items([1, 1, 1, 0, 0, 1], [1, 1, 1, 0, 0, 1])
    mine = items([1, 0, 0, 1, 0, 1], [1, 0, 0, 1, 5, 1])
    found = compare(mine, base, margin=0.02)
    assert (found.lost, found.gained, found.changed) == (2, 1, 4)
    assert found.difference == pytest.approx(-1 / 6)
    assert found.base_value == pytest.approx(4 / 6)
    assert found.p_value == 1.0
    assert not found.equivalent


def test_an_error_rate_that_falls_is_a_gain() -> None:
    base, mine = (items(s, higher_is_better=False) for s in ([1, 1, 0, 0], [0, 1, 0, 0]))
    found = compare(mine, base, margin=0.02)
    assert (found.lost, found.gained, found.difference) == (0, 1, 0.25)


def test_a_clear_loss_is_called_one() -> None:
    found = compare(items([0] * 30 + [1] * 70), items([1] * 100), margin=0.02)
    assert found.outcome == "loss"
    assert found.verdict.startswith("a loss on arc_easy (n=100, -30.0 ± ")
    back = compare(items([1] * 100), items([0] * 30 + [1] * 70), margin=0.02)
    assert back.outcome == "gain"
    assert "a gain on arc_easy (n=100, +30.0 ± " in back.verdict


def test_no_loss_is_only_claimed_where_the_test_of_equivalence_shows_it() -> None:
    few = compare(items([1] * 40), items([1] * 40), margin=0.02)
    many = compare(items([1] * 4000), items([1] * 4000), margin=0.02)
    assert not few.equivalent
    assert few.outcome == "unclear"
    assert few.verdict.startswith("too few items to tell whether 2 points are lost on arc_easy (")
    assert many.equivalent
    assert many.verdict.startswith("no measurable loss on arc_easy (n=4000, +0.0 ± 0.")


def test_a_loss_that_is_shown_and_shown_to_be_small_is_called_both() -> None:
    base = items([1] * 4000)
    found = compare(items([0] * 20 + [1] * 3980), base, margin=0.02)
    assert found.outcome == "small loss"
    assert found.verdict.startswith("a loss, but less than 2 points, on arc_easy (n=4000, -0.5 ± ")
    assert compare(items([0] * 20 + [1] * 3980), base, margin=0.004).outcome == "loss"


def test_a_sure_loss_needs_the_99_percent_interval_beyond_it() -> None:
    base = items([1] * 25)
    assert surely_lost(items([0] * 15 + [1] * 10), base, 0.1)
    assert not surely_lost(items([0] * 7 + [1] * 18), base, 0.1)  # -28 points, and half as much +-
    assert not surely_lost(items([1] * 25), items([0] * 15 + [1] * 10), 0.1)


def test_shares_are_compared_by_their_mean() -> None:
    base = items([0.5, 0.25, 0.75, 0.5], [None] * 4)
    mine = items([0.25, 0.25, 0.5, 0.25], [None] * 4)
    found = compare(mine, base, margin=0.02)
    assert (found.lost, found.p_value, found.changed) == (None, None, None)
    assert found.difference == pytest.approx(-0.1875)
    assert found.low < -0.1875 < found.high < 0
    assert found.verdict.startswith("a loss on arc_easy (")


def test_other_items_are_refused() -> None:
    base = items([1, 1])
    with pytest.raises(ValueError, match="same items"):
        compare(items([1, 1, 1]), base, margin=0.02)
    moved = TaskItems.from_json(base.to_json().replace('"hash": "1"', '"hash": "x"'))
    with pytest.raises(ValueError, match="same items"):
        compare(moved, base, margin=0.02)


def test_items_survive_the_cache() -> None:
    found = items([1, 0.5], [1, None])
    assert TaskItems.from_json(found.to_json()) == found


def told(found: TaskItems, *odds: tuple[float, float] | None) -> TaskItems:
    """The items with what may follow each prompt: two tokens and their probabilities."""
    nexts = [
        None if pair is None else Likeliest((7, 9), (math.log(pair[0]), math.log(pair[1])))
        for pair in odds
    ]
    changed = [replace(i, next=n) for i, n in zip(found.items, nexts, strict=True)]
    return replace(found, items=tuple(changed))


def test_the_divergence_after_the_prompts_is_paired_by_item() -> None:
    base = told(items([1, 0]), (0.5, 0.5), (0.5, 0.5))
    mine = told(items([1, 0]), (0.25, 0.75), (0.5, 0.5))
    found = compare(mine, base, margin=0.02)
    first = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)  # 0.1438; of the second 0
    assert found.kl == pytest.approx(first / 2)
    assert found.kl_stderr == pytest.approx(first / 2)  # sd first/sqrt(2), over sqrt(2)
    # The other way round it is another number: the base's odds are those that count.
    assert compare(base, mine, margin=0.02).kl == pytest.approx(
        (0.25 * math.log(0.5) + 0.75 * math.log(1.5)) / 2
    )


def along(found: TaskItems, *steps: list[tuple[float, float]]) -> TaskItems:
    """The items with two tokens' probabilities along what the base has written."""
    changed = [
        replace(item, along=tuple(Likeliest((7, 9), (math.log(a), math.log(b))) for a, b in odds))
        for item, odds in zip(found.items, steps, strict=True)
    ]
    return replace(found, items=tuple(changed))


def test_written_answers_are_compared_token_by_token() -> None:
    half, quarter = (0.5, 0.5), (0.25, 0.75)
    base = along(told(items([1, 0]), half, half), [half, half, half], [])
    mine = along(told(items([1, 0]), half, quarter), [half, quarter, half], [])
    off = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    # One of three tokens of the first; the second was answered with nothing: the first token of it.
    assert compare(mine, base, margin=0.02).kl == pytest.approx((off / 3 + off) / 2)
    shorter = along(mine, [half, quarter], [])  # asked along another text
    assert compare(shorter, base, margin=0.02).kl is None
    assert TaskItems.from_json(base.to_json()) == base


def test_a_divergence_of_some_of_the_items_is_none() -> None:
    base = told(items([1, 0]), (0.5, 0.5), (0.5, 0.5))
    assert compare(told(items([1, 0]), (0.5, 0.5), None), base, margin=0.02).kl is None
    assert compare(items([1, 0]), base, margin=0.02).kl is None


def test_what_follows_a_prompt_survives_the_cache() -> None:
    found = told(items([1, 0]), (0.5, 0.5), None)
    assert TaskItems.from_json(found.to_json()) == found
