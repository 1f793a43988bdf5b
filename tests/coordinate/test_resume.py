"""A run that was killed goes on: after any write, with one worker and with several."""

from __future__ import annotations

import contextlib
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from paredown.coordinate.nodes import (
    coordinator,
    evaluation,
    hand_out,
    measure_baseline,
)
from paredown.coordinate.state import Run
from paredown.methods import registry
from paredown.pipeline.messages import AnyJob, Failed
from paredown.report.findings import find
from paredown.report.story import story_rows
from paredown.spec.serial import plain
from paredown.store.atomic import write_json
from paredown.store.events import EventLog
from paredown.store.experiment import read_experiment
from tests.coordinate.fake_run import FakeExecutor, cast_executor, fake_run, go
from tests.search.search_fakes import play, proposed, use_fakes


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)


def labels(run: Run) -> list[str]:
    return [r.label for r in run.experiment.results() if r.episode > 0]


class KilledError(BaseException):
    """As a SIGKILL: nothing in between may catch it."""


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("written", range(1, 30, 4))
def test_a_run_that_is_killed_between_any_two_writes_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, written: int
) -> None:
    """Every record of the folder is one write; after any of them the process may be gone."""
    count = 0
    counting = threading.Lock()

    def die_after(write: Any) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            with counting:
                if count >= written:
                    raise KilledError
                count += 1
            return write(*args, **kwargs)

        return counted

    run, _ = fake_run(tmp_path, FakeExecutor(), episodes=4, workers=workers, policy="random")
    with monkeypatch.context() as patch:
        patch.setattr("paredown.store.experiment.write_json", die_after(write_json))
        patch.setattr(EventLog, "add", die_after(EventLog.add))
        with contextlib.suppress(KilledError):
            go(run)
    before = {r.episode: r for r in run.experiment.results()}
    begun = dict(run.experiment.in_flight())
    resumed, _ = fake_run(
        tmp_path, FakeExecutor(), begin=False, episodes=4, workers=workers, policy="random"
    )
    assert go(resumed) == "all episodes are used"
    results = {r.episode: r for r in resumed.experiment.results()}
    assert sorted(results) == [0, 1, 2, 3, 4]
    assert len({r.strategy.hash for r in results.values() if r.strategy}) == 4
    for episode, result in before.items():  # never run again; an artifact may have gone since
        assert results[episode].model_copy(update={"artifact": None}) == result.model_copy(
            update={"artifact": None}
        )
    for episode, strategy in begun.items():
        assert results[episode].strategy == strategy
    if workers == 1:
        whole = play(run.policy, run.prepared.space, episodes=4)
        assert labels(resumed) == proposed(whole)


def test_every_episode_that_a_kill_left_runs_again_under_its_number(tmp_path: Path) -> None:
    run, _ = fake_run(tmp_path, FakeExecutor(), episodes=4, workers=3)
    measure_baseline(run)
    for number, text in ((1, "round"), (2, "trim"), (3, "cut")):
        strategy = registry.canonical(text)
        run.experiment.begin(number, strategy)
        (run.experiment.episode(number) / "artifact").mkdir()
        (run.experiment.episode(number) / "artifact" / "half").touch()
    shutil.rmtree(run.experiment.episode(2))  # and one came to nothing at all
    resumed, _ = fake_run(tmp_path, FakeExecutor(), begin=False, episodes=4, workers=2)
    state = coordinator({}, resumed)
    assert [(a.episode, a.decision.reason) for a in state["assigned"]] == [
        (1, "was interrupted; runs again"), (3, "was interrupted; runs again"),
    ]  # fmt: skip
    assert go(resumed) == "all episodes are used"
    record = read_experiment(resumed.experiment.folder)
    assert record.trials[0].strategy == registry.canonical("round")
    assert not list(resumed.experiment.folder.glob("*/artifact/half"))


def test_a_resumed_trial_belongs_to_the_decision_that_was_carried_out(tmp_path: Path) -> None:
    run, _ = fake_run(tmp_path, FakeExecutor(), episodes=2)
    measure_baseline(run)
    lost = {"episode": 1, "action": "pruning", "policy": "lost", "reason": "killed here"}
    run.experiment.events.add("decision", strategy=plain(registry.canonical("cut")), **lost)
    state = coordinator({}, run)  # which decides on the episode again, and begins it
    (assigned,) = state["assigned"]
    stop = RuntimeError("the machine went down")

    def fail(job: AnyJob, folder: Path) -> Failed | None:
        raise stop

    cast_executor(run).gate = fail
    hand_out(state, run, kind=str(assigned.decision.action))
    assert evaluation(state, run)["finished"][0].result is stop
    resumed, _ = fake_run(tmp_path, FakeExecutor(), begin=False, episodes=2)
    go(resumed)
    first = resumed.experiment.results()[1]
    assert (first.proposed_by, first.expected) == ("grid", assigned.decision.expected)
    record = read_experiment(resumed.experiment.folder)
    (why, _) = [row[3] for row in story_rows(find(record))]
    assert why == assigned.decision.reason != "killed here"


def test_older_folders_tell_who_decided_by_their_log(tmp_path: Path) -> None:
    run, _ = fake_run(tmp_path, FakeExecutor(), episodes=1)
    measure_baseline(run)
    strategy = registry.canonical("round")
    run.experiment.begin(1, strategy)
    for policy, other in (("a", "cut"), ("b", "round"), ("c", "trim")):
        told = plain(registry.canonical(other))
        run.experiment.events.add("decision", episode=1, policy=policy, strategy=told, reason="")
    state = coordinator({}, run)
    assert [a.decision.policy for a in state["assigned"]] == ["b"]
