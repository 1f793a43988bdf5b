"""Where the blocks, linears and MLPs of a model are, read off its tensor names.

Names, not classes, decide: the same rules then serve planning (headers only) and compression,
and a family that names its parts like a known one works without being listed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property, lru_cache

from paredown.errors import ConfigError
from paredown.spec.model import ModelSpec, TensorInfo

_BLOCK = re.compile(
    r"^(?P<stack>(?:.*\.)?(?:layers|h|blocks|block))\.(?P<index>\d+)\.(?P<rest>.+)$"
)
_VISION = re.compile(r"(^|\.)(vision|visual|image|vit|mm_projector|multi_modal)")
_NOT_LINEAR = re.compile(
    r"(norm|ln_|layernorm|embed|wpe|wte|rotary|router|expert_gate|altup|dt_proj|\.gate\.weight$)",
    re.I,
)
_AHEAD = re.compile(r"(^|\.)mtp\.")
_SHARED = re.compile(r"\.self_attn\.[kv](_proj|_norm)\.\w+$")
_ROUTER = re.compile(r"(\.gate|router(\.layer)?)\.weight$")
"""Matrices that are no linear of a block: `dt_proj` of Mamba is multiplied with by its weight, and
Gemma 3n's `altup` matrices mix four states."""
_CONV1D = {"c_attn", "c_proj", "c_fc", "q_attn"}
_CROSS = re.compile(r"\.cross_attn\.")
_EXPERT = re.compile(r"(^|\.)experts\.\d+\.")
_EXPERTS = re.compile(r"(^|\.)experts\.[^.]+$")
ATTENTION_INPUTS = ("q_proj", "k_proj", "v_proj")
MLP_INPUTS = ("gate_proj", "up_proj")
_SIBLINGS = (ATTENTION_INPUTS, MLP_INPUTS, ("w1", "w3"))
"""Last parts of the names of layers that read one input, wherever they stand beside each other."""


@dataclass(frozen=True)
class Block:
    """One transformer block: `prefix` is its module name, `linears` names within the model."""

    index: int
    prefix: str
    linears: tuple[str, ...]
    """Module names (without `.weight`) of the two-dimensional weights, in stored order."""


@dataclass(frozen=True)
class Mlp:
    """An MLP whose neurons can be removed: rows of `inputs`, columns of `output`."""

    block: int
    inputs: tuple[str, ...]
    """Module names of gate and up (SwiGLU), or of the single first matrix."""
    output: str
    """Module name of the down projection."""
    width: int
    parts: int = 1
    """Matrices of `width` rows that each input holds one above the other: 2 where gate and up are
    fused, so that neuron i is the rows i and i + width."""


@dataclass(frozen=True)
class Structure:
    """The parts of a language model that compression works on."""

    blocks: tuple[Block, ...]
    mlps: tuple[Mlp, ...]
    vision_mlps: tuple[Mlp, ...] = ()
    """MLPs of a vision tower, which everything else leaves alone; `block` counts within it."""

    @cached_property
    def linears(self) -> tuple[str, ...]:
        """Module names of all block linears, in block order."""
        return tuple(name for block in self.blocks for name in block.linears)


def find_structure(spec: ModelSpec) -> Structure:
    """Blocks, linears and MLPs of the language part, and apart from it the vision tower's MLPs."""
    matrices = [t for t in spec.tensors if not (is_vision(t.name) or is_spare(spec, t.name))]
    blocks = _blocks(matrices)
    tower = _blocks([t for t in spec.tensors if is_vision(t.name)])
    return Structure(
        blocks=blocks,
        mlps=tuple(mlp for block in blocks for mlp in _mlps(block, spec)),
        vision_mlps=tuple(mlp for block in tower for mlp in _mlps(block, spec)),
    )


def is_spare(spec: ModelSpec, name: str) -> bool:
    """Whether a stored tensor is in the file and not in the model that transformers builds of it.

    Blocks that foretell tokens further ahead, and keys and values of layers that read those of
    earlier ones. Such tensors are copied as they are.
    """
    if _AHEAD.search(name):
        return True
    place = None if not spec.layers else _place(name)
    if place is None or not spec.layers:
        return False
    if place[1] >= spec.layers:
        return True
    own = spec.layers - spec.cache_facts.shared
    return place[1] >= own and _SHARED.search(name) is not None


@lru_cache(maxsize=50_000)
def is_vision(name: str) -> bool:
    """Whether a tensor belongs to a vision tower or to the projector behind it."""
    return _VISION.search(name) is not None


