"""The loop on a fake model: budgets, artifacts, resume at any event, several trials at once."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from paredown.coordinate import nodes
from paredown.coordinate.interrupt import REASON
from paredown.coordinate.nodes import (
    coordinator,
    evaluation,
    hand_out,
    measure_baseline,
    route,
    screen_limit,
    update_state,
)
from paredown.coordinate.state import Run, State
from paredown.coordinate.steering import STOPPED
from paredown.errors import ConfigError
from paredown.judge.findings import judge
from paredown.methods import registry
from paredown.pipeline.messages import AnyJob, CompressJob, Failed, VerifyJob
from paredown.search.policies import registry as policies
from paredown.spec.result import FailureKind
from paredown.spec.run import EvaluateConfig, RunConfig
from paredown.spec.target import Limits
from paredown.store.events import read_events
from tests.coordinate.fake_run import FakeExecutor, cast_executor, failing, fake_run, go
from tests.search.search_fakes import use_fakes


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)


def turn(run: Run) -> State:
    """One turn of the loop without LangGraph: all four nodes."""
    state = coordinator({}, run)
    for name in route(state):
        if name not in ("end", "evaluation"):
            state = {**state, **hand_out(state, run, kind=name)}
    if route(state) != ["end"]:
        state = {**state, **evaluation(state, run)}
        state = {**state, **update_state(state, run)}
    return state


def events(run: Run, name: str) -> list[dict[str, Any]]:
    return [e for e in read_events(run.experiment.events.path) if e["event"] == name]


class Gate:
    """Keeps trials back until they are let go, by the label of their strategy."""

    def __init__(self, *held: str) -> None:
        self.held = set(held)
        self.changed = threading.Condition()
        self.reached: list[str] = []

    def __call__(self, job: AnyJob, folder: Path) -> Failed | None:
        if isinstance(job, CompressJob):
            label = registry.label(job.strategy)
            with self.changed:
                self.reached.append(label)
                self.changed.notify_all()
                assert self.changed.wait_for(lambda: label not in self.held, 20)
        return None

    def wait(self, label: str) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: label in self.reached, 20)

    def let_go(self, *names: str) -> None:
        with self.changed:
            self.held -= set(names)
            self.changed.notify_all()


def test_a_turn_decides_builds_measures_and_records(tmp_path: Path) -> None:
    run, told = fake_run(tmp_path, FakeExecutor())
    measure_baseline(run)
    state = turn(run)
    assert state["stop_reason"] is None
    (result,) = [r for r in run.experiment.results() if r.episode > 0]
    (decided,) = events(run, "decision")
    assert (result.status, result.proposed_by) == ("ok", "grid")
    assert result.expected == decided["expected"]
    assert decided["strategy"] == json.loads(result.model_dump_json())["strategy"]
    assert [name for name, _ in told if name != "progress"] == [
        "decision", "result", "decision", "result",
    ]  # fmt: skip
    assert events(run, "episode")[-1]["episode"] == 1


def test_a_baseline_that_is_there_is_not_measured_again(tmp_path: Path) -> None:
    run, _ = fake_run(tmp_path, FakeExecutor())
    first = measure_baseline(run)
    again, told = fake_run(tmp_path, FakeExecutor(gate=_must_not), begin=False)
    assert measure_baseline(again) == first
    assert told == []


def _must_not(job: AnyJob, folder: Path) -> Failed | None:
    raise AssertionError(f"{job.kind} in {folder}")


def test_only_artifacts_that_the_judge_keeps_are_kept(tmp_path: Path) -> None:
    run, _ = fake_run(tmp_path, FakeExecutor(), episodes=8)
    go(run)
    results = run.experiment.results()
    config = run.prepared.config
    kept = judge(results, config.objectives, config.limits).kept
    there = {int(p.parent.name[-3:]) for p in run.experiment.folder.glob("episode_*/artifact")}
    assert there == {r.episode for r in results if r.artifact is not None} == kept - {0}
    assert len(there) < 8  # or nothing was shown


def test_a_failed_trial_leaves_no_artifact_and_the_search_goes_on(tmp_path: Path) -> None:
    def gate(job: AnyJob, folder: Path) -> Failed | None:
        bad = isinstance(job, VerifyJob) and folder.name == "episode_002"
        return failing(FailureKind.METHOD_ERROR, "another model") if bad else None

    run, _ = fake_run(tmp_path, FakeExecutor(gate=gate), episodes=3)
    assert go(run) == "all episodes are used"
    assert [r.status for r in run.experiment.results()] == ["ok", "ok", "failed", "ok"]
    assert not (run.experiment.episode(2) / "artifact").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_wrong_request_ends_the_run_and_keeps_what_was_finished(
    tmp_path: Path, workers: int
) -> None:
    def gate(job: AnyJob, folder: Path) -> Failed | None:
        if isinstance(job, CompressJob) and folder.name == "episode_003":
            return failing(FailureKind.METHOD_ERROR, "the disk is full", config_error=True)
        return None

    executor = FakeExecutor(gate=gate)
    run, _ = fake_run(tmp_path, executor, workers=workers)
    with pytest.raises(ConfigError, match="the disk is full"):
        go(run)
    done = [r.episode for r in run.experiment.results()]
    assert done[:3] == [0, 1, 2]
    assert 3 not in done
    assert executor.closed.is_set() == (workers > 1 and 4 not in done)
    resumed, _ = fake_run(tmp_path, FakeExecutor(), begin=False)
    assert go(resumed) == "all episodes are used"
    assert len(resumed.experiment.results()) == 7


def test_what_the_user_asked_for_is_recorded_even_where_the_request_is_wrong(
    tmp_path: Path,
) -> None:
    """It is the user's strategy that is at fault then: the run goes on with its own."""

    def gate(job: AnyJob, folder: Path) -> Failed | None:
        if isinstance(job, CompressJob) and folder.name == "episode_001":
            return failing(FailureKind.METHOD_ERROR, "no such layer", config_error=True)
        return None

    run, _ = fake_run(tmp_path, FakeExecutor(gate=gate), episodes=2)
    measure_baseline(run)
    run.steering.command("try solve(bits=8)")
    assert go(run) == "all episodes are used"
    first, second = run.experiment.results()[1:]
    assert (first.proposed_by, first.status) == ("user", "failed")
    assert (second.proposed_by, second.status) == ("grid", "ok")


