"""An artifact, or a base model, as one GGUF file: the same numbers, none rounded again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, get_tensor_name_map
from gguf.constants import MODEL_ARCH_NAMES

from paredown.artifact.checkpoint import Checkpoint
from paredown.blocks.skeleton import read_config
from paredown.runtimes.llama_cpp.architectures import (
    ARCHITECTURES,
    Architecture,
    Number,
    numbers,
    rope_factors,
)
from paredown.runtimes.llama_cpp.runtime import FILE
from paredown.runtimes.llama_cpp.session import PROGRAM
from paredown.runtimes.llama_cpp.tensor_types import (
    DENSE_FILE_TYPES,
    DENSE_NUMBERS,
)
from paredown.runtimes.llama_cpp.tensors import Factors, FileTensor, file_tensors
from paredown.runtimes.llama_cpp.vocabulary import Vocabulary, proved_cut
from paredown.runtimes.process import EngineProcess
from paredown.spec.reading import read_object
from paredown.store.atomic import clear_disk_errors, sync
from paredown.store.cache import Cache
from paredown.text.windows import load_tokenizer

_ANY_DTYPE = np.dtype(np.float32)
"""The writer asks for one and, told the type of the file, looks only whether it is uint8."""
_ALIGNMENT = 32
_QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION
_CODE = 1
"""Of proofs of tokenizers: goes up when another name could be found."""
_LINES = 200
"""Texts are handed to the engine's process so many at a time."""


@dataclass(frozen=True, kw_only=True)
class GgufFile:
    """All of a file before it is written.

    Attributes:
        header: keys and values, those of the tokenizer included.
        tensors: in the order of the file.
        notes: what a user should know of it.
    """

    architecture: Architecture
    header: dict[str, Number]
    tensors: Sequence[FileTensor]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, artifact: Path) -> Self:
        """The file with an artifact's own numbers; tensors are read when they are written.

        Raises:
            ConfigError: something that llama.cpp does not compute alike, or texts that it reads as
                other tokens.
        """
        checkpoint = Checkpoint(artifact)
        config = read_config(artifact).get_text_config()
        architecture = ARCHITECTURES[checkpoint.spec.model_type]
        header = numbers(config, architecture)
        tensors = _tensors(checkpoint, config, architecture)
        vocabulary = Vocabulary(
            load_tokenizer(artifact), config.vocab_size, end_tokens(artifact, config)
        )
        header |= {
            **vocabulary.header(_proved_cut(vocabulary)),
            "general.name": checkpoint.spec.name,
            "general.quantization_version": _QUANTIZATION_VERSION,
        }
        notes = (*_widened(checkpoint, tensors), *vocabulary.notes)
        return cls(architecture=architecture, header=header, tensors=tensors, notes=notes)

    def write(self, out: Path) -> None:
        """Write it to `out`."""
        header = self.header | {"general.file_type": _file_type(self.tensors)}
        with clear_disk_errors(out):
            _write(out, self.architecture, header, self.tensors)


def _widened(checkpoint: Checkpoint, tensors: Sequence[FileTensor]) -> tuple[str, ...]:
    """What is told of packed layers that had to be written in float32."""
    widened = [t.name for t in tensors if t.kind == "F32" and len(t.shape) > 1]
    if not widened or checkpoint.spec.dtype == "F32":
        return ()
    shown = ", ".join(widened[:3]) + (", ..." if len(widened) > 3 else "")
    return (
        f"{len(widened)} layers are written in float32, because some of their scales are too small "
        f"for half precision: {shown}",
    )


def _tensors(checkpoint: Checkpoint, config: Any, architecture: Architecture) -> list[FileTensor]:
    found = file_tensors(checkpoint, config, architecture, tensor_names(architecture, config))
    factors = rope_factors(config, architecture)
    return found + [
        FileTensor(name=name, kind="F32", source=Factors(values))
        for name, values in factors.items()
    ]


