"""`paredown bench`: a load test of a server or package, or of two in turns. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console

    from paredown.deploy.load import LoadPlan
    from paredown.deploy.loadstats import Level

_THROUGHPUT = ("n", "failed", "req/s", "tokens/s", "each", "goodput", "kept to it")
_LATENCY = ("time", "n", "p50 (95 % interval)", "p90", "p99")


def bench(
    targets: Annotated[
        list[str],
        typer.Argument(metavar="URL|PACKAGE [URL|PACKAGE]", help="One, or two to compare."),
    ],
    concurrency: Annotated[
        str, typer.Option(metavar="N[,N...]", help="Requests at once, level by level.")
    ] = "1,2,4,8",
    rate: Annotated[
        str | None,
        typer.Option(
            metavar="X[,X...]", help="Instead: requests per second, at random times (Poisson)."
        ),
    ] = None,
    requests: Annotated[int, typer.Option(min=2, help="Of each level.")] = 32,
    seconds: Annotated[
        float, typer.Option(min=1.0, help="After which a level ends, however far it is.")
    ] = 120.0,
    prompt_tokens: Annotated[int, typer.Option(min=2, help="Of each request, about.")] = 128,
    output_tokens: Annotated[int, typer.Option(min=2, help="Of each answer.")] = 64,
    slo: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=MS[,...]", help="Service levels for goodput: ttft=500,itl=50,e2el=5000."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Of the model at a URL; by default the first it lists.")
    ] = None,
    request_timeout: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="For one answer.")
    ] = 300.0,
    seed: Annotated[int, typer.Option(help="Of the prompts.")] = 0,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the table.")] = None,
    figure: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Also draw tokens/s of each against those of all."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Load-test a server, or a package that is served for the purpose, with GuideLLM.

    Prompts are unique, the warm-up is not counted, tokens are counted by the server. Two targets,
    such as a compressed package and its base, are measured in turns, level by level. Only the
    hosts that are named are spoken to; their key is read from PAREDOWN_API_KEY.
    """
    from paredown.deploy.load import LoadPlan
    from paredown.report.console import make_console

    plan = LoadPlan(
        levels=_numbers(concurrency if rate is None else rate), is_open=rate is not None,
        requests=requests, seconds=seconds, prompt_tokens=prompt_tokens,
        output_tokens=output_tokens, seed=seed,
    )  # fmt: skip
    console = make_console(stderr=as_json)
    found = _measured(console, targets, plan, slo, name, request_timeout, (csv, figure))
    if as_json:
        _print_json(targets, found)
    else:
        _print(console, targets, found, is_open=plan.is_open)


def _measured(
    console: Console,
    targets: Sequence[str],
    plan: LoadPlan,
    slo: str | None,
    name: str | None,
    request_s: float,
    files: tuple[Path | None, Path | None],
) -> list[Level]:
    """The levels; what is asked for as files is written."""
    import os

    from paredown.deploy.bench import BenchOptions
    from paredown.deploy.bench import bench as measure
    from paredown.deploy.loadstats import Slo, as_csv
    from paredown.runtimes.base import KEY_VARIABLE
    from paredown.store.atomic import require_writable, write_text

    csv, figure = files
    for file in filter(None, files):
        require_writable(file.parent)
    key = os.environ.get(KEY_VARIABLE) or None
    found = measure(
        targets,
        plan,
        slo=None if slo is None else Slo.parse(slo),
        options=BenchOptions(key=key, name=name, request_s=request_s),
        words=lambda line: console.print(line, soft_wrap=True, style="dim"),
        tell=lambda level: console.print(_line(level), soft_wrap=True, style="dim"),
    )
    if csv is not None:
        write_text(csv, as_csv(found))
    if figure is not None:
        from paredown.deploy.loadfigure import draw

        draw(found, figure)
    return found


def _print_json(targets: Sequence[str], found: Sequence[Level]) -> None:
    import json

    from paredown.deploy.loadstats import knee_of
    from paredown.spec.serial import plain

    knees = {target: knee_of([x for x in found if x.target == target]) for target in targets}
    document = {
        "levels": plain(list(found)),
        "knee": {target: None if knee is None else knee.level for target, knee in knees.items()},
    }
    print(json.dumps(document, indent=2))


def _numbers(text: str) -> tuple[float, ...]:
    from paredown.errors import ConfigError

    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"{text[:80]!r}: give numbers with commas, as in 1,2,4") from None


def _line(level: Level) -> str:
    return f"  {level.target}, {level.level:g}: {level.output_tokens_per_s:.1f} tokens/s in all"


def _print(
    console: Console, targets: Sequence[str], found: Sequence[Level], *, is_open: bool
) -> None:
    from paredown.deploy.loadstats import WORDS, knee_of
    from paredown.report.terminal import TextTable

    first = "req/s sent" if is_open else "at once"
    for target in targets:
        mine = [level for level in found if level.target == target]
        rows = [_throughput(level) for level in mine]
        console.print(TextTable(columns=(first, *_THROUGHPUT), rows=rows, title=target))
        times = [row for level in mine for row in _latencies(level)]
        console.print(TextTable(columns=(first, *_LATENCY), rows=times, title="Milliseconds"))
        knee = knee_of(mine)
        if knee is not None:
            console.print(f"knee: {knee.level:g}; beyond it each pays more than all gain")
        if (cached := max(level.cached_share for level in mine)) > 0:
            console.print(f"of the prompts' tokens up to {cached:.0%} were read before")
        console.print()
    for short, words in WORDS.items():
        console.print(f"{short}: {words}")


def _throughput(level: Level) -> tuple[str, ...]:
    good = level.goodput
    return (
        f"{level.level:g}",
        f"{level.n}",
        f"{level.failed}",
        f"{level.requests_per_s:.2f}",
        f"{level.output_tokens_per_s:.1f}",
        f"{level.tokens_per_s_per_user:.1f}",
        "-" if good is None else f"{good.requests_per_s:.2f}",
        "-" if good is None else f"{good.met:.0%} ({good.low:.0%} to {good.high:.0%})",
    )


def _latencies(level: Level) -> Iterator[tuple[str, ...]]:
    """A row for each measure: its quantiles, that of the median with its interval."""
    for spread in level.spreads:
        p50, p90, p99 = spread.quantiles
        yield (
            f"{level.level:g}",
            spread.name,
            f"{spread.n}",
            f"{p50.value:.4g} ({p50.low:.4g} to {p50.high:.4g})",
            f"{p90.value:.4g}",
            f"{p99.value:.4g}",
        )
