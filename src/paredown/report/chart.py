"""The page's chart: what is lost against what it costs to serve, as SVG that needs no library."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from paredown.judge.quantities import QUANTITIES, bounds, loss, speedup
from paredown.judge.words import name_of, one_line, signed_percent, times
from paredown.language import say
from paredown.report.figures import loss_half
from paredown.report.findings import Judged
from paredown.report.style import colours, hue_of, is_pipeline
from paredown.spec.result import TrialResult
from paredown.spec.run import Objective

WIDTH, HEIGHT = 760.0, 430.0
LEFT, RIGHT, TOP, BOTTOM = 66.0, 18.0, 16.0, 52.0
LINEAR_UP_TO = 10.0
"""Percent of loss up to which the axis is linear; beyond, it is logarithmic."""
_STEPS = (-50, -20, -10, -5, 0, 2, 5, 10, 20, 50, 100, 200, 500, *(10.0**k for k in range(3, 9)))
_LETTER = 6.4
"""Width of a letter of a label, units of the drawing."""
_ROOM = 15.0
_SHAPES = {
    "circle": "M-5.5,0a5.5,5.5 0 1,0 11,0a5.5,5.5 0 1,0 -11,0Z",
    "square": "M-5,-5H5V5H-5Z",
    "star": "M0,-9L2.6,-2.9 9,-2.6 4,1.6 5.6,7.9 0,4.4 -5.6,7.9 -4,1.6 -9,-2.6 -2.6,-2.9Z",
}


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A result on the chart.

    Attributes:
        x: of the quantity, as its axis has it.
        loss, half: percent, and half of its 95 % interval.
    """

    result: TrialResult
    x: float
    loss: float
    half: float


def objectives_shown(findings: Judged) -> tuple[Objective, ...]:
    """Quantities that have a chart: those that some compressed result has besides its loss."""
    names = (name for name in QUANTITIES if name != "quality")
    return tuple(n for n in names if any(d.result.episode > 0 for d in dots(findings, n)))


def dots(findings: Judged, objective: Objective) -> list[Dot]:
    """Results whose loss and quantity are known, the baseline first.

    Latency is the base's over the speed-up, where it was taken in turns: milliseconds that were
    measured hours apart are no comparison.
    """
    baseline, row, found = findings.baseline, QUANTITIES[objective], []
    for result in findings.record.results:
        measured = row.measured(result)
        lost = 0.0 if result is baseline else loss(result, baseline)
        if result.status != "ok" or lost is None or measured is None:
            continue
        value = measured.value
        paired = speedup(result, baseline) if objective == "latency" else None
        if paired and baseline is not None and baseline.latency_ms:
            value = baseline.latency_ms / paired
        half = 0.0 if result is baseline else loss_half(result, baseline)
        found.append(Dot(result=result, x=value / row.divisor, loss=lost, half=half))
    return found


def chart_svg(findings: Judged, objective: Objective) -> str:
    """One chart. Every point is a link to the part of the page on its episode."""
    found = dots(findings, objective)
    across, ticks_x = _across([dot.x for dot in found])
    up, ticks_y = _up([(dot.loss - dot.half, dot.loss + dot.half) for dot in found])
    name, scale = _unit(objective, found)
    parts = [_axes(name, _loss_axis(), across, [(t, t * scale) for t in ticks_x], up, ticks_y)]
    colour = colours(findings.record.results)
    taken: list[tuple[float, float, float, float]] = [
        (across(d.x) - 7, up(d.loss) - 7, across(d.x) + 7, up(d.loss) + 7) for d in found
    ]
    parts.append(_limits(findings, objective, across, up, taken))
    # What is on the front lies above what is not.
    for dot in sorted(found, key=lambda d: d.result in findings.front):
        parts.append(_mark(dot, findings, colour, across, up))
    for dot in sorted(found, key=lambda d: d.result.episode != findings.recommendation.episode):
        parts.append(_label(dot, findings, across(dot.x), up(dot.loss), taken))
    title = escape(f"{_loss_axis()}: {name}")
    return (
        f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{title}">'
        + "".join(parts)
        + "</svg>"
    )


