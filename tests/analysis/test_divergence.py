"""The divergence of what is known of two distributions: by hand, and below that of the whole."""

from __future__ import annotations

import math

import numpy as np
import pytest

from paredown.analysis.divergence import kl_of_likeliest


def logs(**probabilities: float) -> dict[int, float]:
    """`a=0.5` -> {ord("a"): log 0.5}"""
    return {ord(name): math.log(value) for name, value in probabilities.items()}


def likeliest(distribution: np.ndarray, k: int) -> dict[int, float]:
    order = np.argsort(-distribution)[:k]
    return {int(i): float(np.log(distribution[i])) for i in order}


def test_hand_worked_cases() -> None:
    p, q = logs(a=0.5, b=0.3), logs(a=0.25, b=0.5)
    # The rest is 0.2 of one and 0.25 of the other.
    by_hand = 0.5 * math.log(2) + 0.3 * math.log(0.6) + 0.2 * math.log(0.2 / 0.25)
    assert kl_of_likeliest(p, q) == pytest.approx(by_hand)
    assert kl_of_likeliest(p, p) == 0.0
    # All mass is known: no rest.
    assert kl_of_likeliest(logs(a=0.5, b=0.5), logs(a=0.9, b=0.1)) == pytest.approx(
        0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    )


def test_what_the_other_does_not_know_has_at_most_its_least() -> None:
    found = kl_of_likeliest(logs(a=0.9), logs(b=0.9, c=0.05))
    # a is at most as likely as c; the 0.1 beside it may be all of the other's mass.
    assert found == pytest.approx(0.9 * math.log(0.9 / 0.05) + 0.1 * math.log(0.1 / 1.0))


def test_flat_distributions_are_told_apart_by_what_both_know() -> None:
    """Most mass is unknown of both, as after a prompt that anything may follow."""
    p = {i: math.log(0.010 - 0.0001 * i) for i in range(40)}
    near = {i: value + 0.01 * (-1) ** i for i, value in p.items() if i != 39} | {99: -5.2}
    far = {i: value + 0.3 * (-1) ** i for i, value in p.items() if i != 39} | {99: -5.2}
    assert 0.0 < kl_of_likeliest(p, near) < kl_of_likeliest(p, far)


@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])
def test_it_is_a_lower_bound_and_near_where_most_mass_is_known(spread: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        scores = rng.normal(size=500) * 4
        p, q = (np.exp(s - np.logaddexp.reduce(s))
                for s in (scores, scores + rng.normal(size=500) * spread))  # fmt: skip
        whole = float((p * np.log(p / q)).sum())
        found = kl_of_likeliest(likeliest(p, 64), likeliest(q, 64))
        assert 0.0 <= found <= whole + 1e-9
        if spread < 1:
            assert found >= 0.5 * whole
