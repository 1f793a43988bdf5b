"""How much of a model its compression has reached."""

from __future__ import annotations

from pathlib import Path

import pytest

from paredown.methods import registry
from paredown.spec.coverage import coverage
from paredown.spec.infer import infer_spec
from paredown.spec.model import ModelSpec
from paredown.spec.strategy import parse_strategy
from paredown.spec.target import Target
from paredown.testing.tiny import MLP_WIDTH, WIDTH, tiny_model


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    folder = tmp_path_factory.mktemp("coverage") / "model"
    return infer_spec(tiny_model(folder, "llama", tokenizer=False))


def after(strategy: str, spec: ModelSpec) -> float | None:
    return coverage(registry.check(parse_strategy(strategy), spec, Target()))


def test_nothing_is_covered_where_nothing_is_stored_otherwise(llama: ModelSpec) -> None:
    assert coverage(llama) is None
    assert after("l2_structured(ratio=0.3)", llama) is None


@pytest.mark.parametrize("strategy", ["rtn(group_size=32)", "int8", 'magnitude(storage="sparse")'])
def test_all_matrices_of_a_llama_are_covered(strategy: str, llama: ModelSpec) -> None:
    assert after(strategy, llama.model_copy(update={"dtype": "BF16"})) == 1.0


def test_what_is_skipped_counts_as_left(llama: ModelSpec) -> None:
    heads = 2 * WIDTH * WIDTH + 2 * WIDTH * WIDTH // 2  # q and o; k and v with half of the heads
    mlp = 3 * WIDTH * MLP_WIDTH
    expected = (heads + mlp - WIDTH * MLP_WIDTH) / (heads + mlp)
    assert after('rtn(group_size=32, skip=["down_proj"])', llama) == pytest.approx(expected)


def test_the_embedding_is_no_part_of_it(llama: ModelSpec) -> None:
    strategy = "rtn(group_size=32, skip=['*.1.*'], embedding_bits=8)"
    assert after(strategy.replace("'", '"'), llama) == pytest.approx(0.5)


def test_a_quantized_artifact_tells_the_same_as_its_plan(tmp_path: Path) -> None:
    import paredown

    folder = tiny_model(tmp_path / "model", "llama")
    out = tmp_path / "out"
    paredown.compress(str(folder), 'rtn(group_size=32, skip=["q_proj"])', output=out, data="pydoc")
    spec = infer_spec(folder)
    assert coverage(infer_spec(out)) == after('rtn(group_size=32, skip=["q_proj"])', spec)
