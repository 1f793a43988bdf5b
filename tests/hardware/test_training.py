"""Memory of training: bytes per weight as published, and activations as autograd keeps them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from paredown.hardware.training import (
    Training,
    layer_activation_bytes,
    tokens_per_s,
    trained_parameters,
    training_memory,
)
from paredown.spec.infer import infer_spec
from paredown.spec.sizing import Mode
from paredown.testing.tiny import tiny_model
from tests.hardware.models import llama_3_1b, llama_3_8b

FULL = Training(mode="full", batch=1, length=2048)
LORA = Training(mode="lora", batch=1, length=2048)
QLORA = Training(mode="qlora", batch=1, length=2048)


def states(training: Training) -> float:
    memory = training_memory(llama_3_8b(), training)
    return memory.weights.value + memory.gradients.value + memory.optimizer.value


@pytest.mark.parametrize(
    ("optimizer", "each"), [("adamw", 16), ("adamw8bit", 10), ("adamw_bf16", 8)]
)
def test_full_training_takes_so_many_bytes_per_weight(optimizer: Any, each: int) -> None:
    training = Training(mode="full", batch=1, length=1, optimizer=optimizer)
    assert states(training) == each * llama_3_8b().parameters


def test_an_adapter_of_rank_16_trains_what_is_published() -> None:
    """On all linears of Llama-3-8B, rank 16 are 41.9M parameters."""
    assert trained_parameters(llama_3_8b(), LORA) == 41_943_040


def test_an_adapter_takes_the_frozen_weights_and_16_bytes_per_trained_one() -> None:
    """Estimators that count frozen weights as trained come to 177 GB for a 7B."""
    assert states(LORA) == 2 * llama_3_8b().parameters + 16 * 41_943_040
    total = training_memory(llama_3_8b(), LORA).total.value
    assert 17e9 < total < 25e9


def test_four_bits_are_less_than_sixteen_also_for_a_small_model() -> None:
    """An estimator has QLoRA above LoRA for a 1B."""
    small, large = (training_memory(llama_3_1b(), t).total.value for t in (QLORA, LORA))
    assert small < large
    # NF4: 4.5 bits of each linear weight; embedding and norms stay.
    linears = 16 * (2 * 2048 * 2048 + 2 * 512 * 2048 + 3 * 8192 * 2048)
    weights = training_memory(llama_3_1b(), QLORA).weights.value
    rest = llama_3_1b().parameters - linears
    assert weights == linears * 4.5 / 8 + 2 * rest + 2 * trained_parameters(llama_3_1b(), QLORA)


def test_logits_of_a_small_model_outweigh_its_states() -> None:
    memory = training_memory(llama_3_1b(), Training(mode="lora", batch=8, length=2048))
    assert memory.logits.value == 8 * 2048 * 128_256 * 10
    assert memory.logits.value > 5 * memory.weights.value


def test_states_are_spread_over_devices_and_sequences_too() -> None:
    training = Training(mode="full", batch=8, length=1024)
    one, eight = (training_memory(llama_3_8b(), training, n) for n in (1, 8))
    assert eight.optimizer.value == one.optimizer.value / 8
    assert eight.logits.value == one.logits.value / 8


def test_speed_is_six_operations_a_weight_and_four_where_it_is_frozen() -> None:
    n = llama_3_8b().parameters
    full = tokens_per_s(llama_3_8b(), FULL, 1e15, 1)
    lora = tokens_per_s(llama_3_8b(), LORA, 1e15, 1)
    assert full is not None
    assert lora is not None
    assert full.value == pytest.approx(0.4e15 / (8 * n))  # 6 and a third for checkpointing
    assert lora.value / full.value == pytest.approx(1.5)
    assert tokens_per_s(llama_3_8b(), FULL, None, 1) is None


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
@pytest.mark.parametrize("mode", ["full", "lora"])
def test_blocks_keep_for_the_way_back_what_is_predicted(
    family: str, mode: Mode, tmp_path: Path
) -> None:
    """Autograd itself is asked for what it keeps; two depths tell one layer's share."""
    training = Training(mode=mode, batch=1, length=64, rank=4)
    kept = []
    for layers in (1, 2):
        sizes: dict[str, Any] = {"n_layer": layers, "n_embd": 128}
        if family != "gpt2":
            sizes = {"num_hidden_layers": layers, "hidden_size": 128, "intermediate_size": 320}
        folder = tiny_model(tmp_path / str(layers), family, tokenizer=False, **sizes)
        kept.append(_kept_bytes(folder, mode))
        spec = infer_spec(folder)
    predicted = layer_activation_bytes(spec, training)
    assert kept[1] - kept[0] == pytest.approx(predicted, rel=0.15)


def _kept_bytes(folder: Path, mode: Mode, tokens: int = 64) -> float:
    """Bytes per token that a forward pass keeps, its parameters left out."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).train()
    if mode == "lora":
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", lora_dropout=0))
        model.enable_input_require_grads()
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    held: list[Tensor] = []  # alive, so that no storage is counted for two

    def pack(tensor: Tensor) -> Tensor:
        held.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(torch.ones(1, tokens, dtype=torch.int64), use_cache=False)
    assert output.logits.requires_grad
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held}
    return sum(n for place, n in storages.items() if place not in own) / tokens
