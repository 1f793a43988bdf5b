"""Whether a text is long enough, known before a model is loaded. Nothing here needs torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tokenizers import Tokenizer

from paredown.errors import DataError
from paredown.spec.redact import first_line
from paredown.spec.run import Amount
from paredown.text.texts import Part, TextSource

_FILE = "tokenizer.json"
_CHUNK = 200_000
"""Characters that are tokenized at a time: a book is not read to its end to find a page in it."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """What one side of a text has to hold.

    Attributes:
        amount: windows.
        length: tokens of a window.
    """

    part: Part
    amount: Amount
    length: int


class Counter(Protocol):
    """Counts windows as `text.windows` cuts them."""

    def __call__(self, documents: list[str], length: int, *, enough: int) -> int:
        """Windows of `length` tokens in the documents; counting may stop at `enough`."""


def check_amount(source: TextSource, documents: list[str], need: Need, count: Counter) -> str:
    """See that the documents hold what is needed; says where they hold less than is usual.

    Returns:
        A note for the user; empty where all that is wanted is there.

    Raises:
        DataError: too short.
    """
    found = count(documents, need.length, enough=need.amount.wanted)
    if found < need.amount.least:
        raise too_short(source, need.part, found, need.amount.least, need.length)
    if found < need.amount.wanted:
        return (
            f"{source.name}: its {need.part} part has {found} windows of {need.length} tokens; all "
            f"of them are used, where {need.amount.wanted} are usual"
        )
    return ""


def too_short(source: TextSource, part: Part, found: int, needed: int, length: int) -> DataError:
    """The complaint about a text that does not hold enough."""
    option = "--eval-tokens" if part == "evaluation" else "--calibration-samples"
    return DataError(
        f"{source.name}: its {part} part has {found} windows of {length} tokens, {needed} are "
        f"needed; ask for fewer ({option}), or for shorter ones, or give more text"
    )


def counter(folder: Path) -> Counter | None:
    """Counts with the tokenizer of a model folder, in Rust alone; None: it has no tokenizer.json.

    transformers reads the older kinds; importing it takes seconds, which a short check must not.

    Raises:
        DataError: the file is damaged.
    """
    path = folder / _FILE
    if not path.is_file():
        return None
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 - the library raises nothing narrower
        raise DataError(f"{path}: the tokenizer cannot be read: {first_line(error)}") from None
    # A file may carry the settings of its author's last call, which would cap every text.
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def count(documents: list[str], length: int, *, enough: int) -> int:
        # A special token stands in front of every window where the tokenizer puts one there.
        step = length - (1 if tokenizer.encode("").ids else 0)
        text, tokens = "\n\n".join(documents), 0
        for start in range(0, len(text), _CHUNK):
            piece = text[start : start + _CHUNK]
            tokens += len(tokenizer.encode(piece, add_special_tokens=False).ids)
            if tokens // step >= enough:
                break
        return tokens // step

    return count
