"""Sizes by kind add up to the files; the cache is as large as the config says."""

from __future__ import annotations

from pathlib import Path

import pytest

import paredown
from paredown.evaluate.footprint import bytes_by_kind, measure_cache, measure_size
from paredown.runtimes.torch.load import load
from paredown.runtimes.torch.runtime import Torch
from paredown.runtimes.torch.session import TorchSession
from paredown.spec.headers import tensor_location
from paredown.spec.result import Measurement
from paredown.testing.tiny import tiny_model


def test_sizes_by_kind_add_up(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base", "llama")
    packed = tmp_path / "packed"
    paredown.compress(str(base), "rtn(bits=4, group_size=16)", output=packed, data="pydoc")
    kinds = bytes_by_kind(packed)
    places = tensor_location(packed)
    assert sum(kinds.values()) == sum(place.nbytes for place in places.values())
    assert kinds["scales"] == sum(
        place.nbytes
        for name, place in places.items()
        if name.endswith(("weight_scale", "weight_shape", "weight_zero_point"))
    )
    assert kinds["scales"] > 0
    assert kinds["embeddings"] == bytes_by_kind(base)["embeddings"] > 0
    assert bytes_by_kind(base)["scales"] == 0
    found = {m.name: m.value for m in measure_size(Torch().package(packed), 1, Torch())}
    assert found["size_weights"] == kinds["weights"] < found["size"]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_cache_is_as_large_as_the_config_says(tmp_path: Path, family: str) -> None:
    model = load(tiny_model(tmp_path, family))
    config = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    per_layer = 2 * heads * head * model.dtype.itemsize
    found: list[Measurement] = measure_cache(TorchSession(model))
    assert [m.value for m in found] == [config.num_hidden_layers * per_layer]
