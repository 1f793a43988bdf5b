"""Where the blocks, linears and MLPs of a model are, read off its tensor names.

Names, not classes, decide: the same rules then serve planning (headers only) and compression,
and a family that names its parts like a known one works without being listed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatch

from paredown.errors import ConfigError
from paredown.spec.model import ModelSpec

_BLOCK = re.compile(
    r"^(?P<stack>(?:.*\.)?(?:layers|h|blocks|block))\.(?P<index>\d+)\.(?P<rest>.+)$"
)
_VISION = re.compile(r"(^|\.)(vision|visual|image|vit|mm_projector|multi_modal)")
_NOT_LINEAR = re.compile(
    r"(norm|ln_|layernorm|embed|wpe|wte|rotary|router|expert_gate|\.gate\.weight$)", re.I
)


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


@dataclass(frozen=True)
class Structure:
    """The parts of a language model that compression works on."""

    blocks: tuple[Block, ...]
    mlps: tuple[Mlp, ...]

    @property
    def linears(self) -> tuple[str, ...]:
        """Module names of all block linears, in block order."""
        return tuple(name for block in self.blocks for name in block.linears)


def find_structure(spec: ModelSpec) -> Structure:
    """Blocks, linears and MLPs of the language part of the model (vision towers are left out)."""
    found: dict[tuple[str, int], list[str]] = {}
    for tensor in spec.tensors:
        match = _BLOCK.match(tensor.name)
        if not match or _VISION.search(tensor.name):
            continue
        linears = found.setdefault((match["stack"], int(match["index"])), [])
        is_matrix = len(tensor.shape) == 2 and tensor.name.endswith(".weight")
        if is_matrix and not _NOT_LINEAR.search(match["rest"]):
            linears.append(tensor.name.removesuffix(".weight"))
    blocks = tuple(
        Block(index=index, prefix=f"{stack}.{index}", linears=tuple(linears))
        for (stack, index), linears in sorted(found.items())
    )
    mlps = tuple(mlp for block in blocks for mlp in _mlps(block, spec))
    return Structure(blocks=blocks, mlps=mlps)


def _mlps(block: Block, spec: ModelSpec) -> list[Mlp]:
    """The dense MLP of a block; experts are not touched."""
    found = []
    by_tail = {name.removeprefix(block.prefix + "."): name for name in block.linears}
    for inputs, output in (
        (("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj"),
        (("fc1",), "fc2"),
        (("mlp.fc1",), "mlp.fc2"),
        (("mlp.c_fc",), "mlp.c_proj"),
    ):
        if output in by_tail and all(tail in by_tail for tail in inputs):
            names = tuple(by_tail[tail] for tail in inputs)
            out_features, in_features = spec.by_name[by_tail[output] + ".weight"].shape
            width = out_features if uses_conv1d(spec) else in_features
            found.append(Mlp(block.index, names, by_tail[output], width))
    return found


def uses_conv1d(spec: ModelSpec) -> bool:
    """GPT-2 stores its matrices transposed, (in, out)."""
    return spec.model_type == "gpt2"


def select_linears(spec: ModelSpec, skip: tuple[str, ...]) -> tuple[str, ...]:
    """Block linears that no `skip` pattern (shell wildcards on module names) excludes.

    Raises:
        ConfigError: a pattern of `skip` matches no module: most likely a misspelling.
    """
    linears = spec.structure.linears
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


WIDTH_MULTIPLE = 32
"""Kept widths are a multiple of this: kernels and group sizes want even widths."""
MIN_WIDTH = 64


def kept_width(width: int, ratio: float) -> int:
    """Neurons kept of `width` when the share `ratio` is removed: a multiple of 32, at least 64."""
    nearest = round(width * (1.0 - ratio) / WIDTH_MULTIPLE) * WIDTH_MULTIPLE
    return max(nearest, MIN_WIDTH)
