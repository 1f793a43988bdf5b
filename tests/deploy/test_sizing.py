"""Settings of a server from the memory that it may take."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from paredown.deploy.package import ServingSettings
from paredown.deploy.sizing import Wishes, size
from paredown.errors import ConfigError
from paredown.hardware.detect import Machine
from paredown.spec.infer import spec_from
from paredown.spec.model import ModelSpec, tensor_info
from paredown.spec.reference import plain_model
from paredown.spec.sizes import kv_bytes_per_token
from paredown.spec.units import human_bytes

MACHINE = Machine(
    system="s", cpu="c", physical_cores=6, logical_cores=12, memory_bytes=10**10,
    available_bytes=10**10, flags=(),
)  # fmt: skip
NBYTES = 10**9


def spec() -> ModelSpec:
    return plain_model()


def alone() -> float:
    return NBYTES + 4.0 * 512 * (spec().vocabulary or 0) + 200e6


def token() -> int:
    found = kv_bytes_per_token(spec())
    assert found
    return found


def sized(context: int | None = 8192, **wishes: Any) -> ServingSettings:
    return size(spec(), NBYTES, Wishes(**wishes), MACHINE, name="m", context=context)


def test_with_room_it_is_the_usual() -> None:
    memory = int(alone() + 4 * 4096 * token())
    found = sized(memory_bytes=memory)
    assert (found.context, found.slots, found.threads) == (4096, 4, 6)
    assert sized(context=1000, memory_bytes=memory).context == 1000


def test_a_byte_less_costs_a_slot_before_a_token() -> None:
    memory = int(alone() + 4 * 4096 * token())
    found = sized(memory_bytes=memory - 1)
    assert (found.context, found.slots) == (4096, 3)


def test_down_to_two_slots_then_tokens_then_one_slot() -> None:
    assert (lambda f: (f.context, f.slots))(
        sized(memory_bytes=int(alone() + 2 * 2048 * token()))
    ) == (2048, 2)
    assert (lambda f: (f.context, f.slots))(sized(memory_bytes=int(alone() + 512 * token()))) == (
        512,
        1,
    )


def test_what_it_takes_fits_the_memory() -> None:
    for extra in range(10**6, 10**9, 37_000_001):
        memory = int(alone() + extra)
        try:
            found = sized(memory_bytes=memory)
        except ConfigError:
            assert extra < 512 * token()
            continue
        assert alone() + found.slots * found.context * token() <= memory


def test_a_smaller_cache_leaves_room() -> None:
    memory = int(alone() + 4096 * token() * 34 / 64 * 4)
    assert sized(memory_bytes=memory, cache="q8_0").slots == 4
    assert sized(memory_bytes=memory).slots < 4


def test_wishes_are_kept_or_refused() -> None:
    found = sized(context=None, slots=7, threads=3, port=9)
    assert (found.slots, found.threads, found.port) == (7, 3, 9)
    with pytest.raises(ConfigError, match="would fit: --context"):
        size(spec(), NBYTES, Wishes(context=4096, slots=8, memory_bytes=int(alone() + 10**6)),
             MACHINE, name="m", context=None)  # fmt: skip
    with pytest.raises(ConfigError, match="the model alone needs"):
        sized(memory_bytes=NBYTES)


@pytest.mark.parametrize(
    ("wish", "words"),
    [({"cache": "q9"}, "--cache 'q9'"), ({"slots": 0}, "--slots 0"), ({"port": 0}, "--port 0"),
     ({"threads": -1}, "--threads -1"), ({"context": 9000}, "takes 8192 tokens")],
)  # fmt: skip
def test_wishes_out_of_range(wish: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        size(spec(), NBYTES, replace(Wishes(), **wish), MACHINE, name="m", context=8192)


def test_a_sliding_layer_takes_its_window_where_the_engine_keeps_no_more() -> None:
    """Four layers of windows and two that keep all: 2 x 2 heads x 16 numbers x 2 bytes a token."""
    kinds = ("sliding", "sliding", "full") * 2
    text = {"layer_types": [f"{kind}_attention" for kind in kinds], "sliding_window": 512}
    shape = {
        "model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "hidden_size": 64,
        "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "intermediate_size": 128, "vocab_size": 100, "max_position_embeddings": 8192, **text,
    }  # fmt: skip
    tensors = [
        tensor_info(f"model.layers.{i}.self_attn.{n}_proj.weight", "BF16", (rows, 64))
        for i in range(6) for n, rows in (("q", 64), ("k", 32), ("v", 32))
    ]  # fmt: skip
    found = spec_from(shape, tensors, name="windows")
    token = 2 * 2 * 16 * 2

    slots = 2 * token * (4 * 512 + 2 * 4096)
    whole = size(found, NBYTES, Wishes(context=4096, slots=2), MACHINE, name="m", context=8192,
                 runtime="onnxruntime")  # fmt: skip
    assert f"2 slots x {human_bytes(token * 6 * 4096)} (4096 tokens)" in whole.derived[1]
    windows = size(found, NBYTES, Wishes(context=4096, slots=2), MACHINE, name="m", context=8192)
    assert f"2 slots x {human_bytes(slots / 2)} (4096 tokens)" in windows.derived[1]
