"""Layer Hessians of the uncompressed model: computed once and cached, where the cache takes them.

They are symmetric, so the upper triangle is what is kept. Those of a large model would still push
each other out of the cache while it is walked through; then each is dropped once it was used.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from paredown.artifact.checkpoint import Checkpoint
from paredown.blocks.moments import is_kept, moments_bytes
from paredown.blocks.rewrite import probe_walk
from paredown.blocks.walk import BlockWalk, submodule
from paredown.errors import MethodError
from paredown.spec.progress import Progress, unheard
from paredown.spec.structure import Block, input_name
from paredown.spec.units import human_bytes
from paredown.store.cache import Cache
from paredown.store.content import code

log = logging.getLogger(__name__)

_CODE = 4
"""Of the moments: goes up when the same model and tokens give others."""
MIN_TOKENS = 32
"""An expert that fewer calibration tokens are routed to gets the identity for its Hessian, which
means rounding to nearest: what so few tokens say of it would be chance."""
_BLOCK = 256
"""Rows of a symmetric matrix that are worked on at once; affects speed only."""
_TOKENS = "tokens:"
"""Before the name of an input: how many tokens its Hessian is the mean of."""


class HessianBank:
    """Mean x x^T over calibration tokens for every distinct input of a block's linears.

    x is what the layer sees in the *uncompressed* model. So the bank depends on the model and the
    calibration text alone, and every trial with the same two reads it from the cache. An expert's
    Hessian is the mean over the tokens routed to it.
    """

    def __init__(
        self,
        source: Checkpoint,
        *,
        source_hash: str,
        tokens: Tensor,
        cache: Cache,
        device: str,
        trust_remote_code: bool = False,
        head: bool = False,
        again: bool = False,
        progress: Progress = unheard,
    ) -> None:
        """`source_hash` stands for the content of `source`; `tokens` is (samples, length).

        Args:
            head: whether the output head's inputs are wanted as well. The embedding is written
                before the first block and they come after the last, so where they are not kept
                the text passes through the model once before.
            again: let the text pass through the model though all blocks are kept.
            progress: told of the blocks of a pass that comes before all else.
        """
        self.cache, self.source = cache, source
        self.key: dict[str, Any] = {
            **code(_CODE),
            "model": source_hash,
            "tokens": tensor_hash(tokens),
            "device": device,
        }
        nbytes = moments_bytes(source.spec)
        self.is_kept = is_kept(nbytes, cache)
        if not self.is_kept:
            log.info(
                "the second moments of %s are %s, more than half of the cache (%s): they are "
                "computed for each trial; PAREDOWN_CACHE_GB sets its size",
                source.folder, human_bytes(nbytes), human_bytes(int(cache.limit_bytes)),
            )  # fmt: skip
        self._again = partial(
            HessianBank,
            source,
            source_hash=source_hash,
            tokens=tokens,
            cache=cache,
            device=device,
            trust_remote_code=trust_remote_code,
            progress=progress,
        )
        self._progress = progress
        self.head: Tensor | None = self._of_head() if head else None
        """Mean h h^T (hidden, hidden) float32 over what the output head reads, h."""
        missing = not self.is_kept or any(self._cached(block) is None for block in _blocks(source))
        self._counts: dict[int, dict[str, int]] = {}  # of tokens, by block and input
        self.n_tokens = tokens.numel()
        self.walk: BlockWalk = probe_walk(
            source,
            device=device,
            trust_remote_code=trust_remote_code,
            # All or none: a single missing block needs the states behind all blocks before it.
            tokens=tokens if missing or again else None,
        )

    def _of_head(self) -> Tensor:
        """The moments of the head's inputs: as kept, or by a pass that keeps all others too."""
        key = {**self.key, "block": "head"}
        path = self.cache.get("hessian", key, ".safetensors")
        if path is not None:
            return from_upper_triangle(load_file(path, device=self.key["device"])["head"])
        moments = self._again(again=True)._pass_to_head()
        stored = {"head": upper_triangle(moments).cpu()}
        self.cache.put("hessian", key, ".safetensors", lambda p: save_file(stored, p))
        return moments

    def _pass_to_head(self) -> Tensor:
        """Take all calibration states through the unchanged model."""
        blocks = len(self.walk.blocks)
        for block, module in self.walk:
            # No share: how much of the whole this is, only the method knows.
            self._progress(0.0, f"second moments: block {block.index + 1} of {blocks}")
            if self.is_kept and self._cached(block) is None:
                self.of_block(block, module)
            else:
                self.walk.advance(block, module)
        total: Tensor | None = None
        tokens = 0
        for hidden in self.walk.head_inputs():
            rows = hidden.float()
            if total is None:
                total = rows.new_zeros(rows.shape[1], rows.shape[1])
            add_upper(total, rows)
            tokens += len(rows)
        if total is None:
            raise AssertionError("a pass without calibration text")
        return mirror_upper(total.div_(tokens))

    def _key(self, block: Block) -> dict[str, Any]:
        return {**self.key, "block": block.index}

    def _cached(self, block: Block) -> Any:
        return self.cache.get("hessian", self._key(block), ".safetensors")

    def sharing(self, block: Block, names: list[str]) -> list[list[str]]:
        """`names` in groups that read the same input."""
        groups: dict[str, list[str]] = {}
        for name in names:
            groups.setdefault(_input_of(block, name), []).append(name)
        return list(groups.values())

    def of_block(self, block: Block, module: nn.Module) -> dict[str, Tensor]:
        """Hessian (width, width) float32 of every linear of the block, by layer name.

        Advances the walk's calibration states through the (unchanged) block if it has any.
        """
        if not self.walk.hidden:
            return self.of_kept_block(block)
        # Even where it is kept: the states have to pass through the block anyway.
        hessians = self._measure(block, module)
        if self.is_kept and self._cached(block) is None:
            self._keep(block, hessians)
        return {name: hessians[_input_of(block, name)] for name in block.linears}

    def of_kept_block(self, block: Block) -> dict[str, Tensor]:
        """`of_block` where all blocks were measured before and are kept."""
        hessians = self._load(block)
        return {name: hessians[_input_of(block, name)] for name in block.linears}

    def _keep(self, block: Block, hessians: dict[str, Tensor]) -> None:
        stored = {key: upper_triangle(value).cpu() for key, value in hessians.items()}
        counts = {_TOKENS + k: torch.tensor(n) for k, n in self._counts[block.index].items()}
        self.cache.put(
            "hessian", self._key(block), ".safetensors", lambda p: save_file(stored | counts, p)
        )

    def _load(self, block: Block) -> dict[str, Tensor]:
        """The kept Hessians of a block.

        They were there when the bank was opened; if a file was lost or damaged since, the text
        passes through the model once more.
        """
        path = self._cached(block)
        if path is None:
            again = self._again()
            for other, module in again.walk:
                again.of_block(other, module)
            path = again._cached(block)
        stored = load_file(path, device=self.walk.device)
        counts = {k: stored.pop(k) for k in list(stored) if k.startswith(_TOKENS)}
        self._counts[block.index] = {k.removeprefix(_TOKENS): int(n) for k, n in counts.items()}
        return {key: from_upper_triangle(value) for key, value in stored.items()}

    def rare(self) -> list[str]:
        """Layers of experts that too few calibration tokens reached, once all blocks were done."""
        return [
            name
            for block in self.walk.blocks
            for name in block.linears
            if self._is_rare(self._tokens_of(block)[_input_of(block, name)])
        ]

    def require_tokens(self, block: Block, names: Iterable[str]) -> None:
        """See that enough calibration tokens have reached some layers of a block that was done.

        Raises:
            MethodError: the first that too few have reached.
        """
        tokens = self._tokens_of(block)
        for name in names:
            reached = tokens[_input_of(block, name)]
            if self._is_rare(reached):
                raise MethodError(
                    f"{name}: {reached} of {self.n_tokens} calibration tokens have reached this "
                    f"layer, {MIN_TOKENS} are the least; calibrate with more text, or use "
                    'rare_experts = "rtn"'
                )

    def _tokens_of(self, block: Block) -> dict[str, int]:
        """How many tokens each input of a block has seen."""
        if block.index not in self._counts:  # nobody has asked for its moments
            self._load(block)
        return self._counts[block.index]

    def _is_rare(self, tokens: int) -> bool:
        # A text that is shorter than that as a whole is asked for: it makes no layer rare.
        return tokens < min(MIN_TOKENS, self.n_tokens)

    def _measure(self, block: Block, module: nn.Module) -> dict[str, Tensor]:
        sums: dict[str, Tensor] = {}
        counts: dict[str, Tensor] = {}
        handles = []
        for names in self.sharing(block, list(block.linears)):
            layer, key = submodule(module, block, names[0]), _input_of(block, names[0])
            width = layer.in_features
            sums[key] = torch.zeros(width, width, device=self.walk.device)
            counts[key] = torch.zeros((), dtype=torch.int64)
            handles.append(layer.register_forward_pre_hook(_accumulate(sums[key], counts[key])))
        try:
            self.walk.advance(block, module)
        finally:
            for handle in handles:
                handle.remove()
        self._counts[block.index] = {key: int(count) for key, count in counts.items()}
        return {key: self._mean(sums.pop(key), int(counts[key])) for key in list(sums)}

    def _mean(self, total: Tensor, tokens: int) -> Tensor:
        if self._is_rare(tokens):
            return torch.eye(len(total), device=total.device)
        return mirror_upper(total.div_(tokens))


