"""What the user asks of a run while it goes on: answered in a line, kept in the folder."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from paredown.coordinate.nodes import coordinator
from paredown.coordinate.setup import Prepared
from paredown.coordinate.state import Run
from paredown.coordinate.steering import (
    ASKED,
    ONLY_BASE,
    STOPPED,
    Steering,
    outstanding,
    without,
)
from paredown.errors import ConfigError
from paredown.hardware.detect import detect
from paredown.methods import registry
from paredown.pipeline.bench import Base, Bench
from paredown.pipeline.messages import TextSpec
from paredown.report.cost import search_cost
from paredown.search.policies import registry as policies
from paredown.spec.run import RunConfig
from paredown.spec.steering import COMMANDS
from paredown.spec.strategy import Strategy
from paredown.spec.target import Limits, Target
from paredown.store.events import read_events
from paredown.store.experiment import Experiment, read_experiment
from tests.search.search_fakes import build, model_spec, result, smooth_truth, use_fakes

EPISODES = 6


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)


def make_run(folder: Path, policy: str = "grid", limits: Limits | None = None) -> Run:
    """A run on a fake model whose baseline is measured; nothing in it is ever built."""
    limits = limits or Limits()
    config = RunConfig(model="fake", episodes=EPISODES, limits=limits, patience=None)
    spec = model_spec()
    prepared = Prepared(
        config=config,
        base=Base(name="fake", folder=folder, hash="0", spec=spec),
        machine=detect(),
        target=Target(device="cpu", limits=limits),
        text=TextSpec(evaluation="pydoc", calibration=None, data_dir=None),
        space=build(limits=limits),
    )
    experiment = Experiment.create(folder / "e", config, spec, {})
    experiment.begin(0, None)
    experiment.finish(result(None, episode=0, perplexity=20.0, size=768e3))
    run = Run(
        prepared=prepared,
        experiment=experiment,
        bench=cast("Bench", None),
        policy=policies.create(policy, seed=0, objectives=config.objectives),
        listen=lambda event, fields: None,
        steering=Steering(),
    )
    run.steering.attach(prepared, experiment)
    return run


def turn(run: Run) -> dict[str, Any]:
    """One decision, as it is told, and the result of the trial that it asks for."""
    state = coordinator({}, run)
    for assigned in state["assigned"]:
        strategy = assigned.decision.strategy
        assert strategy is not None
        run.experiment.begin(assigned.episode, strategy)
        run.experiment.finish(smooth_truth(strategy, assigned.episode))
    decided = [e for e in read_events(run.experiment.events.path) if e["event"] == "decision"]
    return decided[-1]


def shown(decision: dict[str, Any]) -> str:
    return registry.label(Strategy.model_validate(decision["strategy"]))


def commands(run: Run) -> list[str]:
    events = read_events(run.experiment.events.path)
    return [event["command"] for event in events if event["event"] == "user"]


def test_what_was_asked_for_runs_next_in_the_order_of_asking(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert run.steering.command("try solve(bits=8)") == "solve(bits=8) will be episode 1"
    # 0.3 is no value that is searched, but it can run.
    assert run.steering.command(" try  cut(ratio=0.3) ") == "cut(ratio=0.3) will be episode 2"
    first, second, third = turn(run), turn(run), turn(run)
    assert [shown(first), shown(second)] == ["solve(bits=8)", "cut(ratio=0.3)"]
    assert (first["policy"], first["reason"]) == ("user", ASKED)
    assert second["expected"]["compression_ratio"] == pytest.approx(1 / 0.7, rel=0.01)
    assert third["policy"] == "grid"
    asked = [e for e in read_events(run.experiment.events.path) if e["event"] == "user"]
    assert [event["in_space"] for event in asked] == [True, False]


def test_what_comes_first_is_asked_once_and_never_dropped_in_silence(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    turn_first = Steering(first=["solve(bits=8)", "cut(ratio=0.3)"])
    turn_first.attach(run.prepared, run.experiment)
    assert shown(turn(run)) == "solve(bits=8)"
    again = Steering(first=["solve(bits=8)", "cut(ratio=0.3)"])  # the run was killed and resumed
    again.attach(run.prepared, run.experiment)
    assert shown(turn(run)) == "cut(ratio=0.3)"
    assert commands(run) == ["try", "try"]
    run.steering.command("try cut(ratio=0.35)")
    Steering(first=["solve(bits=8)"]).attach(run.prepared, run.experiment)  # of another design
    assert outstanding(run.experiment).asked == ()
    with pytest.raises(ConfigError, match="do not divide into groups"):
        Steering(first=["round(group_size=64)"]).attach(run.prepared, run.experiment)
    many = [f"cut(ratio=0.{n})" for n in (1, 15, 2, 25, 35)]
    with pytest.raises(ConfigError, match="no episode is left for cut"):
        Steering(first=many).attach(run.prepared, run.experiment)


def test_a_run_that_is_to_stop_measures_the_base_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run = replace(run, steering=Steering(only_base=True))
    run.steering.attach(run.prepared, run.experiment)
    assert turn(run)["reason"] == ONLY_BASE


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("try round", "try: round was run already, as episode 1"),
        ("try roundd", "did you mean 'round'"),
        ("try round(bit=3)", "did you mean 'bits'"),
        ("try round(group_size=64)", "do not divide into groups of 64"),
        ("try round(", "'(' was never closed"),
        ("try same", "nothing to do; leave the step out"),
        ("try", "write it as: try STRATEGY"),
        ("stop now", "write it as: stop"),
        ("halt", "no command is called 'halt'"),
        ("pasue", "did you mean 'pause'?"),
        ("exclude rund", "did you mean 'round'?"),
        ("include round", "'round' is not excluded; excluded: none"),
        ("drop cut", "cut is not waiting; asked for: nothing"),
        ("resume", "the run is not paused"),
        ("try __import__('os').system('x')", "is no step"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_changes_nothing(
    tmp_path: Path, text: str, answer: str
) -> None:
    run = make_run(tmp_path)
    run.experiment.begin(1, registry.canonical("round"))
    run.experiment.finish(smooth_truth(registry.canonical("round"), 1))
    before = run.experiment.events.path.exists()
    said = run.steering.command(text)
    assert answer in said
    assert "\n" not in said
    assert run.experiment.events.path.exists() == before
    assert str(run.steering.wishes()) == ""


def test_a_request_that_breaks_a_limit_by_its_size_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path, limits=Limits(target_ratio=1.5))
    said = run.steering.command("try cut(ratio=0.1)")
    assert said == "try: cut(ratio=0.1): predicted ratio 1.11x < 1.5x"


def test_the_same_is_not_asked_for_twice_nor_beyond_the_episodes(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.steering.command("try round")
    assert "was asked for already" in run.steering.command("try round(bits=4)")
    run.experiment.begin(1, registry.canonical("trim"))
    assert run.steering.command("try trim") == "try: trim is running, as episode 1"
    for bits in (1, 3, 5, 6):
        assert "will be episode" in run.steering.command(f"try round(bits={bits})")
    assert "no episode is left" in run.steering.command("try round(bits=7)")
    assert "solve" in run.steering.command("drop solve")
    assert run.steering.command("drop round(bits=6)") == "round(bits=6) will not be run for you"
    assert run.steering.command("try round(bits=7)") == "round(bits=7) will be episode 6"


@pytest.mark.parametrize("policy", list(policies.BUILTIN))
def test_no_policy_proposes_what_is_excluded(tmp_path: Path, policy: str) -> None:
    run = make_run(tmp_path, policy)
    run.steering.command("try cut(ratio=0.3)")  # in the history, and not in the space
    turn(run), turn(run)
    assert run.steering.command("exclude round") == "round will not be proposed any more"
    assert "already" in run.steering.command("exclude round")
    methods = [shown(turn(run)) for _ in range(EPISODES - 2)]
    assert len(methods) == EPISODES - 2
    assert not [text for text in methods if "round" in text]


def test_the_later_of_two_commands_counts(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.steering.command("try round(bits=2)")
    said = run.steering.command("exclude round")
    assert said.endswith("1 that you asked for with it will not be run")
    assert str(run.steering.wishes()) == "excluded: round"
    run.steering.command("try round(bits=8)")
    assert str(run.steering.wishes()) == "asked for: round(bits=8); excluded: round"
    run.steering.command("include round")
    assert str(outstanding(Experiment(run.experiment.folder))) == "asked for: round(bits=8)"


def test_something_is_always_left_to_try(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    methods = list(dict.fromkeys(s.steps[0].method for s in run.prepared.space.strategies))
    said = [run.steering.command(f"exclude {name}") for name in methods]
    assert said[-1].startswith("exclude: nothing would be left to try")
    left = without(run.prepared.space, run.steering.wishes().excluded).strategies
    assert {step.method for s in left for step in s.steps} == {methods[-1]}
    for strategy, number in zip(left, range(1, EPISODES), strict=False):
        run.experiment.begin(number, strategy)
        run.experiment.finish(smooth_truth(strategy, number))
    assert len(left) < EPISODES
    end = turn(run)
    assert end["action"] == "end"
    assert end["reason"].endswith(f"excluded by the user: {', '.join(methods[:-1])}")


def test_stop_ends_with_its_reason(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.steering.command("try round")
    assert "stopping after the running episode" in run.steering.command("stop")
    assert "already" in run.steering.command("stop")
    decision = turn(run)
    assert (decision["action"], decision["reason"]) == ("end", STOPPED)
    assert commands(run) == ["try", "stop"]


def test_a_pause_waits_costs_nothing_and_ends_with_resume_stop_or_the_input(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    ways: tuple[Callable[[], object], ...] = (
        lambda: run.steering.command("resume"),
        run.steering.close,
        lambda: run.steering.command("stop"),
    )
    for number, let_go in enumerate(ways):
        run.steering.command("pause")
        assert "paused already" in run.steering.command("pause")
        thread = threading.Thread(target=coordinator, args=({}, run))
        thread.start()
        time.sleep(0.6)
        decided = [e for e in read_events(run.experiment.events.path) if e["event"] == "decision"]
        assert len(decided) == number
        let_go()
        thread.join(10)
        assert not thread.is_alive()
    events = read_events(run.experiment.events.path)
    assert [e["reason"] for e in events if e["event"] == "decision"][-1] == STOPPED
    record = read_experiment(run.experiment.folder)
    whole = record.events[-1]["time"] - record.events[0]["time"]
    active = search_cost(record).wall_s - sum(r.wall_s for r in record.results)
    assert whole > 1.8
    assert active < 0.5 * whole


def test_a_request_that_became_impossible_is_dropped_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path)
    run.steering.command("try cut(ratio=0.3)")
    run.steering.command("try solve(bits=8)")
    cut = registry.load("cut")
    monkeypatch.setattr(type(cut), "check", type(registry.load("same")).check)
    assert shown(turn(run)) == "solve(bits=8)"
    dropped = [e for e in read_events(run.experiment.events.path) if e.get("command") == "drop"]
    assert "nothing to do" in dropped[0]["because"]


def test_help_status_and_front_tell(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    told = run.steering.command("help")
    assert all(name.split()[0] in told for name in COMMANDS)
    turn(run)
    run.steering.command("try round(bits=1)")
    status = run.steering.command("status")
    assert status.startswith(f"1 of {EPISODES} episodes done")
    assert "asked for: round(bits=1)" in status
    assert "episode 1" in run.steering.command("front")
    assert commands(run) == ["try"]


def test_commands_wait_until_the_run_is_ready(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    steering, answers = Steering(), []
    thread = threading.Thread(target=lambda: answers.append(steering.command("try round")))
    thread.start()
    time.sleep(0.2)
    assert answers == []
    steering.attach(run.prepared, run.experiment)
    thread.join(10)
    assert answers == ["round will be episode 1"]


def test_a_run_that_has_ended_takes_no_commands(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.steering.detach()
    assert run.steering.command("exclude round").startswith("the run has ended")
    assert not run.experiment.events.path.exists()
    steering, answers = Steering(), []  # one that failed before it was ready
    thread = threading.Thread(target=lambda: answers.append(steering.command("try round")))
    thread.start()
    steering.detach()
    thread.join(10)
    assert answers[0].startswith("the run has ended")
