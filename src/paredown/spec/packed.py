"""What packed checkpoints tell of the matrices they stand for, and adapters kept beside them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paredown.errors import ModelError
from paredown.spec.headers import TensorLocation, read_file_header, tensor_location, weights_files
from paredown.spec.layers import (
    Format,
    LayerOption,
    dense_option,
    grid_option,
    superblock_option,
)
from paredown.spec.model import ModelSpec, TensorInfo, tensor_info
from paredown.spec.reading import parse_json
from paredown.spec.structure import find_structure

ADAPTER = "adapter"
"""Subfolder of a LoRA adapter in the files of peft."""
ADAPTER_WEIGHTS = "adapter_model.safetensors"
SUPERBLOCK_STRATEGY = "superblock"
"""What a quantization config calls two-level grids, in the place of `group`."""
SCALE_BITS = "scale_bits"
"""Under which a quantization config tells how many significant bits the scales have; it stands
among the settings of the observer, which other loaders pass over."""
_SHAPE = ".weight_shape"
_NF4 = ".weight.quant_state.bitsandbytes__nf4"


def adapter_tensors(folder: Path) -> tuple[TensorInfo, ...]:
    """Tensors of the adapter that is kept in a model folder; none if there is none.

    Raises:
        ModelError: its file is damaged.
    """
    file = folder / ADAPTER / ADAPTER_WEIGHTS
    if not file.is_file():
        return ()
    return tuple(sorted((p.info for p in read_file_header(file)), key=lambda t: t.name))


def weights_bytes(folder: Path) -> int:
    """Bytes of all files that a model is loaded from, an adapter's included."""
    adapter = folder / ADAPTER / ADAPTER_WEIGHTS
    files = [*weights_files(folder), *([adapter] if adapter.is_file() else [])]
    return sum(file.stat().st_size for file in files)


