"""What the methods that round weights to integer grids have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import Field, field_validator, model_validator

from paredown.errors import ConfigError, GroupSizeError
from paredown.methods.base import Context, Kind, Method, Params
from paredown.spec.domain import Choice, PlanDomain, Scalar
from paredown.spec.embeddings import copy_of_tied, packable_embeddings
from paredown.spec.families import ASKS_EMBEDDING
from paredown.spec.layers import grid_shapes, superblock_shapes
from paredown.spec.model import ModelSpec, TensorInfo, tensor_info
from paredown.spec.scheme import GridKind, Scheme, needs_own_format
from paredown.spec.structure import fused_experts, matches, matrix_shape, select_linears
from paredown.spec.superblocks import SUPER_LAYOUTS, SUPERBLOCK
from paredown.spec.target import Target

if TYPE_CHECKING:
    from torch import Tensor, nn

    from paredown.artifact.checkpoint import Checkpoint
    from paredown.blocks.hessians import HessianBank
    from paredown.ops.grids import AnyGrid
    from paredown.spec.structure import Block
    from paredown.store.cache import Cache

USUAL_GROUPS = (128, 64, 32)
SHORT_BITS = (4, 5)
"""Widths of grids with short scales: fewer bits fit into the same blocks without, and of more there
is no type."""
KEPT = 16
"""`plan` says 16 bits of a layer that is left as it is."""
_LLAMA_BITS = {4: 4.5, 5: 5.5, 6: 8.5}
"""Of a weight on a symmetric affine grid in llama.cpp's blocks of 32, by the bits of a code."""
LONG_PLAN = 16
"""Schemes of a plan of more entries are not remembered: a search makes thousands of such plans,
each met once."""


def block_linears(spec: ModelSpec) -> tuple[str, ...]:
    """What a plan of integer grids assigns: the linear layers of all blocks, by module name."""
    return spec.structure.linears


class GroupParams(Params):
    """Parameters of an integer grid."""

    bits: Annotated[int, Field(ge=2, le=8), Choice(4, 8, 3, 6, 5)] = 4
    """Width of one code, in bits."""
    group_size: Annotated[int, Field(ge=-1), Choice(64, 32, -1)] = 64
    """Input features sharing one scale; must divide every layer's width. -1: one group a row."""
    symmetric: Annotated[bool, Choice(True, False)] = True
    """Zero-point fixed at 0. Asymmetric grids store a zero-point per group as well."""
    plan: Annotated[
        dict[str, int],
        PlanDomain(values=(2, 3, 4, 5, 6, 8), follows="bits", layers_of=block_linears),
    ] = Field(default_factory=dict)
    """Other bits for some layers, by name or wildcard, as in `{"*.down_proj": 8}`; 16 leaves a
    layer as it is. The last pattern that matches decides."""
    embedding_bits: Annotated[int | None, Field(ge=4, le=8), Choice(None, 8)] = None
    """Bits of embedding and output head too: 8 per row, fewer in groups; `gptq` and `awq` keep
    the logits on calibration text. Only `paredown.load` reads such a model."""
    skip: tuple[str, ...] = ()
    """Layers left as they are: names or wildcards, as in `["*.down_proj"]`."""

    @field_validator("group_size")
    @classmethod
    def _wide_enough(cls, value: int) -> int:
        if value == 0 or -1 < value < 16:
            raise ValueError("use 16 or more, or -1 for whole rows")
        return value

    @field_validator("plan")
    @classmethod
    def _known_bits(cls, value: dict[str, int]) -> dict[str, int]:
        for pattern, bits in value.items():
            if bits != KEPT and not 2 <= bits <= 8:
                raise ValueError(f"{pattern!r}: use 2 to 8 bits, or {KEPT} to leave it as it is")
        return value

    def scheme(self, bits: int) -> Scheme:
        """The grid of a block linear of this width."""
        return Scheme(bits, self.group_size, self.symmetric)

    def embedding_scheme(self, bits: int) -> Scheme:
        """The grid of embedding and head."""
        return Scheme(bits, -1 if bits == 8 else self.group_size, symmetric=True)


