"""Walk through a model block by block with calibration text, one block in memory at a time.

The walk holds: the embedding (first), one block's weights, and the hidden states of all
calibration tokens. How each block wants to be called (masks, rotary embeddings) is learned from
forward passes in which every block is replaced by a stand-in: see `blocks.calls`.
"""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from paredown.artifact.checkpoint import Checkpoint
from paredown.blocks.calls import (
    Call,
    StandIn,
    answer,
    is_learned,
    learn_output,
    require_untouched,
    stand_ins,
)
from paredown.blocks.memory import release
from paredown.blocks.names import know_block, module_name
from paredown.blocks.skeleton import empty, empty_model, fill, read_config, require_filled
from paredown.errors import MethodError
from paredown.spec.structure import Block, is_vision

BATCH_TOKENS = 2048
"""Tokens per forward pass of one block."""


class BlockWalk:
    """Runs calibration windows, and a short probe, through a checkpoint's blocks in order.

    The calibration windows see the blocks as they are when `advance` is called; the probe sees
    them as they are when `advance_probe` is called. A method that advances the first, changes the
    block, and then advances the second ends up with the logits of the model it has made.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        probe: Tensor,
        tokens: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        trust_remote_code: bool = False,
    ) -> None:
        """Embed the windows.

        Args:
            checkpoint: the model, not packed.
            probe: (1, length) int64 token ids.
            tokens: (samples, length) int64 calibration windows, or None.
            dtype: dtype of blocks and hidden states; embedding and head stay as stored.

        Raises:
            MethodError: the family calls its blocks in a way that is not understood.
        """
        config = read_config(checkpoint.folder, trust_remote_code=trust_remote_code)
        self.checkpoint, self.dtype, self.device = checkpoint, dtype, device
        self.blocks = checkpoint.spec.structure.blocks
        if not self.blocks:
            raise MethodError(f"{checkpoint.folder}: no transformer blocks were found")
        inside = tuple(block.prefix + "." for block in self.blocks)
        self.model: Any = empty_model(config, dtype, trust_remote_code=trust_remote_code)
        # Text never runs the vision tower: its weights stay in the file.
        outside = [n for n in checkpoint.names if not n.startswith(inside) and not is_vision(n)]
        self._put_outside(outside)
        self._widen_small_parts()
        self._probe_tokens = probe.to(device)
        self._names = [module_name(self.model, block.prefix) for block in self.blocks]
        for block, name in zip(self.blocks, self._names, strict=True):
            know_block(self.model, block.prefix, name)
        later = tuple(f"{name}." for name in self._names)
        require_filled(
            self.model, checkpoint.folder, aside=lambda n: is_vision(n) or n.startswith(later)
        )
        self._blind()
        self._calls: dict[tuple[int, ...], Call | None] = {}
        self._left: dict[int, UserDict[Any, Any]] = {}
        """What blocks leave for later ones, such as keys and values, by the batch of tokens."""
        self._by_tokens = False
        self._learn()
        self.hidden: list[Tensor] = []
        self._windows: list[Tensor] = []
        if tokens is not None:
            self.embed(tokens)
        self.embed_probe()

    def _blind(self) -> None:
        """Leave of a vision tower, which text never runs, weights of no size on the right device.

        Idefics 3 asks its first weight, which is the tower's, where it is to compute.
        """
        for name, weight in list(self.model.named_parameters()):
            if weight.is_meta and is_vision(name):
                owner, _, leaf = name.rpartition(".")
                nothing = torch.empty(0, dtype=weight.dtype, device=self.device)
                module = self.model.get_submodule(owner)
                module._parameters[leaf] = nn.Parameter(nothing, requires_grad=False)

    @torch.no_grad()
    def _learn(self) -> None:
        """Find how blocks wrap their output, and whether what they are given depends on the text.

        Gemma 3n gives every block a part of each token; then calls are made anew for each batch
        instead of being kept.
        """
        blocks = [self.model.get_submodule(name) for name in self._names]
        if not is_learned(blocks):
            self._fill(self.blocks[0])
            learn_output(blocks[0], lambda: self._pass(input_ids=self._probe_tokens), blocks)
            self._drop(self.blocks[0])
        passes = []
        for ids in (self._probe_tokens, self._probe_tokens.roll(1, dims=-1)):
            with stand_ins(self.model, self._names) as standing:
                self._pass(input_ids=ids)
            passes.append([stand_in.call for stand_in in standing])
        self._by_tokens = any(
            one is not None and other is not None and not one.is_like(other)
            for one, other in zip(*passes, strict=True)
        )

    def _put_outside(self, names: list[str]) -> None:
        """Fill what belongs to no block, from stored tensors of these names."""
        fill(self.model, self.checkpoint, names, device=self.device)
        self.model.tie_weights()

    def _put(self, block: Block) -> None:
        """Fill a block."""
        inside = [n for n in self.checkpoint.names if n.startswith(block.prefix + ".")]
        fill(self.model, self.checkpoint, inside, dtype=self.dtype, device=self.device)

    def _drop(self, block: Block) -> None:
        """Empty a block again; the module stays where it is, for stand-ins and other walks."""
        empty(self.model.get_submodule(self._name(block)))
        release()

    def _name(self, block: Block) -> str:
        return self._names[self.blocks.index(block)]

    def _fill(self, block: Block) -> nn.Module:
        """A block with all of its weights in place."""
        self._put(block)
        module: nn.Module = self.model.get_submodule(self._name(block))
        require_filled(module, self.checkpoint.folder)
        return module

    def embed(self, tokens: Tensor) -> None:
        """Start with (samples, length) calibration windows, from the embedding as it is now."""
        self.embed_batches(tokens.split(max(1, BATCH_TOKENS // tokens.shape[1])))

    def embed_batches(self, batches: Sequence[Tensor]) -> None:
        """The same with batches of windows, each (samples, length) of its own."""
        self._windows, self._left = list(batches), {}
        self.hidden = [self._embed(batch) for batch in self._windows]

    def embed_probe(self) -> None:
        """Start the probe again, from the embedding as it is now."""
        self._left.pop(id(self._probe_tokens), None)
        self.probe = self._embed(self._probe_tokens)

    def _widen_small_parts(self) -> None:
        """Norms and the like compute in `dtype`; embeddings and head stay as stored, being large.

        Rows are widened before they are scaled: Gemma's sqrt(640) does not fit 16 bits, and a
        product rounded to them is another model than the one that is loaded in `dtype`.
        """
        head: Any = self.model.get_output_embeddings()
        # Packed ones hold no matrix, and compute in the dtype they were made for.
        large = {id(getattr(head, "weight", None))}
        for module in list(self.model.modules()):
            if isinstance(module, nn.Embedding):
                large.add(id(module.weight))
                self._widen_rows(module)
        for parameter in self.model.parameters():
            if not parameter.is_meta and id(parameter) not in large:
                parameter.data = parameter.data.to(self.dtype)
        if hasattr(head, "weight"):
            head.forward = lambda hidden: _project(hidden, head.weight, head.bias)

    def _widen_rows(self, embedding: Any) -> None:
        if hasattr(embedding, "embed_scale"):
            factor = torch.as_tensor(embedding.embed_scale).to(self.dtype)
            embedding.forward = lambda ids: (
                nn.functional.embedding(ids, embedding.weight).to(self.dtype) * factor
            )
        else:
            embedding.register_forward_hook(lambda module, args, output: output.to(self.dtype))

    def _embed(self, batch: Tensor) -> Tensor:
        """Hidden states before the first block; learns on the way how blocks are called."""
        return self._enter(batch.shape, input_ids=batch.to(self.device))

    @torch.no_grad()
    def embed_pictured(self, ids: Tensor, features: Tensor) -> Tensor:
        """Hidden states (1, length, hidden) before the first block of a text with an image in it.

        Args:
            ids: (length,) int64; as many image tokens as there are features.
            features: what the vision tower and projector make of the image, (patches, hidden).
        """
        ids = ids[None].to(self.device)
        embedded = self.model.get_input_embeddings()(ids)
        places = ids == self.model.config.image_token_id
        if int(places.sum()) != len(features):
            raise MethodError(
                f"{int(places.sum())} image tokens for an image of {len(features)} patches"
            )
        embedded[places] = features.to(embedded.device, embedded.dtype)
        return self._enter(ids.shape, inputs_embeds=embedded)

    @torch.no_grad()
    def _enter(self, shape: tuple[int, ...], **text: Tensor) -> Tensor:
        standing = self._stand(shape, **text)
        first = next((s.hidden for s in standing if s.hidden is not None), None)
        if first is None:
            raise MethodError(f"{type(self.model).__name__} never called a block")
        return first.to(self.dtype)

    def _stand(self, shape: tuple[int, ...], **text: Tensor) -> list[StandIn]:
        """A pass with stand-ins for all blocks, whose calls are kept by the shape of the batch."""
        with stand_ins(self.model, self._names) as standing:
            self._pass(**text)
        require_untouched(standing)
        for block, stand_in in zip(self.blocks, standing, strict=True):
            key = (block.index, *shape)  # masks depend on the batch's shape only
            if key not in self._calls:
                call = stand_in.call
                self._calls[key] = None if call is None else call.cast(self.dtype)
        return standing

    def _pass(self, **text: Tensor) -> None:
        try:
            # Not the head: logits of all windows would be the largest tensors here.
            self.model.base_model(**text, use_cache=False)
        except (TypeError, AttributeError, RuntimeError, IndexError) as error:
            raise MethodError(
                f"cannot walk through a {type(self.model).__name__} block by block: {error}"
            ) from error

    def __iter__(self) -> Iterator[tuple[Block, nn.Module]]:
        """Each block with its weights in place; they are dropped when the next is asked for."""
        for block in self.blocks:
            yield block, self._fill(block)
            self._drop(block)

    @torch.no_grad()
    def advance(
        self, block: Block, module: nn.Module, each: Callable[[int], None] | None = None
    ) -> None:
        """Replace the calibration states by the block's outputs; `each(i)` follows batch i."""
        for i, batch in enumerate(self.hidden):
            ids = self._windows[i] if self._windows else None
            self.hidden[i] = self._run(block, module, batch, ids)
            if each is not None:
                each(i)

    @torch.no_grad()
    def advance_probe(self, block: Block, module: nn.Module) -> None:
        """Replace the probe's states by the block's outputs."""
        self.probe = self._run(block, module, self.probe, self._probe_tokens)

    def _run(self, block: Block, module: nn.Module, batch: Tensor, ids: Tensor | None) -> Tensor:
        """States behind a block.

        Args:
            ids: (samples, length) of the batch; None where states came from elsewhere, as those of
                texts with images in them do.
        """
        if ids is None:
            call = self._calls[block.index, *batch.shape[:2]]
        elif self._by_tokens or (block.index, *ids.shape) not in self._calls:
            call = self._call_for(block, ids)
        else:
            call = self._calls[block.index, *ids.shape]
        if call is None:  # the family passes over this block where it reads text alone
            return batch
        left = UserDict() if ids is None else self._left.setdefault(id(ids), UserDict())
        return call(module, batch, left)

    @torch.no_grad()
    def _call_for(self, block: Block, ids: Tensor) -> Call | None:
        """The call of one block for one batch, where it depends on the tokens."""
        standing = self._stand(ids.shape, input_ids=ids.to(self.device))
        call = standing[self.blocks.index(block)].call
        return None if call is None else call.cast(self.dtype)

    @torch.no_grad()
    def head_inputs(self) -> Iterator[Tensor]:
        """What the output head reads of each batch of calibration windows, (tokens, hidden).

        Ask once all blocks were walked.
        """
        head = self.model.get_output_embeddings()
        project, seen = head.forward, []

        def note(hidden: Tensor) -> Tensor:
            seen.append(hidden)
            return hidden  # for logits: nobody reads them, and those of all windows are large

        head.forward = note
        try:
            with stand_ins(self.model, self._names) as standing:
                for batch in self.hidden:
                    answer(standing, batch)
                    ids = torch.zeros(batch.shape[-3:-1], dtype=torch.int64, device=batch.device)
                    self.model(input_ids=ids, use_cache=False)
                    hidden = seen.pop()
                    yield hidden.reshape(-1, hidden.shape[-1])
        finally:
            head.forward = project

    @torch.no_grad()
    def window_logits(self) -> Iterator[Tensor]:
        """Logits (length, vocabulary) of one calibration window after another, once all blocks
        were walked."""
        for batch in self.hidden:
            for state in batch.split(1, dim=-3):  # Gemma 3n has several states per token
                yield self.behind(state).logits[0]

    @torch.no_grad()
    def behind(self, states: Tensor) -> Any:
        """What norm and head make of states (..., samples, length, hidden) behind the last block:
        the model's output."""
        with stand_ins(self.model, self._names) as standing:
            answer(standing, states)
            ids = torch.zeros(states.shape[-3:-1], dtype=torch.int64, device=states.device)
            return self.model(input_ids=ids, use_cache=False)

    @torch.no_grad()
    def logits(self) -> Tensor:
        """The probe's logits (length, vocabulary) in float32, once all blocks were walked."""
        with stand_ins(self.model, self._names) as standing:
            answer(standing, self.probe)  # so that norm and head alone are run
            logits: Tensor = self.model(input_ids=self._probe_tokens, use_cache=False).logits
        return logits[0].float().cpu()


def _project(hidden: Tensor, weight: Tensor, bias: Tensor | None, *, rows: int = 8192) -> Tensor:
    """`hidden W^T + b` in float32 without a float32 copy of the whole of a large W."""
    parts = [hidden.float() @ part.float().T for part in weight.split(rows)]
    logits = torch.cat(parts, dim=-1)
    return logits if bias is None else logits + bias.float()


def submodule(module: nn.Module, block: Block, name: str) -> nn.Linear:
    """The layer of a block by its name in the checkpoint."""
    found = module.get_submodule(module_name(module, name.removeprefix(block.prefix + ".")))
    if not isinstance(found, nn.Linear):
        raise MethodError(f"{name} is a {type(found).__name__}; only Linear layers are quantized")
    return found
