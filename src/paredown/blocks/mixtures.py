"""Whole experts: how much each says on calibration text, and models with fewer of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paredown.artifact.checkpoint import Checkpoint, CheckpointWriter
from paredown.artifact.configs import language_part
from paredown.blocks.experts import Experts
from paredown.blocks.names import module_name
from paredown.blocks.skeleton import read_config
from paredown.blocks.walk import BlockWalk
from paredown.errors import MethodError, NumericsError
from paredown.ops.affine import require_finite
from paredown.spec.families import KEYS
from paredown.spec.mixtures import (
    Mixture,
    ahead_with_experts,
    axis_of,
    find_mixtures,
    without_experts,
)
from paredown.spec.progress import Progress
from paredown.spec.structure import Block

_AHEAD = ("num_nextn_predict_layers", "mtp_num_hidden_layers")
"""Config keys that tell of blocks which foretell further tokens."""
_COUNTS = ("num_experts", "n_routed_experts")
"""Attributes under which modules of transformers keep the number of experts."""


@dataclass(frozen=True)
class Tally:
    """What calibration text says of the experts of one mixture; tensors are (experts,) float64."""

    tokens: Tensor
    """Tokens that were sent to each."""
    share: Tensor
    """Sum of the weights that the router gave it for them."""
    output: Tensor
    """Sum over them of weight times norm of what it says."""

    @property
    def error(self) -> Tensor:
        """Mean over its own tokens of weight times norm; 0 for an expert that has none.

        Source: REAP (arXiv:2510.13999).
        """
        return self.output / self.tokens.clamp(min=1)


def tally(walk: BlockWalk, progress: Progress) -> dict[str, Tally]:
    """The tallies of all mixtures on the walk's calibration windows, by `Mixture.stack`.

    Raises:
        NumericsError: what experts say is not finite.
    """
    mixtures, found = find_mixtures(walk.checkpoint.spec), {}
    for done, (block, module) in enumerate(walk):
        here = [m for m in mixtures if m.stack.startswith(f"{block.prefix}.")]
        watches = {m.stack: _Watch(m, *_parts(module, block, m)) for m in here}
        walk.advance(block, module)
        for stack, watch in watches.items():
            watch.end()
            found[stack] = Tally(*watch.sums.cpu())
            if not watch.sums.isfinite().all():
                raise NumericsError(f"{stack}: what its experts say is not finite")
        progress((done + 1) / len(walk.blocks), f"experts of block {done + 1}")
    return found


class _Watch:
    """Adds up what the experts of one mixture say."""

    def __init__(self, mixture: Mixture, parent: nn.Module, experts: Experts) -> None:
        self.experts = experts
        device = next(experts.parameters()).device
        self.sums = torch.zeros(3, mixture.experts, dtype=torch.float64, device=device)
        self._scores: Tensor | None = None
        """(tokens, experts), where the router's weights are applied to what experts read."""
        router = getattr(parent, "router", None)
        self._handle = None if router is None else router.register_forward_hook(self._note)
        experts.watch = self._add

    def end(self) -> None:
        self.experts.watch = None
        if self._handle is not None:
            self._handle.remove()

    def _note(self, module: nn.Module, args: Any, output: Any) -> None:
        self._scores = output[0] if isinstance(output, tuple) else None

    def _add(self, number: int, given: Tensor, share: Tensor | None) -> None:
        if share is not None:
            weighted = given.float().norm(dim=-1) * share.float()
        elif self._scores is not None:  # Llama 4 runs every expert on every token, most on zeros
            share = self._scores[:, number]
            weighted = given[share > 0].float().norm(dim=-1)
            share = share[share > 0]
        else:
            raise MethodError(f"{type(self.experts).__name__}: no router says whose tokens are run")
        sums = (torch.tensor(len(share)), share.double().sum(), weighted.double().sum())
        self.sums[:, number] += torch.stack([value.to(self.sums) for value in sums])


