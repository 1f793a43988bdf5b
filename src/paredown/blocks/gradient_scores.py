"""First-order changes of a loss by neurons and weights, from one walk with gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from paredown.artifact.checkpoint import Checkpoint
from paredown.blocks.gradients import GradientWalk, Loss, Seen
from paredown.blocks.walk import BATCH_TOKENS, submodule
from paredown.errors import NumericsError
from paredown.ops.saliency import trimmed_means
from paredown.spec.progress import Progress


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
