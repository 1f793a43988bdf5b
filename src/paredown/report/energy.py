"""Energy of a search, and when the recommended model has saved as much."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from paredown.language import clauses, say, say_many
from paredown.language.recorded import recorded
from paredown.report.findings import Judged
from paredown.spec.result import Measurement
from paredown.spec.units import human_count, human_energy, human_mass

_JOULES_PER_KWH = 3.6e6
_CERTAIN = 1.96


@dataclass(frozen=True, kw_only=True)
class SearchEnergy:
    """What a search has used, all its sessions together.

    Attributes:
        kwh, kg_co2e: of the whole machine, estimated by CodeCarbon.
        seconds: over which they were metered.
        countries: ISO codes of the grids, or `world` for its average.
        left_out: stretches of some seconds in which a counter jumped: no part of the sums.
    """

    kwh: float
    kg_co2e: float
    seconds: float
    countries: tuple[str, ...]
    codecarbon: str
    left_out: int = 0
    source: str = "estimated"


@dataclass(frozen=True, kw_only=True)
class Payback:
    """When the energy of the search is saved.

    Attributes:
        tokens: that the recommended model has to generate; None where it saves none, or where
            that is not known.
        in_words: the outcome, or what is missing.
    """

    tokens: float | None
    in_words: str


def search_energy(events: tuple[dict[str, Any], ...]) -> SearchEnergy | None:
    """The last reading of every session, added up; None where nothing was metered."""
    sessions: list[dict[str, Any] | None] = []
    for event in events:
        if event.get("event") == "started":
            sessions.append(None)
        elif event.get("event") == "energy" and "kwh" in event:
            sessions[-1:] = [event]
    read = [event for event in sessions if event is not None]
    if not read:
        return None
    return SearchEnergy(
        kwh=sum(float(event["kwh"]) for event in read),
        kg_co2e=sum(float(event["kg_co2e"]) for event in read),
        seconds=sum(float(event["seconds"]) for event in read),
        countries=tuple(dict.fromkeys(str(event["country"]) for event in read)),
        codecarbon=str(read[-1]["codecarbon"]),
        left_out=sum(int(event.get("left_out", 0)) for event in read),
    )


def payback(findings: Judged) -> Payback:
    """Generated tokens until the recommended model has saved what the search has used."""
    used = search_energy(findings.record.events)
    best, baseline = findings.result(findings.recommendation.episode), findings.baseline
    if used is None:
        return _unknown(say("the energy of the search was not metered"))
    if best is None or best.episode == 0:
        return _unknown(say("no compressed model is recommended"))
    mine, base = best.get("energy"), None if baseline is None else baseline.get("energy")
    if mine is None or base is None:
        return _unknown(say("energy per token was not measured of both models"))
    if mine.source != base.source:
        return _unknown(
            say("energy per token was measured of one model and estimated of the other")
        )
    return _payback(used, mine, base)


def _payback(used: SearchEnergy, mine: Measurement, base: Measurement) -> Payback:
    saved = base.value - mine.value
    error = math.hypot(mine.stderr or 0.0, base.stderr or 0.0)
    each = say(
        "{before} J per generated token before, {after} J after",
        before=f"{base.value:.3g}", after=f"{mine.value:.3g}",
    )  # fmt: skip
    if saved == 0 or abs(saved) <= _CERTAIN * error:
        text = say("none shown: the difference is within its error ({each})", each=each)
        return Payback(tokens=None, in_words=text)
    if saved < 0:
        text = say("none: the recommended model saves none ({each})", each=each)
        return Payback(tokens=None, in_words=text)
    tokens = used.kwh * _JOULES_PER_KWH / saved
    words = say(
        "after {tokens} generated tokens the search's energy is saved ({each})",
        tokens=human_count(tokens), each=each,
    )  # fmt: skip
    return Payback(tokens=tokens, in_words=words)


def _unknown(why: str) -> Payback:
    return Payback(tokens=None, in_words=say("not known: {why}", why=why))


def energy_lines(findings: Judged) -> list[str]:
    """The energy of the search, and the payback, a sentence each."""
    used = search_energy(findings.record.events)
    if used is None:
        return [say("energy: not known; {why}", why=recorded(_why_not(findings)))]
    grid = say(" and ").join(
        say("average of the world (--country sets it)") if country == "world" else country
        for country in used.countries
    )
    energy = say(
        "energy: {energy}, {mass} CO2e (grid: {grid}); of the whole machine, idle included, "
        "estimated by CodeCarbon {version}",
        energy=human_energy(used.kwh), mass=human_mass(used.kg_co2e), grid=grid,
        version=used.codecarbon,
    )  # fmt: skip
    jumps = say_many(
        "{n} stretch in which a counter jumped is left out",
        "{n} stretches in which a counter jumped are left out",
        used.left_out,
    )
    return [
        clauses((energy, jumps if used.left_out else "")),
        say("payback: {payback}", payback=payback(findings).in_words),
    ]


def _why_not(findings: Judged) -> str:
    if findings.record.config.evaluate.energy_s == 0:
        return say("evaluate.energy_s is 0")
    events = findings.record.events
    reasons = [str(e["missing"]) for e in events if e.get("event") == "energy" and "missing" in e]
    return reasons[-1] if reasons else say("it was not metered")


def energy_document(findings: Judged) -> dict[str, Any]:
    """Fields for `cost` in final_results.json; null where nothing was metered."""
    used = search_energy(findings.record.events)
    return {
        "energy": None if used is None else asdict(used),
        "payback": asdict(payback(findings)),
    }