def test_what_the_user_asks_for_is_not_screened(tmp_path: Path) -> None:
    seen: dict[str, bool] = {}

    def gate(job: AnyJob, folder: Path) -> Failed | None:
        if isinstance(job, VerifyJob):
            seen[folder.name] = job.held_out is not None
        return None

    run, _ = fake_run(tmp_path, FakeExecutor(gate=gate), episodes=2)
    measure_baseline(run)
    run.steering.command("try solve(bits=8)")
    go(run)
    assert seen == {"episode_001": False, "episode_002": True}


@pytest.mark.parametrize(
    ("screen", "loss", "limit"),
    [(4.0, None, 4.0), (None, 50.0, None), (4.0, 100.0, 4.0), (4.0, 700.0, 8.0)],
)
def test_a_candidate_is_screened_beyond_what_is_accepted(
    screen: float | None, loss: float | None, limit: float | None
) -> None:
    config = RunConfig(
        model="m",
        evaluate=EvaluateConfig(screen=screen),
        limits=Limits(max_accuracy_loss=loss),
    )
    assert screen_limit(config) == limit


# Budgets


def test_a_trial_has_its_own_limit_or_what_is_left_of_the_budget(tmp_path: Path) -> None:
    executor = FakeExecutor()
    run, _ = fake_run(tmp_path, executor, episodes=1, trial_timeout_h=2.0, budget_h=1.0)
    go(run)
    assert executor.timeouts["evaluate", "episode_000"] == pytest.approx(3600, abs=1)
    spent = run.experiment.results()[0].wall_s
    assert executor.timeouts["compress", "episode_001"] == pytest.approx(3600 - spent, abs=0.1)
    # What compressing took is not there for measuring.
    first, last = (executor.timeouts[kind, "episode_001"] for kind in ("compress", "evaluate"))
    assert 0 < last < first
    other = FakeExecutor()
    run, _ = fake_run(tmp_path / "other", other, episodes=1, trial_timeout_h=0.5, budget_h=1.0)
    go(run)
    assert other.timeouts["compress", "episode_001"] == pytest.approx(1800, abs=0.1)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_budget_of_time_ends_the_run(tmp_path: Path, workers: int) -> None:
    """No more trials of 0.3 s are begun than fit into the time, side by side; on a busy machine,
    fewer do."""

    def gate(job: AnyJob, folder: Path) -> Failed | None:
        if isinstance(job, CompressJob):
            time.sleep(0.3)
        return None

    run, _ = fake_run(
        tmp_path, FakeExecutor(gate=gate), episodes=9, workers=workers, budget_h=0.75 / 3600
    )
    reason = go(run)
    assert "budget is used up" in reason or "are too few for any strategy" in reason
    n = len(run.experiment.results()) - 1
    assert workers <= n <= 3 * workers


