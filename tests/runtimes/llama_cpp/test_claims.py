"""What llama.cpp is said to hold, from specs alone, and the bytes that this takes."""

from __future__ import annotations

import pytest

from paredown.errors import ConfigError
from paredown.methods import registry
from paredown.runtimes.llama_cpp.runtime import LlamaCpp
from paredown.runtimes.torch.runtime import Torch
from paredown.runtimes.transformers import Transformers
from paredown.search.enumerated import Enumerated
from paredown.spec.layers import LayerUnit, grid_option, superblock_option
from paredown.spec.model import ModelSpec
from paredown.spec.reference import plain_model, seeing_model
from paredown.spec.strategy import parse_strategy
from paredown.spec.target import Target

UNIT = LayerUnit(("model.layers.0.self_attn.o_proj",))


def made(strategy: str) -> ModelSpec:
    return registry.check(parse_strategy(strategy), plain_model(), Target())


# GGUF has blocks of 32: Q4_0 (4.5 bits a weight), Q5_0 (5.5) and Q8_0 (8.5).
@pytest.mark.parametrize(
    ("bits", "symmetric", "per_weight"),
    [
        (2, True, 4.5), (3, True, 4.5), (4, True, 4.5), (5, True, 5.5), (6, True, 8.5),
        (7, True, 8.5), (8, True, 8.5), (2, False, 4.5), (3, False, 4.5), (4, False, 5.5),
        (5, False, 8.5), (6, False, 8.5), (7, False, 8.5), (8, False, None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("group", [16, 32, 64, 128, -1])
def test_grids_and_their_bytes(
    bits: int, symmetric: bool, per_weight: float | None, group: int
) -> None:
    option = grid_option(bits, group, symmetric=symmetric, scale_dtype="BF16")
    claim = LlamaCpp().holds(plain_model(), UNIT, option)
    assert claim.holds is (per_weight is not None and group != 16), claim.why
    if claim.holds:
        assert per_weight is not None
        assert LlamaCpp().option_bytes(option, (256, 256)) == 256 * 256 * per_weight / 8
    offers = [o.nbytes for o in LlamaCpp().options(plain_model())[UNIT] if o.option == option]
    assert offers == ([256 * 256 * per_weight / 8] if claim.holds and per_weight else [])


@pytest.mark.parametrize(
    ("strategy", "why"),
    [
        ("rtn(bits=8, symmetric=false)", "-255 to 255"),
        ("rtn(group_size=16)", "groups of 16"),
        ("smoothquant", "int8"),
        ('magnitude(storage="sparse")', "sparse"),
        ("rtn > lora(rank=4)", "adapter"),
        ('l2_structured(ratio=0.2, scope="global")', "unequal width"),
    ],
)
def test_what_is_refused(strategy: str, why: str) -> None:
    claim = LlamaCpp().reads(made(strategy))
    assert not claim.holds
    assert why in claim.why
    assert claim.mend


@pytest.mark.parametrize(
    "strategy",
    [
        "rtn", "rtn(group_size=32, symmetric=false)", "rtn(embedding_bits=8)", "depth", "wanda",
        'rtn(plan={"*.q_proj": 8})', "heads(ratio=0.5)", "lora(rank=4)", "rtn(group_size=-1)",
        'l2_structured(ratio=0.25, scope="layer") > rtn(group_size=32)',
    ],
)  # fmt: skip
def test_what_is_held(strategy: str) -> None:
    claim = LlamaCpp().reads(made(strategy))
    assert claim.holds, claim.why
    assert claim.evidence == "checked"


@pytest.mark.parametrize(("bits", "per_weight"), [(4, 5.0), (5, 6.0)])
def test_short_scales_save_half_a_bit_and_more(bits: int, per_weight: float) -> None:
    option = grid_option(bits, 64, symmetric=False, scale_dtype="BF16", scale_bits=11 - bits)
    assert LlamaCpp().holds(plain_model(), UNIT, option).holds
    assert LlamaCpp().option_bytes(option, (256, 256)) == 256 * 256 * per_weight / 8
    offers = [o.nbytes for o in LlamaCpp().options(plain_model())[UNIT] if o.option == option]
    assert offers == [256 * 256 * per_weight / 8]


@pytest.mark.parametrize(
    ("bits", "per_weight"), [(2, 2.625), (3, 3.4375), (4, 4.5), (5, 5.5), (6, 6.5625)]
)
def test_two_level_grids_and_their_bytes(bits: int, per_weight: float) -> None:
    option = superblock_option(bits)
    assert LlamaCpp().holds(plain_model(), UNIT, option).holds
    assert LlamaCpp().option_bytes(option, (256, 512)) == 256 * 512 * per_weight / 8
    assert option in {o.option for o in LlamaCpp().options(plain_model())[UNIT]}
    assert option not in {o.option for o in Torch().options(plain_model())[UNIT]}
    assert "llama.cpp" in Transformers().holds(plain_model(), UNIT, option).why


def test_rows_that_are_no_whole_superblocks_are_refused_with_what_would_do() -> None:
    strategy = 'l2_structured(ratio=0.2, scope="layer") > rtn(bits=3, grid="k")'
    with pytest.raises(ConfigError, match="832 input features are no multiple of 256") as error:
        registry.check(parse_strategy(strategy), plain_model(), Target(runtime="llama.cpp"))
    assert "bits = 4, group_size = 32" in str(error.value)
    assert "4.5 bits a weight in llama.cpp instead of 3.438" in str(error.value)


def test_what_is_refused_is_told_with_the_price_of_the_nearest() -> None:
    claim = LlamaCpp().reads(made("rtn(bits=8, group_size=32, symmetric=false)"))
    assert claim.mend == "the nearest it holds: 8 bits, symmetric, groups of 32 (8.5 bits a weight)"


def test_a_search_tries_its_own_grids_where_they_mean_something() -> None:
    found = {}
    for runtime in ("torch", "llama.cpp"):
        target = Target(runtime=runtime)
        space = Enumerated.build(plain_model(), target, methods=("gptq",), max_steps=1)
        found[runtime] = {
            (step.params["grid"], step.params["bits"], step.params["group_size"])
            for strategy in space.strategies
            for step in strategy.steps
        }
    assert {grid for grid, *_ in found["torch"]} == {"affine"}
    assert {(b, g) for grid, b, g in found["llama.cpp"] if grid == "k"} == {
        (bits, 256) for bits in (3, 4, 5, 6)
    }
    assert {(b, g) for grid, b, g in found["llama.cpp"] if grid == "short"} == {(4, 32), (5, 32)}


def test_full_scales_are_rounded_and_so_refused() -> None:
    option = grid_option(4, 32, symmetric=True, scale_dtype="F32")
    assert "half-precision" in LlamaCpp().holds(plain_model(), UNIT, option).why


def test_models_that_see_and_gpus_are_refused() -> None:
    assert "llava" in LlamaCpp().reads(seeing_model()).why
    option = grid_option(4, 32, symmetric=True, scale_dtype="BF16")
    assert not LlamaCpp().holds(plain_model(), UNIT, option, "cuda").holds


def test_a_search_tries_no_grid_that_a_finer_one_takes_no_more_than() -> None:
    """3 bits are stored in the blocks of 4, 6 in those of 8, and a scale for every 32 weights."""
    found = {}
    for runtime in ("torch", "llama.cpp"):
        target = Target(runtime=runtime)
        space = Enumerated.build(plain_model(), target, methods=("rtn",), max_steps=1)
        found[runtime] = {
            (step.params["bits"], step.params["group_size"])
            for strategy in space.strategies
            for step in strategy.steps
            if step.params["grid"] == "affine"
            if step.params["symmetric"] and step.params["embedding_bits"] is None
        }
    assert len({group for _, group in found["torch"]}) > 1
    assert {bits for bits, _ in found["torch"]} > {bits for bits, _ in found["llama.cpp"]}
    assert found["llama.cpp"] == {(4, 32), (5, 32), (8, 32)}
    why = [text for text in space.refused.values() if "takes as much as" in text]
    assert any("4 bits in groups of 32" in text for text in why)


def test_grids_that_cost_more_where_they_are_finer_are_all_tried() -> None:
    space = Enumerated.build(plain_model(), Target(), methods=("rtn",), max_steps=1)
    assert not any("takes as much as" in text for text in space.refused.values())


def test_two_level_grids_are_held_as_they_are_stored_and_unfolded_elsewhere() -> None:
    from paredown.hardware.engines import ENGINES
    from paredown.spec.weights import stored_pieces

    spec = made('rtn(bits=2, grid="k")')
    (piece,) = (p for p in stored_pieces(spec) if p.bits == 2)
    codes = piece.numel * 84 / 256
    assert ENGINES["llama.cpp"].resident(piece) == pytest.approx(codes, rel=1e-3)
    assert ENGINES["torch"].resident(piece) == 2 * piece.numel
