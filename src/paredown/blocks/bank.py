"""The layer bank: what each (layers, scheme) yields and costs, computed once, cached by content.

A killed trial, a second one with the same parameters, and one whose plan differs in other layers
only all read what is there. What a choice between schemes needs (error and bytes of each) is read
without the codes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from paredown.artifact.compressed_tensors import packed_tensors
from paredown.blocks.hessians import HessianBank
from paredown.blocks.moments import codes_bytes, is_kept
from paredown.ops.errors import OutputError
from paredown.ops.grids import AnyGrid, grid_of
from paredown.spec.scheme import Scheme
from paredown.spec.structure import Block

VERSION = 3
"""Of what is stored; entries of others are computed again. 1 had no
errors, 2 none of single rows."""
_KIND = "layers"
_ENTRIES = "entries"
"""Key of the file's metadata under which error and bytes of each layer stand, as JSON."""

Layers = dict[str, tuple[Tensor, AnyGrid]]
"""Codes and grid by layer name."""


@dataclass(frozen=True)
class Solved:
    """A layer as a solver leaves it: codes (out, inp) int8 on a grid, and their error."""

    codes: Tensor
    grid: AnyGrid
    error: OutputError
    rows: Tensor
    """(out,) float32, its share of each output feature; they add up to `error.squared`."""


@dataclass(frozen=True)
class Entry:
    """What the bank knows of a layer under a scheme.

    Attributes:
        error: of its outputs on the calibration text.
        nbytes: of the tensors that a packed checkpoint stores of it.
    """

    error: OutputError
    nbytes: int


class LayerBank:
    """Codes, grids, errors and bytes of layers that read one input and share a scheme.

    Layers are solved and kept in groups; `names` below are always those of a whole group, in its
    order. `content` tells apart what the same layers hold when they were changed before they were
    rounded (by factors, say): a hash of it; empty where they are as in the model.
    """

    def __init__(self, hessians: HessianBank, params: dict[str, Any]) -> None:
        """`params`: what results depend on besides model, calibration text, layers and scheme."""
        self.hessians, self.params = hessians, params
        self.is_kept = is_kept(codes_bytes(hessians.source.spec), hessians.cache)

    def of_layers(
        self,
        block: Block,
        names: list[str],
        scheme: Scheme,
        solve: Callable[[], dict[str, Solved]],
        *,
        content: str = "",
    ) -> Layers:
        """The stored results of these layers of a block, or those of `solve`, kept if they fit."""
        path = self._path(block, names, scheme, content)
        if path is not None:
            return _read(load_file(path), names, scheme)
        solved = solve()
        if self.is_kept:
            key = self._key(block, names, scheme, content)
            self.hessians.cache.put(_KIND, key, ".safetensors", lambda p: _write(solved, p))
        return {name: (found.codes, found.grid) for name, found in solved.items()}

    def entries(
        self, block: Block, names: list[str], schemes: Iterable[Scheme], *, content: str = ""
    ) -> dict[Scheme, dict[str, Entry]]:
        """Error and bytes of each layer, by those of the schemes that were computed already.

        Reads a few hundred bytes of each file; nothing is computed.
        """
        found = {}
        for scheme in schemes:
            path = self._path(block, names, scheme, content)
            if path is not None:
                found[scheme] = _read_entries(path)
        return found

    def row_errors(
        self, block: Block, names: list[str], scheme: Scheme, *, content: str = ""
    ) -> dict[str, Tensor] | None:
        """(out,) float32 of each layer: the mean squared error of every output feature.

        Reads these few numbers alone; None where the layers were not computed yet.
        """
        path = self._path(block, names, scheme, content)
        if path is None:
            return None
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(f"{name}.rows") for name in names}

    def error(
        self, block: Block, names: list[str], scheme: Scheme, *, content: str = ""
    ) -> OutputError | None:
        """The error of all these layers together; None where they were not computed yet."""
        found = self.entries(block, names, [scheme], content=content).get(scheme)
        if found is None:
            return None
        return sum((entry.error for entry in found.values()), OutputError(0.0, 0.0))

    def _key(self, block: Block, names: list[str], scheme: Scheme, content: str) -> dict[str, Any]:
        return {
            "bank": VERSION,
            **self.hessians.key,
            "block": block.index,
            "params": self.params,
            "names": names,
            "scheme": scheme.key,
            "content": content,
        }

    def _path(self, block: Block, names: list[str], scheme: Scheme, content: str) -> Path | None:
        return self.hessians.cache.get(
            _KIND, self._key(block, names, scheme, content), ".safetensors"
        )


def _read(tensors: dict[str, Tensor], names: list[str], scheme: Scheme) -> Layers:
    found = {}
    for name in names:
        codes = tensors[f"{name}.codes"]
        parts = {key.removeprefix(f"{name}."): tensors[key] for key in tensors}
        found[name] = (codes, grid_of(scheme, codes.shape[1], parts))
    return found


def _read_entries(path: Path) -> dict[str, Entry]:
    with safe_open(path, "pt") as file:
        rows = json.loads(file.metadata()[_ENTRIES])
    return {
        name: Entry(OutputError(row["squared"], row["power"]), row["nbytes"])
        for name, row in rows.items()
    }


def _write(solved: dict[str, Solved], path: Path) -> None:
    tensors: dict[str, Tensor] = {}
    rows: dict[str, dict[str, float | int]] = {}
    for name, found in solved.items():
        tensors[f"{name}.codes"] = found.codes.contiguous()
        tensors[f"{name}.rows"] = found.rows.float().contiguous()
        tensors |= {f"{name}.{key}": t.contiguous() for key, t in found.grid.tensors().items()}
        stored = packed_tensors(name, found.codes, found.grid).values()
        rows[name] = {
            "squared": found.error.squared,
            "power": found.error.power,
            "nbytes": sum(tensor.nbytes for tensor in stored),
        }
    # In the header, so that `entries` can read errors and bytes without the codes.
    save_file(tensors, path, metadata={_ENTRIES: json.dumps(rows)})
