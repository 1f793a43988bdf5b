"""What ONNX Runtime and OpenVINO are said to hold, from specs alone, and the bytes of it."""

from __future__ import annotations

import pytest

from paredown.methods import registry
from paredown.runtimes.base import Runtime
from paredown.runtimes.onnxruntime.formats import block_size
from paredown.runtimes.onnxruntime.runtime import OnnxRuntime
from paredown.runtimes.openvino.formats import group_size
from paredown.runtimes.openvino.runtime import OpenVino
from paredown.spec.layers import LayerUnit, grid_option
from paredown.spec.reference import plain_model
from paredown.spec.strategy import parse_strategy
from paredown.spec.target import Target

UNIT = LayerUnit(("model.layers.0.self_attn.o_proj",))
BOTH = (OnnxRuntime(), OpenVino())


# 64 rows of 256 inputs, groups of 32: 512 scales of 4 or 2 bytes, 512 zero-points.
@pytest.mark.parametrize(
    ("runtime", "bits", "symmetric", "nbytes"),
    [
        (OnnxRuntime(), 2, True, 4096 + 2048),
        (OnnxRuntime(), 3, True, 8192 + 2048),
        (OnnxRuntime(), 4, False, 8192 + 2048 + 256),
        (OnnxRuntime(), 5, True, 16384 + 2048),
        (OnnxRuntime(), 8, False, 16384 + 2048 + 512),
        (OpenVino(), 2, True, 8192 + 1024 + 1),
        (OpenVino(), 4, False, 8192 + 1024 + 256),
        (OpenVino(), 6, True, 16384 + 1024 + 1),
        (OpenVino(), 8, False, 16384 + 1024 + 512),
    ],
)
def test_bytes_by_hand(runtime: Runtime, bits: int, symmetric: bool, nbytes: int) -> None:
    option = grid_option(bits, 32, symmetric=symmetric, scale_dtype="BF16")
    assert runtime.holds(plain_model(), UNIT, option).holds
    assert runtime.option_bytes(option, (64, 256)) == nbytes


@pytest.mark.parametrize(
    ("group", "width", "block"),
    [(32, 64, 32), (96, 576, 32), (144, 576, 16), (-1, 576, 64), (512, 1024, 256), (24, 96, None)],
)
def test_groups_are_cut_into_blocks(group: int, width: int, block: int | None) -> None:
    option = grid_option(4, group, symmetric=True, scale_dtype="BF16")
    assert block_size(option, width) == block


@pytest.mark.parametrize(
    ("bits", "group", "width", "size"),
    [(4, 96, 576, 32), (4, 144, 576, 16), (4, 192, 576, 192), (4, -1, 160, 32), (8, 96, 576, 96),
     (5, 144, 576, 144), (3, 24, 96, None)],
)  # fmt: skip
def test_groups_that_give_garbage_are_cut(
    bits: int, group: int, width: int, size: int | None
) -> None:
    option = grid_option(bits, group, symmetric=True, scale_dtype="BF16")
    assert group_size(option, width) == size


@pytest.mark.parametrize("runtime", BOTH)
@pytest.mark.parametrize(
    ("strategy", "why"),
    [
        ("smoothquant", "int8"),
        ('magnitude(storage="sparse")', "sparse"),
        ("rtn > lora(rank=4)", "adapter"),
        ('l2_structured(ratio=0.2, scope="global")', "unequal width"),
    ],
)
def test_what_is_refused(runtime: Runtime, strategy: str, why: str) -> None:
    claim = runtime.reads(registry.check(parse_strategy(strategy), plain_model(), Target()))
    assert not claim.holds
    assert why in claim.why
    assert claim.mend


@pytest.mark.parametrize("runtime", BOTH)
@pytest.mark.parametrize(
    "strategy",
    ["rtn", "rtn(bits=8, symmetric=false)", "rtn(group_size=16)", "rtn(embedding_bits=8)",
     'rtn(plan={"*.q_proj": 8})', "depth", "rtn(group_size=-1)"],
)  # fmt: skip
def test_what_is_held(runtime: Runtime, strategy: str) -> None:
    claim = runtime.reads(registry.check(parse_strategy(strategy), plain_model(), Target()))
    assert claim.holds, claim.why
    assert claim.evidence == "checked"
