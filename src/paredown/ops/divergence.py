"""How far one model's next-token distribution is from another's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenScores:
    """Per-token scores of one window; every tensor is (tokens,) float32 or bool.

    Attributes:
        nll: negative log-likelihood of the true next token, nats.
        right: whether the most likely token is the true one.
        base_nll: the base's negative log-likelihood of the true token; None without base logits.
        kl: KL(base || model), nats; None without base logits.
        agree: whether model and base have the same most likely token; None without base.
    """

    nll: Tensor
    right: Tensor
    base_nll: Tensor | None
    kl: Tensor | None
    agree: Tensor | None


def score_tokens(
    logits: Tensor, targets: Tensor, base_logits: Tensor | None, *, rows: int = 128
) -> TokenScores:
    """Score next-token logits, `rows` tokens at a time so that few float32 copies exist.

    Args:
        logits: (tokens, vocabulary), any float dtype.
        targets: (tokens,) int64, the true next token of each position.
        base_logits: (tokens, vocabulary) of the base model on the same positions, or None.
        rows: tokens per chunk.
    """
    nll, right, base_nll, kl, agree = [], [], [], [], []
    for start in range(0, len(targets), rows):
        part = slice(start, start + rows)
        mine = torch.log_softmax(logits[part].float(), dim=-1)
        nll.append(-mine.gather(-1, targets[part, None])[:, 0])
        top = mine.argmax(-1)
        right.append(top == targets[part])
        if base_logits is not None:
            base = torch.log_softmax(base_logits[part].float(), dim=-1)
            base_nll.append(-base.gather(-1, targets[part, None])[:, 0])
            agree.append(base.argmax(-1) == top)
            kl.append(kl_rows(base, mine))
    return TokenScores(
        nll=torch.cat(nll),
        right=torch.cat(right),
        base_nll=torch.cat(base_nll) if base_nll else None,
        kl=torch.cat(kl) if kl else None,
        agree=torch.cat(agree) if agree else None,
    )


def kl_rows(base_logp: Tensor, logp: Tensor) -> Tensor:
    """KL(base || model) of each row in nats, from log-probabilities (rows, vocabulary).

    Never below 0: rounding can leave a tiny negative sum for equal distributions.
    """
    return (base_logp.exp() * (base_logp - logp)).sum(-1).clamp_(min=0.0)
