"""Methods from three lines in a script or notebook: a class with `apply(model, **params)`.

For trying an idea. What `register` makes of such a class is a method like any other: its artifact
is saved, proved in a fresh process, measured and searched. Workers are other processes, so the
class travels to them by value, with the functions and constants of its own module that it uses.
A package with an entry point is the way for methods that stay (docs/adding-a-method.md).
"""

from __future__ import annotations

import hashlib
import inspect
import sys
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, final

from pydantic import create_model

from paredown.errors import ConfigError, MethodError
from paredown.methods.base import Context, Kind, Method, Params
from paredown.spec.domain import Choice
from paredown.spec.model import ModelSpec
from paredown.spec.serial import content_hash
from paredown.spec.target import Target

if TYPE_CHECKING:
    from torch import Tensor

    from paredown.artifact.checkpoint import Checkpoint

CALIBRATION = "calibration"
"""Parameter of `apply` that is given the calibration windows instead of a value."""
_SCALARS = (bool, int, float, str)
_NO_CODE = frozenset({"__module__", "__qualname__", "__doc__", "__firstlineno__", "__dict__",
                      "__weakref__", "__annotations__"})  # fmt: skip
"""Of a class: what does not change what it does."""


@dataclass(frozen=True)
class Written:
    """A class as its user wrote it, and what identifies it."""

    name: str
    kind: Kind
    code: str
    """Hash of all code and values of the user's own modules that it uses."""
    wrapped: type[Any]


@final
class Registered(Method[Params]):
    """A user's class as a method; made by `of`."""

    def __init__(self, written: Written) -> None:
        self.written = written
        # Of the instance, where other methods have them of the class: there is one class for all.
        self.name, self.kind = written.name, written.kind  # type: ignore[misc]
        self.summary = _summary(written.wrapped)  # type: ignore[misc]
        self.params_type = _params_type(written)  # type: ignore[misc]
        self.needs_data = CALIBRATION in _parameters(written.wrapped)  # type: ignore[misc]

    @property
    def place(self) -> str:
        """Where it comes from; another text once its code has changed."""
        wrapped = self.written.wrapped
        return f"{wrapped.__module__}:{wrapped.__qualname__}#{self.written.code[:12]}"

    def knows_bytes(self, params: Params) -> bool:
        return False  # what `apply` does to the model is known when it is done

    def check(self, spec: ModelSpec, params: Params, target: Target) -> None:
        pass  # it takes any model; the registry refuses packed ones

    def predict(self, spec: ModelSpec, params: Params) -> ModelSpec:
        return spec

    def apply(self, source: Checkpoint, out: Path, params: Params, context: Context) -> Tensor:
        import torch

        from paredown.artifact.checkpoint import copy_small_files
        from paredown.blocks.probe import probe_tokens
        from paredown.runtimes.torch.load import load_dense, stored_dtype
        from paredown.runtimes.torch.proof import probe

        model = load_dense(
            source.folder,
            device=context.device,
            dtype=torch.float32,
            trust_remote_code=context.trust_remote_code,
        )
        torch.manual_seed(context.seed)
        values = params.model_dump()
        if self.needs_data:
            values[CALIBRATION] = context.calibration()
        context.progress(0.1, f"{self.name}: apply")
        changed = self.written.wrapped().apply(model, **values)
        model = model if changed is None else changed
        if not hasattr(model, "save_pretrained"):
            raise MethodError(
                f"{self.name}: apply returned a {type(model).__name__}; return a transformers "
                "model, or nothing where the one that was given is changed in place"
            )
        model = model.eval().to(stored_dtype(source))
        model.save_pretrained(out, safe_serialization=True)
        copy_small_files(source.folder, out)
        return probe(model.float(), probe_tokens(source.spec.vocabulary or 2))


def of(wrapped: type[Any], name: str, kind: str) -> Registered:
    """The method that a class stands for.

    Raises:
        ConfigError: it has no `apply(model, ...)`, a parameter without a default, or a search
            space that names no parameter; or the name cannot stand in a strategy.
    """
    if not name.isidentifier():
        raise ConfigError(f"a method's name is letters, digits and _, not {name[:60]!r}")
    if kind not in {known.value for known in Kind}:
        raise ConfigError(f"{name}: kind is {', '.join(known.value for known in Kind)}")
    if not (inspect.isclass(wrapped) and callable(getattr(wrapped, "apply", None))):
        raise ConfigError(
            f"{name}: register_method stands over a class with `def apply(self, model, ...)`"
        )
    return Registered(Written(name, Kind(kind), _code_hash(wrapped), wrapped))


def packed(methods: Iterable[Registered]) -> bytes:
    """The classes as bytes that another process reads, where their module is not known."""
    import cloudpickle

    written = [method.written for method in methods]
    by_value = {
        module
        for one in written
        if (module := sys.modules.get(one.wrapped.__module__)) is not None
        and module.__name__ != "__main__"  # which is pickled by value anyway
    }
    for module in by_value:
        cloudpickle.register_pickle_by_value(module)
    try:
        data: bytes = cloudpickle.dumps(written)
    finally:
        for module in by_value:
            cloudpickle.unregister_pickle_by_value(module)
    return data


def unpacked(data: bytes) -> list[Registered]:
    """What `packed` has packed, in a worker of the process that did."""
    import pickle

    return [Registered(written) for written in pickle.loads(data)]


def _summary(wrapped: type[Any]) -> str:
    said = (wrapped.__doc__ or "").strip()
    return said.splitlines()[0] if said else f"{wrapped.__qualname__}, registered in this program"


