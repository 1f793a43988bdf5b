"""Model specs to show by example what methods make: no model of the user is at hand. No torch."""

from __future__ import annotations

from functools import cache

from paredown.spec.infer import spec_from
from paredown.spec.model import ModelSpec, TensorInfo, tensor_info

_HIDDEN, _MLP, _BLOCKS, _VOCABULARY = 256, 1024, 2, 512
_LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": _HIDDEN,
    "intermediate_size": _MLP, "num_hidden_layers": _BLOCKS, "num_attention_heads": 4,
    "num_key_value_heads": 4, "vocab_size": _VOCABULARY, "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}  # fmt: skip


@cache
def plain_model() -> ModelSpec:
    """A Llama of two blocks, in bfloat16: what most models look like to a method."""
    return spec_from(_LLAMA, _language(""), name="a Llama")


@cache
def seeing_model() -> ModelSpec:
    """A LLaVA with the same language model, and a vision tower of one block."""
    tower = "model.vision_tower.vision_model.encoder.layers.0"
    config = {
        "model_type": "llava",
        "architectures": ["LlavaForConditionalGeneration"],
        "text_config": _LLAMA,
        "vision_config": {"model_type": "clip_vision_model", "intermediate_size": _MLP},
        "tie_word_embeddings": False,
    }
    seen = (
        _matrix(f"{tower}.mlp.fc1", _MLP, _HIDDEN),
        _matrix(f"{tower}.mlp.fc2", _HIDDEN, _MLP),
    )
    return spec_from(config, (*_language("language_model."), *seen), name="a LLaVA")


def _language(inside: str) -> tuple[TensorInfo, ...]:
    stem = f"model.{inside}" if inside else "model."
    tensors = [
        _matrix(f"{stem}embed_tokens", _VOCABULARY, _HIDDEN),
        _matrix("lm_head", _VOCABULARY, _HIDDEN),
    ]
    for i in range(_BLOCKS):
        block = f"{stem}layers.{i}"
        tensors += [
            *(_matrix(f"{block}.self_attn.{n}_proj", _HIDDEN, _HIDDEN) for n in "qkvo"),
            *(_matrix(f"{block}.mlp.{n}_proj", _MLP, _HIDDEN) for n in ("gate", "up")),
            _matrix(f"{block}.mlp.down_proj", _HIDDEN, _MLP),
            *(
                tensor_info(f"{block}.{n}_layernorm.weight", "BF16", (_HIDDEN,))
                for n in ("input", "post_attention")
            ),
        ]
    return tuple(tensors)


def _matrix(name: str, rows: int, inputs: int) -> TensorInfo:
    return tensor_info(f"{name}.weight", "BF16", (rows, inputs))