# Several at once


def test_two_workers_run_two_trials_and_record_each_as_it_ends(tmp_path: Path) -> None:
    run, _ = fake_run(tmp_path, gate_executor := FakeExecutor(), episodes=6, workers=2)
    measure_baseline(run)
    first = coordinator({}, run)["assigned"]
    names = [registry.label(a.decision.strategy) for a in first if a.decision.strategy]
    assert len(set(names)) == 2
    gate = Gate(names[0])
    gate_executor.gate = gate
    state: State = {"assigned": first, "stop_reason": None}
    for kind in route(state):
        hand_out(state, run, kind=kind)
    assert [b.episode for b in run.experiment.in_flight()] == [1, 2]
    state = {**state, **evaluation(state, run)}
    assert [f.assigned.episode for f in state["finished"]] == [2]
    update_state(state, run)
    assert [r.episode for r in run.experiment.results()] == [0, 2]
    # One is free: one more is handed out, and it is neither of the others.
    third = coordinator({}, run)["assigned"]
    assert [a.episode for a in third] == [3]
    assert registry.label(third[0].decision.strategy) not in names  # type: ignore[arg-type]
    gate.let_go(names[0])
    with run.crew:
        pass


@pytest.mark.parametrize(
    "policy",
    [
        name if name in {"portfolio", "surrogate"} else pytest.param(name, marks=pytest.mark.slow)
        for name in policies.BUILTIN
    ],
)
def test_no_policy_runs_a_strategy_twice_with_several_workers(tmp_path: Path, policy: str) -> None:
    # Longer than a busy machine takes for a proposal, else a job ends before the third one begins.
    executor = FakeExecutor(gate=lambda job, folder: time.sleep(0.1))
    run, told = fake_run(tmp_path, executor, episodes=9, workers=3, policy=policy)
    go(run)
    results = run.experiment.results()
    assert [r.episode for r in results] == list(range(10))
    assert len({r.strategy.hash for r in results if r.strategy}) == 9
    assert executor.at_once == 3
    assert [name for name, _ in told].count("result") == 10


def test_an_end_is_decided_only_when_nothing_is_under_way(tmp_path: Path) -> None:
    gate = Gate("round")  # the first that the grid proposes
    run, _ = fake_run(tmp_path, FakeExecutor(gate=gate), episodes=2, workers=2)
    measure_baseline(run)
    state = turn(run)
    assert [r.episode for r in run.experiment.results()] == [0, 2]
    state = coordinator(state, run)
    assert (state["assigned"], state["stop_reason"]) == ((), None)
    assert route(state) == ["evaluation"]
    gate.let_go("round")
    update_state({**state, **evaluation(state, run)}, run)
    assert coordinator({}, run)["stop_reason"] == "all episodes are used"
    decided = events(run, "decision")
    assert [d["action"] == "end" for d in decided] == [False, False, True]
    assert decided[-1]["episode"] == 3


