"""Losses of recovery training, in chunks of tokens, so that few copies of the logits exist.

A language model's logits are the largest tensors of its training: tokens x vocabulary. Each chunk's
float32 softmax is dropped and computed again on the way back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from paredown.ops.divergence import kl_rows
from paredown.ops.losses import next_token_loss

ROWS = 128
"""Tokens per chunk."""


def token_loss(logits: Tensor, following: Tensor, *, rows: int = ROWS) -> Tensor:
    """Mean cross-entropy of the next token, nats.

    Args:
        logits: (tokens, vocabulary), any float dtype; computed in float32.
        following: (tokens,) int64 ids that the logits should have predicted.
        rows: tokens per chunk.
    """
    return _mean(next_token_loss, (logits, following), rows)


def distillation_loss(
    logits: Tensor,
    teacher: Tensor,
    following: Tensor,
    *,
    alpha: float,
    temperature: float,
    rows: int = ROWS,
) -> Tensor:
    """`alpha T^2 KL(teacher || student) + (1 - alpha) CE`, mean over tokens, nats.

    Both distributions of the KL are softened by the temperature T; its square keeps the gradients'
    size independent of T. CE is the cross-entropy of the true next token at temperature 1.

    Args:
        logits: (tokens, vocabulary) of the student, any float dtype; computed in float32.
        teacher: the same of the teacher; gets no gradient.
        following: (tokens,) int64 ids of the true next tokens.
        alpha: 0 learns from the text alone, 1 from the teacher alone.
        temperature: T > 0.
        rows: tokens per chunk.

    Source: Hinton et al., arXiv:1503.02531, section 2.
    """

    def part(mine: Tensor, other: Tensor, ids: Tensor) -> Tensor:
        softened = torch.log_softmax(mine.float() / temperature, dim=-1)
        base = torch.log_softmax(other.float() / temperature, dim=-1)
        divergence = temperature**2 * kl_rows(base, softened).sum()
        return alpha * divergence + (1 - alpha) * next_token_loss(mine, ids)

    return _mean(part, (logits, teacher.detach(), following), rows)


def _mean(loss: Callable[..., Tensor], tensors: tuple[Tensor, ...], rows: int) -> Tensor:
    """Sum of `loss` over chunks of all `tensors`, over the number of rows."""
    total = len(tensors[0])
    chunks = zip(*(t.split(rows) for t in tensors), strict=True)
    # Backward computes a chunk's softmax again, so that only one chunk's exists at a time.
    parts = [checkpoint(loss, *chunk, use_reentrant=False) for chunk in chunks]
    return torch.stack(parts).sum() / total


def feature_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Mean over the student's blocks of `||s - t||^2 / ||t||^2` of their outputs.

    Relative, because the hidden states of late blocks are many times larger than those of early
    ones. Block i of L is compared with the teacher's block `matching_block(i, L, L')`.

    Args:
        student: outputs (..., width) of all L blocks in order.
        teacher: outputs of the teacher's L' blocks, of the same width; they get no gradient.

    Source: hidden-state transfer with uniform mapping of layers, arXiv:1909.10351, eq. 8.
    """
    parts = []
    for i, mine in enumerate(student):
        other = teacher[matching_block(i, len(student), len(teacher))].detach().float()
        parts.append((mine.float() - other).square().sum() / other.square().sum())
    return torch.stack(parts).mean()


def matching_block(index: int, blocks: int, teacher_blocks: int) -> int:
    """The teacher's block at the same relative depth; the last block is matched with the last."""
    return max(0, round((index + 1) * teacher_blocks / blocks) - 1)
