"""A model judged without being loaded: block by block from disk, whatever its size.

The walk that compression uses runs all the text through one block before the next is read. Memory
is embedding, head, one block, and the hidden states of as much text as `STATES_BYTES` holds. What
needs the whole model at once is refused: writing text, and whatever is timed or weighed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Never, final

import torch
from torch import Tensor, nn

from paredown.artifact.checkpoint import Checkpoint
from paredown.artifact.sparse import is_sparse
from paredown.blocks.names import module_name
from paredown.blocks.skeleton import fill
from paredown.blocks.walk import BATCH_TOKENS, BlockWalk
from paredown.errors import ConfigError
from paredown.ops.readout import Readout
from paredown.runtimes.session import Likeliest, Pair, Scored, Session, Written
from paredown.runtimes.torch.adapters import has_adapter
from paredown.runtimes.torch.attention import use_float32_attention
from paredown.runtimes.torch.load import stored_dtype
from paredown.runtimes.torch.packed import dense_dtype
from paredown.runtimes.torch.placing import (
    PackedParts,
    place_embeddings,
    place_layers,
    place_unpacked,
)
from paredown.runtimes.torch.rows import Row, batches
from paredown.runtimes.torch.scorer import CausalScorer, context_length
from paredown.runtimes.torch.session import readout_of
from paredown.spec.structure import Block
from paredown.spec.target import Device
from paredown.spec.widths import FIELD
from paredown.text.windows import load_tokenizer

STATES_BYTES = 1 << 29
"""Of the hidden states that are held; text that needs more is run in several passes."""
_WIDTHS = 32
"""Rows are padded to multiples of it: each width that occurs has masks of its own."""


def why_not_streamed(checkpoint: Checkpoint) -> str | None:
    """Why a model folder cannot be judged block by block; None where it can."""
    if is_sparse(checkpoint):
        return "its weights are stored sparse"
    if has_adapter(checkpoint.folder):
        return "it has an adapter beside its weights"
    if FIELD in checkpoint.config:
        return "its MLPs differ in width"
    if checkpoint.spec.quantization == "bitsandbytes":
        return "bitsandbytes packs weights while loading"
    if not checkpoint.spec.structure.blocks:
        return "no transformer blocks were found"
    return None


@final
class ArtifactWalk(BlockWalk):
    """A walk through an artifact as `load` would load it: packed layers packed, in its dtype."""

    def __init__(
        self, checkpoint: Checkpoint, *, probe: Tensor, dtype: torch.dtype | None = None,
        device: str = "cpu", trust_remote_code: bool = False,
    ) -> None:  # fmt: skip
        """`dtype` None: that in which a loaded model would be judged."""
        self._parts = PackedParts.of(checkpoint)
        self._linears: dict[str, nn.Module] = {}
        super().__init__(
            checkpoint, probe=probe, dtype=dtype or _judged_dtype(checkpoint, self._parts, device),
            device=device, trust_remote_code=trust_remote_code,
        )  # fmt: skip

    def _put_outside(self, names: list[str]) -> None:
        place_embeddings(
            self.model, self.checkpoint, self._parts, dtype=self.dtype, device=self.device
        )
        inside = tuple(f"{block.prefix}." for block in self.blocks)
        place_unpacked(self.model, self.checkpoint, self._parts.outside(inside), dtype=self.dtype)
        fill(self.model, self.checkpoint, self._parts.dense(names), device=self.device)
        if not self._parts.embeddings:  # packed ones were tied when they were put in
            self.model.tie_weights()
        is_half = self.device == "cpu" and self.dtype == torch.bfloat16
        if is_half and dense_dtype(self.device) == torch.float32:
            use_float32_attention(self.model)

    def _put(self, block: Block) -> None:
        parts = self._parts.within(f"{block.prefix}.")
        places = [module_name(self.model, name) for name in parts.layers]
        self._linears = {place: self.model.get_submodule(place) for place in places}
        place_layers(self.model, self.checkpoint, parts, dtype=self.dtype, device=self.device)
        place_unpacked(self.model, self.checkpoint, parts, dtype=self.dtype)
        inside = [n for n in self.checkpoint.names if n.startswith(f"{block.prefix}.")]
        dense = parts.dense(inside)
        fill(self.model, self.checkpoint, dense, dtype=self.dtype, device=self.device)

    def _drop(self, block: Block) -> None:
        for place, linear in self._linears.items():
            self.model.set_submodule(place, linear)
        super()._drop(block)


def _judged_dtype(checkpoint: Checkpoint, parts: PackedParts, device: str) -> torch.dtype:
    """As `TorchSession.for_many_tokens` has it: dense 16-bit weights are widened where that is
    faster, packed models compute as they are loaded."""
    is_packed = bool(parts.schemes or parts.eight_bit)
    if not is_packed and dense_dtype(device) == torch.float32:
        return torch.float32
    return stored_dtype(checkpoint)


@final
class StreamedSession(Session):
    """A model folder of which a block at a time is in memory."""

    whole = False

    def __init__(
        self, folder: Path, *, device: Device = "cpu", trust_remote_code: bool = False,
        states_bytes: int = STATES_BYTES,
    ) -> None:  # fmt: skip
        """Read what belongs to no block.

        Raises:
            ConfigError: such a folder cannot be judged block by block.
            MethodError: nor can such a family.
        """
        checkpoint = Checkpoint(folder)
        if (why := why_not_streamed(checkpoint)) is not None:
            raise ConfigError(f"{folder} cannot be judged block by block: {why}")
        self.device, self._folder, self._trusted = device, folder, trust_remote_code
        self._states_bytes = states_bytes
        probe = torch.ones(1, 2, dtype=torch.int64)
        self._walk: Any = ArtifactWalk(
            checkpoint, probe=probe, device=device, trust_remote_code=trust_remote_code
        )
        self.model = self._walk.model
        self.notes = (
            "judged block by block from disk, without being loaded: latency, memory and energy "
            "were not measured",
        )

    @cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self._folder, trust_remote_code=self._trusted)

    @property
    def vocabulary(self) -> int:
        return int(self.model.get_input_embeddings().num_embeddings)

    @property
    def context(self) -> int:
        return context_length(self.model, self.tokenizer)

    def encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text))

    # --- Quality ----------------------------------------------------------------------------------

    def logits(self, windows: Tensor) -> Iterator[Tensor]:
        for _, logits in self.hidden(windows):
            yield logits

    @property
    def readout(self) -> Readout:
        return readout_of(self.model)

    @torch.no_grad()
    def hidden(self, windows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for some in windows.split(max(1, self.tokens_at_once // windows.shape[1])):
            self.run(some.split(max(1, BATCH_TOKENS // some.shape[1])))
            with _head_inputs(self.model) as seen:
                for logits in self._walk.window_logits():
                    yield seen.pop()[0, :-1], logits[:-1]

    def score(self, groups: Sequence[Sequence[Pair]]) -> Iterator[tuple[int, list[Scored]]]:
        return self._scorer.score(groups)

    def along(self, pairs: Sequence[Pair]) -> Iterator[tuple[int, list[Likeliest]]]:
        return self._scorer.along(pairs)

    def for_many_tokens(self) -> None:
        """It computes so already."""

    @property
    def tokens_at_once(self) -> int:
        """How many tokens are run through a block before the next is read."""
        width = int(self.model.config.get_text_config().hidden_size)
        return max(1, self._states_bytes // (width * int(self._walk.dtype.itemsize)))

    @cached_property
    def _scorer(self) -> _StreamedScorer:
        return _StreamedScorer(self, self.model, self.tokenizer, device=self.device)

    def _advance(self) -> None:
        """Run what was embedded through all blocks."""
        blocks = len(self._walk.blocks)
        for n, (block, module) in enumerate(self._walk, 1):
            batches = max(1, len(self._walk.hidden))

            def told(i: int, n: int = n, batches: int = batches) -> None:
                share = (n - 1 + (i + 1) / batches) / blocks
                self.told(share, f"block {n} of {blocks} from disk")

            self._walk.advance(block, module, told)

    def run(self, batches: Sequence[Tensor]) -> None:
        """Run batches of token ids, each (samples, length), through all blocks."""
        self._walk.embed_batches(batches)
        self._advance()

    def behind(self, batch: int) -> Any:
        """What norm and head make of a batch that was run: the model's output."""
        return self._walk.behind(self._walk.hidden[batch])

    # --- What needs all of the model --------------------------------------------------------------

    def _refuse(self, what: str) -> Never:
        raise ConfigError(
            f"{self._folder} is judged block by block, without being loaded: {what} needs all of "
            "it at once (evaluate.stream)"
        )

    def weights_bytes(self) -> int:
        self._refuse("weighing it")

    def cache_bytes_per_token(self) -> float:
        self._refuse("its key-value cache")

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        stops: Sequence[str],
        max_tokens: int,
        step: Callable[[int, float], None] = lambda rows, share: None,
    ) -> Iterator[tuple[int, Written]]:
        self._refuse("writing text")

    def prefill(self, prompt: Tensor) -> Any:
        self._refuse("timing it")

    def decode(self, state: Any, n_tokens: int) -> None:
        self._refuse("timing it")

    def fork(self, state: Any) -> Any:
        self._refuse("timing it")

    def close(self) -> None:
        self.__dict__.pop("_scorer", None)
        self._walk = self.model = None


