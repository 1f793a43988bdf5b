"""How a family calls its blocks, learned from forward passes that compute none of them.

Stand-ins take the blocks' places: each notes how it is called and hands its input on, wrapped as
the family's blocks wrap their output. That is found by running one real block.
"""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from paredown.errors import MethodError

_HIDDEN = "hidden_states"
_tuples: dict[type[nn.Module], int | None] = {}
"""Class of a block -> how long the tuple is that it returns; None: it returns the states alone."""


@dataclass(frozen=True)
class Call:
    """What a block is given besides the hidden states."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self, module: nn.Module, hidden: Tensor, left: MutableMapping[Any, Any]) -> Tensor:
        """The states behind a block.

        Args:
            left: what earlier blocks have left for later ones, where a family has that.
        """
        kwargs = {k: left if _is_left(v) else v for k, v in self.kwargs.items()}
        output = module(hidden, *self.args, **kwargs)
        behind: Tensor = output[0] if isinstance(output, tuple) else output
        return behind

    def cast(self, dtype: torch.dtype) -> Call:
        """Floating-point arguments (masks, rotary embeddings) in the dtype of the blocks."""

        def one(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.to(dtype) if value.is_floating_point() else value
            if isinstance(value, tuple):
                return tuple(one(v) for v in value)
            return value

        return Call(tuple(map(one, self.args)), {k: one(v) for k, v in self.kwargs.items()})

    def is_like(self, other: Call) -> bool:
        """Whether both would make a block compute the same."""
        return _alike(self.args, other.args) and _alike(self.kwargs, other.kwargs)


def _is_left(value: Any) -> bool:
    """Whether an argument is a dictionary that blocks write to: Gemma 3n's shared keys, values."""
    return isinstance(value, UserDict)


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_alike(one[k], other[k]) for k in one)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(_alike, one, other))
    return True  # flags and caches are the same in every pass of a walk


class StandIn(nn.Module):
    """Takes a block's place: notes how it is called and hands its input on.

    Attributes:
        hidden: the states it was given; None where the family passed over the block.
        output: handed on in place of the input, if it is set.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.__dict__["block"] = block  # not registered as a child
        self.hidden: Tensor | None = None
        self.call: Call | None = None
        self.output: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:  # e.g. `attention_type`, which decides the block's mask
            return getattr(self.__dict__["block"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if _HIDDEN in kwargs:
            self.hidden = kwargs.pop(_HIDDEN)
        else:
            self.hidden, *rest = args
            args = tuple(rest)
        self.call = Call(args, kwargs)
        handed = self.hidden if self.output is None else self.output
        length = _tuples[type(self.__dict__["block"])]
        return handed if length is None else (handed, *[None] * (length - 1))


@contextmanager
def stand_ins(model: Any, names: Sequence[str]) -> Iterator[list[StandIn]]:
    """The model with stand-ins for the blocks of these names."""
    blocks = [model.get_submodule(name) for name in names]
    standing = [StandIn(block) for block in blocks]
    for name, stand_in in zip(names, standing, strict=True):
        model.set_submodule(name, stand_in)
    try:
        yield standing
    finally:
        for name, block in zip(names, blocks, strict=True):
            model.set_submodule(name, block)


def answer(standing: Sequence[StandIn], states: Tensor) -> None:
    """Let all blocks together give these states, (..., samples, length, hidden)."""
    for stand_in in standing:
        stand_in.output = states


class _Seen(Exception):
    """Ends a forward pass behind the block that was to be seen."""


def note_output(block: nn.Module, output: Any) -> None:
    """Remember how a class of blocks wraps its output."""
    _tuples[type(block)] = len(output) if isinstance(output, tuple) else None


def learn_output(block: nn.Module, run: Callable[[], object], others: Sequence[nn.Module]) -> None:
    """Find how a block wraps its output, from one forward pass `run` in which its weights are real.

    Args:
        others: the family's other blocks: one loop takes all outputs, so they are wrapped alike.
    """

    def note(module: nn.Module, args: Any, output: Any) -> None:
        for one in (module, *others):
            note_output(one, output)
        raise _Seen

    handle = block.register_forward_hook(note)
    try:
        run()
    except _Seen:
        pass
    finally:
        handle.remove()


def is_learned(blocks: Sequence[nn.Module]) -> bool:
    """Whether it is known how all of these blocks wrap their output."""
    return all(type(block) in _tuples for block in blocks)


def require_untouched(standing: Sequence[StandIn]) -> None:
    """See that nothing happens to the states between two blocks.

    Raises:
        MethodError: the model changes them there, so that blocks alone do not make the model.
    """
    called = [stand_in for stand_in in standing if stand_in.hidden is not None]
    for before, behind in pairwise(called):
        handed = before.hidden if before.output is None else before.output
        if behind.hidden is not handed and not _alike(handed, behind.hidden):
            raise MethodError(
                f"a {type(behind.block).__name__} is not given what the block before it returns: "
                "this family cannot be walked through block by block"
            )
