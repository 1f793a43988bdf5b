"""Log-likelihoods and greedy text of any model that `paredown.load` returns.

What the answers to one question share, its prompt, is computed once: the prompt and all answers
form one row in which every answer sees the prompt and itself, but no other answer. That is one
forward pass with a mask of our own, so it works for packed layers and needs no cache. Whether a
model heeds such a mask is tried on its first use; one that does not gets a row per answer.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from paredown.errors import ConfigError, DivergedError

log = logging.getLogger(__name__)

_TOKENS = {"cpu": 1024, "cuda": 16384}
"""Tokens of a batch of rows, padding included."""
_ROWS = {"cpu": 16, "cuda": 64}
"""Texts that are written side by side."""
_DEFAULT_CONTEXT = 2048
_SAME = {torch.float32: 2e-3}
_ABOUT_SAME = 0.1
"""Nats per token by which a shared prompt may change a score in 16 bits."""


@dataclass(frozen=True)
class Pair:
    """A prompt and what follows it, as token ids; both at least one."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


@dataclass(frozen=True)
class Scored:
    """What a model thinks of a continuation."""

    loglikelihood: float
    """Sum over its tokens, nats."""
    greedy: bool
    """Whether each of its tokens is the likeliest."""
    truncated: bool
    """Whether the context had to lose its beginning."""


@dataclass(frozen=True)
class Written:
    """What a model writes after a prompt."""

    text: str
    truncated: bool
    """Whether the prompt had to lose its beginning."""


