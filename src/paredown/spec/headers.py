"""Safetensors headers: what a model folder stores, read without torch and without its weights.

A safetensors file is `u64 header length | JSON header | data`. The header names every tensor with
its dtype, shape and place in the data, so a few kilobytes tell all that planning needs, and a
truncated file is found out before any work starts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from paredown.errors import ModelError
from paredown.spec.model import DTYPE_BYTES, TensorInfo
from paredown.spec.units import human_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
CHUNK_BYTES = 1 << 22
"""Bytes of a weights file held at a time while scanning."""
_PICKLES = ("*.bin", "*.pt", "*.pth")
_NO_WEIGHTS = {"training_args.bin", "optimizer.pt", "scheduler.pt", "optimizer.bin"}
_LONGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors library itself

_EXPONENTS: dict[str, tuple[str, int]] = {
    "F64": ("<u8", 0x7FF << 52),
    "F32": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F8_E5M2": ("u1", 0x7C),
    "F8_E4M3": ("u1", 0x7F),
}
"""dtype -> (bits as numpy reads them, mask): NaN and infinity have every bit of the mask set."""


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


@dataclass(frozen=True)
class WeightScan:
    """What reading every weights file once has told."""

    sha256: str
    """Of names, lengths and contents of the weights files, in the order of their names."""
    nonfinite: dict[str, int]
    """NaN and infinite elements per tensor; only tensors that have some."""


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
    return _json_object(path)


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
    names = _json_object(folder / INDEX).get("weight_map")
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


def _json_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ModelError(f"cannot read {path}: {_first_line(error)}; download it again") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds no JSON object; download it again")
    return value


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


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
    except ValueError:
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
        info = _known_dtype(name, dtype, shape, str(file))
        if begin < 0 or min(shape, default=0) < 0 or info.nbytes != end - begin:
            raise ModelError(
                f"{file} is damaged: tensor {name!r} of shape {list(shape)} in {dtype} cannot "
                f"have {end - begin} bytes"
            )
        yield info, begin


def _known_dtype(name: str, dtype: str, shape: tuple[int, ...], where: str) -> TensorInfo:
    if dtype not in DTYPE_BYTES:
        raise ModelError(
            f"{where}: tensor {name!r} has dtype {dtype!r}, which paredown does not know; "
            f"known: {', '.join(DTYPE_BYTES)}"
        )
    return TensorInfo(name=name, dtype=dtype, shape=shape)


# --- The contents -------------------------------------------------------------------------------


def scan_weights(folder: Path, progress: Callable[[float, str], None] | None = None) -> WeightScan:
    """Read every weights file once: its hash, and where it holds NaN or infinity.

    Memory stays within a few `CHUNK_BYTES`; hashing and counting run side by side.

    Args:
        folder: a model folder.
        progress: told the share done (0 to 1) and the file being read.

    Raises:
        ModelError: as `read_headers`, or a file changes while it is read.
    """
    files = weights_files(folder)
    total = sum(file.stat().st_size for file in files)
    digest = hashlib.sha256()
    nonfinite: dict[str, int] = {}
    done = 0
    with ThreadPoolExecutor(max_workers=1) as hasher:
        for file in files:
            digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
            for name, dtype, chunk in _chunks(file):
                hashed = hasher.submit(digest.update, chunk)
                bad = count_nonfinite(chunk, dtype)
                hashed.result()
                if bad:
                    nonfinite[name] = nonfinite.get(name, 0) + bad
                done += len(chunk)
                if progress is not None:
                    progress(done / total, file.name)
    return WeightScan(sha256=digest.hexdigest(), nonfinite=dict(sorted(nonfinite.items())))


def _chunks(file: Path) -> Iterator[tuple[str, str, memoryview]]:
    """All bytes of a file in order, cut at tensors and at `CHUNK_BYTES`: (tensor, dtype, bytes).

    Header and holes come with an empty name and dtype. A chunk is overwritten by the next one.
    """
    places = read_file_header(file)
    buffer = memoryview(bytearray(CHUNK_BYTES))
    regions: list[tuple[str, str, int]] = []  # name, dtype, end
    at = 0
    for place in places:
        if place.offset > at:
            regions.append(("", "", place.offset))
        at = place.offset + place.nbytes
        regions.append((place.info.name, place.info.dtype, at))
    at = 0
    with file.open("rb") as handle:
        for name, dtype, end in regions or [("", "", file.stat().st_size)]:
            while at < end:
                chunk = buffer[: min(CHUNK_BYTES, end - at)]
                if handle.readinto(chunk) != len(chunk):
                    raise ModelError(f"{file} became shorter while it was read; try again")
                at += len(chunk)
                yield name, dtype, chunk


def count_nonfinite(data: memoryview | bytes, dtype: str) -> int:
    """Elements of `data` that are NaN or infinite, by the bits of their exponent."""
    import numpy as np

    if dtype not in _EXPONENTS:
        return 0
    kind, mask = _EXPONENTS[dtype]
    bits: NDArray[np.unsignedinteger[Any]] = np.frombuffer(data, dtype=kind)
    return int(np.count_nonzero((bits & bits.dtype.type(mask)) == mask))


# --- The hub ------------------------------------------------------------------------------------


def remote_headers(
    repo_id: str, token: str | None = None
) -> tuple[dict[str, Any], tuple[TensorInfo, ...]]:
    """Config and stored tensors of a model on the hub; no weights are downloaded.

    Args:
        repo_id: hub name, `owner/name`.
        token: None takes `HF_TOKEN` or the saved login.

    Raises:
        ModelError: offline, no such model, gated, or without safetensors.
    """
    from huggingface_hub import HfApi, errors

    unreachable: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]  # any HTTP client
    try:
        api = HfApi(token=token)
        files = api.get_safetensors_metadata(repo_id).files_metadata
        config = _json_object(Path(api.hf_hub_download(repo_id, CONFIG)))
    except errors.GatedRepoError:
        raise ModelError(
            f"{repo_id!r} is gated: accept its terms on its hub page and set HF_TOKEN"
        ) from None
    except errors.RepositoryNotFoundError:
        raise ModelError(
            f"the hub has no model {repo_id!r} (or it is private: set HF_TOKEN); check the name, "
            "or give a local folder"
        ) from None
    except (errors.NotASafetensorsRepoError, errors.RemoteEntryNotFoundError):
        raise ModelError(
            f"{repo_id!r} has no safetensors weights or no {CONFIG}; choose another model, or "
            "convert it to a local folder with safetensors files"
        ) from None
    except errors.SafetensorsParsingError as error:
        raise ModelError(f"{repo_id!r} holds a damaged file: {_first_line(error)}") from None
    except errors.HFValidationError:
        raise ModelError(f"{repo_id!r} is no hub name; write owner/name") from None
    except errors.OfflineModeIsEnabled:
        raise ModelError(
            f"{repo_id!r} is not in the local cache and HF_HUB_OFFLINE is set; unset it, or give "
            "a local folder"
        ) from None
    except (unreachable, OSError) as error:
        raise ModelError(
            f"cannot reach the hub for {repo_id!r} ({_first_line(error)}); check the network, or "
            "give a local folder"
        ) from None
    tensors = (
        _known_dtype(name, str(info.dtype), tuple(info.shape), repo_id)
        for file in files.values()
        for name, info in file.tensors.items()
    )
    return config, tuple(sorted(tensors, key=lambda tensor: tensor.name))
