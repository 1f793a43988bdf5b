"""Model folders read tensor by tensor, and written tensor by tensor.

Neither side ever holds more than the tensors in hand: what a method can do within one block's
memory stays within it.
"""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import torch
from torch import Tensor

from paredown.artifact.fused import cut_out, join
from paredown.errors import ModelError
from paredown.spec.experts import Slice, find_slices
from paredown.spec.filesize import SHARD_BYTES
from paredown.spec.headers import TensorLocation, read_config, tensor_location
from paredown.spec.infer import infer_spec
from paredown.spec.model import ModelSpec
from paredown.spec.packed import ADAPTER
from paredown.store.atomic import clear_disk_errors, write_json, write_text

_DTYPE_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL", torch.float8_e4m3fn: "F8_E4M3",
}  # fmt: skip
TORCH_DTYPES = {name: dtype for dtype, name in _DTYPE_NAMES.items()}
_NOT_COPIED = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx"}
_TEXTS = {".json", ".jinja", ".txt", ".model"}
"""Files in folders of a model that are copied; others may be the weights of other libraries."""
_WRITTEN_ANEW = {"config.json", "model.safetensors.index.json", "paredown.json"}


class Checkpoint:
    """A Hugging Face folder open for reading."""

    def __init__(self, folder: Path, *, name: str | None = None) -> None:
        self.folder = folder
        self.spec: ModelSpec = infer_spec(folder, name=name)
        self.config: dict[str, Any] = read_config(folder)
        self._located = tensor_location(folder)
        stored = (place.info for place in self._located.values())
        self.slices = find_slices(self.spec.text_type, stored)
        """Experts that the files hold in one tensor per block, as the tensors they are seen as."""

    def read(self, name: str) -> Tensor:
        """One tensor, in the dtype it is stored in, in memory of its own.

        Read, not mapped: pages of a mapped file would count as memory of the process.

        Raises:
            ModelError: the checkpoint has no such tensor.
        """
        if name in self.slices:
            cut, _ = self.slices[name]
            place = self._place(cut.stored)
            _, *shape = place.info.shape
            nbytes = place.nbytes // place.info.shape[0]
            return cut_out(_read(place, place.offset + cut.expert * nbytes, tuple(shape)), cut)
        found = self._place(name)
        return _read(found, found.offset, found.info.shape)

    def read_rows(self, name: str, start: int, end: int) -> Tensor:
        """Rows `start` to `end` of a tensor, as of `read`; fewer where it has not so many."""
        if name in self.slices:
            return self.read(name)[start:end]
        found = self._place(name)
        rows, *rest = found.info.shape
        row_bytes = found.nbytes // rows
        shape = (min(end, rows) - start, *rest)
        return _read(found, found.offset + start * row_bytes, shape)

    def _place(self, name: str) -> TensorLocation:
        if name not in self._located:
            raise ModelError(f"{self.folder}: there is no tensor {name!r}")
        return self._located[name]

    @property
    def names(self) -> list[str]:
        """Tensor names in a natural order: blocks by their number."""
        fused = {cut.stored for cut, _ in self.slices.values()}
        return sorted((self._located.keys() - fused) | self.slices.keys(), key=_natural)


def _read(place: TensorLocation, offset: int, shape: tuple[int, ...]) -> Tensor:
    dtype = TORCH_DTYPES[place.info.dtype]
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes == 0:  # of which torch.frombuffer makes no tensor
        return torch.empty(shape, dtype=dtype)
    data = bytearray(nbytes)  # writable, as a tensor has to be
    with place.file.open("rb") as file:
        file.seek(offset)
        if file.readinto(data) != nbytes:
            raise ModelError(f"{place.file}: ends in the middle of {place.info.name}")
    return torch.frombuffer(data, dtype=dtype).reshape(shape)


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(p), "") if p.isdigit() else (-1, p) for p in name.split(".")]


def _small_files(folder: Path) -> Iterator[Path]:
    """What belongs to a model beside its weights: its own files, and texts one folder below.

    Tokenizers keep further chat templates in a folder. An adapter beside a model is not its own.
    """
    for file in sorted(folder.iterdir()):
        # What earlier steps have put down of themselves (paredown_*) is not true of the new model.
        if file.name.startswith((".", "paredown_")) or file.name == ADAPTER:
            continue
        if file.is_dir():
            yield from (f for f in sorted(file.glob("[!.]*")) if f.is_file() and _is_text(f))
        elif file.name not in _WRITTEN_ANEW and file.suffix not in _NOT_COPIED:
            yield file


def copy_small_files(source: Path, out: Path) -> None:
    """Tokenizer, templates and texts of the model folder `source`: all but weights and config."""
    for file in _small_files(source):
        copy = out / file.relative_to(source)
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, copy)


def _is_text(file: Path) -> bool:
    return file.suffix in _TEXTS and not file.name.endswith(".index.json")