class GridParams(GroupParams):
    """Parameters of methods that fit whatever grid there is, and then round on it."""

    grid: Annotated[GridKind, Choice(*GridKind)] = GridKind.AFFINE
    """What scales may be. `affine`: any number. For llama.cpp also `short` (4 or 5 bits
    asymmetric, scales of so few digits that its types Q4_1 and Q5_1 hold them) and `k` (two-level
    scales in super-blocks of 256, its types Q2_K to Q6_K; 2, 4 and 5 bits are asymmetric)."""

    @model_validator(mode="before")
    @classmethod
    def _fixed_by_the_grid(cls, fields: Any) -> Any:
        """Group size and symmetry of two-level grids follow from their bits."""
        if not isinstance(fields, dict) or fields.get("grid") != GridKind.SUPERBLOCK:
            return fields
        bits = fields.get("bits", cls.model_fields["bits"].default)
        if not isinstance(bits, int) or bits not in SUPER_LAYOUTS:
            raise ValueError(f'grid = "k" has 2 to 6 bits, not {bits}')
        fixed = {"group_size": SUPERBLOCK, "symmetric": not SUPER_LAYOUTS[bits].has_minima}
        for name, value in fixed.items():
            if fields.get(name, value) != value:
                raise ValueError(f'grid = "k" in {bits} bits has {name} = {value}; leave it out')
        return fixed | fields

    @model_validator(mode="after")
    def _has_such_a_grid(self) -> GridParams:
        """Raise where a width of the plan has no such grid."""
        widths = {self.bits, *self.plan.values()} - {KEPT}
        if self.grid is GridKind.SHORT and (self.symmetric or not widths <= {*SHORT_BITS}):
            raise ValueError('grid = "short" is for 4 and 5 bits with symmetric = false')
        if self.grid is GridKind.SUPERBLOCK and not widths <= {*SUPER_LAYOUTS}:
            raise ValueError('plan: grid = "k" has 2 to 6 bits, and 16')
        return self

    @classmethod
    def proposed(cls, values: dict[str, Scalar]) -> dict[str, Scalar] | None:
        match values.get("grid"):
            case GridKind.SUPERBLOCK:
                usual = all(
                    values.get(name) == cls.model_fields[name].default
                    for name in ("group_size", "symmetric")
                )
                # Said once, by the defaults of what then follows from the bits.
                rest = {k: v for k, v in values.items() if k not in {"group_size", "symmetric"}}
                return rest if usual and values.get("bits") in SUPER_LAYOUTS else None
            case GridKind.SHORT:
                is_one = values.get("symmetric") is False and values.get("bits") in SHORT_BITS
                return values if is_one else None
            case _:
                return values

    def scheme(self, bits: int) -> Scheme:
        if self.grid is GridKind.SUPERBLOCK:
            return Scheme.superblock(bits)
        return Scheme(bits, self.group_size, self.symmetric, self.grid)

    def embedding_scheme(self, bits: int) -> Scheme:
        if self.grid is GridKind.SUPERBLOCK and bits in SUPER_LAYOUTS:
            return Scheme.superblock(bits)
        return super().embedding_scheme(bits)


G = TypeVar("G", bound=GroupParams)


class GroupMethod(Method[G]):
    """A method whose result is codes on integer grids, stored as packed groups."""

    kind = Kind.QUANTIZATION

    def check(self, spec: ModelSpec, params: G, target: Target) -> None:
        check_groups(spec, params)

    def predict(self, spec: ModelSpec, params: G) -> ModelSpec:
        return predict_groups(spec, params)


def best_group_size(spec: ModelSpec) -> int:
    """The largest usual group size that divides every linear's width, else -1 (whole rows)."""
    widths = {matrix_shape(spec, name)[1] for name in spec.structure.linears}
    fitting = (g for g in USUAL_GROUPS if all(width % g == 0 for width in widths))
    return next(fitting, -1) if widths else -1


def schemes_of(spec: ModelSpec, params: GroupParams) -> dict[str, Scheme]:
    """The scheme of every layer that is quantized, by module name; embedding and head last.

    Raises:
        ConfigError: a pattern of `skip` or `plan` matches no layer.
    """
    if len(params.plan) > LONG_PLAN:
        return _schemes(spec, params)
    key = (
        *("schemes", params.scheme(params.bits), params.embedding_bits),
        *(params.skip, tuple(params.plan.items())),
    )
    if key not in spec.derived:
        spec.derived[key] = _schemes(spec, params)
    found: dict[str, Scheme] = spec.derived[key]
    return dict(found)


