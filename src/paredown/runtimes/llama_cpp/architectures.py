"""Which families llama.cpp computes as transformers does, and the numbers that its files need.

Every number of the config that decides what a model computes is either written or, where llama.cpp
has no place for it, refused. No torch.

Source: src/models/*.cpp of llama.cpp (what is loaded and which keys are read), gguf-py's constants
(names of the keys).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from paredown.errors import ConfigError
from paredown.spec.heads import find_attentions
from paredown.spec.model import ModelSpec

Number = int | float | bool | str | list[Any]
"""A value of the file's header; the Python type decides that of the file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """How a family is held."""

    name: str
    """Of llama.cpp (`general.architecture`), and the beginning of its keys."""
    activation: tuple[str, ...] = ("silu",)
    """Values of the config that its graph computes."""
    interleaves: bool = False
    """Rotates neighbouring features, not halves: rows of q and k change places."""
    norm_shift: float = 0.0
    """Added to the weights of norms, which transformers adds while it computes."""
    square: bool = False
    """Heads times their size must be the hidden size."""
    ties: bool = False
    """Has no output head of its own."""
    window: str = "none"
    """Sliding window: `none` is computed, `pattern` is computed in every so many-th block."""


_LLAMA = Architecture(name="llama", interleaves=True)
ARCHITECTURES: dict[str, Architecture] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "mixtral": _LLAMA,
    "qwen2": Architecture(name="qwen2", square=True),
    "qwen3": Architecture(name="qwen3"),
    "qwen2_moe": Architecture(name="qwen2moe", square=True),
    "qwen3_moe": Architecture(name="qwen3moe"),
    "gemma": Architecture(
        name="gemma", activation=("gelu_pytorch_tanh", "gelu"), norm_shift=1.0, ties=True
    ),
    "gemma2": Architecture(
        name="gemma2",
        activation=("gelu_pytorch_tanh",),
        norm_shift=1.0,
        ties=True,
        window="pattern",
    ),
    "gemma3_text": Architecture(
        name="gemma3", activation=("gelu_pytorch_tanh",), norm_shift=1.0, window="pattern"
    ),
    "phi3": Architecture(name="phi3", square=True),
    "gpt2": Architecture(name="gpt2", activation=("gelu_new",), square=True),
}
"""`model_type` of the config -> how it is held."""
_WIDE_QUERIES = {"gemma2": (46,), "gemma3": (62,)}
"""Blocks of the models whose queries llama.cpp scales by hidden size / heads instead."""


def why_not_held(spec: ModelSpec) -> tuple[str, str] | None:
    """What of a model's shape llama.cpp cannot load, and what would do; None if it can."""
    if spec.model_type not in ARCHITECTURES:
        return f"the family {spec.model_type} is not written as GGUF here", ""
    if spec.vision is not None:
        return "a model that sees images is not written as GGUF here", ""
    if spec.uneven_mlps:
        return (
            "MLPs of unequal width, which it does not build",
            'use scope = "layer", or equal_widths = true',
        )
    if spec.adapter:
        return (
            "the adapter beside the packed weights is not written into the file",
            "tune before the quantization, so that the adapter is merged",
        )
    architecture = ARCHITECTURES[spec.model_type]
    queries = _query_width(spec)
    if architecture.square and queries is not None and queries != spec.hidden_size:
        return (
            f"{spec.model_type}: it wants heads that make up the hidden size, and these make "
            f"{queries} of {spec.hidden_size}",
            "leave the heads as they are",
        )
    return None


def _query_width(spec: ModelSpec) -> int | None:
    """Features of all query heads together, as they are stored."""
    for attention in find_attentions(spec):
        return spec.by_name[f"{attention.q}.weight"].shape[0]
    return None if not spec.heads or not spec.head_dim else spec.heads * spec.head_dim


def numbers(config: Any, architecture: Architecture) -> dict[str, Number]:
    """The header's numbers of a model, by key.

    Args:
        config: of the text model, as transformers reads it: defaults filled in.

    Raises:
        ConfigError: something that llama.cpp computes otherwise.
    """
    if architecture.name == "gpt2":
        found = _gpt2(config)
    else:
        found = {**_common(config), **_rope(config, architecture), **_window(config, architecture)}
        found |= _experts(config)
    _check_activation(config, architecture)
    return {f"{architecture.name}.{key}": value for key, value in found.items()}


