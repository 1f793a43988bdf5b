"""Names of runtimes, without importing them. No torch."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from paredown.errors import ConfigError, did_you_mean
from paredown.runtimes.base import Claim, Engine, Runtime
from paredown.spec.model import ModelSpec
from paredown.spec.target import Device

BUILTIN: dict[str, str] = {
    "torch": "paredown.runtimes.torch.runtime:Torch",
    "transformers": "paredown.runtimes.transformers:Transformers",
    "vllm": "paredown.runtimes.vllm:Vllm",
    "llama.cpp": "paredown.runtimes.llama_cpp.runtime:LlamaCpp",
}
GROUP = "paredown.runtimes"


@cache
def _plugins() -> tuple[EntryPoint, ...]:
    """Installed plug-ins; read once, because it searches every installed package."""
    return tuple(entry_points(group=GROUP))


def names() -> dict[str, str]:
    """Every known runtime, name -> "module:Class". A plug-in may not shadow another runtime."""
    found = dict(BUILTIN)
    for entry in _plugins():
        if entry.name in found:
            raise ConfigError(
                f"runtime {entry.name!r} is provided by both {found[entry.name]} and "
                f"{entry.value}; uninstall one of them"
            )
        found[entry.name] = entry.value
    return found


@cache
def load(name: str) -> Runtime:
    """Import the runtime called `name`; its engine is imported when it is opened.

    Raises:
        ConfigError: no such runtime; the message names the nearest.
    """
    known = names()
    if name not in known:
        raise ConfigError(f"no runtime is called {name!r}; {did_you_mean(name, known)}")
    module, _, attribute = known[name].partition(":")
    runtime: Runtime = getattr(import_module(module), attribute)()
    return runtime


def engine(name: str) -> Engine:
    """The runtime called `name`, if artifacts can be opened and measured in it here.

    Raises:
        ConfigError: no such runtime, or only its claims are known; what it needs is missing.
    """
    found = load(name)
    if not isinstance(found, Engine):
        others = [n for n in names() if isinstance(load(n), Engine)]
        raise ConfigError(
            f"runtime {name!r}: what it holds is known, but models are not opened in it yet; "
            f"measure in one of {', '.join(others)}"
        )
    found.require()
    return found


def claims(spec: ModelSpec, device: Device | None = None) -> dict[str, Claim]:
    """What every runtime says of loading a model, by name, most capable first."""
    return {name: load(name).reads(spec, device) for name in names()}


def readers(spec: ModelSpec) -> tuple[str, ...]:
    """The runtimes that load a model, most capable first; untested ones are left out."""
    return tuple(
        name for name, claim in claims(spec).items() if claim.holds and claim.evidence != "untested"
    )
