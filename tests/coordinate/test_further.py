"""Further items for open decisions: who is asked, in which order, and when it ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from paredown.coordinate.crew import Crew
from paredown.coordinate.further import Bought, ask_between, ask_further, cheapest
from paredown.coordinate.interrupt import Interrupt
from paredown.coordinate.keeping import keep_front_only
from paredown.judge.findings import judge
from paredown.judge.undecided import undecided
from paredown.pipeline import trial
from paredown.report.findings import find
from paredown.report.markdown import report_markdown
from paredown.spec.result import Failure, FailureKind, TrialResult
from paredown.spec.run import EvaluateConfig
from paredown.spec.target import Limits
from paredown.store.experiment import Experiment, read_experiment
from tests.report.report_samples import BASE, baseline, ok, record, scored

LIMITS = Limits(max_accuracy_loss=2)
Rescore = Callable[..., TrialResult | Failure]


def made(episode: int, n: int, half: float, *, size: float, seconds: float = 5.0) -> TrialResult:
    values = {**BASE, "kl": 0.01 / size, "size": BASE["size"] * size, "compression_ratio": 1 / size}
    bare = ok(episode, f"rtn(bits={episode + 2})", values, evaluate_s=seconds,
              artifact=f"episode_{episode:03d}/artifact")  # fmt: skip
    return scored(bare, 0.6, half=half, n=n)


def asked_again(result: TrialResult, n: int, half: float) -> TrialResult:
    """The same score on more items; every item takes a twentieth of a second."""
    more = (n - result.scores[0].n) * 0.05
    bare = result.model_copy(update={"scores": (), "evaluate_s": result.evaluate_s + more})
    return scored(bare, 0.6, half=half, n=n)


def run_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch, rescore: Rescore, *results: TrialResult,
    base_s: float = 1000.0, **settings: Any,
) -> tuple[Any, list[tuple[int, int]]]:  # fmt: skip
    """A run after its search, and who was asked how many items; `base_s` measured the base."""
    config: dict[str, Any] = {
        "evaluate": EvaluateConfig(benchmarks=("gsm8k",), limit=100), "limits": LIMITS,
        "objectives": ("quality", "size"),
    }  # fmt: skip
    base = scored(baseline(), 0.6, n=100).model_copy(update={"evaluate_s": base_s})
    made_record = record(folder, (base, *results), **config | settings)
    asked: list[tuple[int, int]] = []

    def asking(bench: None, result: TrialResult, *_: Any, limit: int, **__: Any) -> Any:
        asked.append((result.episode, limit))
        return rescore(result, limit)

    monkeypatch.setattr(trial, "rescore", asking)
    run = SimpleNamespace(
        crew=Crew(),
        prepared=SimpleNamespace(config=made_record.config),
        experiment=Experiment(folder),
        bench=None,
        listen=lambda event, fields: None,
        interrupt=Interrupt(),
    )
    return run, asked


def narrowing(result: TrialResult, limit: int) -> TrialResult:
    """Half the width with twice the items: 0.04 at 100, 0.02 at 200, 0.01 (1.7 %) at 400."""
    return asked_again(result, limit, 4.0 / limit)


def last(folder: Path) -> dict[str, Any]:
    return [e for e in read_experiment(folder).events if e["event"] == "open_decisions"][-1]


def test_items_are_bought_until_the_limit_is_decided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = made(1, 100, 0.04, size=0.5, seconds=20.0)
    run, asked = run_of(tmp_path / "e", monkeypatch, narrowing, mine, further_rounds=9)
    ask_further(run)
    # The base first, each time; at 400 the loss is at most 1.7 %, and nothing more is asked.
    assert asked == [(0, 200), (1, 200), (0, 400), (1, 400)]
    assert (last(tmp_path / "e")["open"], last(tmp_path / "e")["reason"]) == ([], None)
    bought = [e for e in read_experiment(tmp_path / "e").events if e["event"] == "further_items"]
    assert [(e["episode"], e["scores"][0]["n"]) for e in bought] == asked
    assert "episode 1, rtn(bits=3)" in bought[0]["decides"]


@pytest.mark.parametrize(("rounds", "most"), [(0, 100), (1, 200), (2, 400)])
def test_rounds_bound_it_and_the_report_says_what_stays_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rounds: int, most: int
) -> None:
    wide = made(1, 100, 0.04, size=0.5, seconds=60.0)
    run, asked = run_of(
        tmp_path / "e", monkeypatch, lambda r, n: asked_again(r, n, 0.04), wide,
        further_rounds=rounds,
    )  # fmt: skip
    ask_further(run)
    assert len(asked) == 2 * rounds
    assert max(s.n for r in run.experiment.results() for s in r.scores) == most
    assert "--further-rounds" in last(tmp_path / "e")["reason"]
    text = report_markdown(find(read_experiment(tmp_path / "e")), None)
    assert "## What stays open" in text
    assert "is not shown to be" in text


def test_more_than_there_is_is_never_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def to_the_end(result: TrialResult, limit: int) -> TrialResult:
        return asked_again(result, min(limit, 1000), 0.04)  # the samples have 1000 items

    mine = made(1, 100, 0.04, size=0.5, seconds=600.0)
    run, asked = run_of(tmp_path / "e", monkeypatch, to_the_end, mine, further_rounds=16)
    ask_further(run)
    assert [limit for episode, limit in asked if episode] == [200, 400, 800, 1600]
    # The interval still crosses the limit, but that is no longer a matter of items.
    assert run.experiment.results()[1].scores[0].n == 1000
    assert last(tmp_path / "e")["open"] == []


def test_it_takes_no_longer_than_the_search_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(result: TrialResult, limit: int) -> TrialResult:
        again = asked_again(result, limit, 0.04)
        return again.model_copy(update={"evaluate_s": result.evaluate_s + 12.0})

    mine = made(1, 100, 0.04, size=0.5, seconds=20.0)  # and 5 s of the base: 25 s
    run, asked = run_of(tmp_path / "e", monkeypatch, slow, mine, further_rounds=16, base_s=5.0)
    ask_further(run)
    assert asked == [(0, 200), (1, 200)]  # 24 s; the next 200 items are expected to take 32 s
    assert "longer than all measuring" in last(tmp_path / "e")["reason"]


def test_the_cheapest_comes_first_and_each_has_its_rounds() -> None:
    dear, cheap = made(1, 100, 0.04, size=0.5, seconds=30.0), made(2, 100, 0.04, size=0.4)
    gone = made(3, 100, 0.04, size=0.3).model_copy(update={"artifact": None})
    results = (scored(baseline(), 0.6), dear, cheap, gone)
    still = undecided(judge(results, ("quality", "size"), LIMITS))
    assert {each.episode for each in still} == {1, 2, 3}
    first = cheapest(results, still, {}, rounds=1)
    assert first is not None
    assert (first.result.episode, first.limit) == (2, 200)
    assert first.seconds == pytest.approx(5.0)
    second = cheapest(results, still, {2: 1}, rounds=1)
    assert second is not None
    assert second.result.episode == 1
    assert second.seconds == pytest.approx(30.0)
    assert cheapest(results, still, {1: 1, 2: 1}, rounds=1) is None  # 3 has no artifact


def test_a_failure_is_told_and_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = Failure(kind=FailureKind.TIMEOUT, message="stopped after 1s", stage="score")
    mine = made(1, 100, 0.04, size=0.5)
    run, asked = run_of(tmp_path / "e", monkeypatch, lambda r, n: failure, mine, further_rounds=2)
    ask_further(run)
    assert asked == [(0, 200)]
    assert run.experiment.results()[1].scores[0].n == 100
    events = [e for e in read_experiment(tmp_path / "e").events if e["event"] == "further_items"]
    assert [(e["status"], e["reason"]) for e in events] == [("failed", "stopped after 1s")]


def test_nothing_is_asked_where_nothing_is_open_or_no_time_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(result: TrialResult, limit: int) -> TrialResult:
        pytest.fail("nobody is asked")

    sure = made(1, 100, 0.001, size=0.5)
    run, _ = run_of(tmp_path / "sure", monkeypatch, never, sure)
    ask_further(run)
    events = [e["event"] for e in read_experiment(tmp_path / "sure").events]
    assert "open_decisions" not in events
    wide = made(1, 100, 0.04, size=0.5)
    run, _ = run_of(tmp_path / "spent", monkeypatch, never, wide, budget_h=0.001)
    ask_further(run)
    assert last(tmp_path / "spent")["reason"] == "the budget is spent"


def test_what_breaks_another_limit_is_asked_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(result: TrialResult, limit: int) -> TrialResult:
        pytest.fail("nobody is asked")

    wide = made(1, 100, 0.04, size=0.5)
    limits = Limits(max_accuracy_loss=2, target_ratio=3)
    run, _ = run_of(tmp_path / "e", monkeypatch, never, wide, limits=limits)
    ask_further(run)
    assert "open_decisions" not in [e["event"] for e in read_experiment(tmp_path / "e").events]


def test_artifacts_of_what_is_open_stay_until_it_is_decided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As good by its score, nearer to the base and smaller: only further items can save the first.
    behind = made(1, 100, 0.04, size=0.5).model_copy(update={"measurements": tuple(
        m.model_copy(update={"value": 0.2}) if m.name == "kl" else m
        for m in made(1, 100, 0.04, size=0.5).measurements
    )})  # fmt: skip
    run, _ = run_of(
        tmp_path / "e", monkeypatch, narrowing, behind, made(2, 100, 0.04, size=0.4),
        limits=Limits(), further_rounds=1,
    )  # fmt: skip
    config = run.prepared.config

    def kept() -> set[int]:
        return {r.episode for r in run.experiment.results() if r.artifact is not None}

    keep_front_only(run.experiment, config)
    assert kept() == {1, 2}
    keep_front_only(run.experiment, config, ended=True)
    assert kept() == {2}


def test_between_trials_half_of_the_time_is_spent_and_the_rest_waits_for_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = made(1, 100, 0.04, size=0.5, seconds=20.0)
    run, asked = run_of(
        tmp_path / "e", monkeypatch, narrowing, mine, further_rounds=9, base_s=20.0
    )  # 40 s of measuring: 20 may be spent between trials
    ask_between(run)
    # 5 s of each were spent on 100 more items. 200 more are expected to take 25 s.
    assert asked == [(0, 200), (1, 200)]
    assert "open_decisions" not in [e["event"] for e in read_experiment(tmp_path / "e").events]
    ask_further(run)
    assert asked[2:] == [(0, 400), (1, 400)]
    assert last(tmp_path / "e")["open"] == []


def test_a_resumed_run_goes_on_counting_rounds_and_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = made(1, 100, 0.04, size=0.5, seconds=60.0)
    run, asked = run_of(
        tmp_path / "e", monkeypatch, lambda r, n: asked_again(r, n, 0.04), wide, further_rounds=1
    )
    ask_between(run)
    assert asked == [(0, 200), (1, 200)]
    again: Any = SimpleNamespace(**vars(run) | {"experiment": Experiment(tmp_path / "e")})
    ask_further(again)
    assert len(asked) == 2
    assert "--further-rounds" in last(tmp_path / "e")["reason"]
    bought = Bought.in_log(read_experiment(tmp_path / "e").events, 1)
    assert (dict(bought.rounds), bought.seconds) == ({1: 1}, 10.0)


def test_when_the_base_cannot_be_asked_nobody_else_is_asked_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = Failure(kind=FailureKind.TIMEOUT, message="stopped after 1s", stage="score")
    mine = made(1, 100, 0.04, size=0.5)
    run, asked = run_of(tmp_path / "e", monkeypatch, lambda r, n: failure, mine, further_rounds=2)
    ask_between(run)
    ask_further(run)
    assert asked == [(0, 200)]  # once, though it was the base that failed and not episode 1
