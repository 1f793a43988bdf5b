"""Widths in configs, and models narrowed before they are filled."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from paredown.artifact.widths import narrow, set_widths
from paredown.blocks.skeleton import empty_model
from paredown.errors import ModelError
from paredown.testing.tiny import MLP_WIDTH, tiny_config


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"model_type": "llama", "intermediate_size": 9}, "intermediate_size"),
        ({"model_type": "opt", "ffn_dim": 9}, "ffn_dim"),
        ({"model_type": "gpt2", "n_inner": None}, "n_inner"),
        ({"model_type": "gpt2"}, "n_inner"),
    ],
)
def test_width_goes_under_the_configs_own_name(config: dict[str, Any], field: str) -> None:
    set_widths(config, [5, 5])
    assert config[field] == 5
    assert "mlp_widths" not in config


def test_unequal_widths_stand_beside_the_widest() -> None:
    config: dict[str, Any] = {"intermediate_size": 9}
    set_widths(config, [3, 7])
    assert config == {"intermediate_size": 7, "mlp_widths": [3, 7]}
    set_widths(config, [3, 3])
    assert config == {"intermediate_size": 3}


def test_width_of_a_language_model_beside_a_vision_tower() -> None:
    inner = {"intermediate_size": 9}
    config: dict[str, Any] = {"text_config": inner, "vision_config": {"intermediate_size": 4}}
    set_widths(config, [3, 7])
    assert config["text_config"] == {"intermediate_size": 7}
    assert config["vision_config"] == {"intermediate_size": 4}
    assert config["mlp_widths"] == [3, 7]
    assert inner == {"intermediate_size": 9}  # the source's own is left alone


@pytest.mark.parametrize("family", ["llama", "phi3", "gpt2", "opt"])
def test_every_mlp_gets_its_own_width(family: str) -> None:
    model = empty_model(tiny_config(family), torch.float32)
    full = {n: p.shape for n, p in model.named_parameters()}
    narrow(model, [64, 96])
    changed = {n: p.shape for n, p in model.named_parameters() if p.shape != full[n]}
    assert changed
    for name, shape in changed.items():
        wanted = 64 if ".0." in name else 96
        assert wanted in shape or 2 * wanted in shape  # gate and up fused
    assert {n.partition(".0.")[2] for n in changed if ".0." in n} == {
        n.partition(".1.")[2] for n in changed if ".1." in n
    }


@pytest.mark.parametrize("widths", [[64], [64, 64, 64], [64, MLP_WIDTH + 32]])
def test_a_list_that_does_not_fit_is_refused(widths: list[int]) -> None:
    model = empty_model(tiny_config("llama"), torch.float32)
    with pytest.raises(ModelError, match=rf"mlp_widths.*2 MLPs of at most {MLP_WIDTH}"):
        narrow(model, widths)
