"""Model specs, inferred from a raw config and tensor headers; no weights, torch or transformers.

Each fact is taken from the first that gives it: the config, the shapes of the stored tensors,
the default of the family. What none of them gives is named in `ModelSpec.unknown`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paredown.spec.cache_facts import read_cache_facts
from paredown.spec.complete import require_complete, require_one_head
from paredown.spec.decoder import require_decoder
from paredown.spec.experts import unfused
from paredown.spec.facts import EXPERT, HEAD, Reading, language_type
from paredown.spec.headers import read_config, read_headers
from paredown.spec.model import ModelSpec, TensorInfo
from paredown.spec.packed import (
    SUPERBLOCK_STRATEGY,
    adapter_tensors,
    is_targeted,
    packed_shapes,
    stored_options,
)
from paredown.spec.remote import remote_headers
from paredown.spec.shapes import require_shapes
from paredown.spec.superblocks import SUPER_LAYOUTS, SUPERBLOCK
from paredown.spec.widths import FIELD

_EMBEDDING = re.compile(r"(^|\.)(embed_tokens|wte|embed_in|word_embeddings)\.weight$")
_BUFFER = re.compile(
    r"rotary_emb\.(inv_freq|cos_cached|sin_cached)$|\.masked_bias$|(^|\.)position_ids$"
    # Ernie 4.5 keeps the same correction as a parameter, in `moe_statics`.
    r"|(?<!\.moe_statics)\.e_score_correction_bias$|\.(diagonal|key|query)_decay$|\.slope_rate$|\.layer_scalar$"
    r"|\.act_fn\.(beta|eps)$"
)
_CAUSAL_MASK = re.compile(r"\.(attn|attention)\.bias$")  # GPT-2's (1, 1, context, context)
_PACKED = re.compile(r"\.(qweight|weight_packed)$|_blocks$")
_AUXILIARY = re.compile(
    r"\.(SCB|weight_format|scales|qzeros|g_idx)$|_scales$"
    r"|[._](weight_scale(_inv)?|weight_bitmask|weight_zero_point|weight_shape|weight_g_idx|weight_global_scale)$"
    r"|\.(input|output|k|v|q)_(scale|zero_point|global_scale)$"
    r"|\.weight\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\..+)$"
)
"""What a quantized checkpoint stores beside its codes."""


def infer_spec(folder: Path, *, name: str | None = None) -> ModelSpec:
    """The spec of a local model folder.

    Args:
        folder: holds `config.json` and safetensors files.
        name: how people call the model; the folder's name if None.

    Raises:
        ModelError: no model folder, no decoder, pickle weights, files missing or damaged, tensors
            missing or misnamed, shapes that contradict the config, or two different output heads.
    """
    config = read_config(folder)
    called = name or folder.resolve().name
    require_decoder(config, called)
    spec = spec_from(config, read_headers(folder), name=called, path=folder)
    require_complete(spec)
    require_shapes(spec)
    require_one_head(folder, spec)
    if spec.quantization is None:
        return spec
    return spec.model_copy(
        update={
            "adapter": adapter_tensors(folder),
            "packed_shapes": packed_shapes(folder),
            "options": stored_options(spec, config),
        }
    )


def infer_remote(repo_id: str) -> ModelSpec:
    """The spec of a model on the hub; only its config and headers are read.

    Raises:
        ModelError: offline, no such model, gated, or without safetensors.
    """
    config, tensors = remote_headers(repo_id)
    require_decoder(config, repo_id)
    spec = spec_from(config, tensors, name=repo_id, path=None)
    require_complete(spec)
    require_shapes(spec)
    return spec


def spec_from(
    config: Mapping[str, Any],
    tensors: Iterable[TensorInfo],
    *,
    name: str,
    path: Path | None = None,
) -> ModelSpec:
    """The spec of a model from its raw config and its stored tensors.

    Raises:
        ModelError: the config has no `model_type`, or blocks that it tells of are not stored.
    """
    one_by_one = unfused(language_type(config), tensors)
    stored = tuple(sorted(one_by_one, key=lambda tensor: tensor.name))
    reading = Reading.of(config, stored, name)
    facts = reading.facts()
    tied = reading.is_tied()
    quantization = _Quantization.of(reading)
    counts = _count(stored, tied=tied, quantization=quantization)
    parameters = sum(counts.values())
    experts, per_token = facts.pop("experts"), facts.pop("experts_per_token")
    expert_share = sum(n for tensor, n in counts.items() if EXPERT.search(tensor))
    active: int | None = parameters
    if expert_share:
        active = parameters - expert_share
        active += expert_share * per_token // experts if experts and per_token else expert_share
    else:
        experts = per_token = None
    groups, groups_per_token = reading.expert_groups() if experts else (1, 1)
    unknown = [field for field, value in facts.items() if value is None]
    if expert_share and per_token is None:
        unknown += ["experts_per_token", "active_parameters"]
    if quantization is not None and quantization.unresolved:
        unknown.append("parameters")
    return ModelSpec(
        name=name,
        path=path,
        architecture=reading.architecture,
        model_type=reading.model_type,
        text_type=reading.text_type,
        family=reading.family.name if reading.family else reading.model_type,
        parameters=parameters,
        active_parameters=active,
        dtype=_main_dtype(stored, counts),
        tied_embeddings=tied,
        experts=experts,
        experts_per_token=per_token,
        expert_groups=groups,
        groups_per_token=groups_per_token,
        vision=reading.vision(counts),
        quantization=None if quantization is None else quantization.method,
        uneven_mlps=FIELD in config,
        unknown=tuple(unknown),
        cache_facts=read_cache_facts(
            reading.text, reading.text_type, facts["layers"], facts["hidden_size"]
        ),
        tensors=stored,
        **facts,
    )


@dataclass
class _Quantization:
    """How a quantized checkpoint packs its weights."""

    method: str
    schemes: list[tuple[list[str], dict[str, Any]]]
    """(targets, what is said of their weights); one that targets all where there are no groups."""
    unresolved: bool = False
    """Set when a packed tensor was met whose logical size the headers do not tell."""

    @classmethod
    def of(cls, reading: Reading) -> _Quantization | None:
        config = reading.text.get("quantization_config")
        if not isinstance(config, dict):
            return None
        groups = config.get("config_groups")
        schemes = [
            (list(group.get("targets") or ["Linear"]), group["weights"])
            for group in (groups.values() if isinstance(groups, dict) else ())
            if isinstance(group, dict) and isinstance(group.get("weights"), dict)
        ] or [(["Linear"], config)]
        method = config.get("quant_method") or config.get("format") or "unknown"
        return cls(method=str(method), schemes=schemes)

    def _scheme(self, layer: str) -> tuple[int | None, int | None]:
        """Bits and group size of a layer, each where all schemes that may apply agree."""
        found = [s for targets, s in self.schemes if any(is_targeted(layer, t) for t in targets)]
        bits = {s.get("num_bits", s.get("bits", s.get("w_bit"))) for s in found}
        return _only_positive(bits), _only_positive({s.get("group_size") for s in found})

    def _superblocks(self, tensor: TensorInfo) -> int | None:
        """Weights that the bytes of two-level grids stand for; None where they are none."""
        layer = tensor.name.removesuffix(".weight_packed")
        found = [s for targets, s in self.schemes if any(is_targeted(layer, t) for t in targets)]
        if layer == tensor.name or {s.get("strategy") for s in found} != {SUPERBLOCK_STRATEGY}:
            return None
        return tensor.numel // SUPER_LAYOUTS[found[0]["num_bits"]].nbytes * SUPERBLOCK

    def logical(self, tensor: TensorInfo, stored: Mapping[str, TensorInfo]) -> int:
        """Weights that a stored tensor stands for."""
        mask = stored.get(f"{tensor.name}_bitmask")
        if mask is not None:  # only the values that are not zero are stored
            return 8 * mask.numel
        if (numel := self._superblocks(tensor)) is not None:
            return numel
        if tensor.dtype == "U8":  # two 4-bit codes per byte: bitsandbytes, NVFP4, MXFP4
            return 2 * tensor.numel
        if not _PACKED.search(tensor.name):
            return tensor.numel
        bits, group_size = self._scheme(tensor.name.rpartition(".")[0])
        scale = stored.get(tensor.name.replace("weight_packed", "weight_scale"))
        if scale is not None and scale.name != tensor.name and group_size:
            return scale.numel * group_size
        order = stored.get(tensor.name.replace("qweight", "g_idx"))
        if order is not None and order.name != tensor.name:
            return order.numel * tensor.shape[-1]
        if bits is None:
            self.unresolved = True
            return tensor.numel
        return tensor.numel * 32 // bits  # 32-bit words, packed without gaps


def _only_positive(values: set[Any]) -> int | None:
    """The one value of all schemes, if they agree on a positive whole number."""
    value = next(iter(values)) if len(values) == 1 else None
    return value if isinstance(value, int) and value > 0 else None


def _count(
    stored: Sequence[TensorInfo], *, tied: bool, quantization: _Quantization | None
) -> dict[str, int]:
    """Parameters by tensor name; buffers, scales and the second copy of a tied head left out."""
    by_name = {tensor.name: tensor for tensor in stored}
    has_embedding = any(_EMBEDDING.search(name) for name in by_name)
    counts: dict[str, int] = {}
    for tensor in stored:
        if is_buffer(tensor) or (tied and has_embedding and HEAD.search(tensor.name)):
            continue
        if quantization is None:
            counts[tensor.name] = tensor.numel
        elif not _AUXILIARY.search(tensor.name):
            counts[tensor.name] = quantization.logical(tensor, by_name)
    return counts


def is_buffer(tensor: TensorInfo) -> bool:
    """Whether a stored tensor is no weight, but what a model computes: masks, frequencies."""
    is_mask = _CAUSAL_MASK.search(tensor.name) and len(tensor.shape) > 2
    return bool(tensor.dtype in {"BOOL", "I64"} or is_mask or _BUFFER.search(tensor.name))


def _main_dtype(stored: Sequence[TensorInfo], counts: Mapping[str, int]) -> str:
    weight: Counter[str] = Counter()
    for tensor in stored:
        weight[tensor.dtype] += counts.get(tensor.name, 0)
    return weight.most_common(1)[0][0] if weight else "unknown"
