"""Windows of token ids for calibration and evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from paredown.errors import DataError
from paredown.spec.progress import Progress
from paredown.spec.redact import first_line
from paredown.store.cache import Cache
from paredown.store.content import code, model_hash
from paredown.text.amount import too_short
from paredown.text.texts import Part, TextSource, open_source, parts, texts_content

Writer = Callable[[Path, int, int, bool, Progress | None], Tensor]
"""(model folder, tokens, seed, trust remote code, progress) -> at least so many token ids that the
model has written. What runs a model lies above this package, so it is handed in."""

_UNREADABLE = (ValueError, OSError, LookupError, TypeError, AttributeError, RecursionError)
"""What transformers raises on tokenizer files that are damaged, or of another shape."""
_CODE = 3
"""Of self-written text: goes up when a seed gives other text."""
_SELF_SEEDS: dict[Part, int] = {"calibration": 1, "evaluation": 2}


@dataclass(frozen=True)
class TextRequest:
    """What text, by name.

    Attributes:
        evaluation: source of held-out text.
        calibration: source of calibration text; None takes the training part of `evaluation`.
    """

    evaluation: str
    calibration: str | None
    data_dir: Path | None

    def sources(self) -> tuple[TextSource, TextSource | None]:
        """Both sources, opened."""
        evaluation = open_source(self.evaluation, data_dir=self.data_dir)
        if self.calibration is None:
            return evaluation, None
        return evaluation, open_source(self.calibration, data_dir=self.data_dir)

    def content(self) -> dict[str, str]:
        """Hash of the documents of each part: what keys hold of a text, instead of its name.

        Raises:
            DataError: there is no such text.
        """
        return texts_content(self.evaluation, self.calibration, data_dir=self.data_dir)


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """The model's tokenizer.

    Raises:
        DataError: the folder has none that transformers can read.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except _UNREADABLE as error:
        raise DataError(f"{folder}: the tokenizer cannot be read: {first_line(error)}") from None


def windows(
    request: TextRequest,
    part: Part,
    folder: Path,
    *,
    count: int,
    length: int,
    seed: int,
    cache: Cache,
    write: Writer,
    least: int | None = None,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> Tensor:
    """`count` windows of `length` token ids, (count, length) int64.

    Documents are joined by a blank line and cut without overlap. Evaluation takes the first
    windows; calibration takes windows drawn with `seed`. Where the tokenizer puts a BOS token in
    front of a text, every window begins with one.

    Args:
        write: lets the model write text, for sources that are `generated`.
        least: with so many windows a text that has fewer than `count` is good enough; None: with
            `count`.

    Raises:
        DataError: the text is too short, or nothing of it is on one side only.
    """
    evaluation, calibration = request.sources()
    source = evaluation if part == "evaluation" else calibration or evaluation
    if source.generated:
        return _self_written(
            folder, part, count, length, seed, cache, write, trust_remote_code, progress
        )
    if evaluation.generated:
        documents = source.documents(part)
    else:
        other = None if calibration is None or calibration.generated else calibration
        documents = parts(evaluation, other).of(part)
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    found = _cut(documents, tokenizer, length)
    if len(found) < (least or count):
        raise too_short(source, part, len(found), least or count, length)
    if part == "evaluation":
        return found[:count]
    generator = torch.Generator().manual_seed(seed)
    return found[torch.randperm(len(found), generator=generator)[:count]]


def _cut(documents: list[str], tokenizer: Any, length: int) -> Tensor:
    ids: list[int] = tokenizer("\n\n".join(documents), add_special_tokens=False, verbose=False)[
        "input_ids"
    ]
    begins: list[int] = tokenizer("")["input_ids"][:1]
    bos = begins if begins == [tokenizer.bos_token_id] else []
    step = length - len(bos)
    pieces = [bos + ids[i : i + step] for i in range(0, len(ids) - step + 1, step)]
    return torch.tensor(pieces, dtype=torch.int64).reshape(-1, length)


def _self_written(
    folder: Path,
    part: Part,
    count: int,
    length: int,
    seed: int,
    cache: Cache,
    write: Writer,
    trust_remote_code: bool,
    progress: Progress | None,
) -> Tensor:
    """Windows of text that the model itself writes (arXiv:2410.17170), cached."""
    key = {
        **code(_CODE), "model": model_hash(folder), "part": part, "tokens": count * length,
        "seed": seed,
    }  # fmt: skip

    def put(path: Path) -> None:
        ids = write(
            folder, count * length, seed * 2 + _SELF_SEEDS[part], trust_remote_code, progress
        )
        save_file({"ids": ids}, path)

    ids = load_file(cache.get_or_put("self-text", key, ".safetensors", put))["ids"]
    return ids[: count * length].reshape(count, length)