def blocks_of_images(spec: ModelSpec) -> tuple[int, ...]:
    """Numbers of the language model's blocks that read an image, and are left out without one.

    Those with cross-attention: whole encoder-decoders are refused before.
    """
    places = (_place(t.name) for t in spec.tensors if _CROSS.search(t.name))
    return tuple(sorted({place[1] for place in places if place is not None}))


def in_block(name: str) -> bool:
    """Whether a tensor belongs to one of a stack of numbered blocks, a tower's included."""
    return _place(name) is not None


def _blocks(tensors: list[TensorInfo]) -> tuple[Block, ...]:
    found: dict[tuple[str, int], list[str]] = {}
    for tensor in tensors:
        place = _place(tensor.name)
        if place is None:
            continue
        stack, index, linear = place
        linears = found.setdefault((stack, index), [])
        if linear is not None and len(tensor.shape) == 2:
            linears.append(linear)
    return tuple(
        Block(index=index, prefix=f"{stack}.{index}", linears=tuple(linears))
        for (stack, index), linears in sorted(found.items())
    )


@lru_cache(maxsize=50_000)
def _place(name: str) -> tuple[str, int, str | None] | None:
    """Stack and number of the block of a tensor, and its module if that can be a linear."""
    match = _BLOCK.match(name)
    if not match:
        return None
    can_be = name.endswith(".weight") and not _NOT_LINEAR.search(match["rest"])
    return match["stack"], int(match["index"]), name.removesuffix(".weight") if can_be else None


