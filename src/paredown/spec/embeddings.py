"""The token embedding and the output head, read off the tensor names."""

from __future__ import annotations

import re

from paredown.spec.model import ModelSpec
from paredown.spec.structure import in_block

_EMBEDDING = re.compile(r"(^|\.)(embed_tokens|wte|embed_in|word_embeddings)\.weight(_packed)?$")
_HEAD = re.compile(r"(^|\.)(lm_head|embed_out|output)\.weight(_packed)?$")


def find_embedding(spec: ModelSpec) -> str | None:
    """Module name of the token embedding, whose rows are tokens."""
    return _find(spec, _EMBEDDING)


def find_head(spec: ModelSpec) -> str | None:
    """Module name of a stored output head; also where it is a copy of the embedding."""
    return _find(spec, _HEAD)


def packable_embeddings(spec: ModelSpec) -> tuple[str, ...]:
    """Module names of the embedding and, where it has weights of its own, the head."""
    head = None if spec.tied_embeddings else find_head(spec)
    return tuple(name for name in (find_embedding(spec), head) if name is not None)


def copy_of_tied(spec: ModelSpec) -> str | None:
    """A stored head that is only a copy of the embedding."""
    return find_head(spec) if spec.tied_embeddings and find_embedding(spec) else None


def _find(spec: ModelSpec, pattern: re.Pattern[str]) -> str | None:
    if pattern not in spec.derived:
        spec.derived[pattern] = _search(spec, pattern)
    name: str | None = spec.derived[pattern]
    return name


def _search(spec: ModelSpec, pattern: re.Pattern[str]) -> str | None:
    found = (
        t.name
        for t in spec.tensors
        # RWKV calls a matrix of its blocks `output`, as some call their head.
        if pattern.search(t.name) and len(t.shape) == 2 and not in_block(t.name)
    )
    name = next(found, None)
    return None if name is None else name.rpartition(".")[0]
