"""A transformers model in this process as a session: packed by `load`, or plain."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn

from paredown.ops.readout import Readout
from paredown.runtimes.room import has_room
from paredown.runtimes.session import Likeliest, Pair, Scored, Session, Written
from paredown.runtimes.torch.load import is_packed
from paredown.runtimes.torch.packed import dense_dtype
from paredown.runtimes.torch.scorer import CausalScorer, context_length
from paredown.spec.target import Device
from paredown.text.windows import load_tokenizer

_CACHED = 16
"""Tokens of the prompt behind which the cache is looked at."""


class _State(NamedTuple):
    """Behind a prompt."""

    token: Tensor
    """(batch, 1): the likeliest next token."""
    cache: Any


@final
class TorchSession(Session):
    """What `load` or `load_dense` returned."""

    def __init__(
        self,
        model: Any,
        *,
        device: Device = "cpu",
        folder: Path | None = None,
        trust_remote_code: bool = False,
        batch_tokens: int | None = None,
    ) -> None:
        """Take over a loaded model.

        Args:
            folder: has the tokenizer; None where nothing is asked that needs one.
            batch_tokens: tokens of a batch of answers that are scored; None: as suits the device.
        """
        self._batch_tokens = batch_tokens
        self.model, self.device, self._folder = model, device, folder
        self._trust_remote_code = trust_remote_code
        told = getattr(model, "paredown", None)
        self.notes = () if told is None else told.notes

    @cached_property
    def vocabulary(self) -> int:
        return int(self.model.get_input_embeddings().num_embeddings)

    @cached_property
    def context(self) -> int:
        return context_length(self.model, self.tokenizer)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of the folder; None without one."""
        if self._folder is None:
            return None
        return load_tokenizer(self._folder, trust_remote_code=self._trust_remote_code)

    def encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text))

    def weights_bytes(self) -> int:
        # The resident memory of a process would not tell it: weights are mapped from their file
        # and become resident when they are used, and libraries are loaded on the way.
        # By storage, so that what is tied or shared counts once.
        storages = {
            tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
            for module in self.model.modules()
            for tensor in _tensors(vars(module), deep=3)
        }
        return sum(storages.values())

    @torch.inference_mode()
    def cache_bytes_per_token(self) -> float:
        prompt = torch.ones(1, _CACHED, dtype=torch.int64, device=self.device)
        cache = self.model(prompt, use_cache=True).past_key_values
        layers = getattr(cache, "layers", ())
        held = [getattr(layer, part, None) for layer in layers for part in ("keys", "values")]
        return float(sum(tensor.nbytes for tensor in held if tensor is not None)) / _CACHED

    @torch.no_grad()
    def logits(self, windows: Tensor) -> Iterator[Tensor]:
        for window in windows:
            yield self.model(window[None].to(self.device), use_cache=False).logits[0, :-1]

    @property
    def readout(self) -> Readout:
        return readout_of(self.model)

    @torch.no_grad()
    def hidden(self, windows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        seen: list[Tensor] = []
        head = self.model.get_output_embeddings()
        handle = head.register_forward_pre_hook(lambda module, args: seen.append(args[0][0, :-1]))
        try:
            for logits in self.logits(windows):
                yield seen.pop(), logits
        finally:
            handle.remove()

    def score(self, groups: Sequence[Sequence[Pair]]) -> Iterator[tuple[int, list[Scored]]]:
        return self._scorer.score(groups)

    def along(self, pairs: Sequence[Pair]) -> Iterator[tuple[int, list[Likeliest]]]:
        return self._scorer.along(pairs)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        stops: Sequence[str],
        max_tokens: int,
        step: Callable[[int, float], None] = lambda rows, share: None,
    ) -> Iterator[tuple[int, Written]]:
        return self._scorer.generate(prompts, stops=stops, max_tokens=max_tokens, step=step)

    @cached_property
    def _scorer(self) -> CausalScorer:
        # Made when it is first asked: it tries on the model what it may rely on.
        return CausalScorer(
            self.model, self.tokenizer, device=self.device, batch_tokens=self._batch_tokens
        )

    def for_many_tokens(self) -> None:
        """On a processor without bfloat16 of its own, widen dense 16-bit weights to float32.

        The same weights, less rounding between layers. Quantized models compute as they are loaded.
        """
        if (
            dense_dtype(self.device) == torch.float32
            and getattr(self.model, "hf_quantizer", None) is None
            and not is_packed(self.model)
            and has_room(self.weights_bytes(), self.device)  # twice as many bytes as now
        ):
            self.model = self.model.float()

    @torch.inference_mode()
    def prefill(self, prompt: Tensor) -> _State:
        output = self.model(prompt.to(self.device), use_cache=True)
        return _State(output.logits[:, -1:].argmax(-1), output.past_key_values)

    @torch.inference_mode()
    def decode(self, state: _State, n_tokens: int) -> None:
        token, cache = state
        for _ in range(n_tokens):
            output = self.model(token, past_key_values=cache, use_cache=True)
            token, cache = output.logits[:, -1:].argmax(-1), output.past_key_values

    def fork(self, state: _State) -> _State:
        # `decode` grows the cache in place.
        return _State(state.token, copy.deepcopy(state.cache))

    def close(self) -> None:
        self.__dict__.pop("_scorer", None)  # it holds the model, too
        self.model = None


def readout_of(model: Any) -> Readout:
    """What makes logits of a transformers model's final hidden states."""
    head = model.get_output_embeddings()
    config = model.config.get_text_config()
    # Cohere multiplies, Granite divides, Gemma 2 caps.
    scale = float(getattr(config, "logit_scale", None) or 1.0)
    scale /= float(getattr(config, "logits_scaling", None) or 1.0)
    cap = float(getattr(config, "final_logit_softcapping", None) or 0.0)
    return Readout(head.weight, getattr(head, "bias", None), scale, cap)


def _tensors(value: object, *, deep: int) -> Iterator[Tensor]:
    """Tensors in dicts, sequences and plain objects such as the state of bitsandbytes' weights."""
    if isinstance(value, Tensor):
        yield value
    if deep == 0 or isinstance(value, nn.Module):
        return
    if isinstance(value, dict):
        held: Iterable[object] = value.values()
    elif isinstance(value, list | tuple):
        held = value
    else:
        held = getattr(value, "__dict__", {}).values()
    for inner in held:
        yield from _tensors(inner, deep=deep - 1)
