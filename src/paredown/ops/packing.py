"""Dense bit packing into int32 words, in the layout of compressed-tensors' `pack-quantized`.

Code i of a row occupies bits `i*b .. (i+1)*b - 1` of the row's bit string, lowest bit first;
codes are shifted to unsigned (`code + 2**(b-1)`) before packing. Rows are padded to whole words.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor


def packed_width(width: int, bits: int) -> int:
    """int32 words that `width` codes of `bits` bits take."""
    return math.ceil(width * bits / 32)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack int8 codes (rows, width) into int32 words (rows, packed_width(width, bits))."""
    rows, width = codes.shape
    # By way of int16: at 8 bits, code + 128 does not fit into int8.
    unsigned = (codes.cpu().numpy().astype(np.int16) + (1 << (bits - 1))).astype(np.uint8)
    words = packed_width(width, bits)
    if bits == 8:
        # 8 and 4 bits are whole bytes and halves; the general way takes a byte for every bit.
        stream: np.ndarray[Any, Any] = unsigned
    elif bits == 4:
        even = unsigned if width % 2 == 0 else np.pad(unsigned, ((0, 0), (0, 1)))
        stream = even[:, 0::2] | (even[:, 1::2] << 4)
    else:
        single = np.unpackbits(unsigned[..., None], axis=-1, count=bits, bitorder="little")
        stream = np.packbits(single.reshape(rows, width * bits), axis=-1, bitorder="little")
    padded = np.zeros((rows, words * 4), dtype=np.uint8)
    padded[:, : stream.shape[1]] = stream
    # The format's words are little-endian, whatever this machine is.
    return torch.from_numpy(padded.view("<i4").astype(np.int32))


def unpack(words: Tensor, bits: int, width: int) -> Tensor:
    """The int8 codes (rows, width) that `pack` made `words` of."""
    rows = len(words)
    stream = np.ascontiguousarray(words.cpu().numpy().astype("<i4")).view(np.uint8)
    stream = stream.reshape(rows, -1)
    if bits == 8:
        unsigned = stream[:, :width]
    elif bits == 4:
        pairs = np.stack((stream & 0xF, stream >> 4), axis=-1)
        unsigned = pairs.reshape(rows, -1)[:, :width]
    else:
        single = np.unpackbits(stream, axis=-1, count=width * bits, bitorder="little")
        grouped = single.reshape(rows, width, bits)
        unsigned = np.packbits(grouped, axis=-1, bitorder="little")[..., 0]
    return torch.from_numpy((unsigned.astype(np.int16) - (1 << (bits - 1))).astype(np.int8))
