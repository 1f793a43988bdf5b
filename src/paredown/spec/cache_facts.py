"""What a config says of the things that layers keep of the tokens they have read.

Configs say it in many ways: a list with a word per layer, a rule ("every sixth layer"), or nothing
but the name of the architecture. What no rule here understands is called unknown, never taken for
plain attention.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

LayerKind = Literal["full", "sliding", "state", "both", "none"]
"""Keeps all tokens, those of a window, a state of constant size, tokens and a state, or nothing."""

_WORDS: dict[str, LayerKind] = {
    "full_attention": "full", "attention": "full",
    "sliding_attention": "sliding", "chunked_attention": "sliding",
    "linear_attention": "state", "mamba": "state", "mamba2": "state", "conv": "state",
    "mlp": "none", "moe": "none",
}  # fmt: skip
"""Words of `layer_types` in transformers' configs."""
_LETTERS: dict[str, LayerKind] = {"M": "state", "*": "full", "-": "none", "E": "none"}
"""Letters of `hybrid_override_pattern` (Nemotron-H)."""
_ALL_SLIDING = {"mistral": 4096, "mixtral": None, "phi3": None, "starcoder2": None}
"""Every layer slides where the config has a window -> the window of a config that leaves it out."""
_EVERY = {"gemma2": 2, "gemma3_text": 6, "cohere2": 4}
"""One layer of so many, the last, sees everything; the others slide."""
_ONLY_STATE = frozenset({"mamba", "mamba2", "falcon_mamba"})
_NOT_UNDERSTOOD = frozenset({"rwkv", "xlstm", "zamba", "zamba2", "recurrent_gemma", "reformer"})
"""Architectures that keep something else than keys and values, by rules that nobody wrote here."""


class CacheFacts(BaseModel):
    """What is kept of the tokens read, as far as the config alone says it."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    kinds: tuple[LayerKind, ...] = ()
    """Of every layer; empty: all are plain attention."""
    window: int | None = None
    """Tokens that a sliding layer sees."""
    latent: int | None = None
    """Numbers per token and layer of multi-head latent attention (MLA, arXiv:2405.04434 section
    2.1): one compressed vector and one rotated key for all heads."""
    state: int = 0
    """Numbers per state layer and sequence in the activations' dtype: those of convolutions."""
    state32: int = 0
    """Those that are kept in 32 bits whatever the model's dtype: what recurrences carry on."""
    shared: int = 0
    """Last layers that read what earlier ones keep, and keep nothing."""
    unknown: str = ""
    """Why it cannot be said; empty where it can."""


def read_cache_facts(
    config: Mapping[str, Any], model_type: str, layers: int | None, hidden: int | None
) -> CacheFacts:
    """The facts of a language model's config.

    Args:
        config: of the language part, wrappers taken off.
        model_type: of the language part.
        layers: blocks of the model.
        hidden: width of the model.
    """
    if config.get("is_encoder_decoder") is True:
        return CacheFacts(unknown="an encoder-decoder keeps two kinds of caches")
    if model_type in _NOT_UNDERSTOOD:
        return CacheFacts(unknown=f"what the layers of {model_type} keep is not understood")
    kinds = _kinds(config, model_type, layers)
    if isinstance(kinds, str):
        return CacheFacts(unknown=kinds)
    state = _state(config, model_type, hidden) if {"state", "both"} & set(kinds) else (0, 0)
    if state is None:
        return CacheFacts(unknown=f"the size of the state of {model_type} is not understood")
    window = _number(config, "sliding_window", "attention_chunk_size")
    if window is None and "sliding" in kinds:
        window = _ALL_SLIDING.get(model_type)
    return CacheFacts(
        kinds=kinds if set(kinds) != {"full"} else (),
        window=window,
        latent=_latent(config),
        state=state[0],
        state32=state[1],
        shared=_number(config, "num_kv_shared_layers") or 0,
    )


def _kinds(
    config: Mapping[str, Any], model_type: str, layers: int | None
) -> tuple[LayerKind, ...] | str:
    """The kind of each layer; empty where nothing is said; a reason where it is not understood."""
    for key in ("layer_types", "layers_block_type"):
        words = config.get(key)
        if isinstance(words, list) and words:
            strange = [word for word in words if word not in _WORDS]
            return (
                f"no rule for layers of the type {str(strange[0])[:40]!r}"
                if strange
                else tuple(_WORDS[word] for word in words)
            )
    pattern = config.get("hybrid_override_pattern")
    if isinstance(pattern, str) and set(pattern) <= set(_LETTERS):
        return tuple(_LETTERS[letter] for letter in pattern)
    return () if layers is None else _by_rule(config, model_type, layers)


