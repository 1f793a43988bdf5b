"""Recommendations: possible, smaller, in a sensible order, with their reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, final

import pytest
from pydantic import Field

from paredown.errors import ConfigError, GroupSizeError
from paredown.hardware.detect import Machine
from paredown.methods import recommend as advice
from paredown.methods import registry
from paredown.methods.base import Context, Kind, Method, Params
from paredown.methods.recommend import WORTH, recommend
from paredown.methods.shared.groups import best_group_size
from paredown.methods.shared.knowledge import Known, known
from paredown.spec.infer import spec_from
from paredown.spec.model import ModelSpec, TensorInfo
from paredown.spec.structure import find_structure
from paredown.spec.target import Target

MACHINE = Machine(
    system="Linux x86_64",
    cpu="Test",
    physical_cores=2,
    logical_cores=2,
    memory_bytes=8_000_000_000,
    available_bytes=4_000_000_000,
    flags=(),
)


def make_spec(*, width: int = 96, dtype: str = "BF16", copies: int = 1) -> ModelSpec:
    stored = [TensorInfo(name="model.embed_tokens.weight", dtype=dtype, shape=(10, 64))]
    stored += [
        TensorInfo(name=f"model.layers.{i}.mlp.down_proj.weight", dtype=dtype, shape=(64, width))
        for i in range(copies)
    ]
    return spec_from({"model_type": "llama"}, stored, name="small")


class GridParams(Params):
    bits: int = 4
    group_size: int = Field(default=64)


class RatioParams(Params):
    ratio: float = 0.2


class NoParams(Params):
    pass


class _Fake(Method[Any]):
    """Shrinks every linear to a share of its bytes."""

    kind = Kind.QUANTIZATION
    share: ClassVar[float] = 0.5

    def check(self, spec: ModelSpec, params: Any, target: Target) -> None:
        shapes = {t.name: t.shape for t in spec.tensors}
        for name in find_structure(spec).linears:
            width = shapes[f"{name}.weight"][1]
            if params.group_size > 0 and width % params.group_size:
                raise GroupSizeError(name, width, params.group_size)

    def predict(self, spec: ModelSpec, params: Any) -> ModelSpec:
        linears = {f"{name}.weight" for name in find_structure(spec).linears}
        tensors = [
            t.model_copy(update={"dtype": "I8", "shape": (t.nbytes * params.bits // 16,)})
            if t.name in linears
            else t
            for t in spec.tensors
        ]
        return spec.with_tensors(tensors, quantization="fake")

    def apply(self, source: Any, out: Path, params: Any, context: Context) -> None:
        raise AssertionError("recommending never compresses")


@final
class Gptq(_Fake):
    name = "gptq"
    summary = "fake"
    params_type = GridParams
    needs_data = True


@final
class Rtn(_Fake):
    name = "rtn"
    summary = "fake"
    params_type = GridParams


@final
class Int8(_Fake):
    name = "int8"
    summary = "fake"
    params_type = NoParams

    def check(self, spec: ModelSpec, params: Any, target: Target) -> None:
        raise ConfigError("not here")


@final
class L2(_Fake):
    name = "l2_structured"
    summary = "fake"
    kind = Kind.PRUNING
    params_type = RatioParams

    def check(self, spec: ModelSpec, params: Any, target: Target) -> None:
        pass

    def predict(self, spec: ModelSpec, params: Any) -> ModelSpec:
        tensors = [
            t.model_copy(update={"shape": (t.shape[0], int(t.shape[1] * 0.75))})
            if t.name.endswith("down_proj.weight")
            else t
            for t in spec.tensors
        ]
        return spec.with_tensors(tensors)


@final
class Bf16(_Fake):
    name = "bf16"
    summary = "fake"
    params_type = NoParams

    def check(self, spec: ModelSpec, params: Any, target: Target) -> None:
        pass

    def predict(self, spec: ModelSpec, params: Any) -> ModelSpec:
        tensors = [t.model_copy(update={"dtype": "BF16"}) for t in spec.tensors]
        return spec.with_tensors(tensors, dtype="BF16")


@pytest.fixture(autouse=True)
def methods(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry of fakes: what is recommended must not hang on the methods' own details."""
    table = {m.name: f"{__name__}:{m.__name__}" for m in (Gptq, Rtn, Int8, L2, Bf16)}
    monkeypatch.setattr(registry, "BUILTIN", table)


def strategies(spec: ModelSpec, machine: Machine = MACHINE) -> list[str]:
    return [r.strategy for r in recommend(spec, machine)]