def _schemes(spec: ModelSpec, params: GroupParams) -> dict[str, Scheme]:
    linears = select_linears(spec, params.skip)
    bits = dict.fromkeys(linears, params.bits)
    for pattern, chosen in params.plan.items():
        named = _named_by(pattern, spec)
        if not named:
            example = "".join(f"; names look like {n!r}" for n in spec.structure.linears[:1])
            raise ConfigError(f"plan: {pattern!r} matches no layer{example}")
        # Not those that `skip` leaves out; and of two patterns the later one overwrites the
        # earlier.
        bits |= {name: chosen for name in named if name in bits}
    # One scheme per width, not per layer: a search makes thousands of plans over hundreds of
    # layers.
    grids = {width: params.scheme(width) for width in bits.values() if width != KEPT}
    schemes = {name: grids[width] for name, width in bits.items() if width != KEPT}
    if params.embedding_bits is not None:
        scheme = params.embedding_scheme(params.embedding_bits)
        schemes |= dict.fromkeys(packable_embeddings(spec), scheme)
    return schemes


def _named_by(pattern: str, spec: ModelSpec) -> Sequence[str]:
    """The block linears that a pattern of `plan` matches, as `matches` says.

    A plan that names 200 layers one by one would ask 200 x 200 times; names without wildcards are
    looked up instead, among all ends of all names.
    """
    if any(mark in pattern for mark in "*?["):
        return [name for name in spec.structure.linears if matches(name, pattern)]
    key = "linears by the ends of their names"
    if key not in spec.derived:
        ends: dict[str, list[str]] = {}
        for name in spec.structure.linears:
            parts = name.split(".")
            for first in range(len(parts)):
                ends.setdefault(".".join(parts[first:]), []).append(name)
        spec.derived[key] = ends
    found: Sequence[str] = spec.derived[key].get(pattern, ())
    return found


def check_groups(spec: ModelSpec, params: GroupParams) -> None:
    """Refuse models and group sizes that cannot be stored as packed groups.

    Raises:
        ConfigError: no linears to quantize, experts in one tensor, or a bad group size.
    """
    check_experts(spec)
    schemes = schemes_of(spec, params)
    if not schemes:
        raise ConfigError("there is no layer to quantize: `skip` or `plan` leaves out all of them")
    if params.embedding_bits is not None and not packable_embeddings(spec):
        raise ConfigError(f"{spec.architecture}: no token embedding was found to quantize")
    if params.embedding_bits is not None and spec.text_type in ASKS_EMBEDDING:
        raise ConfigError(
            f"{spec.architecture}: its code asks embedding or head for a weight, which packed ones "
            "have not; leave embedding_bits out"
        )
    check_widths(spec, schemes)


def check_widths(spec: ModelSpec, schemes: Mapping[str, Scheme]) -> None:
    """Refuse layers that cannot be cut into the groups of their schemes.

    Raises:
        ConfigError: the first such layer, and what would do.
    """
    for name, scheme in schemes.items():
        _, width = matrix_shape(spec, name)
        if width % scheme.group_width(width) == 0:
            continue
        if scheme.kind is GridKind.SUPERBLOCK:
            raise ConfigError(
                f"layer {name!r}: {width} input features are no multiple of {SUPERBLOCK}, which "
                f"two-level grids need; {_instead(scheme.bits, width)}, or add the layer to `skip`"
            )
        raise GroupSizeError(name, width, scheme.group_size)


def _instead(bits: int, width: int) -> str:
    """What would do in the place of a two-level grid of a width, with its price."""
    affine = bits if bits >= 4 else 4  # what has fewer bits takes as much
    group = next((g for g in (32, 16) if width % g == 0), -1)
    taken = 8 * SUPER_LAYOUTS[bits].nbytes / SUPERBLOCK
    return (
        f'the nearest is grid = "affine", bits = {affine}, group_size = {group}, symmetric = true '
        f"({_LLAMA_BITS[affine]} bits a weight in llama.cpp instead of {taken:.4g})"
    )


