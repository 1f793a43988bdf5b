"""Names of policies, without importing them."""

from __future__ import annotations

from importlib import import_module

from paredown.errors import ConfigError, did_you_mean
from paredown.search.base import Policy
from paredown.spec.run import Objective

BUILTIN: dict[str, str] = {
    "grid": "paredown.search.grid:Grid",
    "random": "paredown.search.random:Uniform",
    "tpe": "paredown.search.tpe:Tpe",
}


def create(name: str, *, seed: int, objectives: tuple[Objective, ...]) -> Policy:
    """The policy called `name`, as a run with this seed and these objectives asks for it.

    Raises:
        ConfigError: no such policy; the message names the nearest.
    """
    if name not in BUILTIN:
        raise ConfigError(f"no search policy is called {name!r}; {did_you_mean(name, BUILTIN)}")
    module, _, attribute = BUILTIN[name].partition(":")
    policy_type: type[Policy] = getattr(import_module(module), attribute)
    return policy_type.create(seed=seed, objectives=objectives)