@contextmanager
def _head_inputs(model: Any) -> Iterator[list[Tensor]]:
    """What the output head is given, call by call."""
    seen: list[Tensor] = []
    head = model.get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    try:
        yield seen
    finally:
        handle.remove()


@final
class _StreamedScorer(CausalScorer):
    """Scores rows of many batches in one pass over the blocks; a row for every answer."""

    def __init__(
        self, session: StreamedSession, model: Any, tokenizer: Any, *, device: str
    ) -> None:
        super().__init__(model, tokenizer, device=device, share_prompts=False)
        self._session, self._at = session, 0

    def _batches(self, rows: Sequence[Row]) -> Iterator[tuple[Sequence[Row], Tensor]]:
        for some in _passes(list(batches(rows, self.batch_tokens)), self._session.tokens_at_once):
            self._session.run([self._ids(batch) for batch in some])
            for self._at, batch in enumerate(some):
                yield batch, self._finite_logits(batch)

    def _ids(self, rows: Sequence[Row]) -> Tensor:
        ids = super()._ids(rows)
        missing = -ids.shape[1] % _WIDTHS
        room = max(0, self.context - ids.shape[1])
        return nn.functional.pad(ids, (0, min(missing, room)))

    def _forward(self, ids: Tensor, options: dict[str, Any]) -> Any:
        return self._session.behind(self._at)


def _passes(found: Sequence[Sequence[Row]], tokens: int) -> Iterator[list[Sequence[Row]]]:
    """Batches in groups of so many tokens, or one batch where that is longer."""
    some: list[Sequence[Row]] = []
    held = 0
    for batch in found:
        size = len(batch) * max(row.length for row in batch)
        if some and held + size > tokens:
            yield some
            some, held = [], 0
        some.append(batch)
        held += size
    if some:
        yield some
