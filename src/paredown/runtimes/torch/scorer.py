"""Log-likelihoods and greedy text of any model that `paredown.load` returns.

What the answers to one question share, its prompt, is computed once: the prompt and all answers
form one row in which every answer sees the prompt and itself, but no other answer. That is one
forward pass with a mask of our own, so it works for packed layers and needs no cache. Whether a
model heeds such a mask is tried on its first use; one that does not gets a row per answer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from paredown.errors import ConfigError, DivergedError
from paredown.runtimes.session import TOP, Likeliest, Pair, Scored, Written
from paredown.runtimes.torch.generation import end_tokens, only_greedy, written_text
from paredown.runtimes.torch.rows import Row, batches

log = logging.getLogger(__name__)

_TOKENS = {"cpu": 1024, "cuda": 16384}
"""Tokens of a batch of rows, padding included."""
_ROWS = {"cpu": 16, "cuda": 64}
"""Texts that are written side by side."""
_DEFAULT_CONTEXT = 2048
_SAME = {torch.float32: 2e-3}
_ABOUT_SAME = 0.1
"""Nats per token by which a shared prompt may change a score in 16 bits."""


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
        for batch, logits in self._batches(rows):
            found = _scored(batch, logits)
            for row, scored in zip(batch, found, strict=True):
                done = waiting.setdefault(row.group, {})
                done |= zip(row.places, scored, strict=True)
                # The answers of one group may lie in several batches, where each has a row of its
                # own.
                if len(done) == len(groups[row.group]):
                    yield row.group, [done[k] for k in range(len(done))]
                    del waiting[row.group]

    @torch.inference_mode()
    def along(self, pairs: Sequence[Pair]) -> Iterator[tuple[int, list[Likeliest]]]:
        """What may come at each token of given continuations: one pass over each pair.

        Yields:
            The index of a pair, and one entry per token of its continuation.

        Raises:
            DivergedError: logits that are not finite.
        """
        rows = [Row.of(i, [pair], self.context) for i, pair in enumerate(pairs)]
        rows.sort(key=lambda row: (-row.length, row.group))
        for batch, logits in self._batches(rows):
            told = iter(_likeliest(logits.log_softmax(-1)))
            for row in batch:
                yield row.group, [next(told) for _ in row.targets]

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        stops: Sequence[str],
        max_tokens: int,
        step: Callable[[int, float], None] = lambda rows, share: None,
    ) -> Iterator[tuple[int, Written]]:
        """Continue prompts greedily until a stop sequence, the end of text, or `max_tokens`.

        Args:
            step: told after every token how many texts are being written, and which share of
                their longest possible length they have.

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
            written = self._write_batch(ids, stops, max_tokens, step)
            for i, (text, following) in zip(chosen, written, strict=True):
                yield i, Written(text, truncated=len(prompts[i]) > room, next=following)

    def _write_batch(
        self,
        ids: list[list[int]],
        stops: Sequence[str],
        max_tokens: int,
        step: Callable[[int, float], None],
    ) -> list[tuple[str, Likeliest]]:
        width = max(map(len, ids))
        ends = end_tokens(self.model, self.tokenizer)
        pad = next(t for t in (self.tokenizer.pad_token_id, *ends, 0) if t is not None)
        # Padded on the left: all texts go on at the same position.
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids])
        first = _First()
        with only_greedy(self.model, ends=ends, pad=pad, max_tokens=max_tokens) as greedy:
            output = self.model.generate(
                torch.tensor([[pad] * (width - len(row)) + row for row in ids]).to(self.device),
                attention_mask=mask.to(self.device),
                generation_config=greedy,
                logits_processor=[first],
                stopping_criteria=[
                    _Stop(self.tokenizer, stops, width, lambda n: step(len(ids), n / max_tokens))
                ],
            )
        written = output[:, width:].tolist()
        texts = [
            written_text(self.tokenizer, prompt, answer, ends)
            for prompt, answer in zip(ids, written, strict=True)
        ]
        return [(cut(t, stops), next_) for t, next_ in zip(texts, first.found, strict=True)]

    def _pieces(self, group: int, pairs: Sequence[Pair]) -> list[Row]:
        """One row for all answers, or a row per answer where they must not be side by side."""
        row = Row.of(group, pairs, self.context)
        if not row.forked or (self._shares and row.length <= self._window):
            return [row]
        return [row.only(k) for k in range(len(row.branches))]

    def _batches(self, rows: Sequence[Row]) -> Iterator[tuple[Sequence[Row], Tensor]]:
        """Rows in batches, with the logits that predict their targets, (targets, vocabulary)."""
        for batch in batches(rows, self.batch_tokens):
            yield batch, self._finite_logits(batch)

    def _score_rows(self, rows: Sequence[Row]) -> list[list[Scored]]:
        return _scored(rows, self._finite_logits(rows))

    def _finite_logits(self, rows: Sequence[Row]) -> Tensor:
        logits = self._logits(rows)
        if not torch.isfinite(logits).all():
            raise DivergedError("the model's logits are not finite")
        return logits

    def _logits(self, rows: Sequence[Row]) -> Tensor:
        """(targets, vocabulary) float32: logits at the positions that predict a target, no others.

        The head is fed only the hidden states of those positions, so the logits of whole rows,
        most of a batch's memory, never exist.
        """
        ids = self._ids(rows)
        options: dict[str, Any] = {}
        if any(row.forked for row in rows):
            options = self._mask(rows, ids.shape[1])
        where = [(k, p) for k, row in enumerate(rows) for p in row.positions]
        index = torch.tensor(where, device=self.device)

        def select(module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (args[0][index[:, 0], index[:, 1]][None], *args[1:])  # (1, targets, width)

        hook = self._head.register_forward_pre_hook(select)
        try:
            output = self._forward(ids, options)
        finally:
            hook.remove()
        logits: Tensor = output.logits[0].float()
        return logits

    def _ids(self, rows: Sequence[Row]) -> Tensor:
        """(rows, width) token ids, padded on the right, where nothing before them sees them."""
        ids = torch.zeros(len(rows), max(row.length for row in rows), dtype=torch.int64)
        for k, row in enumerate(rows):
            ids[k, : row.length] = torch.tensor(row.tokens)
        return ids

    def _forward(self, ids: Tensor, options: dict[str, Any]) -> Any:
        """The model's output for a batch."""
        return self.model(ids.to(self.device), use_cache=False, **options)

    def _mask(self, rows: Sequence[Row], width: int) -> dict[str, Tensor]:
        """Additive (rows, 1, width, width) mask and (rows, width) positions of branched rows."""
        segments = torch.full((len(rows), width), -1)
        positions = torch.zeros(len(rows), width, dtype=torch.int64)
        for k, row in enumerate(rows):
            segments[k, : row.length] = torch.tensor(row.segments)
            positions[k, : row.length] = torch.tensor(row.places_in_text)
        same = segments[:, :, None] == segments[:, None, :]
        # An answer sees the prompt (segment 0) and itself, never ahead. Padding (-1) sees padding:
        # a softmax over nothing would be NaN.
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
        row = Row.of(0, pairs, self.context)
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


class _Stop:
    """Tells which texts have come to a stop sequence."""

    def __init__(
        self, tokenizer: Any, stops: Sequence[str], start: int, written: Callable[[int], None]
    ) -> None:
        self.written = written
        self.tokenizer, self.stops, self.start = tokenizer, [s for s in stops if s], start
        # Every token but a special one holds a byte at least.
        self.tail = max((len(s.encode()) for s in self.stops), default=0) + 4

    def __call__(self, ids: Tensor, scores: Any, **_: Any) -> Tensor:
        self.written(ids.shape[1] - self.start)
        tails = ids[:, max(self.start, ids.shape[1] - self.tail) :]
        texts = self.tokenizer.batch_decode(tails, clean_up_tokenization_spaces=False)
        done = [any(stop in text for stop in self.stops) for text in texts]
        return torch.tensor(done, device=ids.device)


class _First:
    """Sees the logits of every token that is written, and keeps what the prompts predict."""

    def __init__(self) -> None:
        self.found: list[Likeliest] = []

    def __call__(self, ids: Tensor, logits: Tensor) -> Tensor:
        if not torch.isfinite(logits).all():
            raise DivergedError("the model's logits are not finite")
        self.found = self.found or _likeliest(logits.float().log_softmax(-1))
        return logits


def _scored(rows: Sequence[Row], logits: Tensor) -> list[list[Scored]]:
    """The scores of each row's answers, from (targets, vocabulary) logits of all of them."""
    targets = torch.tensor([t for row in rows for t in row.targets], device=logits.device)
    logprobs = logits.log_softmax(-1)
    chosen = logprobs.gather(1, targets[:, None])[:, 0].tolist()
    likeliest = (logits.argmax(-1) == targets).tolist()
    sizes = [size for row in rows for size in row.sizes]
    starts = torch.tensor([0, *sizes[:-1]], device=logits.device).cumsum(0)
    # The first target of an answer is what the prompt alone predicts.
    following = iter(_likeliest(logprobs[starts]))
    found, at = [], 0
    for row in rows:
        scored = []
        for size, truncated in zip(row.sizes, row.truncated, strict=True):
            span = slice(at, at + size)
            scored.append(
                Scored(sum(chosen[span]), all(likeliest[span]), truncated, next(following))
            )
            at += size
        found.append(scored)
    return found


def _likeliest(logprobs: Tensor) -> list[Likeliest]:
    """Of each row of (rows, vocabulary); rounded, because they are kept by the thousand."""
    values, ids = logprobs.topk(min(TOP, logprobs.shape[-1]))
    return [
        Likeliest(tuple(tokens), tuple(round(value, 5) for value in row))
        for tokens, row in zip(ids.tolist(), values.tolist(), strict=True)
    ]


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
