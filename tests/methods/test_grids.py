"""The kinds of grids as parameters of methods: what follows from them, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from paredown.artifact.checkpoint import Checkpoint
from paredown.artifact.compressed_tensors import read_packed, read_schemes
from paredown.errors import StrategyError
from paredown.methods import registry
from paredown.methods.shared.groups import GridParams
from paredown.ops.grids import dequantize
from paredown.runtimes.torch.load import load
from paredown.spec.infer import infer_spec
from paredown.spec.plan import read_word, scheme_word
from paredown.spec.reference import plain_model
from paredown.spec.scheme import GridKind, Scheme
from paredown.spec.strategy import parse_strategy
from paredown.spec.target import Target
from paredown.testing.conformance import MethodConformance
from paredown.testing.tiny import tiny_model

SHORT = GridKind.SHORT


def params(text: str) -> GridParams:
    ((_, found),) = registry.resolve(parse_strategy(text))
    assert isinstance(found, GridParams)
    return found


@pytest.mark.parametrize(
    ("text", "symmetric"),
    [("gptq(bits=4, {})", False), ("gptq(bits=3, {})", True), ("awq(bits=6, {})", True)],
)
def test_group_and_symmetry_follow_from_two_levels(text: str, symmetric: bool) -> None:
    found = params(text.format('grid="k"'))
    assert (found.group_size, found.symmetric) == (256, symmetric)
    again = params(str(registry.canonical(text.format('grid="k"'))))
    assert again == found


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('gptq(grid="k", group_size=64)', "group_size = 256; leave it out"),
        ('gptq(grid="k", bits=4, symmetric=true)', "symmetric = False; leave it out"),
        ('gptq(grid="k", bits=8)', "2 to 6 bits, not 8"),
        ('gptq(grid="k", plan={"*.v_proj": 8})', "plan: grid = \"k\" has 2 to 6"),
        ('rtn(grid="short")', "symmetric = false"),
        ('rtn(grid="short", bits=6, symmetric=false)', "4 and 5 bits"),
        ('rtn(grid="short", symmetric=false, plan={"*.v_proj": 8})', "4 and 5 bits"),
        ('hqq(grid="k")', "no parameter 'grid'"),
    ],
)  # fmt: skip
def test_what_makes_no_grid_is_refused(text: str, why: str) -> None:
    with pytest.raises(StrategyError) as error:
        registry.resolve(parse_strategy(text))
    assert why in str(error.value)


def test_words_of_plans_name_every_grid() -> None:
    words = {
        "4k": Scheme.superblock(4), "4a32r": Scheme(4, 32, False, SHORT),
        "5ar": Scheme(5, -1, False, SHORT), "4a32": Scheme(4, 32, False),
    }  # fmt: skip
    for word, scheme in words.items():
        assert read_word(word) == scheme
        assert scheme_word(scheme) == word
        assert Scheme.of(scheme.option("BF16")) == scheme
    for wrong in ("7k", "4k64", "4s32r", "3a32r", "k"):
        with pytest.raises(ValueError, match="no option"):
            read_word(wrong)
    assert len({str(scheme.key) for scheme in words.values()}) == len(words)


@pytest.mark.parametrize(
    "strategy",
    [
        'gptq(bits=4, grid="k", embedding_bits=6, plan={"*.v_proj": 5, "*.o_proj": 2})',
        pytest.param('awq(bits=3, grid="k")', marks=pytest.mark.slow),
        'gptq(bits=4, grid="short", symmetric=false, group_size=32)',
    ],
)
def test_artifacts_are_what_was_foretold_and_load(strategy: str, tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base", hidden_size=256, intermediate_size=512)
    source, out = Checkpoint(base), tmp_path / "out"
    out.mkdir()
    ((method, chosen),) = registry.resolve(parse_strategy(strategy))
    foretold = registry.check(parse_strategy(strategy), source.spec, Target(runtime="llama.cpp"))
    logits = method.apply(source, out, chosen, MethodConformance().context(tmp_path))
    made = infer_spec(out)
    assert made.parameters == source.spec.parameters
    assert made.options == foretold.options
    assert {(t.name, t.dtype, t.shape) for t in made.tensors} == {
        (t.name, t.dtype, t.shape) for t in foretold.tensors
    }
    model = load(out, dtype=torch.float32)
    checkpoint = Checkpoint(out)
    for name, scheme in read_schemes(checkpoint).items():
        if scheme.kind is GridKind.SUPERBLOCK:  # it is unpacked as it is loaded
            exact = dequantize(*read_packed(checkpoint, name, scheme))
            assert torch.equal(model.get_submodule(name).weight, exact)
    from paredown.blocks.probe import probe_tokens

    with torch.no_grad():
        again = model(probe_tokens(128)).logits[0]
    torch.testing.assert_close(again, logits, rtol=1e-3, atol=1e-3)


def test_plain_transformers_reads_short_scales_and_refuses_two_levels() -> None:
    held = registry.check(
        parse_strategy('rtn(grid="short", symmetric=false)'), plain_model(), Target()
    )
    assert held.quantization == "compressed-tensors"
    own = registry.check(parse_strategy('rtn(grid="k")'), plain_model(), Target())
    assert own.quantization == "paredown"
