"""lm-eval's view of a model: its requests, answered by a session and kept as they come.

Importing this module imports lm-eval, which takes seconds; only worker processes do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, TypeVar

from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from paredown.errors import ConfigError
from paredown.evaluate.items import Responses
from paredown.runtimes.session import Likeliest, Pair, Session
from paredown.spec.progress import Progress
from paredown.spec.units import human_seconds

_Found = TypeVar("_Found")
_ALONG, _ALONG_TOP = 64, 32
"""Tokens of a written answer along which models are compared, and likeliest ones that are kept at
each: thirty kilobytes an item. The first tokens decide how an answer goes on."""
_MAX_TOKENS = 256
"""Of an answer, where the task does not say; lm-eval's own."""


class HarnessModel(TemplateLM):  # type: ignore[misc]  # lm-eval is not typed
    """lm-eval's view of a model. What was answered before is not computed again."""

    def __init__(
        self,
        open_session: Callable[[], Session],
        tokenizer: Any,
        responses: Responses,
        progress: Progress,
        base: Responses | None = None,
    ) -> None:
        """
        Args:
            open_session: loads the model; called only if a request was never answered.
            tokenizer: of the model.
            responses: what it answered before.
            progress: told how far it is.
            base: what the base has written, along which this model is asked as well; None: this
                is the base.
        """
        super().__init__()
        self.base = responses if base is None else base
        self.tokenizer, self.responses, self.progress = tokenizer, responses, progress
        self._open = open_session
        self._session: Session | None = None
        self.truncated: set[tuple[str, int]] = set()
        """Task and row of requests that lost the beginning of their prompt."""
        self.following: dict[tuple[str, int], Likeliest] = {}
        """By task and row, what the model takes for likely after the prompt."""
        self.along: dict[tuple[str, int], tuple[Likeliest, ...]] = {}
        """By task and row, what it takes for likely along what the base has written."""

    def forget(self) -> None:
        """Forget what was noted by task and row: another benchmark begins."""
        self.truncated.clear()
        self.following.clear()
        self.along.clear()

    @property
    def session(self) -> Session:
        """The model, loaded now if need be."""
        self._session = self._session or self._open()
        return self._session

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without a prompt: BOS, else EOS, as in lm-eval."""
        begin, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        if begin is None and end is None:
            raise ConfigError("the tokenizer has neither a BOS nor an EOS token")
        return int(end if begin is None else begin)

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Token ids; a text that begins with BOS gets no second one."""
        options = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        if add_special_tokens is None and self._begins(string):
            options = {"add_special_tokens": False}
        return list(self.tokenizer.encode(string, **options))

    def _begins(self, string: str) -> bool:
        begin, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        prefix = end if begin is None else begin
        return prefix is not None and string.startswith(self.tokenizer.decode(prefix))

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The prompt of a chat model."""
        return str(
            self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )

    def loglikelihood(self, requests: list[Any], **_: Any) -> list[tuple[float, bool]]:
        """Score continuations; those of one question share their prompt."""
        keys = [Responses.key("loglikelihood", request.args) for request in requests]
        groups = [
            [i for i in members if self.responses.get(keys[i]) is None]
            # lm-eval lists the answers to one question one after the other.
            for _, members in groupby(range(len(requests)), key=lambda i: _row_of(requests[i]))
        ]
        groups = [group for group in groups if group]
        if groups:
            self.progress(0.0, f"0 of {len(groups)} items")
            pairs = [[self._pair(*requests[i].args) for i in group] for group in groups]
            found = self.session.score(pairs)
            for group, scored in self._watched(found, len(groups)):
                answers = {
                    # Answers share their prompt, so what follows it is kept with one of them.
                    keys[i]: [s.loglikelihood, s.greedy, s.truncated, _kept(s.next, first=not k)]
                    for k, (i, s) in enumerate(zip(groups[group], scored, strict=True))
                }
                self.responses.add(answers)
        results = [self._answer(key, request) for key, request in zip(keys, requests, strict=True)]
        return [(float(value), bool(greedy)) for value, greedy, *_ in results]

    def loglikelihood_rolling(self, requests: list[Any], **_: Any) -> list[float]:
        """Score whole texts, window by window."""
        keys = [Responses.key("rolling", request.args) for request in requests]
        todo = [i for i, key in enumerate(keys) if self.responses.get(key) is None]
        for done, i in enumerate(todo):
            windows = [[pair] for pair in self._windows(requests[i].args[0])]
            scores = [scored[0].loglikelihood for _, scored in self.session.score(windows)]
            self.responses.add({keys[i]: [sum(scores), False, False, None]})
            self.progress((done + 1) / len(todo), f"{done + 1} of {len(todo)} texts")
        return [float(self._answer(k, r)[0]) for k, r in zip(keys, requests, strict=True)]

    def generate_until(self, requests: list[Any], **_: Any) -> list[str]:
        """Write greedily up to a stop sequence."""
        keys = [Responses.key("generate", request.args) for request in requests]
        todo = [i for i, key in enumerate(keys) if self.responses.get(key) is None]
        # groupby joins neighbours alone, and a batch has one list of stops.
        todo.sort(key=lambda i: _settings(requests[i].args[1]))
        batches = groupby(todo, key=lambda i: _settings(requests[i].args[1]))
        for (stops, max_tokens), members in batches:
            chosen = list(members)
            prompts = [self.tok_encode(requests[i].args[0]) for i in chosen]
            self.progress(0.0, f"writing {len(chosen)} answers of at most {max_tokens} tokens")
            pace = Pace(len(chosen), self.progress)
            found = self.session.generate(
                prompts, stops=self._stops(stops), max_tokens=max_tokens, step=pace.step
            )
            for k, written in pace.watched(found):
                answer = [written.text, False, written.truncated, _kept(written.next)]
                self.responses.add({keys[chosen[k]]: answer})
        self._ask_along(requests, keys)
        return [str(self._answer(k, r)[0]) for k, r in zip(keys, requests, strict=True)]

    def _ask_along(self, requests: list[Any], keys: Sequence[str]) -> None:
        """Note what the model takes for likely at each token of what the base has written.

        Where two models go on by themselves, their texts part after a few tokens, and what they
        take for likely there is no answer to the same question.
        """
        texts = {i: str(found[0]) for i, key in enumerate(keys) if (found := self.base.get(key))}
        asked = {
            i: Responses.key("along", [requests[i].args[0], text]) for i, text in texts.items()
        }
        new = {i: text for i, text in texts.items() if self.responses.get(asked[i]) is None}
        pairs = {i: self._text_pair(requests[i].args[0], text) for i, text in new.items()}
        pairs = {i: pair for i, pair in pairs.items() if pair.continuation}
        order = list(pairs)
        if order:
            told = self.session.along([pairs[i] for i in order])
            for k, steps in self._watched(told, len(order)):
                kept = [[step.ids[:_ALONG_TOP], step.logprobs[:_ALONG_TOP]] for step in steps]
                self.responses.add({asked[order[k]]: kept})
        for i, key in asked.items():
            self.along[_row_of(requests[i])] = tuple(
                Likeliest(tuple(ids), tuple(values))
                for ids, values in self.responses.get(key) or ()
            )

    def _text_pair(self, prompt: str, text: str) -> Pair:
        """A prompt and the first tokens of a text that was written behind it; there may be none."""
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        return Pair(tuple(self.tok_encode(prompt)), tuple(ids[:_ALONG]))

    def _loglikelihood_tokens(self, requests: Any, **_: Any) -> Any:
        raise AssertionError("loglikelihood does not come here")

    def _stops(self, stops: Sequence[str]) -> list[str]:
        end = self.tokenizer.eos_token_id
        return [*stops] if end is None else [*stops, self.tokenizer.decode(end)]

    def _pair(self, context: str, continuation: str) -> Pair:
        """Token ids as lm-eval cuts them."""
        if context:
            before, after = self._encode_pair(context, continuation)
            return Pair(tuple(before), tuple(after))
        ids = self.tok_encode(continuation, add_special_tokens=False)
        if ids[0] == self.prefix_token_id:
            return Pair(tuple(ids[:1]), tuple(ids[1:]))
        return Pair((self.prefix_token_id,), tuple(ids))

    def _windows(self, text: str) -> Iterator[Pair]:
        windows = get_rolling_token_windows(
            token_list=self.tok_encode(text),
            prefix_token=self.prefix_token_id,
            max_seq_len=self.session.context,
            context_len=1,
        )
        for window in windows:
            before, after = make_disjoint_window(window)
            yield Pair(tuple(before), tuple(after))

    def _answer(self, key: str, request: Any) -> list[Any]:
        answer = self.responses.get(key)
        if answer is None:
            raise AssertionError("every request was answered")
        if answer[2]:
            self.truncated.add(_row_of(request))
        if answer[3] is not None:
            ids, logprobs = answer[3]
            self.following.setdefault(_row_of(request), Likeliest(tuple(ids), tuple(logprobs)))
        return answer

    def _watched(self, found: Iterator[_Found], total: int) -> Iterator[_Found]:
        for done, item in enumerate(found, start=1):
            yield item
            self.progress(done / total, f"{done} of {total} items")


class Pace:
    """Tells how far the writing of answers is, token by token, and how long it may still take."""

    def __init__(
        self, total: int, progress: Progress, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.total, self.progress, self.clock = total, progress, clock
        self.start, self.done = clock(), 0

    def step(self, rows: int, share: float) -> None:
        """`rows` answers are being written; they are at `share` of the longest possible."""
        self._tell(self.done + rows * share)

    def watched(self, found: Iterator[_Found]) -> Iterator[_Found]:
        """The answers, counted as they come."""
        for item in found:
            yield item
            self.done += 1
            self._tell(self.done)

    def _tell(self, done: float) -> None:
        passed = self.clock() - self.start
        message = f"{self.done} of {self.total} answers"
        if 0 < done < self.total:
            # Before the first ones are done, all may be as long as they are allowed to be.
            bound = "about" if self.done else "at most"
            message += f", {bound} {human_seconds(passed * (self.total - done) / done)} left"
        self.progress(done / self.total, message)


def _kept(next_: Likeliest | None, *, first: bool = True) -> list[Sequence[float]] | None:
    return None if next_ is None or not first else [next_.ids, next_.logprobs]


def _row_of(request: Any) -> tuple[str, int]:
    return request.task_name, request.doc_id


def _settings(options: Mapping[str, Any]) -> tuple[tuple[str, ...], int]:
    """Stop sequences and the most tokens of a request to write."""
    until = options.get("until") or []
    stops = (until,) if isinstance(until, str) else tuple(until)
    limits = [options.get(k) for k in ("max_gen_toks", "max_new_tokens", "max_tokens")]
    return stops, int(next((n for n in limits if n is not None), _MAX_TOKENS))
