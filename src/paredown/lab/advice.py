"""What to do with the result, by rule, from what was measured; what may go wrong; what to watch.

Everything is a sentence of the message tables with its values: the same decision in any language.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from paredown.deploy.answers import repeats
from paredown.lab.checkpoints import Analysis, Deployment, Exchange, Implementation, Limit
from paredown.spec.lab import LabConfig
from paredown.spec.result import TrialResult
from paredown.spec.units import human_bytes

Verdict = Literal["deploy", "pilot", "hold", "keep", "nothing"]
Fault = Literal["blank", "repeats"]
MANY = 1 / 3
"""Share of unsound answers from which on nothing is deployed; fewer are read by people."""
FEW_PROMPTS = 50
MANY_FLIPS, MUCH_KL = 0.1, 0.1
"""Share of next tokens, and nats per token, from which on a difference is a risk of its own."""
_UNITS = {"max_memory_gb": "{:.3g} GB", "max_accuracy_loss": "{:.3g} %", "min_speedup": "{:.3g}x",
          "target_ratio": "{:.3g}x", "max_energy": "{:.3g}x"}  # fmt: skip
_AT_LEAST = ("min_speedup", "target_ratio")


@dataclass(frozen=True)
class Sentence:
    """A message by name, with values; a value that is a `Sentence` is said first."""

    name: str
    values: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Monitor:
    """Something to watch: each part a sentence, or text that is the same in every language."""

    what: Sentence
    how: Sentence | str
    usual: Sentence | str
    alarm: Sentence | str


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What the report recommends."""

    verdict: Verdict
    reasons: tuple[Sentence, ...]
    risks: tuple[Sentence, ...]
    monitors: tuple[Monitor, ...]


@dataclass(frozen=True, kw_only=True)
class Case:
    """What a recommendation is drawn from."""

    config: LabConfig
    analysis: Analysis
    made: Implementation
    deployment: Deployment

    @property
    def result(self) -> TrialResult | None:
        """What goes on."""
        return self.made.result


def advise(case: Case) -> Advice:
    """The recommendation.

    Nothing is deployed that breaks a constraint, fails a look at its readiness, or spoils a third
    of the answers; what leaves any of these open is tried in a pilot; the rest is deployed.
    """
    return Advice(
        verdict=_verdict(case), reasons=tuple(_reasons(case)),
        risks=tuple(_risks(case)) or (Sentence("risk_none"),), monitors=tuple(_monitors(case)),
    )  # fmt: skip


def fault(text: str) -> Fault | None:
    """What is wrong with an answer on its face."""
    if not text.strip():
        return "blank"
    return "repeats" if repeats(text) else None


def faults(exchanges: tuple[Exchange, ...]) -> int:
    """Answers that are unsound where the base's are not."""
    return sum(
        one.artifact is not None
        and fault(one.artifact.text) is not None
        and fault(one.base.text) is None
        for one in exchanges
    )


def asked(limit: Limit) -> Sentence:
    """The bound, in words."""
    name = "at_least" if limit.field in _AT_LEAST else "at_most"
    shape = "{:g} pt" if limit.unit == "pt" else _UNITS[limit.field].replace(".3g", "g")
    return Sentence(name, {"value": shape.format(limit.bound)})


def seen(limit: Limit) -> Sentence | str:
    """What was measured, with its interval where it has one."""
    found = limit.seen
    if found is None:
        return Sentence("not_measured")
    value = amount(limit, found.value)
    if found.low == found.high:
        return value
    return f"{value} ({amount(limit, found.low)} – {amount(limit, found.high)})"  # noqa: RUF001


def amount(limit: Limit, value: float) -> str:
    """A number in the unit of a constraint."""
    if limit.unit == "pt":
        return f"{value:.3g} pt"
    return _UNITS[limit.field].format(value)


def constraint(name: str) -> Sentence:
    """What a constraint is called."""
    return Sentence(f"constraint_{name}")


def _verdict(case: Case) -> Verdict:
    if case.made.episode is None or case.result is None:
        return "nothing"
    states = {limit.state for limit in case.made.limits}
    failed = any(fact.status == "failed" for fact in case.deployment.facts)
    unsound, count = faults(case.made.exchanges), len(case.made.exchanges)
    if "broken" in states or failed or unsound > MANY * count:
        return "hold"
    if case.made.episode == 0:
        return "keep"
    is_open = "undecided" in states or unsound > 0 or not case.deployment.facts
    unsaid = not case.made.limits
    if is_open or unsaid or case.config.constraints.device is not None:
        return "pilot"
    return "deploy"


def _reasons(case: Case) -> Iterator[Sentence]:
    made, constraints = case.made, case.config.constraints
    reason = {"reason": made.reason.rstrip(".")}
    if case.result is None:
        yield Sentence("reason_nothing_met", reason)
        return
    if made.episode == 0:
        yield Sentence("reason_base_best", reason)
    names = {"met": "reason_limit_met", "broken": "reason_limit_broken",
             "undecided": "reason_limit_open"}  # fmt: skip
    for limit in made.limits:
        values = {"constraint": constraint(limit.field), "seen": seen(limit), "asked": asked(limit)}
        yield Sentence(names[limit.state], values)
    if not made.limits:
        yield Sentence("reason_no_constraints")
    if made.episode != 0:
        yield _answers(made.exchanges)
    failed = [fact for fact in case.deployment.facts if fact.status == "failed"]
    for fact in failed:
        yield Sentence("reason_not_ready", {"name": fact.name, "seen": fact.seen})
    if not case.deployment.facts:
        yield Sentence("reason_not_served", {"runtime": case.deployment.runtime})
    elif not failed:
        yield Sentence("reason_ready")
    if constraints.device is not None:
        yield Sentence("reason_other_device", {"device": constraints.device})


