"""What `paredown match` prints of serving for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from paredown.cli.match_data import as_csv, as_json, csv_of
from paredown.hardware.estimate import Estimate
from paredown.hardware.here import Here
from paredown.hardware.matching import Fit, NoFit, Stream, saved_by
from paredown.hardware.memory import ALONE, Memory, serving_memory
from paredown.spec.units import human_bytes, human_count

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from paredown.coordinate.serving import Matched
    from paredown.hardware.catalogue import Accelerator, Figure
    from paredown.hardware.engines import Habits
    from paredown.hardware.memory import Version

BEST = 10
"""Devices that are shown where nobody asks for all."""
_FIGURES: dict[Figure, str] = {
    "memory": "memory_gb", "bandwidth": "bandwidth_gb_s", "fp16": "fp16_tflops",
    "fp8": "fp8_tflops", "int8": "int8_tops", "tdp": "tdp_w",
}  # fmt: skip


def show(found: Matched, *, form: str, show_all: bool) -> None:
    """Print what was found."""
    if form == "json":
        from paredown.spec.serial import readable

        print(readable(as_json(found)), end="")
    elif form == "csv":
        print(as_csv(found), end="")
    else:
        from paredown.report.console import make_console

        make_console().print(render(found, show_all=show_all))


# --- For people -----------------------------------------------------------------------------------


def render(found: Matched, *, show_all: bool = False) -> RenderableType:
    """The tables and the reasons."""
    from rich.console import Group

    parts: list[RenderableType] = [_title(found), "", _versions(found), ""]
    if found.fits:
        parts += [_devices(found, show_all=show_all), "", *_best(found.fits[0])]
        parts += [f"Smaller versions: {line}" for line in saved_by(found.fits)]
    else:
        parts += _nothing(found)
    parts += [*_here(found.here), *(f"Note: {note}." for note in found.notes), LEGEND]
    return Group(*parts)


LEGEND = (
    "Weights and cache are derived exactly from counts; everything with ~ is estimated, with its "
    "range in --json. Where each device's figures come from: paredown match --devices."
)


def _title(found: Matched) -> str:
    spec, work = found.spec, found.work
    called = f"{spec.name} ({human_count(spec.parameters)} parameters): "
    if isinstance(work, Stream):
        limits = [
            f"{word} {1e3 * bound:.0f} ms at most"
            for word, bound in (("first token", work.ttft_s), ("each further", work.tpot_s))
            if bound is not None
        ]
        stream = f"{work.requests_per_s:g} requests/s of {work.prompt} + {work.output} tokens"
        return called + ", ".join([stream, *limits])
    plural = "" if work.batch == 1 else "s"
    return f"{called}{work.batch} sequence{plural} of {work.context} tokens, prompt {work.prompt}"


def _versions(found: Matched) -> Table:
    """Versions side by side, as if one device had to hold all."""
    from rich.table import Table

    work = found.work
    if isinstance(work, Stream):
        table = Table(title="Versions", title_justify="left", box=None, pad_edge=False)
        columns: tuple[str, ...] = ("version", "files", "best choice")
    else:
        title = "Versions, if one device holds all of it"
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        columns = ("version", "files", "weights", "cache", "~working", "~runtime", "~total",
                   "best choice")  # fmt: skip
    for column in columns:
        table.add_column(
            column, justify="left" if column in {"version", "best choice"} else "right"
        )
    for version in found.versions:
        best = next((f for f in found.fits if f.version is version), None)
        choice = "none" if best is None else f"{best.words}{_price_words(best)}"
        if isinstance(work, Stream):
            table.add_row(version.name, human_bytes(version.nbytes), choice)
            continue
        engine = found.fits[0].engine if best is None and found.fits else None
        engine = best.engine if best is not None else engine
        memory = _memory_of(found, version, engine)
        table.add_row(version.name, human_bytes(version.nbytes), *_parts(memory), choice)
    return table


def _memory_of(found: Matched, version: Version, engine: Habits | None) -> Memory:
    from paredown.hardware.engines import habits

    if isinstance(found.work, Stream):
        raise AssertionError("a stream has no single batch")
    return serving_memory(version, found.work, engine or habits("vllm"), ALONE)


def _parts(memory: Memory) -> tuple[str, ...]:
    working = max(memory.activations.value, memory.logits.value)
    cache = "unknown" if memory.cache is None else human_bytes(memory.cache.value)
    total = memory.total
    whole = f"> {human_bytes(memory.known.value)}" if total is None else human_bytes(total.value)
    weights = human_bytes(memory.weights.value)
    return weights, cache, human_bytes(working), human_bytes(memory.runtime.value), whole


def _price_words(found: Fit) -> str:
    cost = found.cost
    return "" if cost is None else f", {money(cost.hour_low, cost.hour_high)} USD/h"


def money(low: float, high: float) -> str:
    """Both ends with as many digits as the smaller one needs."""
    digits = 2 if low >= 0.1 else 3
    return f"{low:.{digits}f}" if low == high else f"{low:.{digits}f}-{high:.{digits}f}"


def _devices(found: Matched, *, show_all: bool) -> Table:
    from rich.table import Table

    names = [v.name for v in found.versions]
    by_device: dict[str, dict[str, Fit]] = {}
    for fit in found.fits:
        by_device.setdefault(fit.device.name, {})[fit.version.name] = fit
    shown = list(by_device) if show_all else list(by_device)[:BEST]
    left = len(by_device) - len(shown)
    table = Table(
        title="Devices, best first: number, ~tokens/s, ~USD per million tokens",
        title_justify="left",
        caption=f"{left} more with --all" if left else None,
        caption_justify="left",
        box=None,
        pad_edge=False,
    )
    table.add_column("device", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", overflow="fold")
    for device in shown:
        cells = [_cell(by_device[device].get(name)) for name in names]
        table.add_row(device, *cells)
    return table


def _cell(fit: Fit | None) -> str:
    if fit is None:
        return "-"
    rate = f"{fit.devices}x {_number(fit.tokens_per_s.value)}/s"
    cost = "" if fit.cost is None else f" ${money(fit.cost.million_low, fit.cost.million_high)}"
    return rate + cost + (" tight" if fit.tight else "")


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def _best(best: Fit) -> Iterator[str]:
    """The first choice in full, with the reason."""
    reason = "cheapest per token of those whose price is known"
    if best.cost is None:
        reason = "fewest devices; no price is known of any that holds it"
    layout = best.layout
    spread = "" if layout.devices == 1 else f", {layout.tensor} share every matrix"
    spread += "" if layout.stages == 1 else f", {layout.stages} stages of layers"
    copies = "" if best.copies == 1 else f", {best.copies} copies of the model"
    yield (
        f"Best: {best.words} with {best.engine.name} at {best.version.name}: "
        f"{reason}{spread}{copies}."
    )
    memory = best.memory
    total = memory.total
    if total is not None:
        weights, cache, working, runtime, whole = _parts(memory)
        yield (
            f"  memory of each: {weights} weights + {cache} cache + ~{working} working + "
            f"~{runtime} runtime = ~{whole} ({human_bytes(total.low)} to "
            f"{human_bytes(total.high)}) of {human_bytes(best.limit_bytes)}"
        )
    first = "unknown" if best.ttft_s is None else milliseconds(best.ttft_s)
    further = milliseconds(best.tpot_s)
    yield f"  first token ~{first}, each further ~{further}; bound by {best.binds}"
    if best.joules_per_token is not None:
        e = best.joules_per_token
        yield f"  energy ~{e.value:.2g} J/token ({e.low:.2g} to {e.high:.2g})"
    if best.cost is not None:
        cost = best.cost
        yield (
            f"  {money(cost.hour_low, cost.hour_high)} USD/h, "
            f"{money(cost.million_low, cost.million_high)} USD per million generated tokens "
            f"({cost.basis})"
        )
    figures: tuple[Figure, ...] = ("memory", "bandwidth", "fp16")
    if weak := [figure for figure in figures if best.device.known(figure) != "verified"]:
        yield f"  not verified of this device: {', '.join(weak)}"


def milliseconds(time: Estimate) -> str:
    def shown(seconds: float) -> str:
        return f"{1e3 * seconds:.3g}"

    return f"{shown(time.value)} ms ({shown(time.low)} to {shown(time.high)})"


def _nothing(found: Matched) -> list[RenderableType]:
    lines: list[RenderableType] = ["No device of the catalogue does what is asked."]
    nearest: dict[str, NoFit] = {}
    for refused in found.refused:
        nearest.setdefault(refused.reason, refused)
    for refused in list(nearest.values())[:5]:
        lines.append(f"  {refused.device.name} at {refused.version.name}: {refused.reason}")
    if found.refused:
        lines.append(
            "What would do: a smaller precision, a shorter context, a smaller batch, another "
            "device (--catalogue), or more time for the first token."
        )
    return lines


def _here(here: Sequence[Here]) -> Iterator[str]:
    if not here:
        return
    fits = [h.version.name for h in here if h.fits]
    free = human_bytes(here[0].free_bytes)
    said = f"hold {', '.join(fits)}" if fits else "hold none of these versions"
    yield f"This machine ({here[0].engine.name} on its processor): {free} free {said}."
    timed = [h for h in here if h.tpot_s is not None]
    if not timed:
        yield "  its speed is unknown until 'paredown match --calibrate' has measured it once"
    for one in timed:
        if one.tpot_s is None or one.ttft_s is None:
            continue
        total = one.memory.total
        taken = "" if total is None else f"~{human_bytes(total.value)}, "
        yield (
            f"  {one.version.name}: {taken}first token ~{milliseconds(one.ttft_s)}, "
            f"each further ~{milliseconds(one.tpot_s)}"
        )


def show_devices(devices: Sequence[Accelerator], *, form: str) -> None:
    """Print the catalogue with the state of every figure."""
    if form != "text":
        from paredown.spec.serial import readable

        rows = [device.model_dump(mode="json", exclude_none=True) for device in devices]
        print(readable(rows) if form == "json" else csv_of(rows), end="")
        return
    from rich.table import Table

    from paredown.report.console import make_console

    table = Table(
        title="Devices: nominal figures", title_justify="left", box=None, pad_edge=False,
        caption="? not verified, = derived from another figure; TFLOPS and TOPS are dense. Sources "
        "are in --json.", caption_justify="left",
    )  # fmt: skip
    for column in ("device", "GB", "GB/s", "fp16", "fp8", "int8", "W", "USD/h", "price of"):
        table.add_column(column, justify="left" if column == "device" else "right", no_wrap=True)
    marks = {"verified": "", "derived": "=", "unverified": "?"}
    for device in devices:
        cells = []
        for figure, name in _FIGURES.items():
            value = getattr(device, name)
            mark = marks[device.known(figure)]
            cells.append("" if value is None else f"{value:g}{mark}")
        low, high = device.usd_per_hour_low, device.usd_per_hour_high
        price = "" if low is None or high is None else money(low, high)
        table.add_row(device.name, *cells, price, device.price_date or "")
    make_console().print(table)
