"""Facts of a server under strain: full contexts, too many requests, and wrong ones."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from paredown.deploy.client import Reply
from paredown.deploy.facts import Fact, Look, Subject, failed, not_applicable, passed
from paredown.deploy.questions import Answer
from paredown.errors import ServerError
from paredown.spec.redact import shown

A = TypeVar("A")
B = TypeVar("B")
CROWD = 4
"""Requests at once for every slot, and `_MORE`."""
_MORE = 8
_MOST = 128
"""Requests at once, however many slots there are."""
_BEHIND = 8
"""Tokens generated behind a full context."""
_MARGIN = 16
"""Tokens by which a prompt stays below the context: a server may add some of its own."""
_BLOCK = 256
_REFUSED = {429, 503}


def full_context(subject: Subject) -> Fact:
    """The longest context in all slots at once."""
    name, slots = "full context", subject.slots or 1
    if subject.context is None:
        return not_applicable(name, "the server does not tell its context")
    length = subject.context - _BEHIND - _MARGIN
    if length < 1:
        return failed(name, f"a context of {subject.context} tokens is no context")
    prompts = [_filler(subject, length, seed) for seed in range(slots)]
    limit = max(subject.client.timeout_s, min(3600.0, subject.deadline - time.monotonic()))
    start = time.monotonic()

    def one(prompt: list[int]) -> Answer:
        return subject.ask.complete(prompt, max_tokens=_BEHIND, timeout_s=limit)

    answers = _at_once(one, prompts)
    seconds = time.monotonic() - start
    short = [a for a in answers if a.prompt_tokens is not None and a.prompt_tokens < length]
    if short:
        seen = f"a prompt of {length} tokens was cut to {short[0].prompt_tokens} without a word"
        return failed(name, seen)
    seen = f"{slots} at once with {length} + {_BEHIND} tokens each, {seconds:.1f} s"
    return passed(name, seen, value=float(subject.context), unit="tokens")


def _filler(subject: Subject, length: int, seed: int) -> list[int]:
    """Token ids that the model knows, in another order for each slot: no prefix is shared."""
    known = [3, 4, 5, 6, 7, 8, 9, 10]
    if subject.proof is not None:
        known = sorted({i for one in subject.proof.tokens for i in one.ids}) or known
    return random.Random(seed).choices(known, k=length)


def overload(subject: Subject) -> Fact:
    """More requests than slots: each answered or refused in time, and no harm is left."""
    name, n = "overload", min(CROWD * (subject.slots or 1) + _MORE, _MOST)
    ask = subject.ask

    def one(number: int) -> Reply | ServerError:
        document = {
            "model": ask.model, "prompt": f"{number}: the next number is", "max_tokens": 4,
            "temperature": 0,
        }  # fmt: skip
        try:
            return subject.client.post("/v1/completions", document)
        except ServerError as error:
            return error

    replies = _at_once(one, list(range(n)))
    lost = [r for r in replies if isinstance(r, ServerError)]
    if lost:
        return failed(name, f"{len(lost)} of {n} requests at once were lost: {lost[0]}")
    kept = [r for r in replies if isinstance(r, Reply)]
    others = Counter(r.status for r in kept if r.status not in {200, *_REFUSED})
    if others:
        return failed(
            name, f"of {n} at once, some got another status than 200, 429 or 503: {dict(others)}"
        )
    after = ask.complete("Once upon a time", max_tokens=4)
    if not after.tokens and not after.text:
        return failed(name, f"after {n} requests at once it answers nothing")
    answered, slowest = sum(r.is_ok for r in kept), max(r.seconds for r in kept)
    seen = f"{n} at once: {answered} answered, {n - answered} refused, the slowest {slowest:.1f} s"
    return passed(name, f"{seen}; it answers as before", value=slowest, unit="s")


def bad_requests(subject: Subject) -> Fact:
    """What is wrong is refused with 4xx, and the next request is answered."""
    name, model = "bad requests", subject.ask.model
    chat, text = "/v1/chat/completions", "/v1/completions"
    wrong: list[tuple[str, str, bytes | dict[str, Any]]] = [
        ("JSON that is cut short", chat, b'{"messages": ['),
        ("no messages", chat, {"model": model}),
        ("messages that are no list", chat, {"model": model, "messages": 3}),
        ("a temperature that is a word", text,
         {"model": model, "prompt": "a", "max_tokens": 1, "temperature": "hot"}),
        ("an unknown path", "/v1/nothing-is-here", {}),
    ]  # fmt: skip
    if subject.context is not None:
        # Engines round a context up to whole blocks.
        too_long = _filler(subject, 2 * subject.context + _BLOCK, 0)
        wrong.append(("a prompt beyond the context", text, {"model": model, "prompt": too_long}))
    for what, path, document in wrong:
        reply = subject.client.post(path, document)
        if not 400 <= reply.status < 500:
            return failed(name, f"{what}: status {reply.status}: {shown(reply.excerpt, 80)}")
    subject.ask.complete("Once upon a time", max_tokens=1)
    return passed(name, f"{len(wrong)} kinds of them got 4xx; it answers as before")


def metrics(subject: Subject) -> Fact:
    """Prometheus metrics, for whoever watches it."""
    reply = subject.client.get("/metrics")
    lines = reply.body.decode(errors="replace").splitlines()
    samples = [line for line in lines if _is_sample(line)]
    if not reply.is_ok or not samples:
        return failed("metrics", f"/metrics: status {reply.status}, {len(samples)} samples")
    return passed("metrics", f"/metrics: {len(samples)} samples", value=float(len(samples)))


def _is_sample(line: str) -> bool:
    """`name{labels} number`, as Prometheus reads it."""
    name, _, number = line.rpartition(" ")
    if not name or line.startswith("#"):
        return False
    try:
        float(number)
    except ValueError:
        return False
    return name[0].isalpha() or name[0] == "_"


def key_is_asked(subject: Subject) -> Fact:
    """Without the key nothing is answered; only where there is one."""
    name, client = "key asked", subject.client
    if client.key is None:
        return not_applicable(name, "no key is in use")
    asked = type(client)(client.url, timeout_s=client.timeout_s)
    document = {"model": subject.ask.model, "prompt": "a", "max_tokens": 1}
    reply = asked.post("/v1/completions", document)
    seen = f"without the key: status {reply.status}"
    return (passed if reply.status in {401, 403} else failed)(name, seen)


def _at_once(function: Callable[[A], B], items: list[A]) -> list[B]:
    """A function of all items at the same time."""
    with ThreadPoolExecutor(len(items)) as pool:
        return list(pool.map(function, items))


LOOKS: tuple[tuple[str, Look], ...] = (
    ("full context", full_context),
    ("overload", overload),
    ("bad requests", bad_requests),
    ("metrics", metrics),
    ("key asked", key_is_asked),
)
