"""Names of methods, without importing them; strategies validated against their parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from typing import Any, final

from pydantic import ValidationError

from paredown.errors import ConfigError, MissingExtraError, StrategyError, did_you_mean
from paredown.methods.base import AnyMethod, Kind, Params
from paredown.methods.registered import Registered
from paredown.methods.registered import of as registered_of
from paredown.runtimes import registry as runtimes
from paredown.runtimes.base import require_read
from paredown.spec import plugins
from paredown.spec.families import UNWALKED
from paredown.spec.model import ModelSpec
from paredown.spec.reference import plain_model, seeing_model
from paredown.spec.strategy import Step, Strategy, parse_strategy
from paredown.spec.target import Target

BUILTIN: dict[str, str] = {
    "bf16": "paredown.methods.cast:Bf16",
    "fp16": "paredown.methods.cast:Fp16",
    "rtn": "paredown.methods.rtn:Rtn",
    "gptq": "paredown.methods.gptq:Gptq",
    "hqq": "paredown.methods.hqq:Hqq",
    "awq": "paredown.methods.awq:Awq",
    "mixed": "paredown.methods.mixed:Mixed",
    "autoround": "paredown.methods.autoround:Autoround",
    "smoothquant": "paredown.methods.smoothquant:Smoothquant",
    "fp8": "paredown.methods.fp8:Fp8",
    "int8": "paredown.methods.int8:Int8",
    "nf4": "paredown.methods.nf4:Nf4",
    "lora": "paredown.methods.lora:Lora",
    "qlora": "paredown.methods.qlora:Qlora",
    "distill": "paredown.methods.distill:Distill",
    "l2_structured": "paredown.methods.l2_structured:L2Structured",
    "random_structured": "paredown.methods.random_structured:RandomStructured",
    "structured_afr": "paredown.methods.structured_afr:StructuredAfr",
    "structured_afr_llava": "paredown.methods.structured_afr_llava:StructuredAfrLlava",
    "structured_snip": "paredown.methods.structured_snip:StructuredSnip",
    "structured_refer_svd": "paredown.methods.structured_refer_svd:StructuredReferSvd",
    "wanda_sp": "paredown.methods.wanda_sp:WandaSp",
    "flap": "paredown.methods.flap:Flap",
    "magnitude": "paredown.methods.magnitude:Magnitude",
    "random": "paredown.methods.random_weights:Random",
    "wanda": "paredown.methods.wanda:Wanda",
    "sparsegpt": "paredown.methods.sparsegpt:SparseGpt",
    "afr": "paredown.methods.afr:Afr",
    "snip": "paredown.methods.snip:Snip",
    "refer_svd": "paredown.methods.refer_svd:ReferSvd",
    "depth": "paredown.methods.depth:Depth",
    "heads": "paredown.methods.heads:Heads",
    "experts": "paredown.methods.experts:Experts",
}
GROUP = "paredown.methods"
MAX_REMEMBERED = 1000
"""Characters of a step that a planner remembers. A longer one holds a plan, which is hardly ever
met twice, and the spec after it takes a hundred kilobytes."""


def _plugins() -> tuple[EntryPoint, ...]:
    return plugins.installed(GROUP)


_registered: dict[str, Registered] = {}
"""What this program has registered, by name."""


def register(method: Registered) -> None:
    """Make a user's class known in this process; the same class again takes its place, as when a
    notebook's cell is run again.

    Raises:
        ConfigError: a built-in method, or one of a package, has this name.
    """
    if method.name in BUILTIN or method.name in {entry.name for entry in _plugins()}:
        raise ConfigError(f"there is a method {method.name!r} already; take another name")
    _registered[method.name] = method


def register_method(name: str, *, kind: str = "pruning") -> Callable[[type[Any]], type[Any]]:
    """Try an idea from a script or notebook: a decorator over a class with `apply`.

        @paredown.register_method("shrink_tails")
        class ShrinkTails:
            search_space = {"share": [0.01, 0.02]}

            def apply(self, model, share=0.01): ...

    `apply` is given the transformers model in float32 and changes it in place, or returns another;
    a parameter called `calibration` gets token windows, (samples, length) int64. The result is
    saved in the model's own dtype, reloaded in a fresh process, and measured like any other.

    Args:
        name: how strategies call it.
        kind: `quantization`, `pruning` or `tuning`; decides which orders of steps make sense.

    Raises:
        ConfigError: a built-in method has this name, or the class cannot be used; says why.
    """

    def decorate(wrapped: type[Any]) -> type[Any]:
        register(registered_of(wrapped, name, kind))
        return wrapped

    return decorate


def registered() -> tuple[Registered, ...]:
    """The methods of this program, which workers must be given."""
    return tuple(_registered.values())


def names() -> dict[str, str]:
    """Every known method, name -> "module:Class". A plug-in may not shadow another method."""
    known = plugins.merged("method", BUILTIN, _plugins())
    return known | {name: method.place for name, method in _registered.items()}


def load(name: str) -> AnyMethod:
    """Import and instantiate the method called `name`.

    Raises:
        StrategyError: no such method; the message names the nearest.
    """
    known = names()
    if name not in known:
        raise StrategyError(
            f"no compression method is called {name!r}; {did_you_mean(name, known)}"
        )
    if name in _registered:
        return _registered[name]
    method: AnyMethod = plugins.create(known[name])
    return method


def params_of(step: Step) -> Params:
    """The validated parameters of a step, defaults filled in.

    Raises:
        StrategyError: unknown method or parameter, or a value outside its range.
    """
    method = load(step.method)
    try:
        return method.params_type.model_validate(step.params)
    except ValidationError as error:
        known = method.params_type.model_fields
        problems = []
        for item in error.errors():
            field = ".".join(str(part) for part in item["loc"])
            if item["type"] == "extra_forbidden":
                problems.append(f"no parameter {field!r}; {did_you_mean(field, known)}")
            else:
                problems.append(f"{field} = {item['input']!r}: {item['msg']}")
        raise StrategyError(f"{step.method}: {'; '.join(problems)}") from None


def resolve(strategy: Strategy) -> list[tuple[AnyMethod, Params]]:
    """Methods and validated parameters of every step."""
    return [(load(step.method), params_of(step)) for step in strategy.steps]


def reads_data(strategy: Strategy) -> bool:
    """Whether a step of it calibrates on text."""
    return any(method.reads_data(params) for method, params in resolve(strategy))


def canonical(strategy: Strategy | str) -> Strategy:
    """The strategy with every parameter explicit, so that equal strategies hash alike."""
    if isinstance(strategy, str):
        strategy = parse_strategy(strategy)
    return Strategy(
        steps=tuple(
            Step(method=step.method, params=params_of(step).model_dump(mode="json"))
            for step in strategy.steps
        )
    )


def for_runtime(strategy: Strategy | str, runtime: str) -> Strategy:
    """The canonical strategy, where steps that choose among the formats of a runtime and name none
    choose among those of `runtime`."""
    if isinstance(strategy, str):
        strategy = parse_strategy(strategy)
    steps = []
    for step in strategy.steps:
        takes_one = "runtime" in load(step.method).params_type.model_fields
        named = {"runtime": runtime} if takes_one and "runtime" not in step.params else {}
        steps.append(Step(method=step.method, params=step.params | named))
    return canonical(Strategy(steps=tuple(steps)))


def label(strategy: Strategy) -> str:
    """The strategy without the parameters that are at their default, for people."""
    steps = []
    for step in strategy.steps:
        params = params_of(step)
        shown = params.model_dump(mode="json", exclude_defaults=True)
        steps.append(Step(method=step.method, params=shown))
    return str(Strategy(steps=tuple(steps)))


def kind_of(strategy: Strategy) -> str:
    """`quantization`, `pruning` or `tuning`; `pipeline` for several steps."""
    return "pipeline" if len(strategy.steps) > 1 else load(strategy.steps[0].method).kind.value


def require_extra(method: AnyMethod) -> None:
    """Refuse a method whose optional library is missing.

    Raises:
        MissingExtraError: with the pip command.
    """
    if method.extra is not None and find_spec(method.extra[0]) is None:
        raise MissingExtraError(f"method {method.name!r}", method.extra[0], method.extra[1])


def default_readers(method: AnyMethod) -> tuple[str, ...]:
    """The runtimes that load what a method makes of a plain model with its defaults.

    Of a LLaVA where the method wants a model that sees; what other parameters, models and steps
    bring is asked of the predicted spec (`runtimes.registry.readers`).
    """
    params = method.params_type()
    target = Target(device="cuda")  # a method that only GPUs run is listed all the same
    for spec in (plain_model(), seeing_model()):
        try:
            method.check(spec, params, target)
        except ConfigError:
            continue
        return runtimes.readers(method.predict(spec, params))
    return runtimes.readers(method.predict(plain_model(), params))


def check(strategy: Strategy, spec: ModelSpec, target: Target) -> ModelSpec:
    """Refuse at planning time what cannot work; return the predicted spec of the result.

    Raises:
        ConfigError: which step cannot work, why, and the mend.
    """
    return Planner(spec, target).check(strategy)


@dataclass(frozen=True, eq=False)
class _State:
    """A model as some steps leave it."""

    spec: ModelSpec
    packed_by: str | None
    """What packed its weights."""
    is_sparse: bool = False
    """Whether they are stored sparse."""


@final
class Planner:
    """Checks many strategies for one model and target.

    What strategies have in common is worked out once: first steps that are alike, and steps after
    others that leave the same tensors, as all methods do that remove the same share of neurons.
    """

    def __init__(self, spec: ModelSpec, target: Target) -> None:
        self._target, self._runtime = target, runtimes.load(target.runtime)
        self._why_not: dict[int, str] = {}  # by state: why the runtime does not load it, or nothing
        self._start = _State(spec, spec.quantization)
        self._states: dict[tuple[object, ...], list[_State]] = {}
        self._after: dict[tuple[int, str], _State | ConfigError] = {}  # by state and step
        self._settings: dict[str, tuple[AnyMethod, Params]] = {}
        self._intern(self._start)

    def check(self, strategy: Strategy) -> ModelSpec:
        """See `registry.check`."""
        state, is_kept = self._start, True
        for text, method, params in [self._resolve(step) for step in strategy.steps]:
            # What follows a state that is not kept cannot be remembered either: by its id, another
            # state would be found there once this one is gone.
            is_kept = is_kept and len(text) <= MAX_REMEMBERED
            state = (self._remembered if is_kept else self._step)(state, method, params, text)
        why_not = self._unheld(state, is_kept=is_kept)
        if why_not:
            raise StrategyError(f"{label(strategy)}{why_not}")
        return state.spec

    def _unheld(self, state: _State, *, is_kept: bool) -> str:
        """Why the target's runtime does not load a result; empty if it does.

        Only the end of a strategy is asked: steps on the way need not be held.
        """
        key = id(state)
        if key in self._why_not:
            return self._why_not[key]
        try:
            require_read(self._runtime, state.spec, self._target.device, what="")
            found = ""
        except ConfigError as error:
            found = str(error)
        if is_kept:
            self._why_not[key] = found
        return found

    def _remembered(self, state: _State, method: AnyMethod, params: Params, text: str) -> _State:
        """`_step`, worked out once."""
        key = id(state), text
        if key not in self._after:
            try:
                self._after[key] = self._intern(self._step(state, method, params, text))
            except ConfigError as error:
                self._after[key] = error
        found = self._after[key]
        if isinstance(found, ConfigError):
            raise found.with_traceback(None)
        return found

    def _resolve(self, step: Step) -> tuple[str, AnyMethod, Params]:
        """The step as text, which stands for it, its method and its parameters."""
        text = str(step)
        if len(text) > MAX_REMEMBERED:
            return text, load(step.method), params_of(step)
        if text not in self._settings:
            self._settings[text] = load(step.method), params_of(step)
        return text, *self._settings[text]

    def _step(self, state: _State, method: AnyMethod, params: Params, text: str) -> _State:
        """The model after one more step, `text` for short."""
        require_extra(method)
        packed_by = state.packed_by
        if packed_by is not None and state.is_sparse:
            raise StrategyError(
                f"{method.name} after {packed_by}: the weights are stored sparse; "
                f'use {packed_by}(storage="dense"), or leave {method.name} out'
            )
        if packed_by is not None and method.kind is not Kind.TUNING:  # an adapter can be kept
            raise StrategyError(
                f"{method.name} after {packed_by}: the weights are packed already; "
                f"put {method.name} before the quantization"
                if method.kind is not Kind.QUANTIZATION
                else f"{method.name} after {packed_by}: a model is quantized only once; "
                "leave one of the two out"
            )
        if method.kind is not Kind.TUNING and (why := UNWALKED.get(state.spec.text_type)):
            raise ConfigError(f"{state.spec.architecture}: {why}; {method.name} cannot change it")
        method.check(state.spec, params, self._target)
        made = method.predict(state.spec, params)
        if packed_by is None and made.quantization is not None:
            packed_by = method.name
        return _State(made, packed_by, packed_by is not None and method.kind is Kind.PRUNING)

    def _intern(self, state: _State) -> _State:
        """The state as it was met before, if it was."""
        spec = state.spec
        key = (
            *(state.packed_by, state.is_sparse, spec.weight_bytes, len(spec.tensors)),
            *(spec.quantization, spec.layers, spec.intermediate_size, spec.heads, spec.kv_heads),
        )
        alike = self._states.setdefault(key, [])
        for known in alike:
            if known.spec is spec or known.spec == spec:
                return known
        alike.append(state)
        return state
