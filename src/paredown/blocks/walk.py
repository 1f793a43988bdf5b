"""Walk through a model block by block with calibration text, one block in memory at a time.

The walk holds: the embedding (first), one block's weights, and the hidden states of all
calibration tokens. How each block wants to be called (masks, rotary embeddings) is learned from
one forward pass in which every block is replaced by a recorder that passes its input through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from paredown.artifact.checkpoint import Checkpoint
from paredown.blocks.memory import release
from paredown.blocks.skeleton import empty_model, fill, module_name, read_config
from paredown.errors import MethodError
from paredown.spec.structure import Block, is_vision

BATCH_TOKENS = 2048
"""Tokens per forward pass of one block."""


_Call = tuple[tuple[Any, ...], dict[str, Any]]


class _Recorder(nn.Module):
    """Stands in for a block: notes how it is called and hands its input on."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.__dict__["block"] = block  # not registered as a child
        self.hidden: Tensor | None = None
        self.call: _Call = ((), {})
        self.output: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:  # e.g. `attention_type`, which decides the block's mask
            return getattr(self.__dict__["block"], name)

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.hidden, self.call = hidden, (args, kwargs)
        return hidden if self.output is None else self.output


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
        self._calls: dict[tuple[int, ...], _Call] = {}
        self._names = [module_name(self.model, block.prefix) for block in self.blocks]
        self.hidden: list[Tensor] = []
        if tokens is not None:
            self.embed(tokens)
        self.embed_probe()

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
        self.model.get_submodule(self._name(block)).to(torch.device("meta"))
        release()

    def _name(self, block: Block) -> str:
        return self._names[self.blocks.index(block)]

    def embed(self, tokens: Tensor) -> None:
        """Start with (samples, length) calibration windows, from the embedding as it is now."""
        self.embed_batches(tokens.split(max(1, BATCH_TOKENS // tokens.shape[1])))

    def embed_batches(self, batches: Sequence[Tensor]) -> None:
        """The same with batches of windows, each (samples, length) of its own."""
        self.hidden = [self._embed(batch) for batch in batches]

    def embed_probe(self) -> None:
        """Start the probe again, from the embedding as it is now."""
        self.probe = self._embed(self._probe_tokens)

    def _widen_small_parts(self) -> None:
        """Norms and the like compute in `dtype`; embedding and head stay as stored, being large."""
        embedding = self.model.get_input_embeddings()
        head: Any = self.model.get_output_embeddings()
        # Packed ones hold no matrix, and compute in the dtype they were made for.
        large = {id(getattr(module, "weight", None)) for module in (embedding, head)}
        for parameter in self.model.parameters():
            if not parameter.is_meta and id(parameter) not in large:
                parameter.data = parameter.data.to(self.dtype)
        if hasattr(embedding, "embed_scale"):
            # Rows are widened first: Gemma's sqrt(640) does not fit 16 bits, and a product rounded
            # to them is another model than the one that is loaded in `dtype`.
            factor = torch.as_tensor(embedding.embed_scale).to(self.dtype)
            embedding.forward = lambda ids: (
                nn.functional.embedding(ids, embedding.weight).to(self.dtype) * factor
            )
        else:
            embedding.register_forward_hook(lambda module, args, output: output.to(self.dtype))
        if hasattr(head, "weight"):
            head.forward = lambda hidden: _project(hidden, head.weight, head.bias)

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
        with self._recorders() as recorders:
            try:
                # Not the head: logits of all windows would be the largest tensors here.
                self.model.base_model(**text, use_cache=False)
            except (TypeError, AttributeError, RuntimeError, IndexError) as error:
                raise MethodError(
                    f"cannot walk through a {type(self.model).__name__} block by block: {error}"
                ) from error
            if recorders[0].hidden is None:
                raise MethodError(f"{type(self.model).__name__} never called its first block")
            for block, recorder in zip(self.blocks, recorders, strict=True):
                key = (block.index, *shape)  # masks depend on the batch's shape only
                if key not in self._calls:
                    self._calls[key] = _cast(recorder.call, self.dtype)
            return recorders[0].hidden.to(self.dtype)

    @contextmanager
    def _recorders(self) -> Iterator[list[_Recorder]]:
        """The model with every block replaced by a recorder."""
        blocks = [self.model.get_submodule(name) for name in self._names]
        recorders = [_Recorder(block) for block in blocks]
        for name, recorder in zip(self._names, recorders, strict=True):
            self.model.set_submodule(name, recorder)
        try:
            yield recorders
        finally:
            for name, block in zip(self._names, blocks, strict=True):
                self.model.set_submodule(name, block)

    def __iter__(self) -> Iterator[tuple[Block, nn.Module]]:
        """Each block with its weights in place; they are dropped when the next is asked for."""
        for block in self.blocks:
            self._put(block)
            yield block, self.model.get_submodule(self._name(block))
            self._drop(block)

    @torch.no_grad()
    def advance(
        self, block: Block, module: nn.Module, each: Callable[[int], None] | None = None
    ) -> None:
        """Replace the calibration states by the block's outputs; `each(i)` follows batch i."""
        for i, batch in enumerate(self.hidden):
            self.hidden[i] = self._run(block, module, batch)
            if each is not None:
                each(i)

    @torch.no_grad()
    def advance_probe(self, block: Block, module: nn.Module) -> None:
        """Replace the probe's states by the block's outputs."""
        self.probe = self._run(block, module, self.probe)

    def _run(self, block: Block, module: nn.Module, batch: Tensor) -> Tensor:
        args, kwargs = self._calls[block.index, *batch.shape[:2]]
        output = module(batch, *args, **kwargs)
        hidden: Tensor = output[0] if isinstance(output, tuple) else output
        return hidden

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
            with self._recorders() as recorders:
                for batch in self.hidden:
                    recorders[-1].output = batch
                    ids = torch.zeros(batch.shape[:2], dtype=torch.int64, device=batch.device)
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
            for state in batch:
                yield self.behind(state[None]).logits[0]

    @torch.no_grad()
    def behind(self, states: Tensor) -> Any:
        """What norm and head make of states (samples, length, hidden) behind the last block: the
        model's output."""
        with self._recorders() as recorders:
            recorders[-1].output = states
            ids = torch.zeros(states.shape[:2], dtype=torch.int64, device=states.device)
            return self.model(input_ids=ids, use_cache=False)

    @torch.no_grad()
    def logits(self) -> Tensor:
        """The probe's logits (length, vocabulary) in float32, once all blocks were walked."""
        with self._recorders() as recorders:
            # The last block's stand-in answers with the probe's states: only norm and head run.
            recorders[-1].output = self.probe
            logits: Tensor = self.model(input_ids=self._probe_tokens, use_cache=False).logits
        return logits[0].float().cpu()


def _project(hidden: Tensor, weight: Tensor, bias: Tensor | None, *, rows: int = 8192) -> Tensor:
    """`hidden W^T + b` in float32 without a float32 copy of the whole of a large W."""
    parts = [hidden.float() @ part.float().T for part in weight.split(rows)]
    logits = torch.cat(parts, dim=-1)
    return logits if bias is None else logits + bias.float()


def _cast(call: _Call, dtype: torch.dtype) -> _Call:
    """Floating-point arguments (masks, rotary embeddings) in the dtype of the blocks."""

    def cast(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(dtype) if value.is_floating_point() else value
        if isinstance(value, tuple):
            return tuple(cast(v) for v in value)
        return value

    args, kwargs = call
    return tuple(cast(a) for a in args), {k: cast(v) for k, v in kwargs.items()}


def submodule(module: nn.Module, block: Block, name: str) -> nn.Linear:
    """The layer of a block by its name in the checkpoint."""
    found = module.get_submodule(module_name(module, name.removeprefix(block.prefix + ".")))
    if not isinstance(found, nn.Linear):
        raise MethodError(f"{name} is a {type(found).__name__}; only Linear layers are quantized")
    return found
