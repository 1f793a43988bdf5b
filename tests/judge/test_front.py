from __future__ import annotations

import pytest

from paredown.judge.front import find_front
from paredown.spec.run import OBJECTIVES
from tests.report.report_samples import BASE, baseline, failed, ok, point, several


def test_front_holds_the_non_dominated_results_and_the_baseline() -> None:
    front = find_front(several(), OBJECTIVES)
    assert front.episodes == (0, 1, 2, 3)
    assert front.compared == (0, 1, 2, 3, 4)
    assert front.knee == 2


def test_objectives_decide_what_is_compared() -> None:
    assert find_front(several(), ("quality",)).episodes == (0,)
    assert find_front(several(), ("size",)).episodes == (3,)
    assert find_front(several(), ("quality", "latency")).episodes == (0, 1, 2, 3)


def test_a_missing_measurement_leaves_a_result_out() -> None:
    partial = ok(1, "int8", {"perplexity": 1.0, "size": 1.0})
    front = find_front((baseline(), partial), OBJECTIVES)
    assert front.compared == front.episodes == (0,)
    assert partial not in front
    assert find_front((baseline(), partial), ("quality", "size")).episodes == (1,)


def test_what_a_base_lacks_that_was_never_loaded_compares_nothing() -> None:
    base = ok(0, None, {"perplexity": 10.0, "size": 9.0})
    small = ok(1, "int8", {"perplexity": 11.0, "size": 3.0})
    timed = ok(2, "nf4", {**BASE, "perplexity": 12.0, "size": 2.0})
    front = find_front((base, small, timed), OBJECTIVES)
    assert front.objectives == ("quality", "size")
    assert front.episodes == (0, 1, 2)


@pytest.mark.parametrize("results", [(), (failed(1), failed(2))])
def test_nothing_measured_is_an_empty_front(results: tuple[object, ...]) -> None:
    front = find_front(results, OBJECTIVES)  # type: ignore[arg-type]
    assert (front.episodes, front.knee, front.compared) == ((), None, ())


def test_ties_are_all_kept() -> None:
    twins = tuple(ok(i, "rtn(bits=4)", BASE) for i in (1, 2))
    assert find_front((baseline(), *twins), OBJECTIVES).episodes == (0, 1, 2)


def test_latency_and_memory_within_their_noise_do_not_save_a_worse_result() -> None:
    good = point(1, "gptq(bits=4)", 1.04, 0.35, 0.600, 0.550)
    noise = point(2, "rtn(bits=4)", 1.06, 0.36, 0.590, 0.545)
    assert find_front((good, noise), OBJECTIVES).episodes == (1,)
    faster = point(3, "rtn(bits=4)", 1.06, 0.36, 0.500, 0.545)
    assert find_front((good, faster), OBJECTIVES).episodes == (1, 3)


def test_two_results_have_no_knee() -> None:
    assert find_front(several()[:2], OBJECTIVES).knee is None
