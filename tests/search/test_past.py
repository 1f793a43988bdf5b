"""What policies learn from behind very many trials."""

from __future__ import annotations

import pytest

from paredown.methods import registry
from paredown.search import past
from paredown.search.base import Budget
from paredown.search.past import Past
from paredown.search.policies import registry as policies
from paredown.search.replay import Table
from paredown.spec.target import Limits
from tests.search import synthetic


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Table:
    monkeypatch.setattr(registry, "BUILTIN", synthetic.METHODS)
    monkeypatch.setattr(registry, "_plugins", lambda: ())
    return synthetic.table(world=0, max_steps=2)


def test_a_few_trials_are_all_learned_from(table: Table) -> None:
    history = [table.baseline, *table.trials[:10]]
    assert Past.of(history) == Past(learned=history)


def test_of_many_the_best_the_latest_and_every_method_stay(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(past, "LEARNED", 40)
    history = [table.baseline, *table.trials]
    assert len(history) > 100
    found = Past.of(history)
    assert found.learned[0] is table.baseline
    assert list(found.learned[-20:]) == history[-20:]
    assert len(found.learned) < 60
    methods = [
        {s.method for r in rows if r.strategy is not None for s in r.strategy.steps}
        for rows in (found.learned, history)
    ]
    assert methods[0] == methods[1]
    best = [
        min(r.value("perplexity") or float("inf") for r in rows)
        for rows in (found.learned, history)
    ]
    assert best[0] == best[1]
    kept = {r.strategy.hash for r in found.learned if r.strategy is not None}
    assert kept.isdisjoint(found.forgotten)
    assert kept | found.forgotten == set(table.by_hash)


@pytest.mark.parametrize("name", ["portfolio", "surrogate", "bayesian", "evolutionary", "random"])
def test_what_is_forgotten_is_never_proposed_again(
    name: str, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(past, "LEARNED", 40)
    history = [table.baseline, *table.trials[:-5]]
    policy = policies.create(name, seed=0, objectives=("quality", "size"))
    decisions = policy.propose_batch(
        history, table.space, Limits(), budget=Budget(episodes_left=9), count=9
    )
    proposed = [d.strategy.hash for d in decisions if d.strategy is not None]
    assert sorted(proposed) == sorted(r.strategy.hash for r in table.trials[-5:] if r.strategy)
