"""How many bytes a GGUF file has besides its tensors' data, told from the tokenizer. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from paredown.spec.model import ModelSpec
from paredown.spec.reading import read_object

_LENGTH = 8
"""Of the length that stands before a text."""
_TYPE, _SCORE = 4, 4
"""Of a token; those of tokenizers on bytes have merges in place of scores."""
_PER_TENSOR = 160
"""Name, shape, type and place of a tensor, and the blanks that align its data (31 at most)."""
_REST = 4096
"""Numbers of the architecture, names of keys, special tokens."""
_UNUSED = 16
"""Of the name of a token that the embedding has a row for and the tokenizer does not know."""


def header_bytes(spec: ModelSpec) -> int:
    """Bytes of everything but tensors' data, at most; too much by a few percent of themselves.

    0 where the model has no `tokenizer.json`: no GGUF file is written of it.
    """
    file = None if spec.path is None else spec.path / "tokenizer.json"
    if file is None or not file.is_file():
        return 0
    told = read_object(file, finite=False)
    model = told.get("model", {})
    added = (str(token.get("content")) for token in told.get("added_tokens") or ())
    tokens = {*model.get("vocab", {}), *added}
    missing = max(0, (spec.vocabulary or 0) - len(tokens))
    is_bytes = '"ByteLevel"' in json.dumps([told.get("pre_tokenizer"), told.get("decoder")])
    each = _LENGTH + _TYPE + (0 if is_bytes else _SCORE)
    texts = sum(len(token.encode()) + each for token in tokens) + missing * (each + _UNUSED)
    if is_bytes:
        texts += sum(len(_merge(merge).encode()) + _LENGTH for merge in model.get("merges", ()))
    texts += _template_bytes(file.parent)
    return texts + _PER_TENSOR * len(spec.tensors) + _REST


def _template_bytes(folder: Path) -> int:
    """Of the chat template, which lies in a file of its own or, of older models, in the settings.

    Of several templates the longest: one of them is written.
    """
    file, settings = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if file.is_file():
        return file.stat().st_size
    told = read_object(settings, finite=False).get("chat_template") if settings.is_file() else None
    texts = [told] if isinstance(told, str) else [str(t.get("template")) for t in told or ()]
    return max((len(text.encode()) for text in texts), default=0)


def _merge(merge: Any) -> str:
    """`["a", "b"]` or `"a b"` -> `"a b"`."""
    return merge if isinstance(merge, str) else " ".join(merge)