def drop_experts(
    source: Checkpoint,
    out: Path,
    *,
    walk: BlockWalk,
    choose: Callable[[Mixture], Sequence[int]],
    left: int,
    progress: Progress,
    trust_remote_code: bool = False,
) -> Tensor:
    """Write `source` to `out` with `left` experts in every mixture, numbered anew.

    Args:
        walk: a walk over `source`, at its start.
        choose: the numbers of a mixture's experts that stay, rising.

    Returns:
        Logits of the smaller model on the probe, computed from the weights in memory.

    Raises:
        NumericsError: an expert or a router holds a NaN or an infinity.
    """
    mixtures, gone = find_mixtures(source.spec), set(ahead_with_experts(source.spec))
    with CheckpointWriter(out, source, experts=left) as writer:
        for done, (block, module) in enumerate(walk):
            for mixture in mixtures:
                if mixture.stack.startswith(f"{block.prefix}."):
                    kept = list(choose(mixture))
                    _require_finite(module, block, mixture)
                    for old, new in without_experts(mixture, kept).items():
                        writer.add(new, source.read(old))
                    for name in mixture.router:
                        writer.add(name, _rows(source, name, kept))
                    _cut(source, module, block, mixture, kept)
                    gone |= {*mixture.matrices}
            walk.advance_probe(block, module)
            progress((done + 1) / len(walk.blocks), f"block {done + 1} of {len(walk.blocks)}")
        writer.copy_rest(without=gone)
        config = read_config(source.folder, trust_remote_code=trust_remote_code)
        _count_anew(writer.config, config.get_text_config().to_dict(), left)
    return walk.logits()


def _rows(source: Checkpoint, name: str, kept: list[int]) -> Tensor:
    """A router's tensor with the parts of some experts alone."""
    stored = source.read(name)
    return stored.index_select(axis_of(source.spec.by_name[name]), torch.tensor(kept))


def _inside(module: nn.Module, block: Block, name: str) -> str:
    """The block's own name for a stored tensor."""
    return module_name(module, name.removeprefix(f"{block.prefix}."))


def _parts(module: nn.Module, block: Block, mixture: Mixture) -> tuple[nn.Module, Experts]:
    """The module that holds a mixture's experts and router, and the experts, in memory."""
    place, found, _ = _inside(module, block, mixture.matrices[0]).rpartition("experts.")
    parent = module.get_submodule(place.removesuffix("."))
    experts = getattr(parent, "experts", None)
    if not found or not isinstance(experts, Experts):
        raise MethodError(f"{mixture.stack}: how {type(parent).__name__} runs experts is not known")
    return parent, experts


def _require_finite(module: nn.Module, block: Block, mixture: Mixture) -> None:
    for name in (*mixture.matrices, *mixture.router):
        owner, _, leaf = _inside(module, block, name).rpartition(".")
        require_finite(getattr(module.get_submodule(owner), leaf), name)


def _cut(
    source: Checkpoint, module: nn.Module, block: Block, mixture: Mixture, kept: list[int]
) -> None:
    """Leave some experts alone in a block in memory."""
    parent, experts = _parts(module, block, mixture)
    parent.experts = Experts([experts[number] for number in kept])
    for name in mixture.router:
        owner_name, _, leaf = _inside(module, block, name).rpartition(".")
        owner = module.get_submodule(owner_name)
        old = getattr(owner, leaf)
        rows = old.index_select(
            axis_of(source.spec.by_name[name]), torch.tensor(kept, device=old.device)
        )
        if leaf in owner._buffers:
            owner._buffers[leaf] = rows
        else:
            owner._parameters[leaf] = nn.Parameter(rows, requires_grad=False)
    for part in parent.modules():
        for name in _COUNTS:
            if getattr(part, name, None) == mixture.experts:
                setattr(part, name, len(kept))


def _count_anew(config: dict[str, Any], full: Mapping[str, Any], left: int) -> None:
    """Let the config say how many experts are left.

    Where it leaves the number to the class, it is written under the name that the class has for it,
    from `full`, the config as transformers reads it.
    """
    text = language_part(config)
    told = [(part, key) for part in (config, text) for key in KEYS["experts"] if key in part]
    named = next((key for key in KEYS["experts"] if key in full), None)
    if not told and named is None:
        raise MethodError("under which name the config tells of experts is not known")
    for part, key in told or [(text, str(named))]:
        part[key] = left
    for key in _AHEAD:
        if text.get(key):
            text[key] = 0