def _accumulate(total: Tensor, count: Tensor) -> Callable[[nn.Module, Any], None]:
    def hook(module: nn.Module, args: Any) -> None:
        rows = args[0].reshape(-1, total.shape[0]).float()
        add_upper(total, rows)
        count.add_(len(rows))

    return hook


def _input_of(block: Block, name: str) -> str:
    """Name within the block of the input that a layer reads."""
    return input_name(name).removeprefix(block.prefix + ".")


def _blocks(source: Checkpoint) -> tuple[Block, ...]:
    return source.spec.structure.blocks


def add_upper(total: Tensor, rows: Tensor) -> None:
    """Add x^T x of `rows` x (n, width) to a (width, width) sum; below its diagonal is left open.

    That part says nothing new, and is half of the work.
    """
    for start in range(0, len(total), _BLOCK):
        stop = start + _BLOCK
        total[start:stop, start:].addmm_(rows[:, start:stop].T, rows[:, start:])


def mirror_upper(matrix: Tensor) -> Tensor:
    """A square matrix with its upper triangle copied onto the lower, in place.

    A product x^T x comes out symmetric but for its last bits, which depend on how it was tiled.
    Mirrored, it is the same whether it was just computed or read back from its triangle.
    """
    for start in range(0, len(matrix), _BLOCK):
        stop = start + _BLOCK
        matrix[stop:, start:stop] = matrix[start:stop, stop:].T
        corner = matrix[start:stop, start:stop]
        corner.copy_(corner.triu() + corner.triu(1).T)
    return matrix


def upper_triangle(matrix: Tensor) -> Tensor:
    """The n (n + 1) / 2 numbers on and above the diagonal of an (n, n) matrix, row by row."""
    # Not by `triu_indices`: its indices would take eight times the memory of the matrix.
    return torch.cat([matrix[row, row:] for row in range(len(matrix))])


def from_upper_triangle(stored: Tensor) -> Tensor:
    """The symmetric (n, n) matrix that `upper_triangle` was taken of."""
    n = (math.isqrt(8 * len(stored) + 1) - 1) // 2
    matrix = stored.new_empty(n, n)
    start = 0
    for row in range(n):
        matrix[row, row:] = stored[start : start + n - row]
        start += n - row
    return mirror_upper(matrix)


def tensor_hash(tensor: Tensor) -> str:
    """SHA-256 of a tensor's bytes, shape and dtype; 32 hex digits."""
    import hashlib

    digest = hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]