def tip(result: TrialResult, findings: Judged) -> str:
    """What is said of a point: five lines at most."""
    baseline = findings.baseline
    lines = [one_line(name_of(result), 90)]
    if result.episode > 0:
        half = loss_half(result, baseline)
        spread = f" ± {half:.1f} %" if half else ""
        lost = signed_percent(loss(result, baseline))
        lines.append(say("quality loss {loss}", loss=f"{lost}{spread}"))
        numbers = (say("{ratio} smaller", ratio=f"{result.compression_ratio:.2f}x")
                   if result.compression_ratio else "")  # fmt: skip
        fast = speedup(result, baseline)
        said = [numbers, "" if fast is None else say("{speed} as fast", speed=times(fast))]
        lines.append(" · ".join(filter(None, said)))
        if result.unmet:
            lines.append("; ".join(one_line(text, 60) for text in result.unmet[:2]))
    return "\n".join(filter(None, lines))


def _unit(objective: Objective, found: Sequence[Dot]) -> tuple[str, float]:
    """What is written at the axis, and what its values are multiplied with: megabytes where a
    gigabyte would be too coarse."""
    name = say(QUANTITIES[objective].axis)
    if "GB" in name and max((dot.x for dot in found), default=1.0) < 1.0:
        return name.replace("GB", "MB"), 1000.0
    return name, 1.0


def _loss_axis() -> str:
    return say("quality loss, % (bars: 95 % intervals)")


def _across(values: Sequence[float]) -> tuple[Callable[[float], float], list[float]]:
    """Where a value lies from left to right, and values to write there."""
    from matplotlib.ticker import MaxNLocator

    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    room = 0.08 * (high - low) or 0.1 * high or 1.0
    low, high = max(low - room, 0.0), high + room
    ticks = [float(t) for t in MaxNLocator(7).tick_values(low, high) if low <= t <= high]
    width = WIDTH - LEFT - RIGHT
    return lambda value: LEFT + width * (value - low) / (high - low), ticks


def _up(spans: Sequence[tuple[float, float]]) -> tuple[Callable[[float], float], list[float]]:
    """Where a loss lies from top to bottom; its axis is linear near zero, then logarithmic."""
    low = min([0.0, *(a for a, _ in spans)])
    high = max([5.0, *(b for _, b in spans)])
    ends = _bent(low * 1.1 - 0.6), _bent(high * 1.08 + 0.4)
    height = HEIGHT - TOP - BOTTOM

    def up(value: float) -> float:
        return TOP + height * (ends[1] - _bent(value)) / (ends[1] - ends[0])

    places, ticks = [math.inf], []
    for step in sorted(_STEPS, key=lambda s: (s != 0, abs(s))):
        inside = ends[0] <= _bent(step) <= ends[1]
        if inside and all(abs(up(step) - place) > _ROOM for place in places):
            places.append(up(step))
            ticks.append(float(step))
    return up, ticks


def _bent(value: float) -> float:
    if abs(value) <= LINEAR_UP_TO:
        return value
    return math.copysign(LINEAR_UP_TO * (1 + math.log10(abs(value) / LINEAR_UP_TO)), value)


def _axes(
    name_x: str, name_y: str, across: Callable[[float], float],
    ticks_x: Sequence[tuple[float, float]],
    up: Callable[[float], float], ticks_y: Sequence[float],
) -> str:  # fmt: skip
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for tick, shown in ticks_x:
        x = across(tick)
        parts.append(f'<path class="grid" d="M{x:.1f},{TOP:g}V{bottom:g}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 17:g}">{shown:g}</text>')
    for tick in ticks_y:
        y = up(tick)
        kind = "zero" if tick == 0 else "grid"
        parts.append(f'<path class="{kind}" d="M{LEFT:g},{y:.1f}H{right:g}"/>')
        said = f"{tick:+g}" if tick else "0"
        parts.append(f'<text class="tick y" x="{LEFT - 8:g}" y="{y + 4:.1f}">{said}</text>')
    middle = (LEFT + right) / 2
    parts.append(f'<text class="name" x="{middle:g}" y="{HEIGHT - 10:g}">{escape(name_x)}</text>')
    parts.append(
        f'<text class="name" transform="translate(16,{(TOP + bottom) / 2:g}) rotate(-90)">'
        f"{escape(name_y)}</text>"
    )
    return "".join(parts)