def check_experts(spec: ModelSpec) -> None:
    """Refuse experts that are stored in one tensor.

    Raises:
        ConfigError: the block has some.
    """
    if fused := fused_experts(spec):
        raise ConfigError(
            f"{spec.architecture}: {fused[0]} holds all experts of a block in one tensor, which is "
            "not packed yet; only experts stored one by one are"
        )


def predict_groups(spec: ModelSpec, params: GroupParams) -> ModelSpec:
    """The exact tensors of the packed checkpoint."""
    return predict_schemes(spec, schemes_of(spec, params))


def predict_schemes(spec: ModelSpec, schemes: Mapping[str, Scheme]) -> ModelSpec:
    """The exact tensors of a checkpoint whose layers, by name, are packed on these schemes."""
    rounds_embedding = any(name in schemes for name in packable_embeddings(spec))
    dropped = copy_of_tied(spec) if rounds_embedding else None
    tensors: list[TensorInfo] = []
    for tensor in spec.tensors:
        name, _, leaf = tensor.name.rpartition(".")
        if leaf != "weight" or name not in schemes:
            if name != dropped:  # a stored copy of the tied embedding, which is packed
                tensors.append(tensor)
            continue
        tensors += packed_tensors_of(name, matrix_shape(spec, name), schemes[name], spec.dtype)
    method = "paredown" if needs_own_format(spec, schemes) else "compressed-tensors"
    options = {name: scheme.option(spec.dtype) for name, scheme in schemes.items()}
    return spec.with_tensors(tensors, quantization=method, options=spec.options | options)


def packed_tensors_of(
    name: str, shape: tuple[int, int], scheme: Scheme, dtype: str
) -> tuple[TensorInfo, ...]:
    """What is stored of one packed matrix."""
    dtypes = {"weight_scale": dtype, "weight_shape": "I64"}
    if scheme.kind is GridKind.SUPERBLOCK:
        shapes = superblock_shapes(shape, scheme.bits)
        dtypes["weight_packed"] = "U8"
    else:
        shapes = grid_shapes(shape, scheme.bits, scheme.group_size, symmetric=scheme.symmetric)
    return tuple(
        tensor_info(f"{name}.{leaf}", dtypes.get(leaf, "I32"), size)
        for leaf, size in shapes.items()
    )


def round_each(
    source: Checkpoint,
    out: Path,
    params: GroupParams,
    context: Context,
    *,
    round_one: Callable[[str, Tensor, Scheme], tuple[Tensor, AnyGrid]],
) -> Tensor:
    """Rewrite `source` into `out` with each layer rounded by itself.

    Args:
        round_one: (name, weight (out, inp), scheme) -> codes (out, inp) int8 and their grid.

    Returns:
        Logits on the probe, as `Method.apply`.
    """
    from paredown.blocks.rewrite import probe_walk, quantize_blocks

    schemes = schemes_of(source.spec, params)

    def quantize(
        block: Block, module: nn.Module, weights: dict[str, Tensor]
    ) -> dict[str, tuple[Tensor, AnyGrid]]:
        return {name: round_one(name, w, schemes[name]) for name, w in weights.items()}

    walk = probe_walk(source, device=context.device, trust_remote_code=context.trust_remote_code)
    return quantize_blocks(
        source, out, walk=walk, schemes=schemes, quantize=quantize, progress=context.progress
    )


def solved_bytes(spec: ModelSpec, cache: Cache) -> int:
    """Bytes of second moments and codes that a pass of a solver leaves in the cache."""
    from paredown.blocks.moments import codes_bytes, is_kept, moments_bytes

    return sum(n for n in (moments_bytes(spec), codes_bytes(spec)) if is_kept(n, cache))


def hessians_on(source: Checkpoint, context: Context, *, head: bool = False) -> HessianBank:
    """Second moments of every layer's inputs on the calibration text of `context`; of the output
    head's, too, if they are wanted."""
    from paredown.blocks.hessians import HessianBank

    return HessianBank(
        source,
        source_hash=context.source_hash,
        tokens=context.calibration(),
        cache=context.cache,
        device=context.device,
        trust_remote_code=context.trust_remote_code,
        head=head,
        progress=context.progress,
    )
