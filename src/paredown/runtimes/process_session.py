"""A model opened in its engine's own process, as a session."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paredown.errors import ConfigError
from paredown.runtimes.process import EngineProcess, Program
from paredown.runtimes.session import TOP, Likeliest, Pair, Scored, Session, Written
from paredown.runtimes.torch.rows import Row
from paredown.spec.target import Device


class _State:
    """What was read in the engine's process; forgotten there when nobody holds it here."""

    def __init__(self, number: int, unused: list[int]) -> None:
        self.number, self._unused = number, unused

    def __del__(self) -> None:
        self._unused.append(self.number)


class ProcessSession(Session):
    """What is asked of a `Worker`; what the engine's own tokenizer does is left open."""

    def __init__(
        self, program: Program, path: Path, *, device: Device = "cpu", **options: Any
    ) -> None:
        """Start the process and load `path`, with as many threads as torch has here.

        Args:
            options: of the worker's `do_load`.

        Raises:
            ModelError: the engine does not load it.
        """
        self.device = device
        self._engine = EngineProcess(program, path, threads=torch.get_num_threads(), **options)
        about = self._engine.about
        self._vocabulary, self._context = int(about["vocabulary"]), int(about["context"])
        self._weights, self.ends = int(about["weights"]), tuple(about["ends"])
        self._unused: list[int] = []
        self._cache_bytes: float | None = None

    @property
    def vocabulary(self) -> int:
        return self._vocabulary

    @property
    def context(self) -> int:
        return self._context

    @property
    def pid(self) -> int:
        return self._engine.pid

    def weights_bytes(self) -> int:
        return self._weights

    def cache_bytes_per_token(self) -> float:
        if self._cache_bytes is None:
            self._cache_bytes = float(self._engine.ask("cache_bytes")["bytes"])
        return self._cache_bytes

    def logits(self, windows: Tensor) -> Iterator[Tensor]:
        for window in windows:
            ids = window[:-1].tolist()
            found = torch.empty(len(ids), self._vocabulary, dtype=torch.float32)
            at = 0
            for part in self._engine.parts("logits", ids=ids):
                rows = torch.frombuffer(part, dtype=torch.float32).reshape(-1, self._vocabulary)
                found[at : at + len(rows)] = rows
                at += len(rows)
            yield found

    def score(self, groups: Sequence[Sequence[Pair]]) -> Iterator[tuple[int, list[Scored]]]:
        for i, group in enumerate(groups):
            row = Row.of(i, group, self._context)
            targets = [list(pair.continuation) for pair in group]
            answers = self._engine.ask(
                "score",
                prefix=list(row.prefix),
                branches=[list(branch) for branch in row.branches],
                targets=targets,
                top=TOP,
            )["answers"]
            yield (
                i,
                [
                    Scored(
                        answer["loglikelihood"],
                        answer["greedy"],
                        cut,
                        next=_likeliest(answer["next"]),
                    )
                    for answer, cut in zip(answers, row.truncated, strict=True)
                ],
            )

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        stops: Sequence[str],
        max_tokens: int,
        step: Callable[[int, float], None] = lambda rows, share: None,
    ) -> Iterator[tuple[int, Written]]:
        room = self._context - max_tokens
        if room < 1:
            raise ConfigError(
                f"the answers may take {max_tokens} tokens, and the model's context is "
                f"{self._context}: it cannot be scored on this benchmark"
            )
        for i, prompt in enumerate(prompts):
            answer = self._engine.ask(
                "generate",
                prompt=list(prompt)[-room:],
                stops=list(stops),
                ends=list(self.ends),
                max_tokens=max_tokens,
                top=TOP,
            )
            step(1, 1.0)
            yield (
                i,
                Written(
                    answer["text"], truncated=len(prompt) > room, next=_likeliest(answer["next"])
                ),
            )

    def for_many_tokens(self) -> None:
        """Nothing: the engine computes many tokens as it computes one."""

    def prefill(self, prompt: Tensor) -> _State:
        return self._state(self._ask("prefill", rows=prompt.tolist()))

    def decode(self, state: _State, n_tokens: int) -> None:
        self._ask("decode", state=state.number, count=n_tokens)

    def fork(self, state: _State) -> _State:
        return self._state(self._ask("fork", state=state.number))

    def _ask(self, do: str, **request: Any) -> dict[str, Any]:
        if self._unused:
            dropped, self._unused[:] = list(self._unused), []
            self._engine.ask("drop", states=dropped)
        return self._engine.ask(do, **request)

    def _state(self, answer: dict[str, Any]) -> _State:
        return _State(int(answer["state"]), self._unused)

    def close(self) -> None:
        self._engine.close()


def _likeliest(told: tuple[list[int], list[float]]) -> Likeliest:
    ids, logprobs = told
    return Likeliest(tuple(ids), tuple(logprobs))