def _limits(
    findings: Judged, objective: Objective, across: Callable[[float], float],
    up: Callable[[float], float], taken: list[tuple[float, float, float, float]],
) -> str:  # fmt: skip
    """The user's limits on what the axes show, as lines with what was asked."""
    parts, bottom, right = [], HEIGHT - BOTTOM, WIDTH - RIGHT
    for bound in bounds(findings.record.config.limits, findings.baseline):
        text = escape(one_line(str(bound), 60))
        if bound.objective == "quality" and bound.limit.unit == "%":
            y = up(bound.value)
            if TOP < y < bottom:
                parts.append(
                    f'<path class="limit" d="M{LEFT:g},{y:.1f}H{right:g}"/>'
                    f'<text class="limit" x="{right - 4:g}" y="{y - 5:.1f}">{text}</text>'
                )
        elif bound.objective == objective and (at := _at(bound.limit.field, bound.value, findings)):
            x = across(at)
            if LEFT < x < right:
                # On the side that has room for it.
                width = _LETTER * len(text) + 10
                end, where = (x + 5, "start") if x + width < right else (x - 5, "end")
                left = x if where == "start" else x - width
                taken.append((left, TOP, left + width, TOP + 16))
                parts.append(
                    f'<path class="limit" d="M{x:.1f},{TOP:g}V{bottom:g}"/>'
                    f'<text class="limit" style="text-anchor:{where}" x="{end:.1f}" '
                    f'y="{TOP + 12:g}">{text}</text>'
                )
    return "".join(parts)


def _at(field: str, value: float, findings: Judged) -> float | None:
    """Where a limit lies on the axis of its quantity; None where the base is not known."""
    base = findings.baseline

    def of_base(name: str, divisor: float = 1.0) -> float | None:
        found = None if base is None else base.value(name)
        return None if found is None else found / divisor

    match field:
        case "max_memory_gb":
            return value
        case "size":
            return value / QUANTITIES["size"].divisor
        case "target_ratio":
            size = of_base("size", QUANTITIES["size"].divisor)
            return None if size is None else size / value
        case "min_speedup":
            latency = of_base("decode_latency")
            return None if latency is None else latency / value
        case "max_energy":
            energy = of_base("energy")
            return None if energy is None else energy * value
        case _:
            return None


def _mark(
    dot: Dot, findings: Judged, colour: dict[str, str], across: Callable[[float], float],
    up: Callable[[float], float],
) -> str:  # fmt: skip
    result = dot.result
    x, y = across(dot.x), up(dot.loss)
    chosen = result.episode == findings.recommendation.episode
    shape = "star" if chosen else "square" if is_pipeline(result) else "circle"
    hue = "var(--ink)" if result.episode == 0 else hue_of(result, colour)
    kind = "on" if result in findings.front else "off"
    bar = ""
    if dot.half:
        top, low = up(dot.loss + dot.half), up(dot.loss - dot.half)
        bar = (
            f'<path class="bar" d="M{x:.1f},{top:.1f}V{low:.1f}'
            f'M{x - 4:.1f},{top:.1f}h8M{x - 4:.1f},{low:.1f}h8"/>'
        )
    said = escape(tip(result, findings))
    return (
        f'<a href="#episode-{result.episode}" class="dot {kind}" style="--hue:{hue}" '
        f'data-tip="{said}">{bar}'
        f'<path class="mark" transform="translate({x:.1f},{y:.1f})" d="{_SHAPES[shape]}"/>'
        f"<title>{said}</title></a>"
    )


def _label(
    dot: Dot, findings: Judged, x: float, y: float,
    taken: list[tuple[float, float, float, float]],
) -> str:  # fmt: skip
    """The number of a result on the front, with its name where it is recommended; where there is
    no room for it, nothing: the point says it all the same."""
    result = dot.result
    chosen = result.episode == findings.recommendation.episode
    if result not in findings.front and not chosen:
        return ""
    number = str(result.episode) if result.episode else say("baseline")
    text = one_line(f"{number} {result.label}", 40) if chosen else number
    width = _LETTER * len(text)
    for dx, dy in ((11, -9), (-11 - width, -9), (11, 18), (-11 - width, 18), (11, 4), (11, -24)):
        box = (x + dx, y + dy - 11, x + dx + width, y + dy + 2)
        inside = box[0] >= LEFT and box[2] <= WIDTH - RIGHT and box[1] >= TOP
        if inside and box[3] <= HEIGHT - BOTTOM and not any(_meet(box, other) for other in taken):
            taken.append(box)
            kind = "label chosen" if chosen else "label"
            return f'<text class="{kind}" x="{x + dx:.1f}" y="{y + dy:.1f}">{escape(text)}</text>'
    return ""


def _meet(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
