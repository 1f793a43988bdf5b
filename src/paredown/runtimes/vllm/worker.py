"""vLLM's own process: `paredown.runtimes.vllm.worker`, run by a Python that has vLLM.

Its engine gives the likeliest tokens of each position; logits are taken where the model computes
them, which is why everything runs in this process.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from paredown.runtimes.vllm.settings import LONGEST, set_variables
from paredown.runtimes.worker import (
    BATCH,
    Answer,
    EngineError,
    Worker,
    before_stop,
    likeliest,
    run,
    scored,
    text_behind,
)

_SHORT = 4096
"""Tokens of cache beside those of one whole context."""


class VllmWorker(Worker):
    """One folder, and at most one group of sequences under way."""

    errors = (EngineError, RuntimeError, ValueError)

    def __init__(self, answers: BinaryIO) -> None:
        super().__init__(answers)
        self._rows: dict[int, list[list[int]]] = {}
        self._last = self._live = 0
        self._watched: _Logits | None = None

    def do_load(
        self, path: str, threads: int, on: str = "cpu", trust_remote_code: bool = False
    ) -> Answer:
        set_variables(threads)
        import torch
        from vllm import LLM
        from vllm.platforms import current_platform

        told = _config(Path(path))
        context = min(int(told["context"]), LONGEST)
        on_cpu = current_platform.is_cpu()
        if on_cpu != (on == "cpu"):
            raise EngineError(f"this vLLM is built for {current_platform.device_type}, not {on}")
        self._llm = LLM(
            path, tokenizer=path, max_model_len=context, seed=0, disable_log_stats=True,
            trust_remote_code=trust_remote_code,
            # What is compiled ahead on a processor takes minutes and a compiler.
            enforce_eager=on_cpu, max_num_seqs=16, max_num_batched_tokens=BATCH,
            **({"kv_cache_memory_bytes": _room(told, context)} if on_cpu else {}),
        )  # fmt: skip
        executor = self._llm.llm_engine.engine_core.engine_core.model_executor
        self._runner = executor.driver_worker.worker.model_runner
        packed = told["packed"] and on_cpu
        if packed and not hasattr(torch.ops._C, "cpu_gemm_wna16"):
            raise EngineError(
                "its kernel for packed weights is not built for this processor (it needs AVX-512)"
            )
        self._watched = _Logits(self._runner)
        config = self._llm.llm_engine.model_config
        self.vocabulary = int(config.get_vocab_size())
        self._tokenizer = self._llm.get_tokenizer()
        # Of its files: what kernels have put into another order is no parameter any more.
        weights = sum(file.stat().st_size for file in Path(path).glob("*.safetensors"))
        ends = dict.fromkeys((*told["ends"], self._tokenizer.eos_token_id))
        return {
            "vocabulary": self.vocabulary, "context": context, "weights": weights,
            "ends": [int(end) for end in ends if end is not None],
        }  # fmt: skip

    def do_cache_bytes(self) -> Answer:
        config = self._llm.llm_engine.vllm_config.cache_config
        tokens = config.num_gpu_blocks * config.block_size
        held = {}
        for cache in self._runner.kv_caches:
            for part in cache if isinstance(cache, list | tuple) else (cache,):
                held[part.data_ptr()] = part.nbytes
        return {"bytes": sum(held.values()) / tokens}

    # --- Logits -----------------------------------------------------------------------------------

    def do_logits(self, ids: list[int]) -> Answer:
        step = max(1, (64 << 20) // (4 * self.vocabulary))
        rows = self._behind(ids)
        for at in range(0, len(rows), step):
            self._say({"part": True}, _numbers(rows[at : at + step]))
        return {}

    def do_score(
        self, prefix: list[int], branches: list[list[int]], targets: list[list[int]], top: int
    ) -> Answer:
        known: dict[tuple[int, ...], Any] = {}
        answers = []
        for branch, wanted in zip(branches, targets, strict=True):
            # Choices of one token each are read off the same logits.
            key = tuple(branch)
            if key not in known:
                known = {key: self._behind([*prefix, *branch])}
            answers.append(scored(_numbers(known[key][-len(wanted) :]), wanted, top))
            self.beat()
        return {"answers": answers}

    def do_generate(
        self, prompt: list[int], stops: list[str], ends: list[int], max_tokens: int, top: int
    ) -> Answer:
        from vllm import SamplingParams

        told = [stop for stop in stops if stop]
        how = SamplingParams(
            max_tokens=max_tokens, temperature=0, stop=told or None, stop_token_ids=ends,
            ignore_eos=True,
        )  # fmt: skip
        with self._logits.taken() as taken:
            answer = self._finished(prompt, how)
        written = [token for token in answer.outputs[0].token_ids if token not in ends]
        text = text_behind(self._decode, prompt, written)
        cut = before_stop(text, told) if told else None
        # Parts of a long prompt are sampled behind, too, and thrown away.
        first = _numbers(taken.sampled[-len(answer.outputs[0].token_ids)])[-1]
        return {"text": text if cut is None else cut, "next": likeliest(first, top)}

    def _behind(self, ids: Sequence[int]) -> Any:
        """Logits (len(ids), vocabulary) behind every token, as the model's own numbers."""
        import torch
        from vllm import SamplingParams

        how = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=1, detokenize=False)
        with self._logits.taken() as taken:
            self._finished(ids, how)
        found = torch.cat([*taken.prompt, taken.sampled[-1][-1:]])
        if len(found) != len(ids):
            raise EngineError(f"{len(found)} logits of {len(ids)} tokens: not the vLLM it was")
        return found[:, : self.vocabulary]

    def _finished(self, ids: Sequence[int], how: Any) -> Any:
        """The whole answer to one prompt, read in steps between which the parent is told."""
        self._end()
        self._last += 1
        self._engine.add_request(str(self._last), {"prompt_token_ids": list(ids)}, how)
        while True:
            for output in self._engine.step():
                if output.finished:
                    return output
            self.beat()

    @property
    def _logits(self) -> _Logits:
        if self._watched is None:
            raise EngineError("no model was loaded")
        return self._watched

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    # --- Sequences that are timed -----------------------------------------------------------------

    def do_prefill(self, rows: list[list[int]]) -> Answer:
        self._llm.reset_prefix_cache()  # nothing is known of it from before
        return {"state": self._begin(rows)}

    def do_fork(self, state: int) -> Answer:
        # Both are the same as long as neither goes on: what is under way is handed to the copy.
        rows = self._of(state)
        if self._live != state:
            return {"state": self._begin(rows)}
        self._last += 1
        self._rows[self._last] = rows
        self._live = self._last
        return {"state": self._last}

    def do_decode(self, state: int, count: int) -> Answer:
        rows = self._of(state)
        if self._live != state:
            state = self._begin(rows)
        for _ in range(count):
            self._engine.step()
            self.beat()
        self._end()
        self._rows.pop(state, None)
        return {}

    def do_drop(self, states: list[int]) -> Answer:
        for state in states:
            if state == self._live:
                self._end()
            self._rows.pop(state, None)
        return {}

    def _begin(self, rows: list[list[int]]) -> int:
        """Read prompts, up to the first token behind each."""
        from vllm import SamplingParams

        self._end()
        room = self._llm.llm_engine.model_config.max_model_len - max(map(len, rows))
        how = SamplingParams(max_tokens=room, temperature=0, ignore_eos=True, detokenize=False)
        self._last += 1
        self._rows[self._last], self._live = rows, self._last
        self._under_way = [f"{self._last}-{i}" for i in range(len(rows))]
        for name, row in zip(self._under_way, rows, strict=True):
            self._engine.add_request(name, {"prompt_token_ids": row}, how)
        begun: set[str] = set()
        while len(begun) < len(rows):
            begun |= {output.request_id for output in self._engine.step()}
            self.beat()
        return self._last

    def _end(self) -> None:
        """Leave what is under way."""
        if self._live:
            self._engine.abort_request(self._under_way)
            while self._engine.has_unfinished_requests():
                self._engine.step()
            self._live = 0

    def _of(self, state: int) -> list[list[int]]:
        if state not in self._rows:
            raise EngineError(f"state {state} was used up")
        return self._rows[state]

    @property
    def _engine(self) -> Any:
        return self._llm.llm_engine


