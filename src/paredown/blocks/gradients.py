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
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from paredown.artifact.checkpoint import Checkpoint
from paredown.blocks.memory import release
from paredown.blocks.rewrite import compute_dtype
from paredown.blocks.skeleton import fill
from paredown.blocks.walk import BATCH_TOKENS, BlockWalk, submodule
from paredown.errors import NumericsError
from paredown.ops.losses import frobenius_loss, next_token_loss, nuclear_loss
from paredown.ops.saliency import trimmed_means
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


def neuron_products(
    source: Checkpoint,
    tokens: Tensor,
    losses: Sequence[Loss],
    *,
    device: str,
    scratch: Path,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> dict[Loss, dict[str, Tensor]]:
    """First-order change of each window's loss along each neuron's own activation.

    c_L(s, i) = sum_t h_ti dL_s/dh_ti, where h is the input of the down projection. It equals
    sum_j W_d[j,i] G_d[j,i] and, where h is linear in u = W_u x and the loss does not contain u
    itself, sum_k W_u[i,k] G_u[i,k], with G the gradients for the weights.

    Args:
        source: the model, not packed.
        tokens: (samples, length) int64 windows.
        losses: which losses; they share the forward passes.
        scratch: folder for hidden states that do not fit into memory.

    Returns:
        By loss, then by the name of the down projection: (samples, width) float32 on the CPU.

    Raises:
        NumericsError: a product is NaN or infinite.
        MethodError: the family's blocks cannot be walked through.
    """
    # Two windows at least: for one row the nuclear norm is no more than the Frobenius norm.
    batches = tokens.split(max(2, BATCH_TOKENS // tokens.shape[1]))
    walk = GradientWalk(source, batches, losses, device, scratch, trust_remote_code)
    return walk_products(walk, progress)


def walk_products(
    walk: GradientWalk, progress: Progress | None = None
) -> dict[Loss, dict[str, Tensor]]:
    """`neuron_products` of the windows and losses that a walk at its start was made for."""
    parts: dict[Loss, dict[str, list[Tensor]]] = {loss: {} for loss in walk.losses}
    for block, module in walk.back(progress):
        for seen, found in walk.pull(block, module, lambda seen: seen.hidden):
            for loss, gradients in found.items():
                pairs = zip(seen.names, seen.hidden, gradients, strict=True)
                for name, hidden, gradient in pairs:
                    product = hidden.detach().float() * gradient.float()
                    product = product.reshape(seen.samples, -1, product.shape[-1]).sum(1).cpu()
                    _require_finite(product, name, loss)
                    parts[loss].setdefault(name, []).append(product)
    return {
        loss: {name: torch.cat(rows) for name, rows in found.items()}
        for loss, found in parts.items()
    }


def weight_products(
    source: Checkpoint,
    tokens: Tensor,
    losses: Sequence[Loss],
    *,
    device: str,
    scratch: Path,
    names: Sequence[str] | None = None,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> Iterator[tuple[str, dict[Loss, Tensor]]]:
    """|w dL/dw| of single weights, averaged over windows, layer by layer from the last block on.

    Only the block at hand is held: use or store what comes before asking for the next. Each window
    has its own gradient (for `nuclear`, each batch of windows), so signs do not cancel between
    windows.

    Args:
        names: linears wanted; None takes all block linears.

    Yields:
        Name of a linear, and by loss the products in the shape of its weight, float32 on `device`.

    Raises:
        NumericsError: a product is NaN or infinite.
        MethodError: the family's blocks cannot be walked through.
    """
    batch = max(2, BATCH_TOKENS // tokens.shape[1]) if "nuclear" in losses else 1
    walk = GradientWalk(source, tokens.split(batch), losses, device, scratch, trust_remote_code)
    for block, module in walk.back(progress):
        chosen = [n for n in block.linears if names is None or n in names]
        weights = [submodule(module, block, name).weight.requires_grad_() for name in chosen]
        totals: dict[Loss, list[Tensor]] = {
            loss: [torch.zeros_like(w, dtype=torch.float32) for w in weights] for loss in losses
        }
        for _, found in walk.pull(block, module, partial(_always, weights)):
            for loss, gradients in found.items():
                for total, weight, gradient in zip(totals[loss], weights, gradients, strict=True):
                    total += (weight.detach().float() * gradient.float()).abs_()
        for i, name in enumerate(chosen):
            for loss in losses:
                totals[loss][i] /= len(walk.batches)
                _require_finite(totals[loss][i], name, loss)
            yield name, {loss: totals[loss][i] for loss in losses}


def trimmed_products(
    source: Checkpoint,
    tokens: Tensor,
    losses: Sequence[Loss],
    *,
    device: str,
    scratch: Path,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> dict[Loss, dict[str, Tensor]]:
    """The neuron scores of the AFR-St reference code: trimmed means of w dL/dw.

    Per window (for `nuclear`, per batch of windows) and MLP, A = W_d o G_d + (W_u o G_u)^T +
    (W_g o G_g)^T is (hidden, width); a neuron's value is the |mean| of its column without the 2 %
    at either end. Biases do not count. See `neuron_products` for the arguments.

    Returns:
        By loss, then by the name of the down projection: (width,) float32 on the CPU, the sum over
        windows.

    Raises:
        NumericsError: a product is NaN or infinite.
        MethodError: the family's blocks cannot be walked through.
    """
    batch = max(2, BATCH_TOKENS // tokens.shape[1]) if "nuclear" in losses else 1
    walk = GradientWalk(source, tokens.split(batch), losses, device, scratch, trust_remote_code)
    totals: dict[Loss, dict[str, Tensor]] = {loss: {} for loss in losses}
    mlps = {mlp.block: mlp for mlp in source.spec.structure.mlps}
    for block, module in walk.back(progress):
        mlp = mlps[block.index]
        layers = [submodule(module, block, name) for name in (*mlp.inputs, mlp.output)]
        weights: list[Tensor] = [layer.weight.requires_grad_() for layer in layers]
        for _, found in walk.pull(block, module, partial(_always, weights)):
            for loss, gradients in found.items():
                *above, below = [
                    w.detach().float() * g.float() for w, g in zip(weights, gradients, strict=True)
                ]
                parts = [part for rows in above for part in rows.split(mlp.width)]
                saliency = below + torch.stack(parts).sum(0).T
                value = trimmed_means(saliency).cpu()
                _require_finite(value, mlp.output, loss)
                totals[loss][mlp.output] = totals[loss].get(mlp.output, torch.zeros(())) + value
    return totals


def _always(weights: list[Tensor], seen: Seen) -> list[Tensor]:
    return weights


def _require_finite(values: Tensor, name: str, loss: Loss) -> None:
    if not torch.isfinite(values).all():
        raise NumericsError(
            f"{name}: the gradient of the {loss} loss is not finite; the model's weights or "
            "activations hold a NaN or overflow"
        )


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
            probe=batches[0][:1, :2],  # read by nobody
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
                states = [self._run(block, module, batch) for batch in states]
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
            with torch.enable_grad(), _watch(module, block, mlps, len(state)) as seen:
                hidden = state.detach().to(self.device).requires_grad_()
                output = self._run(block, module, hidden)
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
            rows = zip(state, ids, strict=True)
            found.append(torch.cat([self._head_gradient(*row, self.judged(i)) for row in rows]))
        return found

    def _head_gradient(self, state: Tensor, ids: Tensor, judged: int) -> Tensor:
        """(1, length, hidden): of the mean cross-entropy of a window's tokens from `judged` on."""
        following = ids[1:].to(self.device)
        found = torch.zeros_like(state)[None]
        for start in range(judged - 1, len(following), _HEAD_TOKENS):  # p predicts p + 1
            part = slice(start, min(start + _HEAD_TOKENS, len(following)))
            with torch.enable_grad(), self._recorders() as recorders:
                hidden = state[None, part].detach().requires_grad_()
                recorders[-1].output = hidden  # so that norm and head alone are run
                short = ids[None, part].to(self.device)
                logits = self.model(input_ids=short, use_cache=False).logits[0]
                value = next_token_loss(logits, following[part]) / (len(ids) - judged)
                (found[:, part],) = torch.autograd.grad(value, hidden)
        return found

    @contextmanager
    def _loaded(self, block: Block) -> Iterator[nn.Module]:
        inside = [n for n in self.checkpoint.names if n.startswith(block.prefix + ".")]
        fill(self.model, self.checkpoint, inside, dtype=self.dtype, device=self.device)
        module = self.model.get_submodule(self._names[self.blocks.index(block)])
        yield module
        module.to(torch.device("meta"))
        release()


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
