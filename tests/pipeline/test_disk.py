"""Disk is reckoned with before the first trial."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

import paredown
from paredown.blocks.moments import codes_bytes, moments_bytes
from paredown.errors import ConfigError
from paredown.methods import registry
from paredown.pipeline.disk import Need, need_of, require_disk
from paredown.spec.infer import infer_spec
from paredown.spec.model import ModelSpec, TensorInfo
from paredown.store.cache import Cache
from paredown.testing.tiny import tiny_model


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return infer_spec(tiny_model(tmp_path_factory.mktemp("model")))


def needed(text: str, spec: ModelSpec, limit: float = 1e9) -> Need:
    return need_of(registry.canonical(text), spec, Cache(Path("unused"), limit))


def predicted(text: str, spec: ModelSpec) -> int:
    strategy = registry.canonical(text)
    for method, params in registry.resolve(strategy):
        spec = method.predict(spec, params)
    return spec.weight_bytes


def test_a_model_of_seven_billion_weights(spec: ModelSpec) -> None:
    """Qwen2.5-7B by hand: per block one input of 18944 features, and three of 3584."""
    shapes = {
        "self_attn.q_proj": (3584, 3584), "self_attn.k_proj": (512, 3584),
        "self_attn.v_proj": (512, 3584), "self_attn.o_proj": (3584, 3584),
        "mlp.gate_proj": (18944, 3584), "mlp.up_proj": (18944, 3584),
        "mlp.down_proj": (3584, 18944),
    }  # fmt: skip
    tensors = tuple(
        TensorInfo(name=f"model.layers.{i}.{name}.weight", dtype="BF16", shape=shape)
        for i in range(28)
        for name, shape in shapes.items()
    )
    large = spec.model_copy(
        update={
            "model_type": "qwen2",
            "architecture": "Qwen2ForCausalLM",
            "tensors": tensors,
            "layers": 28,
        }
    )
    narrow, wide = 3584 * 3585 // 2, 18944 * 18945 // 2
    assert moments_bytes(large) == 28 * 4 * (3 * narrow + wide)
    assert 22.2e9 < moments_bytes(large) < 22.3e9


def test_one_step_needs_its_result_and_what_it_measures(spec: ModelSpec) -> None:
    small = needed("rtn(group_size=32)", spec)
    assert small == Need(output=predicted("rtn(group_size=32)", spec), cache=0)
    solver = needed("gptq(group_size=32)", spec)
    assert solver.cache == moments_bytes(spec) + codes_bytes(spec)
    assert needed("gptq(group_size=32)", spec, limit=100.0).cache == 0  # computed, and dropped
    scores = needed("afr(ratio=0.5)", spec)
    assert scores.output == predicted("afr(ratio=0.5)", spec) + 2 * 4 * codes_bytes(spec)


def test_results_of_all_steps_but_the_last_stay(spec: ModelSpec) -> None:
    first = predicted("random_structured(ratio=0.3)", spec)
    both = needed("random_structured(ratio=0.3) > rtn(group_size=32)", spec)
    assert both.cache == first
    assert both.output == first  # larger than the artifact, and made in the same place


def test_a_full_disk_is_told_before_anything_starts(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAREDOWN_HOME", str(tmp_path / "home"))
    strategies = [registry.canonical(t) for t in ("rtn(group_size=32)", "gptq(group_size=32)")]
    solver = needed("gptq(group_size=32)", spec)
    plain = needed("rtn(group_size=32)", spec)
    enough = max(solver.output, plain.output) + solver.cache
    for free, at_once, fits in (
        (enough, 1, True), (enough - 1, 1, False), (enough + solver.output, 2, True),
        (enough + solver.output - 1, 2, False),
    ):  # fmt: skip
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        if fits:
            require_disk(strategies, spec, tmp_path / "out", at_once=at_once)
            continue
        with pytest.raises(ConfigError, match=r"for artifacts while they are made and .* cache"):
            require_disk(strategies, spec, tmp_path / "out", at_once=at_once)


def test_compress_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(tmp_path / "model")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(ConfigError, match=r"has 1\.0 kB left, and a trial needs"):
        paredown.compress(str(model), "rtn(group_size=32)", tmp_path / "out")
    assert not (tmp_path / "out").exists()
