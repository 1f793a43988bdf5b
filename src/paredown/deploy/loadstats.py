"""What a load test says: percentiles with their intervals, throughput, goodput, and the knee."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from paredown.analysis.knee import knee
from paredown.analysis.paired import wilson_interval
from paredown.analysis.statistics import paired_bootstrap_ci
from paredown.deploy.load import LevelRun, Timed
from paredown.errors import ConfigError

SHARES = (0.5, 0.9, 0.99)
_MEASURES: dict[str, Callable[[Timed], float | None]] = {
    "ttft": lambda t: t.ttft_ms,
    "itl": lambda t: t.itl_ms,
    "tpot": lambda t: t.tpot_ms,
    "e2el": lambda t: t.e2el_ms,
}
WORDS = {
    "ttft": "time to first token", "itl": "inter-token latency (vLLM's TPOT)",
    "tpot": "time per output token, first token included (GuideLLM's TPOT)",
    "e2el": "end-to-end latency",
}  # fmt: skip


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Slo(_Record):
    """Service levels, milliseconds; None: not asked for."""

    ttft: float | None = None
    itl: float | None = None
    tpot: float | None = None
    e2el: float | None = None

    @staticmethod
    def parse(text: str) -> Slo:
        """`ttft=500,itl=50`.

        Raises:
            ConfigError: another name, or no number above 0.
        """
        found: dict[str, float] = {}
        for part in text.split(","):
            name, _, value = part.strip().partition("=")
            try:
                found[name] = float(value)
            except ValueError:
                found[name] = 0.0
            if name not in _MEASURES or not 0 < found[name] < float("inf"):
                raise ConfigError(
                    f"--slo {text[:80]!r}: give milliseconds of ttft, itl, tpot or e2el, as in "
                    "ttft=500,itl=50"
                )
        return Slo(**found)

    def met(self, request: Timed) -> bool:
        """Whether a request kept to all of them."""
        for name, measure in _MEASURES.items():
            most, value = getattr(self, name), measure(request)
            if most is not None and value is not None and value > most:
                return False
        return True


class Quantile(_Record):
    """A quantile over requests, ms."""

    share: float
    value: float
    low: float
    high: float
    """95 % interval, by the bootstrap."""


class Spread(_Record):
    """One measure over the requests of a level, ms."""

    name: str
    n: int
    mean: float
    quantiles: tuple[Quantile, ...]

    def at(self, share: float) -> Quantile:
        """The quantile of a share."""
        return next(q for q in self.quantiles if q.share == share)


class Goodput(_Record):
    """Requests that kept to the service levels."""

    slo: Slo
    met: float
    """Share of all requests, those without an answer included."""
    low: float
    high: float
    """95 % interval of the share (Wilson)."""
    requests_per_s: float


class Level(_Record):
    """One level of a load test, of one server."""

    target: str
    level: float
    """Requests at once, or requests per second sent."""
    n: int
    failed: int
    why: str | None
    """What became of the first that failed."""
    seconds: float
    """From the first request to the last answer."""
    requests_per_s: float
    output_tokens_per_s: float
    """Of all requests together."""
    total_tokens_per_s: float
    """Prompts included."""
    tokens_per_s_per_user: float
    """Of one request, behind its first token: 1000 / median ITL."""
    prompt_tokens: float
    output_tokens: float
    """Means, as the server counts them."""
    cached_share: float
    """Of the prompts' tokens, those that it had read before."""
    spreads: tuple[Spread, ...]
    goodput: Goodput | None

    def spread(self, name: str) -> Spread | None:
        """The spread of a measure; None where no request had it."""
        return next((s for s in self.spreads if s.name == name), None)