class CausalScorer:
    """A model with its tokenizer, ready to answer requests in batches."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        device: str,
        batch_tokens: int | None = None,
        share_prompts: bool = True,
    ) -> None:
        """`share_prompts=False` computes the prompt again for each of its answers."""
        self.model, self.tokenizer, self.device = model, tokenizer, device
        self.context = context_length(model, tokenizer)
        self.batch_tokens = batch_tokens or _TOKENS[device]
        config = model.config.get_text_config()
        self._window = getattr(config, "sliding_window", None) or self.context
        self._dtype: torch.dtype = model.dtype
        self._head = model.get_output_embeddings()
        self._shares = share_prompts and self._heeds_masks()

    @torch.inference_mode()
    def score(self, groups: Sequence[Sequence[Pair]]) -> Iterator[tuple[int, list[Scored]]]:
        """Score groups of pairs; those of a group share the beginning of their tokens.

        Long groups come first, so that memory that does not suffice shows at once.

        Yields:
            The index of a group, and the scores of its pairs in their order.

        Raises:
            DivergedError: logits that are not finite.
        """
        rows = [piece for i, group in enumerate(groups) for piece in self._pieces(i, group)]
        rows.sort(key=lambda row: (-row.length, row.group))
        waiting: dict[int, dict[int, Scored]] = {}
        for batch in _batches(rows, self.batch_tokens):
            found = self._score_rows(batch)
            for row, scored in zip(batch, found, strict=True):
                done = waiting.setdefault(row.group, {})
                done |= zip(row.places, scored, strict=True)
                if len(done) == len(groups[row.group]):
                    yield row.group, [done[k] for k in range(len(done))]
                    del waiting[row.group]

    @torch.inference_mode()
    def write(
        self, prompts: Sequence[Sequence[int]], *, stops: Sequence[str], max_tokens: int
    ) -> Iterator[tuple[int, Written]]:
        """Continue prompts greedily until a stop sequence, the end of text, or `max_tokens`.

        Yields:
            The index of a prompt, and the text without the stop sequence.

        Raises:
            ConfigError: `max_tokens` leaves no room for a prompt.
            DivergedError: logits that are not finite.
        """
        room = self.context - max_tokens
        if room < 1:
            raise ConfigError(
                f"the answers may take {max_tokens} tokens, and the model's context is "
                f"{self.context}: it cannot be scored on this benchmark"
            )
        order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
        for start in range(0, len(order), _ROWS[self.device]):
            chosen = order[start : start + _ROWS[self.device]]
            ids = [list(prompts[i])[-room:] for i in chosen]
            for i, text in zip(chosen, self._write_batch(ids, stops, max_tokens), strict=True):
                yield i, Written(text, truncated=len(prompts[i]) > room)

    def _write_batch(
        self, ids: list[list[int]], stops: Sequence[str], max_tokens: int
    ) -> list[str]:
        width = max(map(len, ids))
        end = self.tokenizer.eos_token_id
        pad = self.tokenizer.pad_token_id
        pad = next(t for t in (pad, end, 0) if t is not None)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids])
        output = self.model.generate(
            torch.tensor([[pad] * (width - len(row)) + row for row in ids]).to(self.device),
            attention_mask=mask.to(self.device),
            max_new_tokens=max_tokens,
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=pad,
            eos_token_id=end,
            logits_processor=[_require_finite],
            stopping_criteria=[_Stop(self.tokenizer, stops, width)],
        )
        texts = self.tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)
        return [cut(text, stops) for text in texts]

    def _pieces(self, group: int, pairs: Sequence[Pair]) -> list[_Row]:
        """One row for all answers, or a row per answer where they must not be side by side."""
        row = _Row.of(group, pairs, self.context)
        if not row.forked or (self._shares and row.length <= self._window):
            return [row]
        return [row.only(k) for k in range(len(row.branches))]

    def _score_rows(self, rows: Sequence[_Row]) -> list[list[Scored]]:
        logits = self._logits(rows)
        if not torch.isfinite(logits).all():
            raise DivergedError("the model's logits are not finite")
        targets = torch.tensor([t for row in rows for t in row.targets], device=logits.device)
        chosen = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0].tolist()
        likeliest = (logits.argmax(-1) == targets).tolist()
        found, at = [], 0
        for row in rows:
            scored = []
            for size, truncated in zip(row.sizes, row.truncated, strict=True):
                span = slice(at, at + size)
                scored.append(Scored(sum(chosen[span]), all(likeliest[span]), truncated))
                at += size
            found.append(scored)
        return found

    def _logits(self, rows: Sequence[_Row]) -> Tensor:
        """(targets, vocabulary) float32: logits at the positions that predict a target, no others.

        The head is fed only the hidden states of those positions, so the logits of whole rows,
        most of a batch's memory, never exist.
        """
        width = max(row.length for row in rows)
        ids = torch.zeros(len(rows), width, dtype=torch.int64)
        for k, row in enumerate(rows):
            ids[k, : row.length] = torch.tensor(row.tokens)
        options: dict[str, Any] = {}
        if any(row.forked for row in rows):
            options = self._mask(rows, width)
        where = [(k, p) for k, row in enumerate(rows) for p in row.positions]
        index = torch.tensor(where, device=self.device)

        def select(module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (args[0][index[:, 0], index[:, 1]][None], *args[1:])

        hook = self._head.register_forward_pre_hook(select)
        try:
            output = self.model(ids.to(self.device), use_cache=False, **options)
        finally:
            hook.remove()
        logits: Tensor = output.logits[0].float()
        return logits

    def _mask(self, rows: Sequence[_Row], width: int) -> dict[str, Tensor]:
        """Additive (rows, 1, width, width) mask and (rows, width) positions of branched rows."""
        segments = torch.full((len(rows), width), -1)
        positions = torch.zeros(len(rows), width, dtype=torch.int64)
        for k, row in enumerate(rows):
            segments[k, : row.length] = torch.tensor(row.segments)
            positions[k, : row.length] = torch.tensor(row.places_in_text)
        same = segments[:, :, None] == segments[:, None, :]
        seen = (same | (segments == 0)[:, None, :]) & torch.ones(width, width).tril().bool()
        mask = torch.zeros(len(rows), 1, width, width, dtype=self._dtype)
        mask.masked_fill_(~seen[:, None], torch.finfo(self._dtype).min)
        return {
            "attention_mask": mask.to(self.device),
            "position_ids": positions.to(self.device),
        }

    @torch.inference_mode()
    def _heeds_masks(self) -> bool:
        """Whether answers side by side get the scores that they get alone."""
        vocabulary = self.model.get_input_embeddings().num_embeddings
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(1, vocabulary, (3, 6), generator=generator).tolist()
        pairs = [Pair((*ids[0], *ids[1]), tuple(tail)) for tail in (ids[0], ids[2], ids[1][::-1])]
        row = _Row.of(0, pairs, self.context)
        if row.length > self._window:
            return False
        try:
            together = self._score_rows([row])[0]
        except (TypeError, ValueError, RuntimeError) as error:
            log.info("no shared prompts, a row per answer: %s", error)
            return False
        alone = [self._score_rows([row.only(k)])[0][0] for k in range(len(pairs))]
        worst = max(
            abs(a.loglikelihood - b.loglikelihood) / len(p.continuation)
            for a, b, p in zip(together, alone, pairs, strict=True)
        )
        heeded = worst <= _SAME.get(self._dtype, _ABOUT_SAME)
        if not heeded:
            log.info("no shared prompts, a row per answer: scores differ by %.3g", worst)
        return heeded


@dataclass(frozen=True)
class _Row:
    """A prompt with its answers, one after another.

    Attributes:
        places: indices of the answers in their group.
        prefix: tokens that all answers begin with.
        branches: the tokens after them, the last target left out, one tuple per answer.
        targets: tokens to be predicted, answer by answer.
        sizes: number of targets per answer.
        truncated: per answer.
    """

    group: int
    places: tuple[int, ...]
    prefix: tuple[int, ...]
    branches: tuple[tuple[int, ...], ...]
    targets: tuple[int, ...]
    sizes: tuple[int, ...]
    truncated: tuple[bool, ...]

    @staticmethod
    def of(group: int, pairs: Sequence[Pair], context: int) -> _Row:
        """Like lm-eval, keep the last `context` inputs of a pair that is too long."""
        inputs, truncated = [], []
        for pair in pairs:
            whole = (*pair.context, *pair.continuation)
            inputs.append(whole[-(context + 1) :][:-1])
            truncated.append(len(whole) > context + 1)
        shared = _common_length(inputs)
        return _Row(
            group=group,
            places=tuple(range(len(pairs))),
            prefix=inputs[0][:shared],
            branches=tuple(ids[shared:] for ids in inputs),
            targets=tuple(t for pair in pairs for t in pair.continuation),
            sizes=tuple(len(pair.continuation) for pair in pairs),
            truncated=tuple(truncated),
        )

    def only(self, k: int) -> _Row:
        """The row of one answer."""
        start = sum(self.sizes[:k])
        return _Row(
            group=self.group,
            places=self.places[k : k + 1],
            prefix=self.prefix,
            branches=self.branches[k : k + 1],
            targets=self.targets[start : start + self.sizes[k]],
            sizes=self.sizes[k : k + 1],
            truncated=self.truncated[k : k + 1],
        )

    @property
    def tokens(self) -> list[int]:
        return [*self.prefix, *(t for branch in self.branches for t in branch)]

    @property
    def length(self) -> int:
        return len(self.prefix) + sum(map(len, self.branches))

    @property
    def forked(self) -> bool:
        """Whether there are tokens that must not see each other."""
        return sum(bool(branch) for branch in self.branches) > 1

    @property
    def segments(self) -> list[int]:
        """0 for the prefix, k + 1 for answer k."""
        tails = [k + 1 for k, branch in enumerate(self.branches) for _ in branch]
        return [0] * len(self.prefix) + tails

    @property
    def places_in_text(self) -> list[int]:
        """Position ids: every answer goes on where the prefix ends."""
        start = len(self.prefix)
        tails = [start + i for branch in self.branches for i in range(len(branch))]
        return [*range(start), *tails]

    @property
    def positions(self) -> list[int]:
        """Columns of the row that predict the targets, in their order."""
        found, start = [], len(self.prefix)
        for branch, size in zip(self.branches, self.sizes, strict=True):
            columns = [*range(len(self.prefix)), *range(start, start + len(branch))]
            found += columns[len(columns) - size :]
            start += len(branch)
        return found


class _Stop:
    """Tells which texts have come to a stop sequence."""

    def __init__(self, tokenizer: Any, stops: Sequence[str], start: int) -> None:
        self.tokenizer, self.stops, self.start = tokenizer, [s for s in stops if s], start
        # Every token but a special one holds a byte at least.
        self.tail = max((len(s.encode()) for s in self.stops), default=0) + 4

    def __call__(self, ids: Tensor, scores: Any, **_: Any) -> Tensor:
        tails = ids[:, max(self.start, ids.shape[1] - self.tail) :]
        texts = self.tokenizer.batch_decode(tails)
        done = [any(stop in text for stop in self.stops) for text in texts]
        return torch.tensor(done, device=ids.device)


def _require_finite(ids: Tensor, logits: Tensor) -> Tensor:
    if not torch.isfinite(logits).all():
        raise DivergedError("the model's logits are not finite")
    return logits


def cut(text: str, stops: Sequence[str]) -> str:
    """The text before the first of the stop sequences."""
    ends = [at for stop in stops if stop and (at := text.find(stop)) >= 0]
    return text[: min(ends, default=None)]


def context_length(model: Any, tokenizer: Any) -> int:
    """Tokens that a model can see, read as lm-eval reads it."""
    config = model.config.get_text_config()
    for name in ("n_positions", "max_position_embeddings", "n_ctx"):
        value = getattr(config, name, None)
        if value is not None:
            return int(value)
    limit = getattr(tokenizer, "model_max_length", None)
    return int(limit) if limit is not None and limit < 10**9 else _DEFAULT_CONTEXT


def _common_length(rows: Sequence[Sequence[int]]) -> int:
    shortest = min(map(len, rows))
    for i in range(shortest):
        if any(row[i] != rows[0][i] for row in rows):
            return i
    return shortest


def _batches(rows: Sequence[_Row], tokens: int) -> Iterator[Sequence[_Row]]:
    """Consecutive rows, as many as fit into `tokens` when padded to the first and longest."""
    start = 0
    while start < len(rows):
        count = max(1, tokens // max(rows[start].length, 1))
        yield rows[start : start + count]
        start += count
