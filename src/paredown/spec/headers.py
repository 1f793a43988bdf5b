"""Safetensors headers: what a model folder stores, read without torch and without its weights.

A safetensors file is `u64 header length | JSON header | data`. The header names every tensor with
its dtype, shape and place in the data, so a few kilobytes tell all that planning needs, and a
truncated file is found out before any work starts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from paredown.errors import ModelError
from paredown.spec.model import DTYPE_BYTES, TensorInfo
from paredown.spec.reading import read_object, require_tame
from paredown.spec.units import human_bytes

CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth")
_NO_WEIGHTS = {"training_args.bin", "optimizer.pt", "scheduler.pt", "optimizer.bin"}
_LONGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors library itself


@dataclass(frozen=True)
class TensorLocation:
    """Where the bytes of one tensor are."""

    info: TensorInfo
    file: Path
    offset: int
    """From the start of the file."""

    @property
    def nbytes(self) -> int:
        return self.info.nbytes


# --- The folder ---------------------------------------------------------------------------------


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's `config.json`.

    Raises:
        ModelError: `folder` is no model folder, or its config cannot be read.
    """
    if folder.is_file():
        raise ModelError(f"{folder} is a file; give the folder that holds {CONFIG}")
    if not folder.is_dir():
        raise ModelError(f"{folder}: there is no such folder; check the path")
    path = folder / CONFIG
    if not path.is_file():
        if (folder / "adapter_config.json").is_file():
            raise ModelError(f"{folder} holds only an adapter; merge it into its base model first")
        raise ModelError(f"{folder} is no model folder: it has no {CONFIG}")
    return read_object_of_model(path)


def weights_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files that make up the model, by name.

    `model.safetensors` if there is one, else what the index lists, else every `*.safetensors`.

    Raises:
        ModelError: there are none, a shard is missing, or only pickle files are there.
    """
    if (folder / SINGLE).is_file():
        return (folder / SINGLE,)
    if (folder / INDEX).is_file():
        return _indexed_files(folder)
    found = tuple(sorted(p for p in folder.glob("*.safetensors") if p.is_file()))
    if found:
        return found
    pickles = sorted(
        p.name for glob in _PICKLES for p in folder.glob(glob) if p.name not in _NO_WEIGHTS
    )
    if pickles:
        raise ModelError(
            f"{folder} holds only pickle weights ({pickles[0]}), which can run code when read; "
            "convert them with model.save_pretrained(folder, safe_serialization=True), or take a "
            "revision of the model with safetensors files"
        )
    raise ModelError(f"{folder} has a {CONFIG} but no weights: no *.safetensors file is there")


def read_headers(folder: Path) -> tuple[TensorInfo, ...]:
    """All stored tensors, by name.

    Raises:
        ModelError: no model folder, pickle weights, a missing shard, or a damaged file.
    """
    return tuple(place.info for place in tensor_location(folder).values())


def tensor_location(folder: Path) -> dict[str, TensorLocation]:
    """Where the bytes of every tensor are, by name, in the order of the names.

    Raises:
        ModelError: as `read_headers`.
    """
    read_config(folder)
    found: dict[str, TensorLocation] = {}
    for file in weights_files(folder):
        for place in read_file_header(file):
            other = found.get(place.info.name)
            if other is not None:
                raise ModelError(
                    f"{folder}: tensor {place.info.name!r} is in both {other.file.name} and "
                    f"{file.name}; remove the file that does not belong to the model"
                )
            found[place.info.name] = place
    _check_index(folder, found)
    return dict(sorted(found.items()))


def _indexed_files(folder: Path) -> tuple[Path, ...]:
    files = tuple(folder / name for name in sorted(set(_weight_map(folder).values())))
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ModelError(
            f"{folder}: {len(missing)} of {len(files)} weights files that {INDEX} lists are "
            f"missing, first {missing[0]}; download the model again"
        )
    return files


def _weight_map(folder: Path) -> dict[str, str]:
    names = read_object_of_model(folder / INDEX).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ModelError(f"{folder / INDEX} has no weight_map; download the model again")
    for file in names.values():
        if not isinstance(file, str) or Path(file).name != file:
            raise ModelError(f"{folder / INDEX}: {file!r} is no file name in this folder")
    return names


def _check_index(folder: Path, found: dict[str, TensorLocation]) -> None:
    """Refuse shards that lack tensors which the index promises."""
    if (folder / SINGLE).is_file() or not (folder / INDEX).is_file():
        return
    names = _weight_map(folder)
    lost = sorted(names.keys() - found.keys())
    if lost:
        raise ModelError(
            f"{folder}: {names[lost[0]]} lacks the tensor {lost[0]!r} that {INDEX} lists "
            f"({len(lost)} missing); the shards are of different versions, download them again"
        )


def read_object_of_model(path: Path) -> dict[str, Any]:
    """The object of a JSON file that belongs to a model; a config may hold an `Infinity`.

    Raises:
        ModelError: it cannot be read; the mend is to download it again.
    """
    return read_object(path, error=ModelError, mend="download it again", finite=False)


# --- One file -----------------------------------------------------------------------------------


def read_file_header(file: Path) -> list[TensorLocation]:
    """The tensors of one safetensors file, in the order of their bytes.

    Raises:
        ModelError: the file is truncated, or not in the safetensors format.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as handle:
            length, header = _raw_header(handle, file, size)
    except OSError as error:
        raise ModelError(f"cannot read {file}: {error.strerror}; check its permissions") from None
    data_start = 8 + length
    places = [
        TensorLocation(info, file, data_start + begin) for info, begin in _tensors(header, file)
    ]
    places.sort(key=lambda place: (place.offset, place.nbytes))
    end = data_start
    for place in places:
        if place.offset < end:
            raise ModelError(f"{file} is damaged: tensor {place.info.name!r} overlaps another")
        end = place.offset + place.nbytes
    if size < end:
        raise ModelError(
            f"{file} is truncated: {end - size} of {end} bytes are missing "
            f"({human_bytes(end - size)}); download it again"
        )
    if size > end:
        raise ModelError(
            f"{file} is damaged: {size - end} bytes follow the last tensor; download it again"
        )
    return places


