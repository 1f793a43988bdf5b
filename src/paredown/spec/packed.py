"""What packed checkpoints tell of the matrices they stand for, and adapters kept beside them."""

from __future__ import annotations

import math
from pathlib import Path

from paredown.errors import ModelError
from paredown.spec.headers import TensorLocation, read_file_header, tensor_location, weights_files
from paredown.spec.model import ModelSpec, TensorInfo, tensor_info
from paredown.spec.reading import parse_json
from paredown.spec.structure import find_structure

ADAPTER = "adapter"
"""Subfolder of a LoRA adapter in the files of peft."""
ADAPTER_WEIGHTS = "adapter_model.safetensors"
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
