"""Gradients of a loss for weights and neurons, one block in memory at a time.

A forward walk notes the hidden states in front of every block; a walk back through the blocks
computes each block once more with gradients on. So memory holds one block, its activations for
one batch, and the gradients of the hidden states; the states themselves go to a scratch folder
where they are large. Nothing is trained: gradients are used and dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from paredown.artifact.checkpoint import Checkpoint
from paredown.blocks.calls import answer, stand_ins
from paredown.blocks.rewrite import compute_dtype
from paredown.blocks.walk import BlockWalk, submodule
from paredown.ops.losses import frobenius_loss, next_token_loss, nuclear_loss
from paredown.spec.progress import Progress
from paredown.spec.structure import Block, Mlp

Loss = Literal["ce", "frobenius", "nuclear"]
"""`ce`: mean next-token cross-entropy of a window. `frobenius`: sum over the outputs Y of all MLP
matrices of ||Y||_F / sqrt(numel Y), per window. `nuclear`: sum over the same outputs of their mean
singular value, for a batch of windows as rows."""

STATES_BYTES = 2_000_000_000
"""Hidden states up to this size stay in memory."""
_HEAD_TOKENS = 1024
"""Positions whose logits are held at once."""


@dataclass
class Seen:
    """What went through the MLPs of a block in one pass with gradients."""

    samples: int
    names: list[str] = field(default_factory=list)
    """Down projections."""
    hidden: list[Tensor] = field(default_factory=list)
    """Their inputs, (samples, length, width) or (samples * length, width)."""
    outputs: list[Tensor] = field(default_factory=list)
    """Outputs of all matrices of the MLPs, (samples, length * features)."""


Wanted = Callable[[Seen], list[Tensor]]


class GradientWalk(BlockWalk):
    """A walk through the blocks with calibration windows, and back with gradients."""

    def __init__(
        self,
        source: Checkpoint,
        batches: Sequence[Tensor],
        losses: Sequence[Loss],
        device: str,
        scratch: Path,
        trust_remote_code: bool = False,
    ) -> None:
        """`batches` are (samples, length) int64 token ids each."""
        super().__init__(
            source,
            probe=batches[0][:1, :16],  # read by nobody, but to learn how blocks are called
            dtype=compute_dtype(device),
            device=device,
            trust_remote_code=trust_remote_code,
        )
        self.losses = tuple(losses)
        self.batches = list(batches)
        self._mlps: dict[int, list[Mlp]] = {}
        for mlp in source.spec.structure.mlps:
            self._mlps.setdefault(mlp.block, []).append(mlp)
        width = self.model.get_input_embeddings().weight.shape[1]
        tokens = sum(batch.numel() for batch in batches)
        held = len(self.blocks) * tokens * width * self.dtype.itemsize
        self._states = _States(scratch if held > STATES_BYTES else None)
        self._upstream: dict[Loss, list[Tensor]] = {}

    def back(self, progress: Progress | None = None) -> Iterator[tuple[Block, nn.Module]]:
        """Forward through all blocks, then each block with its weights from the last to the first.

        The caller exhausts `pull` for every block that it is given.
        """
        report = progress or (lambda share, message: None)
        total = 2 * len(self.blocks)
        states = self.start()
        for i, (block, module) in enumerate(self):
            self._states.put(block, states)
            with torch.no_grad():
                states = [
                    self._run(block, module, state, ids)
                    for state, ids in zip(states, self.batches, strict=True)
                ]
            report((i + 1) / total, f"forward, block {i + 1} of {len(self.blocks)}")
        self._upstream = {loss: self._at_the_end(loss, states) for loss in self.losses}
        del states
        for i, block in enumerate(reversed(self.blocks)):
            with self._loaded(block) as module:
                yield block, module
            self._states.drop(block)
            done = len(self.blocks) + i + 1
            report(done / total, f"gradients, block {len(self.blocks) - i} of {len(self.blocks)}")

    def start(self) -> list[Tensor]:
        """Hidden states in front of the first block, batch by batch."""
        return [self._embed(batch) for batch in self.batches]

    def judged(self, batch: int) -> int:
        """Position from which on the tokens of a batch are predictions that the loss judges."""
        return 1

    def pull(
        self, block: Block, module: nn.Module, wanted: Wanted
    ) -> Iterator[tuple[Seen, dict[Loss, list[Tensor]]]]:
        """Per batch, what went through the MLPs, and by loss the gradients of what is `wanted`."""
        mlps = self._mlps.get(block.index, [])
        for i, state in enumerate(self._states.get(block)):
            ids = self.batches[i]
            with torch.enable_grad(), _watch(module, block, mlps, len(ids)) as seen:
                hidden = state.detach().to(self.device).requires_grad_()
                output = self._run(block, module, hidden, ids)
                found: dict[Loss, list[Tensor]] = {}
                for loss in self.losses:
                    ends, seeds = [output], [self._upstream[loss][i]]
                    if loss != "ce" and seen.outputs:
                        ends.append(_layer_loss(loss, seen.outputs))
                        seeds.append(torch.ones_like(ends[-1]))
                    # One backward pass: what comes back from the blocks behind, and what this
                    # block's own MLPs add. Zeros, not None, where a loss depends on nothing here.
                    gradient, *found[loss] = torch.autograd.grad(
                        ends, [hidden, *wanted(seen)], seeds,
                        retain_graph=loss != self.losses[-1], materialize_grads=True,
                    )  # fmt: skip
                    self._upstream[loss][i] = gradient
            yield seen, found

    def _at_the_end(self, loss: Loss, states: list[Tensor]) -> list[Tensor]:
        """Gradient of the loss for the hidden states behind the last block."""
        if loss != "ce":
            return [torch.zeros_like(state) for state in states]  # no loss behind the blocks
        found = []
        for i, (state, ids) in enumerate(zip(states, self.batches, strict=True)):
            rows = zip(state.split(1, dim=-3), ids, strict=True)
            parts = [self._head_gradient(*row, self.judged(i)) for row in rows]
            found.append(torch.cat(parts, dim=-3))
        return found

    def _head_gradient(self, state: Tensor, ids: Tensor, judged: int) -> Tensor:
        """As `state`: of the mean cross-entropy of a window's tokens from `judged` on.

        Args:
            state: (..., 1, length, hidden) behind the last block.
        """
        following = ids[1:].to(self.device)
        found = torch.zeros_like(state)
        for start in range(judged - 1, len(following), _HEAD_TOKENS):  # p predicts p + 1
            part = slice(start, min(start + _HEAD_TOKENS, len(following)))
            with torch.enable_grad():
                hidden = state[..., part, :].detach().requires_grad_()
                logits = self.head_logits(hidden, ids[part])
                value = next_token_loss(logits, following[part]) / (len(ids) - judged)
                (found[..., part, :],) = torch.autograd.grad(value, hidden)
        return found

    def head_logits(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """Logits (length, vocabulary) of states (..., 1, length, hidden) behind the last block."""
        with stand_ins(self.model, self._names) as standing:
            answer(standing, hidden)  # so that norm and head alone are run
            short = ids[None].to(self.device)
            logits: Tensor = self.model(input_ids=short, use_cache=False).logits
        return logits[0]

    @contextmanager
    def _loaded(self, block: Block) -> Iterator[nn.Module]:
        yield self._fill(block)
        self._drop(block)


def _layer_loss(loss: Loss, outputs: list[Tensor]) -> Tensor:
    measure = frobenius_loss if loss == "frobenius" else nuclear_loss
    return torch.stack([measure(output) for output in outputs]).sum()


@contextmanager
def _watch(module: nn.Module, block: Block, mlps: list[Mlp], samples: int) -> Iterator[Seen]:
    """Hooks that note the inputs of down projections and the outputs of all MLP matrices."""
    seen = Seen(samples)
    handles = []

    def note_input(name: str) -> Callable[[nn.Module, Any], None]:
        def hook(_: nn.Module, args: Any) -> None:
            seen.names.append(name)
            seen.hidden.append(args[0])

        return hook

    def note_output(_: nn.Module, args: Any, output: Tensor) -> None:
        seen.outputs.append(output.reshape(samples, -1))  # OPT folds samples and positions

    for mlp in mlps:
        down = submodule(module, block, mlp.output)
        handles.append(down.register_forward_pre_hook(note_input(mlp.output)))
        for name in (*mlp.inputs, mlp.output):
            handles.append(submodule(module, block, name).register_forward_hook(note_output))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


class _States:
    """Hidden states in front of each block: in memory, or as files in a scratch folder."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._held: dict[str, list[Tensor]] = {}

    def put(self, block: Block, states: list[Tensor]) -> None:
        if self.folder is None:
            self._held[block.prefix] = list(states)
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        save_file({str(i): state for i, state in enumerate(states)}, self._file(block))

    def get(self, block: Block) -> list[Tensor]:
        if self.folder is None:
            return self._held[block.prefix]
        stored = load_file(self._file(block))
        return [stored[str(i)] for i in range(len(stored))]

    def drop(self, block: Block) -> None:
        if self.folder is None:
            del self._held[block.prefix]
        else:
            self._file(block).unlink()

    def _file(self, block: Block) -> Path:
        if self.folder is None:
            raise AssertionError("states in memory have no file")
        return self.folder / f"states-{block.prefix}.safetensors"