class _Shard:
    """One safetensors file in the making: data by element size, header at the end.

    A safetensors file is `u64 header length | JSON header | data`, without holes. Tensors are
    grouped by element size, largest first, so that every one is aligned.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self.folder, self.number = folder, number
        self.entries: dict[int, list[tuple[str, str, list[int], int]]] = {}
        self.files: dict[int, BinaryIO] = {}
        self.nbytes = 0

    def add(self, name: str, tensor: Tensor) -> None:
        size = tensor.element_size()
        if size not in self.files:
            path = self.folder / f".shard{self.number}-{size}"
            self.files[size] = path.open("w+b")
            self.entries[size] = []
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        self.files[size].write(data.data)
        self.entries[size].append((name, _DTYPE_NAMES[tensor.dtype], [*tensor.shape], len(data)))
        self.nbytes += len(data)

    def finish(self, path: Path) -> list[str]:
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for size in sorted(self.files, reverse=True):
            for name, dtype, shape, nbytes in self.entries[size]:
                span = [offset, offset + nbytes]
                header[name] = {"dtype": dtype, "shape": shape, "data_offsets": span}
                offset += nbytes
        text = json.dumps(header, separators=(",", ":")).encode()
        # The data begin at a multiple of 8, the largest element.
        text += b" " * (-len(text) % 8)
        with path.open("wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            for size in sorted(self.files, reverse=True):
                part = self.files[size]
                part.seek(0)
                shutil.copyfileobj(part, out, 1 << 22)
        self.discard()
        return [name for entries in self.entries.values() for name, *_ in entries]

    def discard(self) -> None:
        for size, file in self.files.items():
            file.close()
            (self.folder / f".shard{self.number}-{size}").unlink(missing_ok=True)
        self.files = {}


class CheckpointWriter:
    """Writes a Hugging Face folder tensor by tensor; a context manager.

    On success the weights files are complete and tokenizer and other small files are copied from
    `source`; the caller writes the config with `finish_config`. On an exception nothing usable
    remains (the caller works in a temporary folder that is renamed at the end).
    """

    def __init__(
        self,
        folder: Path,
        source: Checkpoint,
        *,
        shard_bytes: int = SHARD_BYTES,
        experts: int | None = None,
    ) -> None:
        """`experts`: how many of each block are written, where some are left out."""
        self.folder, self.source, self.shard_bytes = folder, source, shard_bytes
        self.config: dict[str, Any] = dict(source.config)
        self._done: list[_Shard] = []
        self._shard = _Shard(folder, 0)
        self._names: set[str] = set()
        self._slices: dict[str, dict[Slice, Tensor]] = {}
        """By the tensor that they are joined to, as soon as all of them are there."""
        self._counts = Counter(
            cut.stored
            for cut, _ in source.slices.values()
            if experts is None or cut.expert < experts
        )

    def __enter__(self) -> CheckpointWriter:
        return self

    def add(self, name: str, tensor: Tensor) -> None:
        """Append one tensor; its name must be new."""
        if name in self._names:
            raise AssertionError(f"tensor {name} is written twice")
        self._names.add(name)
        cut, info = self.source.slices.get(name, (None, None))
        if cut is None or info is None or tensor.shape != info.shape:
            self._write(name, tensor)
            return
        held = self._slices.setdefault(cut.stored, {})
        held[cut] = tensor
        if len(held) == self._counts[cut.stored]:
            self._write(cut.stored, join(self._slices.pop(cut.stored)))

    def _write(self, name: str, tensor: Tensor) -> None:
        nbytes = tensor.numel() * tensor.element_size()
        with clear_disk_errors(self.folder):
            # A tensor that is larger than a shard gets one to itself.
            if self._shard.nbytes and self._shard.nbytes + nbytes > self.shard_bytes:
                self._done.append(self._shard)
                self._shard = _Shard(self.folder, len(self._done))
            self._shard.add(name, tensor)

    def copy(self, *names: str) -> None:
        """Append tensors of the source unchanged."""
        for name in names:
            self.add(name, self.source.read(name))

    def copy_rest(self, *, without: set[str]) -> None:
        """Append every tensor of the source not yet written, and not in `without`."""
        self.copy(*(n for n in self.source.names if n not in self._names | without))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._write_apart()
        shards = [*self._done, self._shard]
        if error is not None:
            for shard in shards:
                shard.discard()
            return
        with clear_disk_errors(self.folder):
            self._finish_weights(shards)
            copy_small_files(self.source.folder, self.folder)
            # Not `write_json`: configs of state-space models hold an `Infinity`.
            text = json.dumps(self.config, indent=2, ensure_ascii=False) + "\n"
            write_text(self.folder / "config.json", text)

    def _write_apart(self) -> None:
        """Slices of tensors that will never be whole: others of the same tensor are packed."""
        names = {cut: name for name, (cut, _) in self.source.slices.items()}
        for held in self._slices.values():
            for cut, tensor in held.items():
                self._write(names[cut], tensor)

    def _finish_weights(self, shards: list[_Shard]) -> None:
        if len(shards) == 1:
            shards[0].finish(self.folder / "model.safetensors")
            return
        index: dict[str, str] = {}
        total = sum(shard.nbytes for shard in shards)
        for i, shard in enumerate(shards, start=1):
            name = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
            index |= dict.fromkeys(shard.finish(self.folder / name), name)
        document = {"metadata": {"total_size": total}, "weight_map": index}
        write_json(self.folder / "model.safetensors.index.json", document)
