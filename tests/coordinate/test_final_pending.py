"""Who is asked more after the search, and what becomes of it; no model is loaded."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from paredown.coordinate.crew import Crew
from paredown.coordinate.final import pending, score_front
from paredown.coordinate.interrupt import Interrupt
from paredown.pipeline import trial
from paredown.spec.result import Failure, FailureKind, TrialResult
from paredown.spec.run import EvaluateConfig, RunConfig
from paredown.spec.scores import TaskScore
from paredown.store.experiment import Experiment, read_experiment
from tests.report.report_samples import record, several


def scored(n: int, *, final: bool = False) -> TaskScore:
    return TaskScore(
        name="arc_easy", metric="acc", value=0.5, stderr=0.1, low=0.3, high=0.7, n=n,
        n_available=500, n_truncated=0, few_shot=0, chance=0.25, rows="", how="", items="",
        final=final,
    )  # fmt: skip


def results(*, unscored: int | None = None) -> tuple[TrialResult, ...]:
    """Base and episodes 1 to 3 are on the front, 4 is beaten, 5 failed."""
    return tuple(
        r.model_copy(
            update={
                "scores": () if r.episode == unscored or r.status == "failed" else (scored(100),),
                "artifact": f"episode_{r.episode:03d}/artifact" if r.episode else None,
            }
        )
        for r in several()
    )


def config(final_limit: int | None) -> RunConfig:
    evaluate = EvaluateConfig(benchmarks=("arc_easy",), limit=100)
    return RunConfig(model="demo", evaluate=evaluate, final_limit=final_limit)


def numbers(found: list[TrialResult]) -> list[int]:
    return [r.episode for r in found]


def test_the_base_and_the_scored_front_are_asked() -> None:
    assert numbers(pending(results(), config(0))) == [0, 1, 2, 3]
    assert numbers(pending(results(unscored=2), config(300))) == [0, 1, 3]
    assert pending(results(), config(None)) == []
    assert pending(results(), config(100)) == []


@pytest.mark.parametrize(("n", "limit", "left"), [(500, 0, False), (300, 300, False),
                                                  (300, 0, True), (500, 900, False)])  # fmt: skip
def test_what_was_asked_enough_is_not_asked_again(n: int, limit: int, left: bool) -> None:
    done = tuple(
        r.model_copy(update={"scores": (scored(n, final=True),)}) if r.scores else r
        for r in results()
    )
    assert bool(pending(done, config(limit))) == left


def run_of(folder: Path, **options: Any) -> tuple[Any, list[str]]:
    made = record(folder, results(), evaluate=config(0).evaluate, final_limit=0, **options)
    told: list[str] = []
    run = SimpleNamespace(
        crew=Crew(),
        prepared=SimpleNamespace(config=made.config),
        experiment=Experiment(folder),
        bench=None,
        listen=lambda event, fields: told.append(event),
        interrupt=Interrupt(),
    )
    return run, told


def outcomes(folder: Path) -> list[tuple[int, str]]:
    events = [e for e in read_experiment(folder).events if e["event"] == "final_scores"]
    return [(e["episode"], e["status"]) for e in events]


def test_scores_are_replaced_and_a_failure_keeps_those_of_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = Failure(kind=FailureKind.TIMEOUT, message="stopped after 1s", stage="score")

    def rescore(bench: None, result: TrialResult, *_: Any, **options: Any) -> Any:
        assert options["limit"] == 0
        if result.episode == 2:
            return failure
        return result.model_copy(update={"scores": (scored(500, final=True),)})

    monkeypatch.setattr(trial, "rescore", rescore)
    run, told = run_of(tmp_path / "e")
    score_front(run)
    assert outcomes(tmp_path / "e") == [(0, "ok"), (1, "ok"), (2, "failed"), (3, "ok")]
    kept = {r.episode: r.scores[0].n for r in run.experiment.results() if r.scores}
    assert kept == {0: 500, 1: 500, 2: 100, 3: 500, 4: 100}
    assert told.count("final") == 4
    assert numbers(pending(run.experiment.results(), run.prepared.config)) == [2]


def test_a_spent_budget_leaves_the_rest_out_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "rescore", lambda *_, **__: pytest.fail("no time is left"))
    run, _ = run_of(tmp_path / "e", budget_h=0.001)
    score_front(run)
    assert outcomes(tmp_path / "e") == [(n, "skipped") for n in range(4)]