def _answers(exchanges: tuple[Exchange, ...]) -> Sentence:
    count, unsound = len(exchanges), faults(exchanges)
    if unsound == 0:
        return Sentence("reason_answers_good", {"count": count})
    name = "reason_answers_many" if unsound > MANY * count else "reason_answers_few"
    return Sentence(name, {"count": count, "faults": unsound})


def _risks(case: Case) -> Iterator[Sentence]:
    result, constraints = case.result, case.config.constraints
    if result is None:
        return
    yield from _of_quality(case, result)
    for limit in case.made.limits:
        if limit.state == "undecided":
            yield Sentence("risk_open", {"constraint": constraint(limit.field)})
    count = len(case.made.exchanges)
    if count < FEW_PROMPTS:
        yield Sentence("risk_few_prompts", {"count": count})
    if constraints.device is not None:
        yield Sentence("risk_other_device", {"device": constraints.device})
    yield Sentence("risk_machine", {"cpu": case.analysis.cpu, "cores": case.analysis.cores})
    told = {one.runtime: one.known for one in result.loads_in}
    if told.get(constraints.runtime) in {"documented", "untested"}:
        yield Sentence("risk_documented", {"runtime": constraints.runtime})


def _of_quality(case: Case, result: TrialResult) -> Iterator[Sentence]:
    if result.episode == 0:
        return
    if not result.scores:
        yield Sentence("risk_text_only", {"data": ", ".join(case.config.data)})
    agree, kl, ratio = (result.get(n) for n in ("top1_agreement", "kl", "perplexity_ratio"))
    if agree is not None and 1 - agree.value >= MANY_FLIPS:
        yield Sentence("risk_flips", {"share": f"{100 * (1 - agree.value):.0f}"})
    if kl is not None and kl.value >= MUCH_KL:
        yield Sentence("risk_kl", {"kl": f"{kl.value:.2g}"})
    ends = (None, None) if ratio is None else (ratio.low, ratio.high)
    if ends[0] is not None and ends[1] is not None and ends[0] <= 1 <= ends[1]:
        yield Sentence("risk_noise")
    source = case.config.calibration.source or case.config.data[0]
    yield Sentence("risk_calibration", {"data": source})


def _monitors(case: Case) -> Iterator[Monitor]:
    result, deployment = case.result, case.deployment
    if result is None:
        return
    twice = Sentence("monitor_twice")
    names = {"first token": "monitor_first", "per output token": "monitor_latency"}
    for pair in deployment.pairs:
        if pair.name in names:
            yield Monitor(
                what=Sentence(names[pair.name]), how=Sentence("monitor_latency_how"),
                usual=f"{pair.package:.3g} {pair.unit}", alarm=twice,
            )  # fmt: skip
    if not deployment.pairs and result.latency_ms is not None:
        yield Monitor(
            what=Sentence("monitor_latency"), how=Sentence("monitor_latency_how"),
            usual=f"{result.latency_ms:.3g} ms", alarm=twice,
        )  # fmt: skip
    if (memory := _memory(case, result)) is not None:
        yield memory
    if deployment.facts:
        yield Monitor(
            what=Sentence("monitor_drift"), how="paredown check URL --against proof.json",
            usual=Sentence("monitor_drift_usual"), alarm=Sentence("monitor_drift_alarm"),
        )  # fmt: skip
    count = len(case.made.exchanges)
    unsound = sum(1 for e in case.made.exchanges if fault((e.artifact or e.base).text) is not None)
    yield Monitor(
        what=Sentence("monitor_faults"), how=Sentence("monitor_faults_how"),
        usual=f"{unsound}/{count}", alarm=twice,
    )  # fmt: skip
    text = result.get("quality") or result.get("perplexity")
    if text is not None:
        yield Monitor(
            what=Sentence("monitor_quality"), how=Sentence("monitor_quality_how"),
            usual=f"{text.name} {text.value:.4g}", alarm=_worst(case, text.name),
        )  # fmt: skip
    yield Monitor(
        what=Sentence("monitor_errors"), how=Sentence("monitor_errors_how"), usual="0",
        alarm=Sentence("monitor_any"),
    )  # fmt: skip


def _memory(case: Case, result: TrialResult) -> Monitor | None:
    served = case.deployment.served
    bound = case.config.constraints.max_memory_gb
    usual = served.peak_bytes if served is not None else result.value("peak_memory")
    if usual is None:
        return None
    most = f"{bound:g} GB" if bound is not None else (
        human_bytes(served.memory_bytes) if served is not None else human_bytes(2 * usual)
    )  # fmt: skip
    return Monitor(
        what=Sentence("monitor_memory"), how=Sentence("monitor_memory_how"),
        usual=human_bytes(usual), alarm=most,
    )  # fmt: skip


def _worst(case: Case, name: str) -> Sentence | str:
    """Where the loss of quality is no longer what was accepted."""
    found = next((one for one in case.made.limits if one.field == "max_accuracy_loss"), None)
    base = case.made.baseline.value("perplexity")
    if found is None:
        return Sentence("monitor_any")
    if found.unit == "pt":
        return f"-{found.bound:g} pt"
    if name == "perplexity" and base is not None:
        return f"{name} {base * (1 + found.bound / 100):.4g}"
    return f"{name} {1 - found.bound / 100:.4g}"