def summarise(target: str, run: LevelRun, slo: Slo | None) -> Level | None:
    """The numbers of a level; None where not a single request was answered."""
    done = run.done
    if not done:
        return None
    seconds = max(t.end_s for t in done) - min(t.start_s for t in done)
    output, prompts = sum(t.tokens for t in done), sum(t.prompt_tokens for t in done)
    spreads = tuple(filter(None, (_spread(name, done) for name in _MEASURES)))
    itl = next((s for s in spreads if s.name == "itl"), None)
    return Level(
        target=target, level=run.level, n=len(done), failed=run.failed, why=run.why,
        seconds=seconds, requests_per_s=len(done) / seconds,
        output_tokens_per_s=output / seconds, total_tokens_per_s=(output + prompts) / seconds,
        tokens_per_s_per_user=0.0 if itl is None else 1e3 / itl.at(0.5).value,
        prompt_tokens=prompts / len(done), output_tokens=output / len(done),
        cached_share=sum(t.cached for t in done) / max(prompts, 1), spreads=spreads,
        goodput=None if slo is None else _goodput(slo, run, seconds),
    )  # fmt: skip


def _spread(name: str, done: Sequence[Timed]) -> Spread | None:
    values = [value for t in done if (value := _MEASURES[name](t)) is not None]
    if not values:
        return None
    return Spread(
        name=name, n=len(values), mean=float(np.mean(values)),
        quantiles=tuple(_quantile(values, share) for share in SHARES),
    )  # fmt: skip


def _quantile(values: list[float], share: float) -> Quantile:
    value = float(np.quantile(values, share))
    if len(values) < 2:
        return Quantile(share=share, value=value, low=value, high=value)
    found = paired_bootstrap_ci(
        values, values, statistic=lambda a, _: float(np.quantile(a, share)), seed=0, n_boot=500
    )
    return Quantile(share=share, value=value, low=found.low, high=found.high)


def _goodput(slo: Slo, run: LevelRun, seconds: float) -> Goodput:
    met = sum(slo.met(t) for t in run.done)
    share = wilson_interval(met, len(run.done) + run.failed)
    return Goodput(
        slo=slo, met=share.value, low=share.low, high=share.high, requests_per_s=met / seconds
    )


def knee_of(levels: Sequence[Level]) -> Level | None:
    """Where more requests at once stop to bring much more in all and begin to cost each of them.

    Of at least three levels of one server, that farthest from the line between the ends of the
    curve of tokens per second per user against tokens per second in all; levels that another beats
    in both are left out. None where fewer than three are left.
    """
    kept = [a for a in levels if not any(_beats(b, a) for b in levels)]
    if len(kept) < 3:
        return None
    costs = [(-a.output_tokens_per_s, -a.tokens_per_s_per_user) for a in kept]
    return kept[knee(costs)]


def _beats(a: Level, b: Level) -> bool:
    mine, theirs = ((x.output_tokens_per_s, x.tokens_per_s_per_user) for x in (a, b))
    return all(x >= y for x, y in zip(mine, theirs, strict=True)) and mine != theirs


def as_csv(levels: Sequence[Level]) -> str:
    """The levels as CSV, one row each."""
    columns = [
        "target", "level", "n", "failed", "requests_per_s", "output_tokens_per_s",
        "total_tokens_per_s", "tokens_per_s_per_user", "prompt_tokens", "output_tokens",
        "goodput_requests_per_s", "slo_met",
        *(f"{name}_{_p(share)}_ms" for name in _MEASURES for share in SHARES),
    ]  # fmt: skip
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(_row(level) for level in levels)
    return buffer.getvalue()


def _row(level: Level) -> dict[str, object]:
    good = level.goodput
    quantiles = {
        f"{s.name}_{_p(q.share)}_ms": round(q.value, 3) for s in level.spreads for q in s.quantiles
    }
    return {
        **level.model_dump(),
        **quantiles,
        "goodput_requests_per_s": "" if good is None else good.requests_per_s,
        "slo_met": "" if good is None else good.met,
    }


def _p(share: float) -> str:
    return f"p{100 * share:.0f}"
