"""What trials are expected to take."""

from __future__ import annotations

import pytest

from paredown.methods import registry
from paredown.search.cost import CostModel, spent
from tests.search.search_fakes import failure, result, timed, use_fakes

BASELINE = result(None, episode=0, perplexity=20.0, size=768e3)


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)


def _model(seconds: dict[str, float], *, evaluate: float = 10.0) -> CostModel:
    trials = [
        timed(result(registry.canonical(text), episode=n, perplexity=20.0, size=1e5),
              s, evaluate=evaluate)
        for n, (text, s) in enumerate(seconds.items(), start=1)
    ]  # fmt: skip
    return CostModel.fit([BASELINE, *trials])


def _seconds(model: CostModel, text: str) -> float:
    return model.seconds(registry.canonical(text))


def test_without_trials_everything_costs_the_same() -> None:
    model = CostModel.fit([BASELINE])
    assert not model.is_fitted
    assert _seconds(model, "round") == _seconds(model, "cut > round") == 1.0
    untimed = result(registry.canonical("round"), episode=1, perplexity=20.0, size=1e5)
    assert not CostModel.fit([BASELINE, untimed]).is_fitted
    assert spent(untimed) == 1.0


def test_methods_add_up() -> None:
    model = _model({"round": 4.0, "cut": 100.0, "cut > round": 104.0, "round(bits=8)": 4.0})
    assert _seconds(model, "round") == pytest.approx(14.0, rel=0.1)
    assert _seconds(model, "cut(ratio=0.5)") == pytest.approx(110.0, rel=0.1)
    assert _seconds(model, "cut(ratio=0.5) > round") == pytest.approx(114.0, rel=0.1)


def test_a_pipeline_tells_of_a_method_that_never_ran_alone() -> None:
    model = _model({"round": 4.0, "round(bits=8)": 4.0, "mend > round": 304.0})
    assert _seconds(model, "mend") == pytest.approx(310.0, rel=0.2)


def test_what_was_never_tried_costs_what_is_usual() -> None:
    model = _model({"round": 4.0, "cut": 6.0, "solve": 8.0})
    assert _seconds(model, "trim") == 16.0
    assert model.knows(registry.canonical("cut > round"))
    assert not model.knows(registry.canonical("trim > round"))


def test_failures_cost_too() -> None:
    wasted = timed(failure(registry.canonical("solve"), episode=1), 500.0)
    cheap = timed(
        result(registry.canonical("round"), episode=2, perplexity=20.0, size=1e5),
        5.0, evaluate=10.0,
    )  # fmt: skip
    model = CostModel.fit([BASELINE, wasted, cheap])
    assert _seconds(model, "solve") > 300.0
    assert model.evaluate_s == 10.0
    assert spent(wasted) == 500.0


def test_a_reused_step_costs_what_it_had_taken() -> None:
    """One reuse made a step of 600 s look like 1 s, and the search believed it."""
    first = timed(result(registry.canonical("cut"), episode=1, perplexity=20.0, size=1e5), 600.0,
                  evaluate=10.0)  # fmt: skip
    reused = timed(result(registry.canonical("cut > round"), episode=2, perplexity=20.0, size=1e5),
                   5.0, evaluate=10.0)  # fmt: skip
    booked = reused.model_copy(update={"reused_s": 600.0})
    assert _seconds(CostModel.fit([BASELINE, first, booked]), "cut") == pytest.approx(610, rel=0.02)
    assert _seconds(CostModel.fit([BASELINE, first, reused]), "cut") < 500  # or nothing was shown
    assert (booked.wall_s, booked.booked_s, spent(booked)) == (15.0, 615.0, 615.0)