@pytest.mark.parametrize(("width", "group"), [(256, 128), (192, 64), (96, 32), (80, -1)])
def test_group_size_is_the_largest_that_divides(width: int, group: int) -> None:
    assert best_group_size(make_spec(width=width)) == group


def test_group_size_of_transposed_matrices_divides_their_rows() -> None:
    stored = [TensorInfo(name="h.0.mlp.c_fc.weight", dtype="F32", shape=(64, 80))]
    assert best_group_size(spec_from({"model_type": "gpt2"}, stored, name="gpt2")) == 64


def test_a_model_without_linears_gets_whole_rows() -> None:
    stored = [TensorInfo(name="w", dtype="F32", shape=(64, 80))]
    assert best_group_size(spec_from({"model_type": "new"}, stored, name="new")) == -1


def test_small_models_start_with_eight_bits() -> None:
    assert strategies(make_spec(width=128))[:2] == [
        "rtn(bits=8, group_size=64)",
        "gptq(bits=4, group_size=64)",
    ]


def test_large_models_start_with_four_bits() -> None:
    large = make_spec(width=128).model_copy(update={"parameters": 7_000_000_000})
    assert strategies(large)[:2] == [
        "gptq(bits=4, group_size=64)",
        "rtn(bits=8, group_size=64)",
    ]


def test_float32_models_are_cast_first() -> None:
    found = strategies(make_spec(dtype="F32"))
    assert found[:2] == ["bf16", "bf16 > rtn(bits=8, group_size=32)"]
    assert all(strategy.startswith("bf16") for strategy in found)
    assert not any("bf16" in strategy for strategy in strategies(make_spec()))


def test_without_a_cast_float32_models_are_quantized_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "BUILTIN", {"rtn": f"{__name__}:Rtn"})
    assert strategies(make_spec(dtype="F32"))[0] == "rtn(bits=8, group_size=32)"


def test_what_its_method_refuses_is_not_recommended() -> None:
    found = strategies(make_spec(width=128))
    assert "int8" not in found
    assert "rtn(bits=8, group_size=64)" in found


def test_what_ruins_models_is_not_recommended() -> None:
    lossy = {row.strategy for row in known() if row.quality > WORTH}
    assert {"l2_structured(ratio=0.2)", "rtn(bits=4)", "gptq(bits=3)"} <= lossy
    assert not any("l2_structured" in s or "bits=3" in s for s in strategies(make_spec(width=128)))
    assert not any(s.startswith("rtn(bits=4") for s in strategies(make_spec(width=128)))


def test_pipelines_that_divide_are_recommended(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Known(
        model="m", strategy="l2_structured(ratio=0.2) > gptq(bits=4)", quality=1.05, kl=0.05
    )
    monkeypatch.setattr(advice, "known", lambda: (row,))
    pipeline = "l2_structured(ratio=0.2) > gptq(bits=4, group_size=-1)"
    assert strategies(make_spec(width=80)) == [pipeline]
    # pruned to 96, groups of 64 do not divide any more
    assert strategies(make_spec(width=128)) == []


def test_the_median_over_models_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    def rows(*qualities: float) -> tuple[Known, ...]:
        return tuple(
            Known(model=f"m{i}", strategy="rtn(bits=4)", quality=q, kl=0.1)
            for i, q in enumerate(qualities)
        )

    monkeypatch.setattr(advice, "known", lambda: rows(1.04, 1.1, 9.0))
    (only,) = recommend(make_spec(), MACHINE)
    assert "perplexity +10.0 % on m0, m1, m2" in only.reason
    monkeypatch.setattr(advice, "known", lambda: rows(1.04, 1.3, 9.0))
    assert recommend(make_spec(), MACHINE) == []


def test_what_the_registry_does_not_know_is_not_recommended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "BUILTIN", {"rtn": f"{__name__}:Rtn"})
    found = strategies(make_spec())
    assert found == ["rtn(bits=8, group_size=32)"]


def test_what_does_not_fit_into_memory_is_not_recommended() -> None:
    tight = MACHINE.model_copy(update={"available_bytes": 1000})
    assert not any("gptq" in strategy for strategy in strategies(make_spec(), tight))
    assert "rtn(bits=8, group_size=32)" in strategies(make_spec(), tight)


def test_reasons_state_the_predicted_size() -> None:
    spec = make_spec(width=128, copies=4)
    first = recommend(spec, MACHINE)[0]
    assert first.predicted_bytes == 2 * 10 * 64 + 4 * 64 * 128
    assert first.reason.startswith("predicted 34.0 kB, 2.0x smaller; ")
    assert "groups of 64 divide every layer" in first.reason


def test_quantized_models_get_no_recommendation() -> None:
    assert strategies(make_spec().model_copy(update={"quantization": "gptq"})) == []