def packed_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shapes (rows, width) of the packed matrices of a folder, by module name.

    Read from what the formats store beside the codes: compressed-tensors a tensor, NF4 of
    bitsandbytes a text; LLM.int8 keeps the shape. Other formats do not tell.
    """
    places = tensor_location(folder)
    found: dict[str, tuple[int, ...]] = {}
    for name, place in places.items():
        if name.endswith(_SHAPE):
            words = _read(place)
            shape = (int.from_bytes(words[i : i + 8], "little") for i in range(0, len(words), 8))
            found[name.removesuffix(_SHAPE)] = tuple(shape)
        elif name.endswith(_NF4):
            state = parse_json(_read(place), where=f"{place.file}: {name}", error=ModelError)
            try:
                found[name.removesuffix(_NF4)] = tuple(int(n) for n in state["shape"])
            except (KeyError, TypeError, ValueError):
                raise ModelError(f"{place.file}: {name} tells no shape; it is damaged") from None
        elif name.endswith(".SCB"):
            layer = name.removesuffix(".SCB")
            if f"{layer}.weight" not in places:
                raise ModelError(f"{folder}: {name} is there without {layer}.weight; it is damaged")
            found[layer] = places[f"{layer}.weight"].info.shape
    return found


def _read(place: TensorLocation) -> bytes:
    with place.file.open("rb") as file:
        file.seek(place.offset)
        return file.read(place.nbytes)


def is_targeted(layer: str, target: str) -> bool:
    """Whether a target of a quantization config names a layer: a class, a name, or a pattern."""
    if target.startswith("re:"):
        return re.match(target[3:], layer) is not None
    return target == layer or ("." not in target and target[:1].isupper())


def stored_options(spec: ModelSpec, config: Mapping[str, Any]) -> dict[str, LayerOption]:
    """What every layer of a checkpoint is stored as, by module name; dense layers are left out.

    From the config and the names and dtypes of the stored tensors. Layers in formats that are not
    written here are left out too: `spec.quantization` says that there is something.
    """
    said = config.get("quantization_config")
    said = said if isinstance(said, dict) else {}
    groups = said.get("config_groups")
    groups = list(groups.values()) if isinstance(groups, dict) else []
    found: dict[str, LayerOption] = {}
    for tensor in spec.tensors:
        name, _, leaf = tensor.name.rpartition(".")
        option = None
        if leaf == "weight_packed":
            option = _grid(name, groups, spec)
        elif leaf == "weight_scale" and f"{name}.weight" in spec.by_name:
            option = _eight_bit(spec.by_name[f"{name}.weight"].dtype, tensor.dtype, groups)
        elif leaf == "weight_bitmask":
            stored = spec.by_name.get(f"{name}.weight")
            option = None if stored is None else sparse_option(stored.dtype)
        elif leaf == "SCB":
            option = LLM_INT8
        elif leaf == "quant_map":
            name, option = name.removesuffix(".weight"), NF4
        if option is not None:
            found[name] = option
    return found


LLM_INT8 = LayerOption(format=Format.LLM_INT8, bits=8, scale_dtype="F32", activation_bits=8)
"""What `int8` stores of a layer."""
NF4 = LayerOption(format=Format.NF4, bits=4, group_size=64, scale_dtype="F32")
"""What `nf4` stores of a layer."""


def sparse_option(dtype: str) -> LayerOption:
    """A bit per weight beside the values that are left, in the dtype that safetensors names."""
    return LayerOption(format=Format.SPARSE, bits=dense_option(dtype).bits)


def byte_option(dtype: str, scale_dtype: str, *, activations: bool) -> LayerOption | None:
    """A byte per weight, INT8 or FP8 by the dtype of the codes, with one scale per row."""
    formats = {"I8": Format.INT8, "F8_E4M3": Format.FP8}
    if dtype not in formats:
        return None
    return LayerOption(
        format=formats[dtype],
        bits=8,
        scale_dtype=scale_dtype,
        activation_bits=8 if activations else None,
    )


def _grid(name: str, groups: list[Any], spec: ModelSpec) -> LayerOption | None:
    said = [
        g["weights"]
        for g in groups
        if isinstance(g, dict)
        and isinstance(g.get("weights"), dict)
        and any(is_targeted(name, t) for t in g.get("targets") or ())
    ]
    if len(said) != 1 or not isinstance(said[0].get("num_bits"), int):
        return None  # two schemes for one layer, or none: not ours
    weights = said[0]
    if weights.get("strategy") == SUPERBLOCK_STRATEGY:
        return superblock_option(weights["num_bits"])
    scale = spec.by_name.get(f"{name}.weight_scale")
    return grid_option(
        weights["num_bits"],
        weights.get("group_size") or -1,
        symmetric=weights.get("symmetric") is not False,
        scale_dtype=spec.dtype if scale is None else scale.dtype,
        scale_bits=(weights.get("observer_kwargs") or {}).get(SCALE_BITS),
    )


def _eight_bit(dtype: str, scale_dtype: str, groups: list[Any]) -> LayerOption | None:
    activations = any(isinstance(g, dict) and g.get("input_activations") for g in groups)
    return byte_option(dtype, scale_dtype, activations=activations)


def linear_shapes(spec: ModelSpec) -> dict[str, tuple[int, int]]:
    """(rows, width) of every block linear as stored, in block order; packed ones included."""
    if linear_shapes not in spec.derived:
        spec.derived[linear_shapes] = _linear_shapes(spec)
    found: dict[str, tuple[int, int]] = spec.derived[linear_shapes]
    return dict(found)


def _linear_shapes(spec: ModelSpec) -> dict[str, tuple[int, int]]:
    aside = tuple(f"{name}." for name in spec.packed_shapes)
    dense = [t for t in spec.tensors if not t.name.startswith(aside)]
    for name, shape in spec.packed_shapes.items():
        dense.append(tensor_info(f"{name}.weight", spec.dtype, shape))
    dense.sort(key=lambda t: t.name)
    unpacked = spec.model_copy(update={"tensors": tuple(dense)})
    shapes = unpacked.by_name
    found = {}
    for name in find_structure(unpacked).linears:
        rows, width = shapes[f"{name}.weight"].shape
        found[name] = (rows, width)
    return found


def float_dtype(spec: ModelSpec) -> str:
    """The dtype that most bytes of the weights that are not packed are stored in."""
    sizes: dict[str, int] = {}
    for tensor in spec.tensors:
        is_weight = tensor.name.endswith(".weight") and tensor.dtype in {
            "F64",
            "F32",
            "F16",
            "BF16",
        }
        if is_weight:
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + math.prod(tensor.shape)
    return max(sizes, key=sizes.__getitem__, default=spec.dtype)
