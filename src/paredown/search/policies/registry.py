"""Names of policies, without importing them."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING

from paredown.errors import ConfigError, did_you_mean
from paredown.methods import registry
from paredown.search.base import Policy, Remembered
from paredown.search.knowledge import Knowledge
from paredown.spec.run import Objective
from paredown.spec.strategy import Strategy

if TYPE_CHECKING:
    from paredown.search.policies.portfolio import Arm

BUILTIN: dict[str, str] = {
    "portfolio": "paredown.search.policies.portfolio:Portfolio",
    "surrogate": "paredown.search.policies.surrogate:Expected",
    "bayesian": "paredown.search.policies.bayesian:Bayesian",
    "evolutionary": "paredown.search.policies.evolutionary:Evolutionary",
    "bandit": "paredown.search.policies.bandit:Bandit",
    "grid": "paredown.search.policies.grid:GridSearch",
    "random": "paredown.search.policies.random:Uniform",
}


def create(
    name: str,
    *,
    seed: int,
    objectives: tuple[Objective, ...],
    aimed: tuple[tuple[Strategy, str], ...] = (),
    start: tuple[Strategy, ...] = (),
    remembered: tuple[Remembered, ...] = (),
    knowledge: Knowledge | None = None,
    arms: tuple[Arm, ...] = (),
    leader: Policy | None = None,
) -> Policy:
    """The policy called `name`, as a run with this seed and these objectives asks for it.

    Args:
        name: a key of `BUILTIN`.
        seed: of the run.
        objectives: what to trade off.
        aimed: plans for the size or the loss that the user has asked for, with their reasons: they
            come before everything else.
        start: strategies to try first.
        remembered: what strategies did to other models.
        knowledge: what to begin with on a model that nobody has measured, and to reckon with.
        arms: share the budget with the policy, which is put into a portfolio if it is none.
        leader: asked at every turn, before anything else; all of the above decides where it has
            no answer. It sees what is remembered and known, too.

    Raises:
        ConfigError: no such policy; the message names the nearest.
        StrategyError: a strategy of `start` names an unknown method or parameter.
    """
    if name not in BUILTIN:
        raise ConfigError(f"no search policy is called {name!r}; {did_you_mean(name, BUILTIN)}")
    module, _, attribute = BUILTIN[name].partition(":")
    policy_type = getattr(import_module(module), attribute)
    policy: Policy = policy_type.create(seed=seed, objectives=objectives)
    if arms:
        from paredown.search.policies.portfolio import Arm, Portfolio

        own = policy.arms if isinstance(policy, Portfolio) else (Arm(policy=policy),)
        policy = Portfolio(objectives=objectives, arms=(*own, *arms))
    first = tuple(map(registry.canonical, start))
    policy = _told(policy, first, remembered, knowledge, objectives)
    if leader is None:
        return _aimed(aimed, policy)
    from paredown.search.lead import Led

    led = Led(leader=leader, then=policy)
    # Without anything to try first: what comes first is the leader's choice, too.
    elsewhere = None if knowledge is None else replace(knowledge, anchors=())
    return _aimed(aimed, _told(led, (), remembered, elsewhere, objectives))


def _aimed(aimed: tuple[tuple[Strategy, str], ...], policy: Policy) -> Policy:
    """The policy after what the user has asked for, if anything."""
    from paredown.search.aim import Aimed

    return Aimed(first=aimed, then=policy) if aimed else policy


def _told(
    policy: Policy,
    start: tuple[Strategy, ...],
    remembered: tuple[Remembered, ...],
    knowledge: Knowledge | None,
    objectives: tuple[Objective, ...],
) -> Policy:
    """The policy, told of what is known of other models, after what is to be tried first."""
    from paredown.search.start import Informed, WarmStart

    if knowledge is not None:
        policy = Informed(
            anchors=knowledge.anchors, then=policy, known=knowledge.effects, objectives=objectives
        )
    if not start and not remembered:
        return policy
    return WarmStart(strategies=start, then=policy, remembered=remembered)
