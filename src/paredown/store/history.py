"""search_history.csv and search_history_long.csv: every episode, and every number, a row each."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from paredown.spec.result import TrialResult
from paredown.spec.serial import plain
from paredown.store.atomic import write_text

HISTORY_FILE = "search_history.csv"
LONG_FILE = "search_history_long.csv"
HISTORY_FIELDS = (
    "episode", "strategy", "kind", "status", "on_front", "quality", "perplexity", "kl",
    "benchmark_kl", "top1_agreement", "accuracy", "latency_ms", "prefill_ms", "memory_gb",
    "model_size_gb", "energy_joules", "compression_ratio", "speedup", "wall_s", "failure", "unmet",
)  # fmt: skip
LONG_FIELDS = (
    "episode", "strategy", "kind", "status", "on_front", "method", "parameters", "metric", "value",
    "unit", "stderr", "low", "high", "n", "source",
)  # fmt: skip
Row = dict[str, object]


def write_history(folder: Path, results: Sequence[TrialResult], front: Collection[int]) -> None:
    """Write both files into an experiment's folder."""
    write_text(folder / HISTORY_FILE, history(results, front))
    write_text(folder / LONG_FILE, long_history(results, front))


def history(results: Sequence[TrialResult], front: Collection[int]) -> str:
    """The episodes as CSV, one row each; `front` holds the episodes on it."""
    return _csv(history_fields(results), history_rows(results, front))


def long_history(results: Sequence[TrialResult], front: Collection[int]) -> str:
    """The measurements as CSV, one row each."""
    return _csv(LONG_FIELDS, long_rows(results, front))


def history_fields(results: Sequence[TrialResult]) -> tuple[str, ...]:
    """The columns: each benchmark is one of its own beside `accuracy`, which is what counts."""
    scored = dict.fromkeys(score.name for result in results for score in result.scores)
    return (*HISTORY_FIELDS, *(name for name in scored if name not in HISTORY_FIELDS))


def history_rows(results: Sequence[TrialResult], front: Collection[int]) -> Iterator[Row]:
    """A row per episode, failures included; None where nothing was measured."""
    for result in results:
        failure = result.failure
        yield {
            **{score.name: score.value for score in result.scores},
            **_episode(result, front),
            **{
                name: result.value(name)
                for name in (
                    "quality", "perplexity", "kl", "benchmark_kl", "top1_agreement", "speedup",
                )
            },
            "prefill_ms": result.value("prefill_latency"),
            **{
                name: getattr(result, name)
                for name in ("accuracy", "latency_ms", "memory_gb", "model_size_gb",
                             "energy_joules", "compression_ratio", "wall_s")
            },
            "failure": f"{failure.kind}: {failure.message}" if failure else "",
            "unmet": "; ".join(result.unmet),
        }  # fmt: skip


def long_rows(results: Sequence[TrialResult], front: Collection[int]) -> Iterator[Row]:
    """A row per measurement.

    `method` holds the steps of a pipeline with ` > ` between them, `parameters` a JSON object per
    step, as it was run. Where no interval was computed, `low` and `high` are the value less and
    plus 1.96 standard errors.
    """
    for result in results:
        steps = () if result.strategy is None else result.strategy.steps
        told: Row = {
            **_episode(result, front),
            "method": " > ".join(step.method for step in steps) or "baseline",
            "parameters": json.dumps([plain(step.params) for step in steps]),
        }
        for m in result.measurements:
            spread = None if m.stderr is None else 1.96 * m.stderr
            yield {
                **told, "metric": m.name, "value": m.value, "unit": m.unit.value,
                "stderr": m.stderr,
                "low": m.low if m.low is not None or spread is None else m.value - spread,
                "high": m.high if m.high is not None or spread is None else m.value + spread,
                "n": m.n, "source": m.source,
            }  # fmt: skip


def _episode(result: TrialResult, front: Collection[int]) -> Row:
    return {
        "episode": result.episode,
        "strategy": result.label,
        "kind": result.kind,
        "status": result.status,
        "on_front": int(result.episode in front),
    }


def _csv(fields: Sequence[str], rows: Iterable[Row]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
