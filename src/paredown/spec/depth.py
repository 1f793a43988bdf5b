"""Names of tensors once some blocks are gone."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from paredown.spec.structure import Block


def without_blocks(
    names: Iterable[str], blocks: Iterable[Block], dropped: Collection[int]
) -> dict[str, str]:
    """Tensors that stay, by their name in the deeper model, and what they are called afterwards.

    Args:
        names: tensors of the deeper model.
        blocks: all its blocks, in order.
        dropped: indices of the blocks that go.
    """
    places: dict[str, str | None] = {}
    left = 0
    for block in blocks:
        stack = block.prefix.rpartition(".")[0]
        places[block.prefix] = None if block.index in dropped else f"{stack}.{left}"
        left += block.index not in dropped
    renamed = {}
    for name in names:
        old = next((p for p in places if name.startswith(f"{p}.")), None)
        if old is None:
            renamed[name] = name
        elif (new := places[old]) is not None:
            renamed[name] = new + name.removeprefix(old)
    return renamed
