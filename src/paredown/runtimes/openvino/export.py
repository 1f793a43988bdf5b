"""An artifact, or a base model, as a model of OpenVINO with its own numbers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openvino as ov

from paredown.artifact.checkpoint import Checkpoint
from paredown.artifact.compressed_tensors import read_schemes
from paredown.blocks.skeleton import read_config
from paredown.errors import ConfigError
from paredown.runtimes.openvino.check import require_right
from paredown.runtimes.openvino.model import Decoder, Shape
from paredown.runtimes.openvino.proof import require_equal
from paredown.runtimes.openvino.runtime import FILE, HEADS_NORMALIZED, SETTINGS
from paredown.runtimes.openvino.weights import Constants
from paredown.runtimes.torch.generation import end_tokens, read_generation
from paredown.spec.scheme import Scheme
from paredown.store.atomic import write_json
from paredown.text.windows import load_tokenizer

_ROPES = ("default", "linear", "llama3", "yarn")
"""Kinds of rotary positions whose frequencies do not depend on the length of a text."""
_ACTIVATIONS = ("silu", "swish")


def write_openvino(artifact: Path, out: Path) -> tuple[str, ...]:
    """Write `artifact` into the folder `out`, and see that it is computed rightly.

    Returns:
        Notes: what a user should know of the files.

    Raises:
        ConfigError: something that is not drawn as the model computes it.
        VerificationError: numbers or products that are not the artifact's.
    """
    checkpoint, config = Checkpoint(artifact), read_config(artifact)
    schemes = read_schemes(checkpoint)
    frequencies, scaling = _positions(config)
    shape = _shape(config)
    tried = require_right(checkpoint, schemes, schemes)
    constants = Constants(checkpoint, schemes)
    model = Decoder(shape, frequencies, scaling, constants.weights()).model()
    ov.save_model(model, out / FILE, compress_to_fp16=False)
    del model, constants
    require_equal(out / FILE, checkpoint, schemes)
    _write_settings(artifact, out, config)
    return _notes(schemes, tried)


def _notes(schemes: dict[str, Scheme], tried: int) -> tuple[str, ...]:
    if not schemes:
        return ()
    return (
        f"{tried} kinds of packed products were computed beside numpy; opened with "
        "DYNAMIC_QUANTIZATION_GROUP_SIZE=0, as inputs are rounded to 8 bits otherwise",
    )


def _shape(config: Any) -> Shape:
    if config.hidden_act not in _ACTIVATIONS:
        raise ConfigError(f"openvino: MLPs with {config.hidden_act!r} are not drawn here")
    heads = config.num_attention_heads
    window = getattr(config, "sliding_window", None) or config.max_position_embeddings
    is_used = getattr(config, "use_sliding_window", True)
    if is_used and window < config.max_position_embeddings:
        raise ConfigError(f"openvino: attention in windows of {window} tokens is not drawn here")
    return Shape(
        layers=config.num_hidden_layers,
        heads=heads,
        kv_heads=config.num_key_value_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        epsilon=config.rms_norm_eps,
        normalizes_heads=config.model_type in HEADS_NORMALIZED,
    )


def _positions(config: Any) -> tuple[Any, float]:
    """(head_dim / 2,) inverse frequencies and the scaling, as transformers works them out."""
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    kind = (config.rope_parameters or {}).get("rope_type", "default")
    if kind not in _ROPES:
        raise ConfigError(f"openvino: rotary positions of the kind {kind!r} are not drawn here")
    # The families that are held share it.
    rotary = LlamaRotaryEmbedding(config)
    return rotary.inv_freq.float().numpy(), float(rotary.attention_scaling)


def _write_settings(artifact: Path, out: Path, config: Any) -> None:
    tokenizer = load_tokenizer(artifact)
    tokenizer.save_pretrained(out)
    config.save_pretrained(out)
    read = SimpleNamespace(config=config, generation_config=read_generation(artifact))
    write_json(
        out / SETTINGS,
        {
            "vocabulary": config.vocab_size,
            "context": config.max_position_embeddings,
            "ends": [t for t in end_tokens(read, tokenizer) if t < config.vocab_size],
        },
    )