def _raw_header(handle: BinaryIO, file: Path, size: int) -> tuple[int, dict[str, Any]]:
    """Length and content of a file's header."""
    if size < 8:
        raise ModelError(f"{file} is truncated: it has {size} bytes; download it again")
    length = int.from_bytes(handle.read(8), "little")
    if length > _LONGEST_HEADER or length < 2:
        raise ModelError(
            f"{file} is no safetensors file: its first 8 bytes tell of a header of {length} bytes; "
            "download it again (a git-lfs pointer looks like this)"
        )
    if 8 + length > size:
        raise ModelError(
            f"{file} is truncated within its header: at least {8 + length - size} bytes are "
            "missing; download it again"
        )
    try:
        header = json.loads(handle.read(length))
        require_tame(header)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise ModelError(f"{file} is no safetensors file: its header is no JSON; download it again")
    return length, header


def _tensors(header: dict[str, Any], file: Path) -> Iterator[tuple[TensorInfo, int]]:
    """Every tensor with the start of its bytes within the data."""
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            begin, end = (int(offset) for offset in entry["data_offsets"])
            shape = tuple(int(n) for n in entry["shape"])
            dtype = str(entry["dtype"])
        except (KeyError, TypeError, ValueError):
            raise ModelError(f"{file} is damaged: tensor {name!r} lacks dtype or place") from None
        info = known_dtype(name, dtype, shape, str(file))
        if begin < 0 or min(shape, default=0) < 0 or info.nbytes != end - begin:
            raise ModelError(
                f"{file} is damaged: tensor {name!r} of shape {list(shape)} in {dtype} cannot "
                f"have {end - begin} bytes"
            )
        yield info, begin


def known_dtype(name: str, dtype: str, shape: tuple[int, ...], where: str) -> TensorInfo:
    """What is stored of one tensor.

    Raises:
        ModelError: paredown does not know how many bytes an element of this dtype has.
    """
    if dtype not in DTYPE_BYTES:
        raise ModelError(
            f"{where}: tensor {name!r} has dtype {dtype!r}, which paredown does not know; "
            f"known: {', '.join(DTYPE_BYTES)}"
        )
    return TensorInfo(name=name, dtype=dtype, shape=shape)