@pytest.mark.parametrize("how", ["stop", "interrupt"])
def test_the_user_ends_the_run_after_what_is_under_way(tmp_path: Path, how: str) -> None:
    run, _ = fake_run(tmp_path, FakeExecutor(), episodes=9, workers=2)
    measure_baseline(run)

    def gate(job: AnyJob, folder: Path) -> Failed | None:
        if folder.name == "episode_003":
            if how == "stop":
                run.steering.command("stop")
            else:
                run.interrupt.asked = True
        return None

    cast_executor(run).gate = gate
    assert go(run) == (STOPPED if how == "stop" else REASON)
    assert run.experiment.in_flight() == ()
    assert 3 <= len(run.experiment.results()) - 1 <= 4


def test_a_pause_takes_in_what_is_under_way_and_hands_out_nothing(tmp_path: Path) -> None:
    run, _ = fake_run(tmp_path, FakeExecutor(), episodes=4, workers=2)
    measure_baseline(run)
    paused = threading.Event()

    def gate(job: AnyJob, folder: Path) -> Failed | None:
        if folder.name == "episode_001" and not paused.is_set():
            run.steering.command("pause")
            paused.set()
        return None

    cast_executor(run).gate = gate
    thread = threading.Thread(target=go, args=(run,), daemon=True)
    thread.start()
    assert paused.wait(10)
    deadline = time.monotonic() + 10
    while not events(run, "paused") and time.monotonic() < deadline:
        time.sleep(0.02)
    begun = len(list(run.experiment.folder.glob("episode_*/strategy.json")))
    assert run.experiment.in_flight() == ()
    time.sleep(0.3)
    assert len(list(run.experiment.folder.glob("episode_*/strategy.json"))) == begun < 5
    run.steering.command("resume")
    thread.join(10)
    assert len(run.experiment.results()) == 5


def test_what_the_user_asks_for_comes_before_proposals_and_fills_the_crew(tmp_path: Path) -> None:
    run, _ = fake_run(tmp_path, FakeExecutor(), episodes=3, workers=3)
    measure_baseline(run)
    run.steering.command("try solve(bits=8)")
    run.steering.command("try cut(ratio=0.3)")
    state = coordinator({}, run)
    policies_asked = [a.decision.policy for a in state["assigned"]]
    assert policies_asked == ["user", "user", "grid"]
    assert route(state) == list(dict.fromkeys(a.decision.action for a in state["assigned"]))


def test_a_bug_in_one_trial_stops_the_others_and_ends_the_run(tmp_path: Path) -> None:
    begun, released = threading.Event(), threading.Event()

    def gate(job: AnyJob, folder: Path) -> Failed | None:
        if folder.name == "episode_001":
            assert begun.wait(10)
            raise ZeroDivisionError
        if folder.name == "episode_002":
            begun.set()
            assert executor.closed.wait(10)  # as a worker that is killed
            released.set()
        return None

    executor = FakeExecutor(gate=gate)
    run, _ = fake_run(tmp_path, executor, workers=2)
    with pytest.raises(ZeroDivisionError):
        go(run)
    assert released.is_set()  # the crew waited until it had stopped
    assert [r.episode for r in run.experiment.results()] == [0]
    assert [b.episode for b in run.experiment.in_flight()] == [1, 2]


def test_open_decisions_are_asked_further_after_each_trial_but_not_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: list[int] = []
    monkeypatch.setattr(
        nodes, "ask_between", lambda run: known.append(len(run.experiment.results()))
    )
    run, _ = fake_run(tmp_path, FakeExecutor(), episodes=3)
    go(run)
    assert known == [2, 3, 4]  # the base, and one trial more each time
    run.steering.command("stop")
    nodes.update_state({"finished": ()}, run)
    assert len(known) == 3
