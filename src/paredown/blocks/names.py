"""Names of tensors in files and of parts in memory: the mapping that transformers itself loads by.

Files keep the names that their authors gave; transformers renames while it loads, and puts experts
that are stored one by one into one tensor. What is written here has the names of the file, so only
the way from file to memory is needed: going back is looking up where a name came from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Protocol

from torch import nn

from paredown.errors import ModelError

_NAMES = "_paredown_names"
_EXPERT = re.compile(r"^(?P<stack>.*\bexperts\.\d+\.)(?P<leaf>.+)$")
_ROLES = {"gate_up_proj": ("gate_proj", "up_proj")}
"""What the parts of a fused tensor of experts are called in `blocks.experts.Expert`."""


class _Names(Protocol):
    def inside(self, stored: str) -> Iterator[str]: ...


class StoredNames:
    """Where the tensors of a file belong in a model, by transformers' own rules."""

    def __init__(self, model: Any) -> None:
        from transformers import conversion_mapping as mapping
        from transformers.core_model_loading import WeightConverter

        rules = mapping.get_model_conversion_mapping(model)
        self._converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
        self._renamings = [rule for rule in rules if not isinstance(rule, WeightConverter)]
        self._prefix = str(getattr(model, "base_model_prefix", ""))

    def inside(self, stored: str) -> Iterator[str]:
        """Names that a stored tensor or module may have in memory, the likeliest first."""
        # Rules are made for tensors: some name the leaf, or want a dot behind a module's name.
        for leaf in ("", ".weight", ".x"):
            renamed = self._renamed(f"{stored}{leaf}").removesuffix(leaf)
            yield from (
                renamed,
                f"{self._prefix}.{renamed}",
                renamed.removeprefix(f"{self._prefix}."),
            )

    def _renamed(self, stored: str) -> str:
        name = stored
        for rule in self._renamings:
            name, _ = rule.rename_source_key(name)
        expert = _EXPERT.match(name)
        if expert is None:
            return name
        for rule in self._converters:
            fused, pattern = rule.rename_source_key(name)
            if pattern is not None:
                roles = _ROLES.get(fused.rpartition(".")[2], (fused.rpartition(".")[2],))
                role = roles[rule.source_patterns.index(pattern) % len(roles)]
                return f"{expert['stack']}{role}.{expert['leaf'].rpartition('.')[2]}"
        return name


class _BlockNames:
    """The same seen from within a block: names without what stands before it."""

    def __init__(self, names: _Names, stored: str, inside: str) -> None:
        self._names, self._stored, self._inside = names, stored, inside

    def inside(self, stored: str) -> Iterator[str]:
        for name in self._names.inside(f"{self._stored}.{stored}"):
            if name.startswith(f"{self._inside}."):
                yield name.removeprefix(f"{self._inside}.")


def know_names(model: Any) -> StoredNames:
    """The names of a model; asked once, before its parts are replaced, they stay with it."""
    if _NAMES not in model.__dict__:
        model.__dict__[_NAMES] = StoredNames(model)
    found: StoredNames = model.__dict__[_NAMES]
    return found


def know_block(model: Any, stored: str, inside: str) -> None:
    """Let the block `inside`, which files call `stored`, be asked by its own stored names."""
    block = model.get_submodule(inside)
    block.__dict__[_NAMES] = _BlockNames(know_names(model), stored, inside)


def find_part(model: nn.Module, name: str) -> str | None:
    """The model's own name for a stored tensor or module; None if it has no such part."""
    from transformers import PreTrainedModel

    names: _Names | None = model.__dict__.get(_NAMES)
    if names is None and isinstance(model, PreTrainedModel):
        names = know_names(model)
    for candidate in (name, *(() if names is None else names.inside(name))):
        owner, _, leaf = candidate.rpartition(".")
        try:
            if hasattr(model.get_submodule(owner), leaf):
                return str(candidate)
        except AttributeError:
            continue
    return None


def module_name(model: nn.Module, name: str) -> str:
    """The model's own name for a stored tensor or module.

    Raises:
        ModelError: the model has no such part.
    """
    found = find_part(model, name)
    if found is None:
        kind = type(model).__name__
        raise ModelError(f"the {kind} that transformers builds has no part {name!r}")
    return found
