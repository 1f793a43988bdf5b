"""`paredown spec`: what is known of a model before anything of it is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paredown.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from paredown.hardware.detect import Machine
    from paredown.methods.recommend import Suggestion
    from paredown.spec.model import ModelSpec
    from paredown.spec.weights import Precision

DEFAULT_CONTEXT = 4096
LISTED: tuple[Precision, ...] = ("fp32", "fp16", "int8", "int4")
"""Precisions that are shown; `paredown match` has them by device."""
RUNTIME_BYTES = 500_000_000
"""Python, torch and transformers in a process, before any weight; added where memory must fit."""


@dataclass(frozen=True)
class SizeRow:
    """One precision: what its weights take, and what serving them takes."""

    precision: str
    weights_bytes: int
    serve_bytes: int | None
    """Weights and cache; None when the cache cannot be derived."""
    fits: bool | None
    """Whether this machine has that much free, the runtime included."""


@dataclass(frozen=True)
class SpecReport:
    """All that `paredown spec` says."""

    spec: ModelSpec
    machine: Machine
    context: int
    batch: int
    group_size: int
    sizes: tuple[SizeRow, ...]
    calibration_tokens: int
    quantize_bytes: int | None
    quantize_fits: bool | None
    recommendations: tuple[Suggestion, ...]


def spec(
    model: Annotated[str, typer.Option("--model", "-m", help="Local folder, hub name, or 'demo'.")],
    json_output: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of tables.")
    ] = False,
    context: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens of context to serve; 4096, or the model's if shorter."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Sequences served at once.")] = 1,
    group_size: Annotated[
        int, typer.Option(help="Weights per scale at int8 and int4; -1 for one scale per row.")
    ] = 64,
) -> None:
    """Show what is known of a model: parameters, sizes, memory, and what to try. Loads nothing."""
    from paredown.artifact.source import spec_of
    from paredown.hardware.detect import detect
    from paredown.spec.serial import readable

    found, machine = spec_of(model), detect()
    report = build_report(found, machine, context=context, batch=batch, group_size=group_size)
    if json_output:
        typer.echo(readable(as_json(report)), nl=False)
        return
    from paredown.report.console import make_console

    make_console().print(_render(report))


def show(model: str, *, as_json: bool = False) -> None:
    """Print what `paredown spec` does, with its defaults."""
    spec(model=model, json_output=as_json, context=None, batch=1, group_size=64)


def render_spec(
    spec: ModelSpec,
    machine: Machine,
    *,
    context: int | None = None,
    batch: int = 1,
    group_size: int = 64,
) -> RenderableType:
    """The tables of `paredown spec`, for a rich console.

    Raises:
        ConfigError: a context beyond the model's, or a group size below 1 other than -1.
    """
    return _render(build_report(spec, machine, context=context, batch=batch, group_size=group_size))


def build_report(
    spec: ModelSpec, machine: Machine, *, context: int | None, batch: int, group_size: int
) -> SpecReport:
    """Everything that is derived from a spec for this machine.

    Raises:
        ConfigError: a context beyond the model's, or a group size below 1 other than -1.
    """
    from paredown.methods.recommend import calibration_tokens, recommend
    from paredown.spec.sizes import memory_to_quantize

    if group_size < 1 and group_size != -1:
        raise ConfigError(f"--group-size {group_size}: use 1 or more, or -1 for whole rows")
    if context and spec.context and context > spec.context:
        raise ConfigError(
            f"--context {context}: {spec.name} reads at most {spec.context} tokens; give less"
        )
    length = context or min(DEFAULT_CONTEXT, spec.context or DEFAULT_CONTEXT)
    tokens = calibration_tokens()
    to_quantize = None if spec.quantization else memory_to_quantize(spec, tokens)
    return SpecReport(
        spec=spec,
        machine=machine,
        context=length,
        batch=batch,
        group_size=group_size,
        sizes=tuple(_size_rows(spec, machine, length, batch, group_size)),
        calibration_tokens=tokens,
        quantize_bytes=to_quantize,
        quantize_fits=_fits(to_quantize, machine),
        recommendations=tuple(recommend(spec, machine)),
    )


def as_json(report: SpecReport) -> dict[str, Any]:
    """A report as plain JSON types; the list of tensors is left out."""
    from dataclasses import asdict

    from paredown.spec.serial import SCHEMA_VERSION

    rows = {
        name: getattr(report, name)
        for name in ("context", "batch", "group_size", "calibration_tokens")
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "spec": report.spec.model_dump(mode="json", exclude={"tensors", "schema_version"}),
        "stored_bytes": report.spec.weight_bytes,
        "stored_tensors": len(report.spec.tensors),
        **rows,
        "sizes": [asdict(row) for row in report.sizes],
        "quantize_bytes": report.quantize_bytes,
        "quantize_fits": report.quantize_fits,
        "runtime_bytes": RUNTIME_BYTES,
        "machine": report.machine.model_dump(mode="json"),
        "recommendations": [r.model_dump(mode="json") for r in report.recommendations],
    }


def _size_rows(
    spec: ModelSpec, machine: Machine, context: int, batch: int, group_size: int
) -> Iterator[SizeRow]:
    from paredown.spec.cache import find_caches
    from paredown.spec.sizes import bytes_at

    found = find_caches(spec)
    cache = None if found.unknown else round(batch * found.nbytes(context))

    def row(precision: str, weights: int) -> SizeRow:
        serve = None if cache is None else weights + cache
        return SizeRow(precision, weights, serve, _fits(serve, machine))

    yield row(f"as stored ({spec.quantization or spec.dtype})", spec.weight_bytes)
    for precision in LISTED if spec.quantization is None else ():
        yield row(precision, bytes_at(spec, precision, group_size))


def _fits(needed: int | None, machine: Machine) -> bool | None:
    """Whether a process that needs so much beside its runtime fits into free memory."""
    if needed is None:
        return None
    on_gpu = any(needed <= gpu.free_bytes for gpu in machine.gpus)
    return on_gpu or needed + RUNTIME_BYTES <= machine.available_bytes


# --- Tables ---------------------------------------------------------------------------------------


def _render(report: SpecReport) -> RenderableType:
    from rich.console import Group

    parts: list[RenderableType] = [_identity(report), "", _sizes(report), _quantizing(report)]
    parts += [*_hardware(report), "", *_recommendations(report)]
    return Group(*parts)


def _hardware(report: SpecReport) -> Iterator[str]:
    """The short form of `paredown match`: the cheapest devices at every precision."""
    from paredown.coordinate.versions import versions_of
    from paredown.hardware.catalogue import shipped
    from paredown.hardware.engines import usual
    from paredown.hardware.matching import match
    from paredown.hardware.memory import Work
    from paredown.spec.target import Target

    prompt = max(1, min(512, report.context - 1))
    work = Work(batch=report.batch, context=report.context, prompt=prompt)
    pairs = [(device, usual(device)) for device in shipped()]
    fits, _ = match(versions_of(report.spec, None, Target()), pairs, work)
    best = {fit.version.name: fit.words for fit in reversed(fits)}
    if best:
        said = ", ".join(f"{words} at {name}" for name, words in best.items())
        yield f"Hardware, the cheapest to rent: {said} (paredown match has all, with the reasons)."


def _identity(report: SpecReport) -> Table:
    from rich.table import Table

    table = Table(box=None, show_header=False, title=report.spec.name, title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in _identity_rows(report.spec):
        table.add_row(label, value)
    table.add_row("this machine", describe_machine(report.machine))
    return table


def _identity_rows(spec: ModelSpec) -> Iterator[tuple[str, str]]:
    from paredown.spec.units import human_count

    yield "architecture", f"{spec.architecture} (family {spec.family})"
    parameters = f"{spec.parameters:,} ({human_count(spec.parameters)})"
    if spec.active_parameters != spec.parameters:
        parameters += f", {human_count(spec.active_parameters)} active per token"
    yield "parameters", parameters
    if spec.experts:
        yield "experts", f"{spec.experts}, {_or_unknown(spec.experts_per_token)} per token"
    yield "layers", _or_unknown(spec.layers)
    yield (
        "widths",
        f"hidden {_or_unknown(spec.hidden_size)}, MLP {_or_unknown(spec.intermediate_size)}",
    )
    yield (
        "attention",
        f"{_or_unknown(spec.heads)} heads of {_or_unknown(spec.head_dim)}, "
        f"{_or_unknown(spec.kv_heads)} for keys and values",
    )
    tied = ", embedding tied to the head" if spec.tied_embeddings else ""
    yield "vocabulary", f"{_or_unknown(spec.vocabulary)}{tied}"
    yield "context", f"{_or_unknown(spec.context)} tokens"
    yield "stored as", spec.dtype + (f", {spec.quantization}" if spec.quantization else "")
    if spec.vision:
        layers = _or_unknown(spec.vision.layers)
        count = human_count(spec.vision.parameters)
        yield "vision tower", f"{spec.vision.model_type}: {layers} layers, {count} parameters"
    if spec.unknown:
        yield "unknown", ", ".join(spec.unknown)


def describe_machine(machine: Machine) -> str:
    """A machine in one line."""
    from paredown.spec.units import human_bytes

    parts = [
        f"{machine.cpu}, {machine.physical_cores} cores",
        f"{human_bytes(machine.available_bytes)} of {human_bytes(machine.memory_bytes)} free",
    ]
    parts += [f"{g.name}, {human_bytes(g.free_bytes)} free" for g in machine.gpus] or ["no GPU"]
    return "; ".join(parts)


def _sizes(report: SpecReport) -> Table:
    from rich.table import Table

    from paredown.spec.units import human_bytes

    group = "whole rows" if report.group_size == -1 else f"groups of {report.group_size}"
    table = Table(
        title="Sizes, derived from exact counts",
        title_justify="left",
        caption=f"int8, int4: block linears in {group}, the rest stays at 16 bits. "
        f"To serve: weights and 16-bit cache, {report.context} tokens x {report.batch}.",
        caption_justify="left",
    )
    table.add_column("precision")
    table.add_column("disk and memory", justify="right")
    table.add_column("to serve", justify="right")
    table.add_column("fits this machine")
    for row in report.sizes:
        serve = "unknown" if row.serve_bytes is None else human_bytes(row.serve_bytes)
        table.add_row(row.precision, human_bytes(row.weights_bytes), serve, _yes_no(row.fits))
    return table


def _quantizing(report: SpecReport) -> str:
    from paredown.spec.units import human_bytes

    if report.spec.quantization:
        return f"Quantized already ({report.spec.quantization})."
    if report.quantize_bytes is None:
        return "Memory to quantize: unknown (no blocks found by name)."
    fits = {True: "fits", False: "does not fit", None: "may fit"}[report.quantize_fits]
    return (
        f"To quantize with {report.calibration_tokens} calibration tokens: "
        f"{human_bytes(report.quantize_bytes)}, {fits} this machine."
    )


def _recommendations(report: SpecReport) -> Iterator[RenderableType]:
    from rich.table import Table

    if not report.recommendations:
        yield "No method suits this model as it is stored." + (
            " Start from its unquantized version." if report.spec.quantization else ""
        )
        return
    table = Table(title="Worth trying, most promising first", title_justify="left")
    table.add_column("strategy", overflow="fold")
    table.add_column("why", overflow="fold")
    for item in report.recommendations:
        table.add_row(item.strategy, item.reason)
    yield table


def _or_unknown(value: int | None) -> str:
    return "unknown" if value is None else str(value)


def _yes_no(value: bool | None) -> str:
    return {True: "yes", False: "no", None: "unknown"}[value]
