"""Mixtures of experts: which tensors belong to which expert, and what is left without some."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from paredown.errors import ConfigError
from paredown.spec.facts import EXPERT
from paredown.spec.infer import is_buffer
from paredown.spec.model import ModelSpec, TensorInfo, tensor_info
from paredown.spec.structure import is_spare, is_vision

_OF_EXPERT = re.compile(r"^(?P<stack>.+)\.experts\.(?P<number>\d+)\.(?P<rest>.+)$")
_ROUTERS = (
    "gate.weight", "gate.bias", "gate.wg.weight", "gate.e_score_correction_bias",
    "router.weight", "router.bias", "router.layer.weight", "router.e_score_correction_bias",
    "e_score_correction_bias", "moe_statics.e_score_correction_bias", "expert_bias",
)  # fmt: skip
"""Beside `experts` of a mixture: what has a row, or a last entry, for each of them."""
_SHARED = re.compile(r"^shared_(expert|mlp)")


@dataclass(frozen=True)
class Mixture:
    """The routed experts of one block."""

    stack: str
    """Module name of what holds them and their router: `model.layers.0.mlp`."""
    experts: int
    matrices: tuple[str, ...]
    """Names of the tensors of single experts, all that begin with `{stack}.experts.`."""
    router: tuple[str, ...]
    """Names of the tensors with a part for each expert: see `axis_of`."""


def axis_of(tensor: TensorInfo) -> int:
    """The axis of a router's tensor along which experts stand."""
    return 0 if tensor.name.endswith(".weight") else len(tensor.shape) - 1


def find_mixtures(spec: ModelSpec) -> tuple[Mixture, ...]:
    """The mixtures of all blocks, in the order of the files.

    Raises:
        ConfigError: one has another number of experts than the config tells, or a router that is
            not known.
    """
    if find_mixtures not in spec.derived:
        spec.derived[find_mixtures] = _mixtures(spec)
    found: tuple[Mixture, ...] = spec.derived[find_mixtures]
    return found


def _mixtures(spec: ModelSpec) -> tuple[Mixture, ...]:
    matrices: dict[str, list[str]] = {}
    numbers: dict[str, set[int]] = {}
    others: list[TensorInfo] = []
    for tensor in spec.tensors:
        match = _OF_EXPERT.match(tensor.name)
        if is_vision(tensor.name) or is_spare(spec, tensor.name):
            continue
        if match is None:
            others.append(tensor)
            continue
        matrices.setdefault(match["stack"], []).append(tensor.name)
        numbers.setdefault(match["stack"], set()).add(int(match["number"]))
    beside: dict[str, list[TensorInfo]] = {stack: [] for stack in matrices}
    for tensor in others:
        parents = accumulate(tensor.name.split("."), lambda one, part: f"{one}.{part}")
        if stack := next((parent for parent in parents if parent in beside), None):
            beside[stack].append(tensor)
    found = []
    for stack, names in matrices.items():
        if numbers[stack] != set(range(spec.experts or 0)):
            raise ConfigError(
                f"{spec.architecture}: {stack} holds {len(numbers[stack])} experts, its config "
                f"tells of {spec.experts}; which of them a router means is not known"
            )
        router = _router(spec, stack, beside[stack])
        found.append(Mixture(stack, len(numbers[stack]), tuple(names), router))
    return tuple(found)


def _router(spec: ModelSpec, stack: str, beside: list[TensorInfo]) -> tuple[str, ...]:
    """Those tensors beside the experts of a mixture that have a part for each of them."""
    router, wrong = [], []
    is_block = any(stack == block.prefix for block in spec.structure.blocks)
    for tensor in beside:
        part = tensor.name.removeprefix(f"{stack}.")
        fits = spec.experts in tensor.shape
        if part in _ROUTERS and tensor.shape[axis_of(tensor)] == spec.experts:
            router.append(tensor.name)
        # Of another shape, or as many parts under another name: half a router is none. A block
        # that is itself the mixture has its attention and norms in the same place.
        elif part in _ROUTERS or (fits and not is_block and not _SHARED.match(part)):
            wrong.append(tensor.name)
    if sum(name.endswith(".weight") for name in router) != 1 or wrong:
        raise ConfigError(
            f"{spec.architecture}: how {wrong[0] if wrong else stack} chooses among {spec.experts} "
            "experts is not known, so none can be removed"
        )
    return tuple(router)


def ahead_with_experts(spec: ModelSpec) -> tuple[str, ...]:
    """Tensors of blocks that foretell further tokens, where those are mixtures as well.

    The config has one number of experts for all blocks, and no text says which of theirs to keep.
    """
    spare = [t.name for t in spec.tensors if not is_vision(t.name) and is_spare(spec, t.name)]
    return tuple(spare) if any(EXPERT.search(name) for name in spare) else ()


def without_experts(mixture: Mixture, kept: Sequence[int]) -> Mapping[str, str]:
    """Tensors of the experts that stay, by their name, and what they are called afterwards."""
    places = {old: new for new, old in enumerate(kept)}
    renamed = {}
    for name in mixture.matrices:
        head = f"{mixture.stack}.experts."
        number, _, rest = name.removeprefix(head).partition(".")
        if int(number) in places:
            renamed[name] = f"{head}{places[int(number)]}.{rest}"
    return renamed


def with_experts(spec: ModelSpec, left: int) -> ModelSpec:
    """The spec with `left` experts in each mixture.

    Raises:
        ConfigError: as of `find_mixtures`.
    """
    mixtures = find_mixtures(spec)
    if not mixtures:
        return spec
    gone = set(ahead_with_experts(spec))
    cut: set[str] = set()
    for mixture in mixtures:
        gone |= set(mixture.matrices) - set(without_experts(mixture, range(left)))
        cut |= set(mixture.router)
    tensors = [_cut(t, left) if t.name in cut else t for t in spec.tensors if t.name not in gone]
    lost = _parameters(spec.tensors) - _parameters(tensors)
    parameters = spec.parameters - lost
    share = _parameters(t for t in tensors if EXPERT.search(t.name))
    per_token = spec.experts_per_token or left
    return spec.with_tensors(
        tensors,
        experts=left,
        parameters=parameters,
        active_parameters=parameters - share + share * per_token // left,
    )


def _cut(tensor: TensorInfo, left: int) -> TensorInfo:
    shape = list(tensor.shape)
    shape[axis_of(tensor)] = left
    return tensor_info(tensor.name, tensor.dtype, tuple(shape))


def _parameters(tensors: Iterable[TensorInfo]) -> int:
    return sum(t.numel for t in tensors if not is_buffer(t))