def _parameters(wrapped: type[Any]) -> Mapping[str, inspect.Parameter]:
    """Of `apply`, without `self` and the model."""
    found = list(inspect.signature(wrapped.apply).parameters.values())
    if len(found) < 2:
        raise ConfigError(f"{wrapped.__qualname__}: apply takes a model: def apply(self, model)")
    return {parameter.name: parameter for parameter in found[2:]}


def _params_type(written: Written) -> type[Params]:
    """A parameter class from the signature of `apply` and from `search_space`."""
    space: Mapping[str, Sequence[Any]] = getattr(written.wrapped, "search_space", {})
    parameters = _parameters(written.wrapped)
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    named = {n: p for n, p in parameters.items() if p.kind is not inspect.Parameter.VAR_KEYWORD}
    if unknown := sorted(space.keys() - named.keys()):
        if not takes_any:
            raise ConfigError(f"{written.name}: search_space names {unknown[0]!r}; apply does not")
        named |= dict.fromkeys(unknown, inspect.Parameter("_", inspect.Parameter.KEYWORD_ONLY))
    fields: dict[str, Any] = {}
    for name, parameter in named.items():
        if name == CALIBRATION:
            continue
        values = tuple(space.get(name, ()))
        is_given = parameter.default is not inspect.Parameter.empty
        if not is_given and not values:
            raise ConfigError(
                f"{written.name}: {name} has no default; give it one, or values in search_space"
            )
        default = parameter.default if is_given else values[0]
        wrong = [value for value in (default, *values) if not isinstance(value, _SCALARS)]
        if wrong:
            raise ConfigError(
                f"{written.name}: {name} = {wrong[0]!r} is no number, text or truth value"
            )
        kind = _type_of((default, *values))
        marks = (Choice(*dict.fromkeys((default, *values))),) if values else ()
        fields[name] = (Annotated[kind, *marks] if marks else kind, default)
    code = written.code

    class Base(Params):
        source_code: ClassVar[str] = code

        def content(self, data_dir: Path | None) -> dict[str, str]:
            return {"code": self.source_code}

    return create_model(f"{written.name}_params", __base__=Base, **fields)


def _type_of(values: tuple[Any, ...]) -> type[Any]:
    kinds = {type(value) for value in values}
    if kinds == {int, float}:
        return float
    return kinds.pop() if len(kinds) == 1 else object


def _code_hash(wrapped: type[Any]) -> str:
    """Of the class and of all that it uses from the user's own modules, to any depth."""
    parts: list[Any] = []
    _collect(wrapped, parts, set())
    return content_hash(parts, length=64)


def _collect(thing: Any, parts: list[Any], seen: set[int]) -> None:
    """Append what `thing` does, if it is the user's own and was not met yet."""
    if isinstance(thing, staticmethod | classmethod):
        thing = thing.__func__
    if thing is None or id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, ModuleType):  # `helpers.fn(...)`: whatever of it is used
        if _is_own(thing) and thing.__file__ is not None:
            parts.append(Path(thing.__file__).read_text(encoding="utf-8", errors="replace"))
    elif isinstance(thing, FunctionType) and _is_own(sys.modules.get(thing.__module__)):
        code, defaults = thing.__code__, [thing.__defaults__, thing.__kwdefaults__]
        parts.append([thing.__qualname__, _code_of(code), repr(defaults)])
        for cell in thing.__closure__ or ():
            _collect(cell.cell_contents, parts, seen)
        for name in _names_of(code):
            _collect(thing.__globals__.get(name), parts, seen)
    elif isinstance(thing, type) and _is_own(sys.modules.get(thing.__module__)):
        parts.append(thing.__qualname__)
        members = [value for key, value in vars(thing).items() if key not in _NO_CODE]
        for member in (*thing.__bases__, *members):
            _collect(member, parts, seen)
    elif not isinstance(thing, type) and not callable(thing):
        parts.append(_value_of(thing))


def _is_own(module: ModuleType | None) -> bool:
    """Whether the user wrote it. Libraries are known by their versions, which all keys hold."""
    if module is None or module.__name__ == "__main__":  # a script or a notebook
        return True
    file = getattr(module, "__file__", None)
    if file is None:  # built into Python
        return False
    installed = (sysconfig.get_path(kind) for kind in ("stdlib", "purelib", "platlib"))
    is_library = any(Path(file).is_relative_to(folder) for folder in installed)
    return not is_library and module.__name__.partition(".")[0] != "paredown"


def _value_of(thing: Any) -> str:
    """A value as a text that is the same in every process: numbers, lists, tensors, ..."""
    if isinstance(thing, (*_SCALARS, tuple)):
        return repr(thing)
    import cloudpickle
    import torch

    if isinstance(thing, torch.Tensor):  # pickled, it is another text each time
        numbers = thing.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()
        return f"{thing.dtype} {tuple(thing.shape)} {hashlib.sha256(numbers).hexdigest()}"
    return hashlib.sha256(cloudpickle.dumps(thing)).hexdigest()


def _code_of(code: CodeType) -> list[Any]:
    """What a function does, without the lines and the file it stands in."""
    consts = [_code_of(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return [code.co_code.hex(), consts, list(code.co_names), list(code.co_varnames)]


def _names_of(code: CodeType) -> list[str]:
    inner = [n for c in code.co_consts if isinstance(c, CodeType) for n in _names_of(c)]
    return [*code.co_names, *inner]
