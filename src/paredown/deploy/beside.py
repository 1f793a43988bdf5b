"""A package and its base, each behind the engine's server, asked in turns.

What slows the machine slows both, so the ratio of a pair holds where neither of its times would.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from paredown.analysis.statistics import mean_stderr, paired_bootstrap_ci
from paredown.deploy.process import ServerProcess, free_port, started
from paredown.deploy.proof import AGREES, Golden, Pair, divergence
from paredown.deploy.questions import TOP, Questioner, Streamed
from paredown.errors import VerificationError
from paredown.spec.progress import Progress

_HOST = "127.0.0.1"
_PAIRS = 8
_PROMPT = 64
_ANSWER = 24
"""Tokens of a timed answer; a model that ends before is timed as far as it came."""

Command = Callable[[str, int], tuple[str, ...] | None]
"""(host, port) -> the command that serves; None of an engine that has no server."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """What was found of the servers.

    Attributes:
        golden: with the answers as they were served.
        kl: of the first tokens from the artifact, nats, over the golden prompts.
        pairs: times and memory beside the base.
        peak_bytes: resident memory of the package's server.
    """

    golden: tuple[Golden, ...]
    kl: float | None
    pairs: tuple[Pair, ...]
    peak_bytes: int | None


def prove_served(
    package: Command,
    base: Command,
    *,
    name: str,
    golden: Sequence[Golden],
    answer_tokens: int,
    scratch: Path,
    progress: Progress,
) -> Served:
    """Start both servers, ask the golden prompts of the package, and time both in turns.

    Args:
        name: under which both list their model.
        scratch: for their logs.

    Raises:
        ServerError: one does not start, dies, or answers nonsense; with its log's last lines.
        VerificationError: what is served is not the artifact.
    """
    with ExitStack() as stack:
        servers = []
        for k, (who, command) in enumerate((("package", package), ("base", base))):
            progress(0.1 * k, f"starting the server of the {who}")
            port = free_port()
            words = command(_HOST, port)
            if words is None:
                raise AssertionError(f"the engine of the {who} has no server")
            server = stack.enter_context(
                started(
                    words, url=f"http://{_HOST}:{port}",
                    log=scratch / f"{who}.log", timeout_s=300.0,
                )
            )  # fmt: skip
            server.wait_ready()
            servers.append(server)
        mine, reference = servers
        progress(0.2, "golden prompts")
        told, kl = _golden(
            Questioner(mine.client, name), Questioner(reference.client, name), golden,
            answer_tokens,
        )  # fmt: skip
        pairs = _timed(mine, reference, name, _known(golden), progress)
        peak, base_peak = mine.peak_bytes(), reference.peak_bytes()
        if peak is not None and base_peak is not None:
            pairs = (*pairs, _memory(peak, base_peak))
    return Served(golden=told, kl=kl, pairs=pairs, peak_bytes=peak)


def _golden(
    ask: Questioner, base: Questioner, golden: Sequence[Golden], answer_tokens: int
) -> tuple[tuple[Golden, ...], float | None]:
    told, known = [], []
    for one in golden:
        answer = ask.complete(one.ids, max_tokens=answer_tokens, top=TOP)
        if answer.top:
            known.append(divergence(one, dict(answer.top)))
        reference = base.complete(one.ids, max_tokens=answer_tokens)
        update = {
            "answer": answer.text, "finish": answer.finish, "base_answer": reference.text
        }  # fmt: skip
        told.append(one.model_copy(update=update))
    if not known:
        return tuple(told), None
    kl = mean_stderr(known).value
    if kl > AGREES:
        raise VerificationError(
            f"what is served is not the artifact: KL {kl:.3g} nats over {len(known)} golden "
            f"prompts, where {AGREES:g} is what an engine's rounding explains"
        )
    return tuple(told), kl


def _known(golden: Sequence[Golden]) -> list[int]:
    """Tokens of ordinary text, to make prompts of."""
    return sorted({token for one in golden for token in one.ids})


def _timed(
    mine: ServerProcess, base: ServerProcess, name: str, known: list[int], progress: Progress
) -> tuple[Pair, ...]:
    """First token and decoding, pair by pair; who begins takes turns as well."""
    first: list[tuple[float, float]] = []
    decode: list[tuple[float, float]] = []
    for k in range(_PAIRS + 1):
        progress(0.3 + 0.7 * k / (_PAIRS + 1), "timing package and base in turns")
        prompt = random.Random(k).choices(known, k=_PROMPT)  # new ones: prompts are cached
        order = (mine, base) if k % 2 else (base, mine)
        found = {
            server: Questioner(server.client, name).stream(prompt, max_tokens=_ANSWER)
            for server in order
        }
        if k == 0:
            continue  # warms up both
        first.append((found[mine].times[0], found[base].times[0]))
        steps = _per_token(found[mine]), _per_token(found[base])
        if None not in steps:
            decode.append((steps[0] or 0.0, steps[1] or 0.0))
    how = f"medians of {{n}} pairs in turns, streamed; prompt {_PROMPT} tokens, answer {_ANSWER}"
    found_pairs = (("first token", first), ("per output token", decode))
    return tuple(
        _pair(what, times, how.format(n=len(times))) for what, times in found_pairs if times
    )


def _per_token(answer: Streamed) -> float | None:
    """Seconds from piece to piece behind the first; None of an answer of one piece."""
    n = len(answer.times)
    return None if n < 2 else (answer.times[-1] - answer.times[0]) / (n - 1)


def _pair(name: str, times: list[tuple[float, float]], how: str) -> Pair:
    ratios = [mine / base for mine, base in times]
    interval = paired_bootstrap_ci(
        ratios, ratios, statistic=lambda a, _: float(np.median(a)), seed=0
    )
    medians = np.median(1e3 * np.array(times), axis=0)
    return Pair(
        name=name, unit="ms", package=float(medians[0]), base=float(medians[1]),
        ratio=interval.value, low=interval.low, high=interval.high, n=len(times),
        lower_is_better=True, how=how,
    )  # fmt: skip


def _memory(peak: int, base_peak: int) -> Pair:
    return Pair(
        name="peak memory", unit="bytes", package=float(peak), base=float(base_peak),
        ratio=peak / base_peak, n=1, lower_is_better=True,
        how="peak resident memory of each server after the timed answers, mapped files included",
    )  # fmt: skip
