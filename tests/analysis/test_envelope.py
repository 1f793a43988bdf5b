"""A model against the reference of equal bytes: hand-worked, and what is no gain."""

from __future__ import annotations

import pytest

from paredown.analysis.envelope import Judged, gain_over

REFERENCE = [Judged(100, 0.4, 0.01), Judged(400, 0.1, 0.01)]


def test_the_curve_is_straight_in_logarithms() -> None:
    # Half-way in log bytes, 200, the reference has the geometric mean, 0.2.
    found = gain_over(REFERENCE, Judged(200, 0.1, 0.0))
    assert found is not None
    assert found.ratio == pytest.approx(0.5)
    assert found.is_sure
    ends = [gain_over(REFERENCE, Judged(size, 0.2, 0.0)) for size in (100, 400)]
    assert [g and g.ratio for g in ends] == [pytest.approx(0.5), pytest.approx(2.0)]


def test_what_is_within_its_error_is_no_sure_gain() -> None:
    wide, narrow = (gain_over(REFERENCE, Judged(200, 0.17, error)) for error in (0.03, 0.001))
    assert wide is not None
    assert narrow is not None
    assert wide.ratio == narrow.ratio == pytest.approx(0.85)
    assert (wide.is_sure, narrow.is_sure) == (False, True)
    worse = gain_over(REFERENCE, Judged(200, 0.3, 0.0))
    assert worse is not None
    assert not worse.is_sure


def test_outside_the_reference_nothing_is_said() -> None:
    assert gain_over(REFERENCE, Judged(99, 0.1, 0.0)) is None
    assert gain_over(REFERENCE, Judged(401, 0.1, 0.0)) is None
    assert gain_over([], Judged(100, 0.1, 0.0)) is None


def test_a_reference_that_is_larger_and_worse_does_not_count() -> None:
    silly = [*REFERENCE, Judged(200, 0.9, 0.0), Judged(300, 0.0, 0.0)]
    found = gain_over(silly, Judged(200, 0.1, 0.0))
    assert found is not None
    assert found.ratio == pytest.approx(0.5)