def _gpt2(config: Any) -> dict[str, Number]:
    if config.scale_attn_by_inverse_layer_idx or not config.scale_attn_weights:
        raise ConfigError("llama.cpp scales the attention of GPT-2 in the usual way only")
    return {
        "context_length": config.n_positions,
        "embedding_length": config.n_embd,
        "block_count": config.n_layer,
        "feed_forward_length": config.n_inner or 4 * config.n_embd,
        "attention.head_count": config.n_head,
        "attention.layer_norm_epsilon": float(config.layer_norm_epsilon),
    }


def _common(config: Any) -> dict[str, Number]:
    head_dim = _head_dim(config)
    return {
        "vocab_size": config.vocab_size,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
    }


def _head_dim(config: Any) -> int:
    told = getattr(config, "head_dim", None)
    return int(told or config.hidden_size // config.num_attention_heads)


# --- Positions ------------------------------------------------------------------------------------


def rope_parameters(config: Any) -> dict[str, Any]:
    """Of the blocks that see the whole context."""
    told = config.rope_parameters
    return dict(told.get("full_attention", told))


def _rope(config: Any, architecture: Architecture) -> dict[str, Number]:
    rope = rope_parameters(config)
    rotated = int(_head_dim(config) * rope.get("partial_rotary_factor", 1.0))
    found: dict[str, Number] = {
        "rope.dimension_count": rotated,
        "rope.freq_base": float(rope["rope_theta"]),
        **_rope_scaling(rope, config, architecture),
    }
    local = config.rope_parameters.get("sliding_attention")
    if local is not None:
        if local.get("rope_type", "default") != "default":
            raise ConfigError(
                "llama.cpp does not scale positions in blocks with a sliding window, "
                f"and the config says {local['rope_type']!r}"
            )
        found["rope.freq_base_swa"] = float(local["rope_theta"])
    return found


def _rope_scaling(
    rope: dict[str, Any], config: Any, architecture: Architecture
) -> dict[str, Number]:
    kind = rope.get("rope_type", "default")
    match kind:
        case "default" | "llama3":  # the latter is a tensor of factors (`rope_factors`)
            return {}
        case "linear":
            return {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}
        case "yarn":
            _check_yarn(rope)
            return {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": float(rope["factor"]),
                "rope.scaling.original_context_length": _original_context(rope, config),
                **{
                    f"rope.scaling.yarn_{key}": float(rope[key])
                    for key in ("beta_fast", "beta_slow")
                    if rope.get(key) is not None
                },
            }
        case "longrope" if architecture.name == "phi3":
            original = _original_context(rope, config)
            return {
                "rope.scaling.original_context_length": original,
                "rope.scaling.attn_factor": _longrope_attention(rope, config, original),
            }
        case _:
            raise ConfigError(
                f"positions scaled by {kind!r} are not among those that llama.cpp computes alike "
                "(default, linear, llama3, yarn, longrope of Phi-3)"
            )


def _original_context(rope: dict[str, Any], config: Any) -> int:
    told = rope.get("original_max_position_embeddings")
    told = told or getattr(config, "original_max_position_embeddings", None)
    return int(told or config.max_position_embeddings)


def _check_yarn(rope: dict[str, Any]) -> None:
    """llama.cpp scales attention by 0.1 ln(factor) + 1, whatever else a config may say."""
    usual = 0.1 * math.log(rope["factor"]) + 1.0
    told = rope.get("attention_factor")
    other = [key for key in ("mscale", "mscale_all_dim") if rope.get(key) is not None]
    if (told is not None and abs(told - usual) > 1e-6) or other:
        raise ConfigError("llama.cpp computes YaRN with its usual attention factor only")


def _longrope_attention(rope: dict[str, Any], config: Any, original: int) -> float:
    """arXiv:2402.13753, section 3: what lengthened contexts multiply attention by."""
    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    factor = config.max_position_embeddings / original
    return 1.0 if factor <= 1.0 else math.sqrt(1.0 + math.log(factor) / math.log(original))


def rope_factors(config: Any, architecture: Architecture) -> dict[str, list[float]]:
    """Tensors of divisors of the frequencies, by their name in the file; most models have none.

    Source: transformers' `_compute_llama3_parameters`; Phi-3's config has its own.
    """
    if architecture.name == "gpt2":
        return {}
    rope = rope_parameters(config)
    kind = rope.get("rope_type", "default")
    if kind == "longrope":
        return {
            "rope_factors_long.weight": [float(x) for x in rope["long_factor"]],
            "rope_factors_short.weight": [float(x) for x in rope["short_factor"]],
        }
    if kind != "llama3":
        return {}
    width = int(_head_dim(config) * rope.get("partial_rotary_factor", 1.0))
    return {"rope_freqs.weight": list(_llama3(rope, width))}


def _llama3(rope: dict[str, Any], width: int) -> Iterable[float]:
    factor, original = rope["factor"], rope["original_max_position_embeddings"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    for i in range(0, width, 2):
        turn = 2 * math.pi * rope["rope_theta"] ** (i / width)  # tokens of a whole turn
        if turn < original / high:
            yield 1.0
        elif turn > original / low:
            yield float(factor)
        else:
            smooth = (original / turn - low) / (high - low)
            yield 1.0 / ((1.0 - smooth) / factor + smooth)


# --- Windows, heads' scale, soft caps -------------------------------------------------------------


def _window(config: Any, architecture: Architecture) -> dict[str, Number]:
    """Sliding windows and what Gemma 2 and 3 have besides."""
    if architecture.window == "none":
        width = _used_window(config)
        if width is None or width >= config.max_position_embeddings:
            return {}
        # It would see the whole context: as long as that fits into the window, it is the same.
        return {"context_length": width}
    wide = config.num_hidden_layers in _WIDE_QUERIES.get(architecture.name, ())
    scaled = config.hidden_size // config.num_attention_heads if wide else _head_dim(config)
    if config.query_pre_attn_scalar != scaled:
        raise ConfigError(
            f"query_pre_attn_scalar is {config.query_pre_attn_scalar}, and llama.cpp scales the "
            f"queries of such a model by {scaled}"
        )
    found: dict[str, Number] = {
        "attention.sliding_window": config.sliding_window,
        "attention.sliding_window_pattern": _period(config),
    }
    caps = {
        "attn_logit_softcapping": getattr(config, "attn_logit_softcapping", None),
        "final_logit_softcapping": getattr(config, "final_logit_softcapping", None),
    }
    if architecture.name == "gemma2" and None in caps.values():
        raise ConfigError("llama.cpp caps the logits of every Gemma 2, and this config has no cap")
    if architecture.name == "gemma3" and caps["attn_logit_softcapping"] is not None:
        raise ConfigError("llama.cpp knows no soft cap in the attention of a Gemma 3")
    return found | {key: float(cap) for key, cap in caps.items() if cap is not None}


def _used_window(config: Any) -> int | None:
    width = getattr(config, "sliding_window", None)
    if width is None or not getattr(config, "use_sliding_window", True):
        return None
    return int(width)


def _period(config: Any) -> int:
    """Every so many-th block sees the whole context, the others a window.

    Raises:
        ConfigError: they follow in another order, as they may where blocks were removed.
    """
    sees_all = [kind == "full_attention" for kind in config.layer_types]
    count = len(sees_all)
    for period in range(1, count + 2):
        if sees_all == [(i + 1) % period == 0 for i in range(count)]:
            return period
    raise ConfigError(
        "blocks with a sliding window do not alternate regularly with the others, which llama.cpp "
        "cannot be told; keep whole periods when blocks are removed"
    )


def _experts(config: Any) -> dict[str, Number]:
    names = ("num_local_experts", "num_experts")
    count = next((n for name in names if (n := getattr(config, name, None))), None)
    if count is None:
        return {}
    _check_experts(config)
    found: dict[str, Number] = {
        "expert_count": count,
        "expert_used_count": config.num_experts_per_tok,
    }
    for key, name in (
        ("expert_feed_forward_length", "moe_intermediate_size"),
        ("expert_shared_feed_forward_length", "shared_expert_intermediate_size"),
    ):
        if (width := getattr(config, name, None)) is not None:
            found[key] = width
    return found


_NORMALIZED = {"qwen2_moe": False, "qwen3_moe": True}
"""Whether llama.cpp makes the weights of the chosen experts add up to 1."""


def _check_experts(config: Any) -> None:
    wanted = _NORMALIZED.get(config.model_type)
    if wanted is not None and config.norm_topk_prob is not wanted:
        raise ConfigError(f"llama.cpp computes {config.model_type} with norm_topk_prob = {wanted}")
    if getattr(config, "decoder_sparse_step", 1) != 1 or getattr(config, "mlp_only_layers", None):
        raise ConfigError(f"llama.cpp knows no {config.model_type} with blocks without experts")
    if config.model_type == "qwen2_moe" and config.tie_word_embeddings:
        raise ConfigError("llama.cpp wants an output head of a qwen2_moe, and this one is tied")


def _check_activation(config: Any, architecture: Architecture) -> None:
    names = ("hidden_activation", "hidden_act", "activation_function")
    told = next((a for name in names if (a := getattr(config, name, None))), None)
    if told not in architecture.activation:
        raise ConfigError(
            f"the activation {told!r} is not what llama.cpp computes of {config.model_type} "
            f"({' or '.join(architecture.activation)})"
        )
