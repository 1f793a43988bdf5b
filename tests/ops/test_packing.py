"""Bit packing: a hand-worked word, round trips, and compressed-tensors' own packing."""

from __future__ import annotations

import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32
from hypothesis import given, settings
from hypothesis import strategies as st

from paredown.ops.packing import pack, packed_width, unpack


def random_codes(rows: int, width: int, bits: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    half = 2 ** (bits - 1)
    return torch.randint(-half, half, (rows, width), generator=generator).to(torch.int8)


def test_hand_worked_word_of_four_bits() -> None:
    # Unsigned codes 1, 2, .. 8 from the lowest bits up: 0x87654321, negative as an int32.
    codes = torch.arange(1, 9, dtype=torch.int8)[None] - 8
    words = pack(codes, 4)
    assert words.dtype == torch.int32
    assert words.tolist() == [[0x87654321 - 2**32]]


def test_hand_worked_words_of_three_bits() -> None:
    # Ten codes of 7 fill 30 bits; the eleventh has two bits in the first word, one in the second.
    words = pack(torch.full((1, 11), 3, dtype=torch.int8), 3)
    assert words.tolist() == [[-1, 1]]


@pytest.mark.parametrize(
    ("width", "bits", "words"), [(8, 4, 1), (9, 4, 2), (32, 3, 3), (11, 3, 2), (1, 2, 1), (5, 8, 2)]
)
def test_width_in_words(width: int, bits: int, words: int) -> None:
    assert packed_width(width, bits) == words
    assert pack(random_codes(2, width, bits), bits).shape == (2, words)


@given(
    rows=st.integers(1, 5), width=st.integers(1, 70), bits=st.integers(2, 8), seed=st.integers(0, 9)
)
@settings(max_examples=80, deadline=None)
def test_round_trip(rows: int, width: int, bits: int, seed: int) -> None:
    codes = random_codes(rows, width, bits, seed)
    found = unpack(pack(codes, bits), bits, width)
    assert found.dtype == torch.int8
    assert torch.equal(found, codes)


@given(
    rows=st.integers(1, 4), width=st.integers(1, 70), bits=st.integers(2, 8), seed=st.integers(0, 9)
)
@settings(max_examples=80, deadline=None)
def test_agrees_with_compressed_tensors(rows: int, width: int, bits: int, seed: int) -> None:
    codes = random_codes(rows, width, bits, seed)
    words = pack_to_int32(codes, bits)
    assert torch.equal(pack(codes, bits), words)
    assert torch.equal(unpack(words, bits, width), codes)
    theirs = unpack_from_int32(pack(codes, bits), bits, torch.Size((rows, width)))
    assert torch.equal(theirs, codes)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
def test_padding_is_zero(bits: int) -> None:
    top = torch.full((1, 1), 2 ** (bits - 1) - 1, dtype=torch.int8)
    assert pack(top, bits).tolist() == [[2**bits - 1]]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_strided_input(bits: int) -> None:
    codes = random_codes(6, 10, bits)
    assert torch.equal(pack(codes.T, bits), pack(codes.T.contiguous(), bits))
    words = pack(codes, bits)
    strided = words.T.contiguous().T
    assert torch.equal(unpack(strided, bits, 10), codes)
