"""The training loop on problems small enough to know the answer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from paredown.errors import DivergedError
from paredown.store.cache import Cache
from paredown.train import training
from paredown.train.training import WARM_UP, Recipe, Resumable, Trainer, learning_rate

RECIPE: dict[str, Any] = {
    "learning_rate": 0.1, "batch": 2, "forward": 1, "epochs": 1, "minutes": None, "checks": 4,
    "seed": 0,
}  # fmt: skip


def trainer(
    tmp_path: Path, *, target: float = 1.0, held: float | None = None, n: int = 24, **changes: Any
) -> Trainer:
    """Moves one number from 0 to the mean of the windows, which are all `target`."""
    value = nn.Parameter(torch.zeros(1))
    goal = target if held is None else held
    return Trainer(
        {"value": value},
        torch.full((n, 3), target),
        Recipe(**(RECIPE | changes)),
        loss=lambda windows: (windows - value).square().mean(),
        held_out=lambda: float((goal - value.detach()).square()),
        resumable=Resumable(Cache(tmp_path), {"test": 1}),
        progress=lambda share, message: None,
    )


def test_the_learning_rate_rises_and_falls_to_zero() -> None:
    assert learning_rate(2.0, 0.0) == 0.0
    assert learning_rate(2.0, WARM_UP / 2) == pytest.approx(1.0)
    assert learning_rate(2.0, WARM_UP) == pytest.approx(2.0)
    assert learning_rate(2.0, (1 + WARM_UP) / 2) == pytest.approx(1.0)
    assert learning_rate(2.0, 1.0) == pytest.approx(0.0, abs=1e-12)
    assert learning_rate(2.0, 1.1) == pytest.approx(0.0, abs=1e-12)  # minutes that ran over


def test_the_first_steps_are_those_of_adamw(tmp_path: Path) -> None:
    """Adam's step on a constant sign is the learning rate itself, whatever the gradient."""
    found = trainer(tmp_path, target=1000.0, checks=1)
    record = found.run()
    rates = [learning_rate(0.1, (i + 0.5) / 12) for i in range(12)]
    assert record.step == 12
    assert float(found.parameters["value"]) == pytest.approx(sum(rates), rel=1e-3)


def test_the_held_out_loss_is_measured_at_even_distances(tmp_path: Path) -> None:
    record = trainer(tmp_path).run()
    assert [step for step, _ in record.held_out] == [3, 6, 9, 12]
    assert record.before == 1.0
    assert record.best == min(value for _, value in record.held_out) < 1.0


def test_the_best_state_is_kept(tmp_path: Path) -> None:
    """The text leads far beyond what is best on the held-out text."""
    found = trainer(tmp_path, target=1000.0, held=0.5)
    record = found.run()
    assert record.best_step < 12
    assert float((0.5 - found.parameters["value"]).square()) == pytest.approx(record.best)


def test_no_better_than_before_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"no better: 1\.0000 before, 1\.\d+ at best in 12"):
        trainer(tmp_path, target=1000.0, held=-1.0).run()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_a_failure(tmp_path: Path, bad: float) -> None:
    with pytest.raises(DivergedError, match="the loss of step 1 is"):
        trainer(tmp_path, target=bad, held=1.0).run()
    with pytest.raises(DivergedError, match="the held-out loss before training is"):
        trainer(tmp_path, held=bad).run()


def test_passes_of_one_step_add_up_to_the_mean(tmp_path: Path) -> None:
    one = trainer(tmp_path, batch=6, forward=6)
    two = trainer(tmp_path, batch=6, forward=4)  # parts of 4 and 2 windows
    noise = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
    one.windows[:] = two.windows[:] = 0.3 + 0.2 * noise  # gradients that are not clipped
    one.run()
    two.run()
    torch.testing.assert_close(one.parameters["value"], two.parameters["value"])


def test_every_epoch_sees_every_window_once_in_another_order(tmp_path: Path) -> None:
    found = trainer(tmp_path, epochs=2)
    found.windows = torch.arange(24.0)[:, None].expand(24, 3)
    seen = [int(w[0]) for step in range(found.steps) for w in found._batch(step)]
    assert sorted(seen[:24]) == sorted(seen[24:]) == list(range(24))
    assert seen[:24] != seen[24:]
    assert seen[:24] != list(range(24))


def test_fewer_windows_than_a_step_wants_are_one_step(tmp_path: Path) -> None:
    found = trainer(tmp_path, n=2, batch=8)
    assert found.steps == 1
    assert len(found._batch(0)) == 2
    found.run()


def test_it_ends_with_the_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 10_000, 20))  # each look at the clock is 20 s after the last
    monkeypatch.setattr("paredown.train.training.time.monotonic", lambda: float(next(now)))
    found = trainer(tmp_path, minutes=2.0)
    record = found.run()
    assert 0 < record.step < 12
    assert record.seconds >= 120
    assert record.held_out[-1][0] == record.step


class _Killed(Exception):
    pass


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "SAVE_S", 0.0)
    monkeypatch.setattr(training, "SAVE_COST", 0)

    def noisy(folder: Path) -> Trainer:
        found = trainer(folder, target=3.0, epochs=2)
        plain = found.loss
        found.loss = lambda windows: plain(windows) * (1 + torch.rand(()))  # as dropout would be
        return found

    whole = noisy(tmp_path / "whole")
    expected = whole.run()
    killed = noisy(tmp_path / "killed")

    def die(share: float, message: str) -> None:
        if "step 15 of" in message:
            raise _Killed

    killed.progress = die
    with pytest.raises(_Killed):
        killed.run()
    again = noisy(tmp_path / "killed")
    record = again.run()
    assert torch.equal(again.parameters["value"], whole.parameters["value"])
    assert record.held_out == expected.held_out
    assert record.best_step == expected.best_step
    assert again.resumable.read() is None


def test_the_global_random_state_is_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    trainer(tmp_path).run()
    assert torch.equal(torch.rand(3), expected)
