"""Searches replayed on a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from paredown.judge.hypervolume import covered
from paredown.methods import registry
from paredown.search.policies import registry as policies
from paredown.search.policies.grid import GridSearch
from paredown.search.replay import Curve, Table, curve, replay, whole
from paredown.spec.run import Objective
from paredown.spec.target import Limits
from tests.search import synthetic

PAIR: tuple[Objective, ...] = ("quality", "size")


@pytest.fixture(autouse=True)
def _methods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "BUILTIN", synthetic.METHODS)
    monkeypatch.setattr(registry, "_plugins", lambda: ())


@pytest.fixture
def table() -> Table:
    return synthetic.table(world=0, max_steps=1)


def test_a_table_reads_back_and_equal_tables_are_equal_files(table: Table, tmp_path: Path) -> None:
    table.write(tmp_path / "a.json.gz")
    read = Table.read(tmp_path / "a.json.gz")
    assert read.by_hash == table.by_hash
    assert read.baseline == table.baseline
    assert list(read.space.by_hash) == list(table.space.by_hash)
    read.write(tmp_path / "b.json.gz")
    assert (tmp_path / "a.json.gz").read_bytes() == (tmp_path / "b.json.gz").read_bytes()


def test_a_replay_looks_up_pays_and_ends_with_the_budget(table: Table) -> None:
    results = replay(
        GridSearch(), table, space=table.space, episodes=5, seconds=500.0, limits=Limits()
    )
    strategies = [r.strategy for r in results if r.strategy is not None]
    assert strategies == list(table.space.strategies[: len(strategies)])
    for n, result in enumerate(results[1:], start=1):
        found = table.by_hash[strategies[n - 1].hash]
        assert result == found.model_copy(update={"episode": n, "proposed_by": "grid"})
    spent = sum(r.wall_s for r in results)
    following = table.space.strategies[len(strategies)]
    assert spent <= 500.0 < spent + table.by_hash[following.hash].wall_s


def test_a_replay_of_everything_covers_everything(table: Table) -> None:
    best = whole(table, PAIR, Limits())
    assert best == pytest.approx(covered([table.baseline, *table.trials], PAIR, Limits()))
    results = replay(
        GridSearch(), table, space=table.space, episodes=9999, seconds=1e9, limits=Limits()
    )
    found = curve(results, PAIR, Limits(), whole=best)
    assert found.share[-1] == pytest.approx(1.0)
    assert found.seconds[-1] == pytest.approx(sum(t.wall_s for t in table.trials))
    assert (np.diff(found.share) >= 0).all()


def test_curves_hand_worked() -> None:
    found = Curve(seconds=np.array([10.0, 30.0]), share=np.array([0.5, 1.0]))
    assert found.at(np.array([0.0, 9.9, 10.0, 29.0, 30.0, 99.0])).tolist() == [
        0, 0, 0.5, 0.5, 1, 1,
    ]  # fmt: skip
    assert found.area(40.0) == pytest.approx((20 * 0.5 + 10 * 1.0) / 40)
    assert found.area(20.0) == pytest.approx(10 * 0.5 / 20)
    assert found.time_to(0.5) == 10.0
    assert found.time_to(0.6) == 30.0
    assert found.time_to(1.01) == float("inf")


def test_a_seed_decides_a_replay(table: Table) -> None:
    def tried(seed: int) -> list[str]:
        policy = policies.create("portfolio", seed=seed, objectives=PAIR)
        results = replay(
            policy, table, space=table.space, episodes=12, seconds=1500.0, limits=Limits()
        )
        return [r.label for r in results]

    assert tried(1) == tried(1)
    assert tried(1) != tried(2)
