"""Names of runtimes, without importing them. No torch."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint

from paredown.errors import ConfigError, did_you_mean
from paredown.runtimes.base import Claim, Engine, Runtime
from paredown.spec import plugins
from paredown.spec.model import ModelSpec
from paredown.spec.target import Device

BUILTIN: dict[str, str] = {
    "torch": "paredown.runtimes.torch.runtime:Torch",
    "transformers": "paredown.runtimes.transformers:Transformers",
    "vllm": "paredown.runtimes.vllm.runtime:Vllm",
    "llama.cpp": "paredown.runtimes.llama_cpp.runtime:LlamaCpp",
    "onnxruntime": "paredown.runtimes.onnxruntime.runtime:OnnxRuntime",
    "openvino": "paredown.runtimes.openvino.runtime:OpenVino",
}
GROUP = "paredown.runtimes"


def _plugins() -> tuple[EntryPoint, ...]:
    return plugins.installed(GROUP)


def names() -> dict[str, str]:
    """Every known runtime, name -> "module:Class". A plug-in may not shadow another runtime."""
    return plugins.merged("runtime", BUILTIN, _plugins())


@cache
def load(name: str) -> Runtime:
    """Import the runtime called `name`; its engine is imported when it is opened.

    Raises:
        ConfigError: no such runtime; the message names the nearest.
    """
    known = names()
    if name not in known:
        raise ConfigError(f"no runtime is called {name!r}; {did_you_mean(name, known)}")
    runtime: Runtime = plugins.create(known[name])
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
            f"runtime {name!r}: what it holds is known, but models are not opened in it; "
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
