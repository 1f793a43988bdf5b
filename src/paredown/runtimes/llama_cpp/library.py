"""The C interface of llama.cpp, called in the shared library that the wheel `xllamacpp` carries.

The wheel's own Python classes serve HTTP and cannot tell the logits of every position; its library
exports all of llama.h. What is called is declared here, the rest of each struct is left as the
library fills it in. A build whose structs begin otherwise is refused, not guessed at. No torch.

Source: include/llama.h of llama.cpp.
"""

from __future__ import annotations

import ctypes as c
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from paredown.runtimes.worker import BATCH, EngineError

_ROOM = 512
"""Bytes kept for a struct of parameters: more than any version's."""
_USUAL = (512, 2048, 512, 1)
"""What llama.h sets n_ctx, n_batch, n_ubatch and n_seq_max to: the mark of a known layout."""
_MOST_THREADS = 512


class LibraryError(EngineError):
    """The library is missing, of another layout, or has refused a call; the log says more."""


class _ModelParams(c.Structure):
    _fields_ = (
        ("pointers", c.c_uint8 * 72),
        ("vocab_only", c.c_bool),
        ("rest", c.c_uint8 * (_ROOM - 73)),
    )


class _ContextParams(c.Structure):
    _fields_ = (
        ("n_ctx", c.c_uint32),
        ("n_batch", c.c_uint32),
        ("n_ubatch", c.c_uint32),
        ("n_seq_max", c.c_uint32),
        ("n_rs_seq", c.c_uint32),
        ("n_outputs_max", c.c_uint32),
        ("n_outputs_max_per_seq", c.c_uint32),
        ("n_threads", c.c_int32),
        ("n_threads_batch", c.c_int32),
        ("rest", c.c_uint8 * (_ROOM - 36)),
    )


class _Batch(c.Structure):
    _fields_ = (
        ("n_tokens", c.c_int32),
        ("token", c.POINTER(c.c_int32)),
        ("embd", c.c_void_p),
        ("pos", c.POINTER(c.c_int32)),
        ("n_seq_id", c.POINTER(c.c_int32)),
        ("seq_id", c.POINTER(c.POINTER(c.c_int32))),
        ("logits", c.POINTER(c.c_int8)),
    )


_POINTER, _INT, _SIZE = c.c_void_p, c.c_int32, c.c_size_t
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    # The result first, then the arguments.
    "llama_backend_init": (None,),
    "llama_model_default_params": (_ModelParams,),
    "llama_context_default_params": (_ContextParams,),
    "llama_model_load_from_file": (_POINTER, c.c_char_p, _ModelParams),
    "llama_model_free": (None, _POINTER),
    "llama_model_size": (c.c_uint64, _POINTER),
    "llama_model_n_ctx_train": (_INT, _POINTER),
    "llama_model_get_vocab": (_POINTER, _POINTER),
    "llama_vocab_n_tokens": (_INT, _POINTER),
    "llama_vocab_is_eog": (c.c_bool, _POINTER, _INT),
    "llama_init_from_model": (_POINTER, _POINTER, _ContextParams),
    "llama_free": (None, _POINTER),
    "llama_get_memory": (_POINTER, _POINTER),
    "llama_memory_clear": (None, _POINTER, c.c_bool),
    "llama_memory_seq_rm": (c.c_bool, _POINTER, _INT, _INT, _INT),
    "llama_state_seq_get_size": (_SIZE, _POINTER, _INT),
    "llama_state_seq_get_data": (_SIZE, _POINTER, c.c_char_p, _SIZE, _INT),
    "llama_state_seq_set_data": (_SIZE, _POINTER, c.c_char_p, _SIZE, _INT),
    "llama_batch_init": (_Batch, _INT, _INT, _INT),
    "llama_batch_free": (None, _Batch),
    "llama_decode": (_INT, _POINTER, _Batch),
    "llama_get_logits_ith": (c.POINTER(c.c_float), _POINTER, _INT),
    "llama_tokenize": (
        *(_INT, _POINTER, c.c_char_p, _INT, c.POINTER(c.c_int32), _INT, c.c_bool, c.c_bool),
    ),
    "llama_token_to_piece": (_INT, _POINTER, _INT, c.c_char_p, _INT, _INT, c.c_bool),
}


def find_library() -> Path:
    """The shared library of the wheel, which is not imported for it.

    Raises:
        LibraryError: it is not installed.
    """
    spec = find_spec("xllamacpp")
    folders = [] if spec is None else spec.submodule_search_locations or []
    for folder in folders:
        for file in sorted(Path(folder).glob("xllamacpp*.so")):
            return file
    raise LibraryError("xllamacpp is not installed: pip install 'paredown[llama-cpp]'")


def open_library(path: Path) -> Any:
    """Load the library and declare what is called of it.

    Raises:
        LibraryError: it lacks a function, or its structs begin otherwise.
    """
    library = c.CDLL(str(path))
    for name, (result, *arguments) in _SIGNATURES.items():
        function = getattr(library, name, None)
        if function is None:
            raise LibraryError(f"{path.name} has no {name}: another version of llama.cpp")
        function.restype, function.argtypes = result, arguments
    library.llama_backend_init()
    told = library.llama_context_default_params()
    found = told.n_ctx, told.n_batch, told.n_ubatch, told.n_seq_max
    threads = told.n_threads, told.n_threads_batch
    if found != _USUAL or not all(0 < n <= _MOST_THREADS for n in threads):
        raise LibraryError(f"{path.name}: its parameters are laid out in another way ({found})")
    return library