def _by_rule(config: Mapping[str, Any], model_type: str, layers: int) -> tuple[LayerKind, ...]:
    """The kinds that follow from numbers in the config."""
    places = range(layers)
    full: LayerKind = "full"
    sliding: LayerKind = "sliding"
    state: LayerKind = "state"
    window = _number(config, "sliding_window", "attention_chunk_size")
    every = _number(config, "sliding_window_pattern", "_sliding_window_pattern")
    every = every or _EVERY.get(model_type)
    if model_type in _ONLY_STATE:
        return (state,) * layers
    if model_type == "falcon_h1":
        both: LayerKind = "both"
        return (both,) * layers
    if model_type == "llama4_text":
        every = _number(config, "no_rope_layer_interval") or 4
    if interval := _number(config, "full_attention_interval"):
        return tuple(full if (i + 1) % interval == 0 else state for i in places)
    if model_type in {"qwen3_next", "qwen3_5_text"}:
        return tuple(full if (i + 1) % 4 == 0 else state for i in places)
    if period := _number(config, "attn_layer_period"):
        offset = config.get("attn_layer_offset") or 0
        return tuple(full if i % period == offset else state for i in places)
    if model_type == "bamba":
        attends = config.get("attn_layer_indices") or ()
        return tuple(full if i in attends else state for i in places)
    if every and window and every > 1:
        return tuple(full if (i + 1) % every == 0 else sliding for i in places)
    if model_type in _ALL_SLIDING:
        # Written as null, it is off; left out, it is what the class has.
        told = window or (_ALL_SLIDING[model_type] if "sliding_window" not in config else None)
        return (sliding,) * layers if told else ()
    if config.get("use_sliding_window") is True and window:
        first = config.get("max_window_layers")
        first = first if isinstance(first, int) else 0
        return tuple(full if i < first else sliding for i in places)
    return ()


def _latent(config: Mapping[str, Any]) -> int | None:
    rank, rotated = _number(config, "kv_lora_rank"), _number(config, "qk_rope_head_dim")
    return rank + rotated if rank and rotated else None


def _state(
    config: Mapping[str, Any], model_type: str, hidden: int | None
) -> tuple[int, int] | None:
    """Numbers of one layer's state, in the activations' dtype and in 32 bits."""
    if (length := _number(config, "conv_L_cache")) and hidden:  # LFM2: a short convolution
        return hidden * length, 0
    if config.get("linear_num_value_heads"):
        return _delta_rule(config)
    if model_type == "minimax":
        heads, head_dim = _number(config, "num_attention_heads"), _number(config, "head_dim")
        return (0, heads * head_dim**2) if heads and head_dim else None
    width = _number(config, "mamba_d_state", "ssm_state_size", "state_size")
    kernel = _number(config, "mamba_d_conv", "conv_kernel")
    if not width or not kernel or not hidden:
        return None
    if model_type == "mamba2":
        ssm_heads, ssm_dim = _number(config, "num_heads"), _number(config, "head_dim")
    else:
        ssm_heads = _number(config, "mamba_n_heads", "mamba_num_heads")
        ssm_dim = _number(config, "mamba_d_head", "mamba_head_dim")
    if ssm_heads and ssm_dim:  # Mamba 2, arXiv:2405.21060: heads share B and C within a group
        inner = ssm_heads * ssm_dim
        groups = _number(config, "mamba_n_groups", "n_groups") or 1
        return (inner + 2 * groups * width) * kernel, inner * width
    if model_type in _ONLY_STATE or model_type == "jamba":  # Mamba 1, arXiv:2312.00752
        expand = _number(config, "mamba_expand", "expand") or 2
        told = _number(config, "intermediate_size") if model_type != "jamba" else None
        inner = told or expand * hidden
        return inner * kernel, inner * width
    return None


def _delta_rule(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """Gated delta rule (Qwen3-Next, arXiv:2412.06464): a matrix per value head, in 32 bits."""
    names = ("linear_num_value_heads", "linear_num_key_heads", "linear_key_head_dim",
             "linear_value_head_dim", "linear_conv_kernel_dim")  # fmt: skip
    found = [n for name in names if (n := _number(config, name))]
    if len(found) < len(names):
        return None
    values, keys, key_dim, value_dim, kernel = found
    return (2 * keys * key_dim + values * value_dim) * kernel, values * key_dim * value_dim


def _number(config: Mapping[str, Any], *keys: str) -> int | None:
    """The first of the keys that holds a positive whole number."""
    values = (config.get(key) for key in keys)
    return next(
        (v for v in values if isinstance(v, int) and not isinstance(v, bool) and v > 0), None
    )