def tensor_names(architecture: Architecture, config: Any) -> Any:
    """gguf's map from transformers' names of modules to those of the file."""
    number = next(n for n, name in MODEL_ARCH_NAMES.items() if name == architecture.name)
    return get_tensor_name_map(number, config.num_hidden_layers)


def _file_type(tensors: Iterable[FileTensor]) -> int:
    """The type that most bytes have: some readers ask for it, and OpenVINO fails without."""
    sizes: Counter[int] = Counter()
    for tensor in tensors:
        kind = tensor.kind
        number = DENSE_FILE_TYPES[kind] if isinstance(kind, str) else kind.file_type
        sizes[number] += tensor.nbytes
    return sizes.most_common(1)[0][0]


# --- The file -------------------------------------------------------------------------------------


def _write(
    out: Path,
    architecture: Architecture,
    header: dict[str, Number],
    tensors: Sequence[FileTensor],
) -> None:
    _write_header(out, architecture, header, tensors)
    with out.open("ab") as file:
        _pad(file)
        for tensor in tensors:
            before = file.tell()
            for part in tensor.source.parts():
                file.write(part.data)
            if file.tell() - before != tensor.nbytes:
                raise AssertionError(f"{tensor.name}: foretold {tensor.nbytes} bytes")
            _pad(file)
    sync(out)


def _write_header(
    out: Path,
    architecture: Architecture,
    header: dict[str, Number],
    tensors: Sequence[FileTensor],
) -> None:
    writer = GGUFWriter(out, architecture.name)
    for key, value in header.items():
        _add(writer, key, value)
    for tensor in tensors:
        kind = tensor.kind
        number = DENSE_NUMBERS[kind] if isinstance(kind, str) else kind.number
        # Not of dtype uint8, which it would take for the shape in bytes.
        shape, dtype = tensor.shape, GGMLQuantizationType(number)
        writer.add_tensor_info(tensor.name, shape, _ANY_DTYPE, tensor.nbytes, raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()


def _add(writer: GGUFWriter, key: str, value: Number) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case list():
            writer.add_array(key, value)


def _pad(file: Any) -> None:
    file.write(bytes(-file.tell() % _ALIGNMENT))


# --- The tokenizer --------------------------------------------------------------------------------


def _proved_cut(vocabulary: Vocabulary) -> str:
    """As `proved_cut`, worked out once for every tokenizer."""
    key = {"code": _CODE, "engine": _engine_version(), "tokenizer": vocabulary.identity}

    def prove(path: Path) -> None:
        path.write_text(proved_cut(vocabulary, encode_with))

    return Cache.default().get_or_put("gguf-cuts", key, ".txt", prove).read_text()


def _engine_version() -> str:
    return version("xllamacpp")


def end_tokens(folder: Path, config: Any) -> list[int]:
    """Every token that ends a text, that of the text itself first.

    Chat models have several, and no one place names all.
    """
    file = folder / "generation_config.json"
    settings = read_object(file, finite=False) if file.exists() else {}
    told = (config.eos_token_id, settings.get("eos_token_id"))
    found = [t for value in told for t in (value if isinstance(value, list) else [value])]
    return list(dict.fromkeys(t for t in found if isinstance(t, int) and t >= 0))


def encode_with(header: dict[str, Number], texts: Sequence[str]) -> list[list[int]]:
    """Token ids as llama.cpp makes them, by a file that holds nothing but a tokenizer."""
    with TemporaryDirectory(prefix="paredown-gguf-") as scratch:
        file = Path(scratch) / FILE
        least = {
            "llama.vocab_size": len(header["tokenizer.ggml.tokens"]),  # type: ignore[arg-type]
        }
        _write_header(file, ARCHITECTURES["llama"], {**least, **header}, ())
        engine = EngineProcess(PROGRAM, file, threads=1, vocab_only=True)
        try:
            found: list[list[int]] = []
            for at in range(0, len(texts), _LINES):
                found += engine.ask("tokenize", texts=list(texts[at : at + _LINES]))["ids"]
            return found
        finally:
            engine.close()