_MLPS = (
    (("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj"),
    (("mlp.gate_up_proj",), "mlp.down_proj"),
    (("mlp.up_proj",), "mlp.down_proj"),  # without a gate: Nemotron, Arcee, Apertus
    (("fc1",), "fc2"),
    (("mlp.fc1",), "mlp.fc2"),
    (("mlp.c_fc",), "mlp.c_proj"),
    (("mlp.fc_in",), "mlp.fc_out"),
    (("mlp.dense_h_to_4h",), "mlp.dense_4h_to_h"),
    (("ffn.up_proj",), "ffn.down_proj"),
    (("feed_forward.w1", "feed_forward.w3"), "feed_forward.w2"),
    (("feed_forward.gate_proj", "feed_forward.up_proj"), "feed_forward.down_proj"),
    (("mlp_block.gate_proj", "mlp_block.up_proj"), "mlp_block.down_proj"),
)
"""Names within a block of the matrices that make an MLP's neurons, and of the one that reads them;
the first that fits counts."""


def _mlps(block: Block, spec: ModelSpec) -> list[Mlp]:
    """The dense MLP of a block; experts are not touched."""
    found: list[Mlp] = []
    by_tail = {name.removeprefix(block.prefix + "."): name for name in block.linears}
    for inputs, output in _MLPS:
        known = any(mlp.output == by_tail.get(output) for mlp in found)
        if output in by_tail and not known and all(tail in by_tail for tail in inputs):
            names = tuple(by_tail[tail] for tail in inputs)
            _, width = matrix_shape(spec, by_tail[output])
            rows, _ = matrix_shape(spec, names[0])
            if rows % width == 0:
                found.append(Mlp(block.index, names, by_tail[output], width, rows // width))
    return found


def matrix_shape(spec: ModelSpec, name: str) -> tuple[int, int]:
    """(out, inp) of a linear by its module name, however it is stored."""
    first, second = spec.by_name[f"{name}.weight"].shape
    return (second, first) if stored_transposed(spec, name) else (first, second)


def layer_shape(spec: ModelSpec, name: str) -> tuple[int, int] | None:
    """(rows, inputs) of a layer, packed or not; None where the spec does not tell."""
    stored = spec.packed_shapes.get(name)
    if stored is None:
        tensor = spec.by_name.get(f"{name}.weight")
        stored = None if tensor is None else tensor.shape
    return None if stored is None or len(stored) != 2 else (stored[0], stored[1])


def uncovered(spec: ModelSpec) -> tuple[float, TensorInfo | None]:
    """Share of the blocks' weights that is in no linear, and the largest tensor that is none.

    Counted are tensors of two dimensions and more; vision towers are not.
    """
    if uncovered not in spec.derived:
        linears = {f"{name}.weight" for name in spec.structure.linears}
        inside = [
            t
            for t in spec.tensors
            if len(t.shape) > 1 and not is_vision(t.name) and _place(t.name) is not None
        ]
        left = [t for t in inside if t.name not in linears]
        share = sum(t.numel for t in left) / max(1, sum(t.numel for t in inside))
        spec.derived[uncovered] = share, max(left, key=lambda t: t.numel, default=None)
    found: tuple[float, TensorInfo | None] = spec.derived[uncovered]
    return found


def stored_transposed(spec: ModelSpec, name: str) -> bool:
    """Whether the weight of the module `name` is stored as (inp, out)."""
    if not uses_conv1d(spec) or name.rpartition(".")[2] not in _CONV1D:
        return False
    weight = spec.by_name.get(f"{name}.weight")
    return weight is not None and len(weight.shape) == 2


@lru_cache(maxsize=50_000)
def siblings(name: str) -> tuple[str, ...]:
    """Module names of the layers that read the input which `name` reads, itself among them.

    By name alone: a model need not have all of them.
    """
    parent, _, leaf = name.rpartition(".")
    leaves = next((s for s in _SIBLINGS if leaf in s), None)
    if leaves is None:
        return (name,)
    return tuple(f"{parent}.{s}" if parent else s for s in leaves)


@lru_cache(maxsize=50_000)
def input_name(name: str) -> str:
    """A name for the input of a layer; layers with the same one read the same numbers."""
    together = siblings(name)
    if len(together) == 1:
        return name
    # Sorted, because cached Hessians are found under it.
    leaves = "+".join(sorted(sibling.rpartition(".")[2] for sibling in together))
    parent = name.rpartition(".")[0]
    return f"{parent}.{leaves}" if parent else leaves


def by_input(names: Iterable[str]) -> list[list[str]]:
    """`names` in groups that read one input, each in the order of its siblings."""
    left, groups = dict.fromkeys(names), []
    for name in tuple(left):
        group = [n for n in siblings(name) if n in left]
        for member in group:
            del left[member]
        if group:  # else it went with an earlier sibling
            groups.append(group)
    return groups


def is_expert(name: str) -> bool:
    """Whether a module belongs to one of several experts (a shared expert does not)."""
    return _EXPERT.search(name) is not None


def routers(spec: ModelSpec) -> tuple[str, ...]:
    """Module names of the matrices that choose experts; some runtimes count them as linears."""
    return tuple(
        t.name.removesuffix(".weight")
        for t in spec.tensors
        if _ROUTER.search(t.name) and len(t.shape) == 2
    )


def fused_experts(spec: ModelSpec) -> tuple[str, ...]:
    """Names of tensors that hold all experts of a block at once, (experts, ...)."""
    return tuple(t.name for t in spec.tensors if len(t.shape) == 3 and _EXPERTS.search(t.name))


def uses_conv1d(spec: ModelSpec) -> bool:
    """GPT-2 stores its matrices transposed, (in, out)."""
    return spec.model_type == "gpt2"


def select_linears(spec: ModelSpec, skip: tuple[str, ...]) -> tuple[str, ...]:
    """Block linears that no `skip` pattern (shell wildcards on module names) excludes.

    Raises:
        ConfigError: a pattern of `skip` matches no module: most likely a misspelling.
    """
    linears = spec.structure.linears
    if not skip:
        return linears
    modules = {t.name.rpartition(".")[0] for t in spec.tensors} | {"lm_head"}
    for pattern in skip:
        if not any(matches(name, pattern) for name in modules):
            raise ConfigError(
                f"skip: {pattern!r} matches no layer; names look like {linears[0]!r}"
                if linears
                else f"skip: {pattern!r} matches no layer"
            )
    return tuple(n for n in linears if not any(matches(n, p) for p in skip))


def matches(name: str, pattern: str) -> bool:
    """Whole-name wildcard match, or the last part of the name: `down_proj` means `*.down_proj`."""
    return fnmatch(name, pattern) or fnmatch(name, f"*.{pattern}")


MIN_WIDTH = 64


def width_multiple(width: int) -> int:
    """What the kept part of an MLP of `width` neurons is a multiple of: 64 where it is one and at
    least 512 wide, so that groups of 64 can follow, else 32."""
    return 64 if width % 64 == 0 and width >= 512 else 32


def kept_width(width: int, ratio: float) -> int:
    """Neurons kept of `width` when the share `ratio` is removed; MIN_WIDTH if there are so many."""
    multiple = width_multiple(width)
    return min(max(round(width * (1.0 - ratio) / multiple) * multiple, MIN_WIDTH), width)