class _Logits:
    """What the model computes, copied while somebody asks for it."""

    def __init__(self, runner: Any) -> None:
        self.prompt: list[Any] = []
        self.sampled: list[Any] = []
        self._on = self._in_prompt = False
        try:
            compute, of_prompt = runner.model.compute_logits, runner._get_prompt_logprobs_dict
        except AttributeError as error:
            raise EngineError(f"this vLLM is built otherwise: {error}") from None

        def computed(*words: Any, **named: Any) -> Any:
            logits = compute(*words, **named)
            if self._on and logits is not None:
                (self.prompt if self._in_prompt else self.sampled).append(logits.detach().cpu())
            return logits

        def prompts(*words: Any, **named: Any) -> Any:
            self._in_prompt = True
            try:
                return of_prompt(*words, **named)
            finally:
                self._in_prompt = False

        runner.model.compute_logits, runner._get_prompt_logprobs_dict = computed, prompts

    @contextmanager
    def taken(self) -> Any:
        self.prompt, self.sampled, self._on = [], [], True
        try:
            yield self
        finally:
            self._on = False


def _numbers(logits: Any) -> Any:
    """A float32 array of logits in whatever the model computes."""
    return np.ascontiguousarray(logits.float().numpy())


def _config(folder: Path) -> dict[str, Any]:
    """Context, ends of texts, and what a token takes in the cache, as the folder's files say."""
    whole = json.loads((folder / "config.json").read_text())
    text = {**whole, **(whole.get("text_config") or {})}
    settings = folder / "generation_config.json"
    said = json.loads(settings.read_text()) if settings.exists() else {}
    ends = [said.get("eos_token_id"), text.get("eos_token_id")]
    heads = text.get("num_attention_heads") or 1
    width = text.get("head_dim") or text.get("hidden_size", 1) // heads
    numbers = 2 * (text.get("num_key_value_heads") or heads) * width
    return {
        "context": text.get("max_position_embeddings") or LONGEST,
        "ends": [t for end in ends for t in (end if isinstance(end, list) else [end])
                 if isinstance(t, int) and t >= 0],
        "packed": (whole.get("quantization_config") or {}).get("format") == "pack-quantized",
        "token_bytes": 2 * numbers * (text.get("num_hidden_layers") or 1),
    }  # fmt: skip


def _room(told: dict[str, Any], context: int) -> int:
    """Bytes of a cache that holds one sequence of the whole context, and a few short ones."""
    return int(told["token_bytes"] * (context + _SHORT))


if __name__ == "__main__":
    run(VllmWorker)
