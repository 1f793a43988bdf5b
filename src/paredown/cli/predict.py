"""`paredown predict`: what strategies would bring, before any of them runs. Loads no weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paredown.cli.options import with_settings
from paredown.errors import ConfigError
from paredown.spec.sizing import PredictRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from paredown.coordinate.prediction import Predicted, Predictions
    from paredown.spec.result import TrialResult

ENV_PREFIX = "PAREDOWN_PREDICT_"


@with_settings(PredictRequest, env_prefix=ENV_PREFIX)
def predict(
    request: PredictRequest,
    *,
    history: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Instead: predicted against measured, over experiments in a folder."
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --history: a plot of it, as PNG.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what strategies would bring before any of them runs.

    Sizes are exact. Memory and speed follow from the models of `paredown match`, speed once this
    machine is calibrated. Quality comes with an interval from what the same strategy did to similar
    models, yours first; where nobody knows, it is unknown.
    """
    if history is not None:
        from paredown.cli.history import show_history

        if request.model is not None or request.strategies:
            raise ConfigError("--history looks at experiments; leave out the model and strategies")
        show_history(history, plot=plot, as_json=as_json)
        return
    if plot is not None:
        raise ConfigError("--plot is of a history; add --history DIR")
    if request.model is None:
        raise ConfigError("give a model: paredown predict -m demo")
    from paredown.coordinate.ground import ground_of
    from paredown.coordinate.prediction import predict as predict_all
    from paredown.methods import registry

    # A misspelt strategy is told before a model is fetched.
    strategies = [registry.for_runtime(text, request.runtime) for text in request.strategies]
    found = predict_all(strategies, ground_of(request, request.model))
    if as_json:
        from paredown.spec.serial import readable

        print(readable(as_document(found)), end="")
        return
    from paredown.report.console import make_console

    make_console().print(render(found))


# --- Output ---------------------------------------------------------------------------------------


def render(found: Predictions) -> RenderableType:
    """A line of numbers per strategy with its name below, where each is known from, the choice."""
    from rich.text import Text

    rows = (found.base, *found.rows)
    lines = [_HEADER] + [[str(n), *_cells(row)] for n, row in enumerate(rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    said = ["Predicted, nothing was run", _spread(lines[0], widths)]
    for row, cells in zip(rows, lines[1:], strict=True):
        limits = f": {_limits(row)}" if row.checks else ""
        said += [_spread(cells, widths), " " * (widths[0] + 2) + row.result.label + limits]
    said += ["", *_origins(rows), _choice(found)]
    said += [f"Cannot run: {label}: {why}" for label, why in found.refused.items()]
    if found.base.result.get("decode_latency") is None:
        said.append(
            "Speed is unknown until 'paredown match --calibrate' has measured this machine."
        )
    said.append(
        "Sizes are exact; ~ and intervals are estimates of 95 %. To measure: paredown run, or "
        "paredown compress and paredown evaluate."
    )
    return Text("\n".join(said))


_HEADER = ["#", "size", "smaller", "~memory", "~speed-up", "~perplexity"]


def _spread(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))


def _cells(row: Predicted) -> list[str]:
    from paredown.spec.units import human_bytes

    result, quality = row.result, row.quality
    memory, speed = result.value("peak_memory"), result.get("speedup")
    shown = "unknown"
    if quality is not None and result.strategy is None:
        shown = "-"
    elif quality is not None:
        value, low, high = (100 * (x - 1) for x in (quality.value, quality.low, quality.high))
        shown = f"{value:+.1f} % ({low:+.1f} to {high:+.1f})"
    return [
        human_bytes(result.value("size") or 0.0),
        f"{result.value('compression_ratio') or 0.0:.2f}x",
        "unknown" if memory is None else human_bytes(memory),
        "unknown" if speed is None else _interval(result),
        shown,
    ]


def _origins(rows: Sequence[Predicted]) -> list[str]:
    """Where the losses are known from, with the numbers of the rows."""
    by_basis: dict[str, list[str]] = {}
    for number, row in enumerate(rows):
        if row.quality is not None and row.result.strategy is not None:
            by_basis.setdefault(row.quality.basis, []).append(str(number))
    return [f"Losses of {', '.join(which)}: {basis}." for basis, which in by_basis.items()]


def _interval(result: TrialResult) -> str:
    found = result.get("speedup")
    if found is None or found.low is None or found.high is None or found.low == found.high:
        return "1x"
    return f"{found.value:.2f}x ({found.low:.2f} to {found.high:.2f})"


def _limits(row: Predicted) -> str:
    return "; ".join(
        f"{check.limit.name} {check.state.value if check.seen is not None else 'unknown'}"
        for check in row.checks
    )


def _choice(found: Predictions) -> str:
    choice = found.choice
    labels = {row.result.episode: row.result.label for row in (found.base, *found.rows)}
    if choice.episode is None:
        return f"Choice: none; {choice.reason}."
    return f"Choice: {labels[choice.episode]}: {choice.reason}. By prediction alone."


def as_document(found: Predictions) -> dict[str, Any]:
    """Everything as JSON types."""
    from paredown.spec.serial import SCHEMA_VERSION

    def row(one: Predicted) -> dict[str, Any]:
        result = one.result
        return {
            "strategy": result.label,
            "measurements": [
                m.model_dump(mode="json") for m in result.measurements if m.name != "perplexity"
            ],
            "quality_known_from": None if one.quality is None else one.quality.basis,
            "quality_n": 0 if one.quality is None else one.quality.n,
            "limits": [
                {"limit": check.asked, "has": check.has, "state": check.state.value}
                for check in one.checks
            ],
        }

    chosen = {r.result.episode: r.result.label for r in (found.base, *found.rows)}
    episode = found.choice.episode
    return {
        "schema_version": SCHEMA_VERSION,
        "base": row(found.base),
        "rows": [row(one) for one in found.rows],
        "refused": found.refused,
        "choice": None if episode is None else chosen[episode],
        "reason": found.choice.reason,
    }
