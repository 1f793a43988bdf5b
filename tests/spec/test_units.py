"""Sizes as people write and read them."""

from __future__ import annotations

import pytest

from paredown.spec.units import bytes_text, read_bytes_text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0B"), (7, "7B"), (999, "999B"), (1000, "1kB"), (4_200_000_000, "4.2GB"),
        (72_351_234, "72.36MB"), (70_000_000, "70MB"), (269_060_673, "269.1MB"),
        (9_999_999, "10MB"),
    ],
)  # fmt: skip
def test_a_size_is_written_in_four_digits_never_below(size: int, text: str) -> None:
    assert bytes_text(size) == text
    assert size <= read_bytes_text(text) <= 1.001 * size + 1


def test_what_is_no_size() -> None:
    with pytest.raises(ValueError, match="'4 apples' is no size"):
        read_bytes_text("4 apples")
    assert read_bytes_text(12) == 12