class Model:
    """A loaded file; alone in its process."""

    def __init__(self, library: Any, path: Path, *, vocab_only: bool) -> None:
        self.library = library
        params = library.llama_model_default_params()
        params.vocab_only = vocab_only
        self._model = library.llama_model_load_from_file(str(path).encode(), params)
        if not self._model:
            raise LibraryError(f"llama.cpp cannot load {path.name}")
        self._vocab = library.llama_model_get_vocab(self._model)
        self.vocabulary = int(library.llama_vocab_n_tokens(self._vocab))

    @property
    def nbytes(self) -> int:
        """Of all tensors."""
        return int(self.library.llama_model_size(self._model))

    @property
    def trained_context(self) -> int:
        """Tokens that the model was trained to see."""
        return int(self.library.llama_model_n_ctx_train(self._model))

    @property
    def ends(self) -> list[int]:
        """Tokens that end a text."""
        is_end = self.library.llama_vocab_is_eog
        return [token for token in range(self.vocabulary) if is_end(self._vocab, token)]

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """Token ids; special tokens in the text are taken as such, and those of a prompt added."""
        data = text.encode()
        room = len(data) + 16  # a token has a byte at least; and some are added
        ids = (c.c_int32 * room)()
        count = self.library.llama_tokenize(self._vocab, data, len(data), ids, room, special, True)
        if count < 0:
            raise LibraryError(f"a text of {len(data)} bytes became {-count} tokens")
        return list(ids[:count])

    def piece(self, token: int) -> bytes:
        """The bytes of a token; none of a special one."""
        room = 256
        while True:
            buffer = c.create_string_buffer(room)
            count = self.library.llama_token_to_piece(self._vocab, token, buffer, room, 0, False)
            if count >= 0:
                return buffer.raw[:count]
            room = -count

    def context(self, tokens: int, rows: int, threads: int) -> Context:
        """A new context for `rows` sequences of `tokens` tokens each."""
        return Context(self, self._model, tokens, rows, threads)


class Context:
    """What a model has read: a key-value cache of fixed room."""

    def __init__(self, model: Model, pointer: Any, tokens: int, rows: int, threads: int) -> None:
        self.model, self.tokens, self.rows = model, tokens, rows
        self._library = library = model.library
        params = library.llama_context_default_params()
        params.n_ctx, params.n_seq_max = tokens * rows, rows
        params.n_batch = params.n_ubatch = BATCH
        params.n_outputs_max = params.n_outputs_max_per_seq = BATCH
        params.n_threads = params.n_threads_batch = threads
        self._context = library.llama_init_from_model(pointer, params)
        if not self._context:
            raise LibraryError(f"llama.cpp has no room for {rows} x {tokens} tokens of context")
        self._memory = library.llama_get_memory(self._context)
        self._batch = library.llama_batch_init(BATCH, 0, 1)

    def read(self, tokens: Sequence[tuple[int, int, int]], wanted: Sequence[int]) -> Any:
        """Read at most `BATCH` tokens.

        Args:
            tokens: (token, position, sequence) of each.
            wanted: indices of those whose logits are wanted, rising.

        Returns:
            (wanted, vocabulary) float32, a view that the next call overwrites; None for none.
        """
        batch = self._batch
        batch.n_tokens = len(tokens)
        for i, (token, position, row) in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, position, 1
            batch.seq_id[i][0], batch.logits[i] = row, 0
        for i in wanted:
            batch.logits[i] = 1
        if (code := self._library.llama_decode(self._context, batch)) != 0:
            raise LibraryError(f"llama.cpp could not compute {len(tokens)} tokens (code {code})")
        if not wanted:
            return None
        # Outputs lie one after another, in the order of the batch.
        first = self._library.llama_get_logits_ith(self._context, wanted[0])
        return np.ctypeslib.as_array(first, shape=(len(wanted), self.model.vocabulary))

    def clear(self) -> None:
        """Forget all that was read."""
        self._library.llama_memory_clear(self._memory, False)

    def forget(self, row: int, start: int) -> None:
        """Forget what one sequence has read from position `start` on."""
        if not self._library.llama_memory_seq_rm(self._memory, row, start, -1):
            raise LibraryError("this model's memory cannot be cut: it is no key-value cache")

    def snapshot(self, row: int) -> bytes:
        """What one sequence has read."""
        size = self._library.llama_state_seq_get_size(self._context, row)
        buffer = c.create_string_buffer(size)
        written = self._library.llama_state_seq_get_data(self._context, buffer, size, row)
        return buffer.raw[:written]

    def restore(self, row: int, data: bytes) -> None:
        """Put a snapshot back."""
        if not self._library.llama_state_seq_set_data(self._context, data, len(data), row):
            raise LibraryError("a state could not be put back")

    def close(self) -> None:
        """Give the memory back."""
        self._library.llama_batch_free(self._batch)
        self._library.llama_free(self._context)
