"""engineering_report: the whole road in one document, in the language of whoever reads it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import final

from paredown.judge.quantities import loss, ratio, speedup
from paredown.judge.words import signed_percent, times
from paredown.lab.advice import (
    Advice,
    Case,
    Monitor,
    Sentence,
    advise,
    asked,
    constraint,
    fault,
    faults,
    seen,
)
from paredown.lab.checkpoints import Candidate, Design, Place
from paredown.lab.numbers import Shown, paired
from paredown.lab.pages import Block, Bullets, Document, Section, Table
from paredown.lab.sentences import Words
from paredown.language import Language
from paredown.pipeline.messages import Answered
from paredown.spec.result import TrialResult
from paredown.spec.units import human_bytes, human_count


@dataclass(frozen=True, kw_only=True)
class Story:
    """What a report tells.

    Attributes:
        design: with what was expected.
        folder: of the lab, and `file`, of its request: for commands.
    """

    case: Case
    design: Design
    folder: Path
    file: Path
    version: str


def report(story: Story, language: Language) -> Document:
    """The report in a language."""
    return _Writer(story, Words(language)).document()


@final
class _Writer:
    def __init__(self, story: Story, words: Words) -> None:
        self.story, self.case, self.words = story, story.case, words
        self.advice: Advice = advise(story.case)
        self.shown = Shown(self.words)

    def document(self) -> Document:
        """All sections, in their order."""
        case, words = self.case, self.words
        made = words(
            "made", when=case.deployment.made_at, version=self.story.version,
            machine=case.analysis.cpu, target=case.config.constraints.deployment_target,
        )  # fmt: skip
        sections: list[tuple[str, Iterable[Block]]] = [
            ("summary", self._summary()),
            ("model", self._model()),
            ("hardware", self._hardware()),
            ("strategy", self._strategy()),
            ("effect", self._effect()),
            ("functional", self._functional()),
            ("deployment", self._deployment()),
            ("recommendation", self._recommendation()),
            ("risks", [Bullets(tuple(map(self.say, self.advice.risks)))]),
            ("monitor", self._monitor()),
            ("next", self._next()),
        ]
        return Document(
            language=words.language, title=words("title", model=case.config.model),
            lead=(made, words("known")),
            sections=tuple(Section(words(f"head_{n}"), tuple(blocks)) for n, blocks in sections),
        )  # fmt: skip

    def say(self, said: Sentence | str) -> str:
        """A sentence in the report's language; texts are the same in all."""
        if isinstance(said, str):
            return said
        values = {k: self.say(v) if isinstance(v, Sentence) else v for k, v in said.values.items()}
        return self.words(said.name, **values)

    def _columns(self, *names: str) -> tuple[str, ...]:
        return tuple(self.words(f"col_{name}") for name in names)

    def _label(self, result: TrialResult | None) -> str:
        if result is None or result.episode == 0:
            return self.words("base")
        return result.label

    # --- Sections ---------------------------------------------------------------------------------

    def _summary(self) -> Iterable[Block]:
        yield self._verdict()
        limits = self.case.made.limits
        target = self.case.config.constraints
        rows = [
            (
                self.say(constraint(limit.field)), self.say(asked(limit)), self.say(seen(limit)),
                self.words(f"state_{limit.state}"),
            )
            for limit in limits
        ]  # fmt: skip
        held = self.words("target_held", runtime=target.runtime)
        state = "undecided" if target.device is not None else "met"
        name = self.say(constraint("deployment_target"))
        rows.append((name, target.deployment_target, held, self.words(f"state_{state}")))
        yield Table(self._columns("constraint", "asked", "seen", "state"), tuple(rows))
        if not limits:
            yield self.words("no_constraints")

    def _verdict(self) -> str:
        strategy = self._label(self.case.result)
        return self.words(f"verdict_{self.advice.verdict}", strategy=strategy)

    def _model(self) -> Iterable[Block]:
        model, words = self.case.analysis.model, self.words
        heads = f"{self.shown.known(model.heads)} ({self.shown.known(model.kv_heads)})"
        cache = model.cache_bytes_per_token
        facts: list[tuple[str, str]] = [
            ("name", model.name), ("architecture", f"{model.architecture} ({model.family})"),
            ("parameters", human_count(model.parameters)),
            ("layers", self.shown.known(model.layers)),
            ("width", self.shown.known(model.hidden_size)),
            ("heads", heads), ("vocabulary", self.shown.known(model.vocabulary)),
            ("context", self.shown.known(model.context)), ("dtype", model.dtype),
            ("size", human_bytes(model.weight_bytes)),
            ("cache", words("unknown") if cache is None else human_bytes(cache)),
            ("hash", model.sha256),
        ]  # fmt: skip
        if model.active_parameters != model.parameters:
            facts.insert(3, ("active", human_count(model.active_parameters)))
        yield Table(
            self._columns("fact", "value"),
            tuple((words(f"fact_{name}"), value) for name, value in facts),
        )
        if model.unknown:
            yield words("facts_unknown", facts=", ".join(model.unknown))

    def _hardware(self) -> Iterable[Block]:
        analysis, words = self.case.analysis, self.words
        yield words("hardware_asked", work=analysis.work)
        if analysis.places:
            columns = ("version", "size", "devices", "engine", "memory", "first_token",
                       "per_token", "rent")  # fmt: skip
            yield Table(self._columns(*columns), tuple(map(self._place, analysis.places)))
        else:
            yield words("hardware_none")
        if analysis.here:
            yield words(
                "hardware_here", cpu=analysis.cpu, cores=analysis.cores,
                memory=human_bytes(analysis.memory_bytes),
            )  # fmt: skip
            yield Table(
                self._columns("version", "size", "memory", "fits", "per_token"),
                tuple(
                    (
                        one.version, human_bytes(one.nbytes), self.shown.nbytes(one.memory_bytes),
                        self.shown.yes(one.fits), self.shown.ms(one.tpot_s),
                    )
                    for one in analysis.here
                ),
            )  # fmt: skip
        if analysis.notes:
            yield Bullets(analysis.notes)

    def _place(self, place: Place) -> tuple[str, ...]:
        rent = self.words("unknown")
        if place.usd_per_hour is not None:
            low, high = place.usd_per_hour
            price = f"{low:.2f} USD" if low == high else f"{low:.2f} – {high:.2f} USD"  # noqa: RUF001
            date = place.price_date
            rent = price if date is None else self.words("price_date", price=price, date=date)
        return (
            place.version, human_bytes(place.nbytes),
            place.devices + (" *" if place.is_target else ""), place.runtime,
            self.shown.nbytes(place.memory_bytes), self.shown.ms(place.ttft_s),
            self.shown.ms(place.tpot_s), rent,
        )  # fmt: skip

    def _strategy(self) -> Iterable[Block]:
        design, words = self.story.design, self.words
        yield words("strategy_how")
        columns = ("strategy", "size", "ratio", "memory", "speedup", "quality_text", "known_from",
                   "constraints")  # fmt: skip
        yield Table(self._columns(*columns), tuple(map(self._candidate, design.candidates)))
        if design.favourite is None:
            yield words("strategy_no_favourite")
        else:
            yield words("strategy_favourite", strategy=design.favourite)
        yield words("strategy_chosen", strategies="; ".join(design.chosen))
        if design.refused:
            yield Bullets(
                tuple(
                    words("strategy_refused", strategy=label, reason=why)
                    for label, why in design.refused.items()
                )
            )

    def _candidate(self, one: Candidate) -> tuple[str, ...]:
        limits = ", ".join(
            f"{self.say(constraint(limit.field))}: {self.words(f'state_{limit.state}')}"
            for limit in one.limits
        )
        return (
            one.strategy, human_bytes(one.size_bytes), times(one.ratio),
            self.shown.nbytes(one.memory_bytes), self.shown.interval(one.speedup, "x"),
            self.shown.interval(one.perplexity_ratio, ""), one.known_from, limits,
        )  # fmt: skip

    def _effect(self) -> Iterable[Block]:
        made, words = self.case.made, self.words
        columns = ("strategy", "size", "ratio", "loss", "kl", "tokens_changed", "decode",
                   "speedup", "memory")  # fmt: skip
        done = [r for r in (made.baseline, *made.results) if r.status == "ok"]
        yield Table(self._columns(*columns), tuple(map(self._measured, done)))
        failed = [
            words("effect_failed", strategy=r.label, reason=r.failure.message)
            for r in made.results if r.failure is not None
        ]  # fmt: skip
        if failed:
            yield Bullets(tuple(failed))
        yield words("effect_reason", reason=made.reason.rstrip("."))
        result = self.case.result
        if result is None:
            return
        yield words("effect_chosen", strategy=self._label(result))
        expected = {one.strategy: one for one in self.story.design.candidates}.get(result.label)
        if expected is not None:
            yield words("effect_predicted")
            yield self._predicted(expected, result)

    def _measured(self, result: TrialResult) -> tuple[str, ...]:
        base = self.case.made.baseline
        agree, kl = result.value("top1_agreement"), result.value("kl")
        is_base = result.episode == 0
        return (
            self._label(result), self.shown.nbytes(result.value("size")),
            times(ratio(result, base)),
            "0" if is_base else signed_percent(loss(result, base)),
            "0" if is_base else self.shown.number(kl, "{:.3g}"),
            "0" if is_base
            else self.shown.number(None if agree is None else 100 * (1 - agree), "{:.1f} %"),
            self.shown.number(result.latency_ms, "{:.3g}"),
            "1.00x" if is_base else times(speedup(result, base)),
            self.shown.nbytes(result.value("peak_memory")),
        )  # fmt: skip

    def _predicted(self, expected: Candidate, result: TrialResult) -> Table:
        base, words = self.case.made.baseline, self.words
        text = result.value("perplexity_ratio")
        rows = (
            ("size", human_bytes(expected.size_bytes), self.shown.nbytes(result.value("size"))),
            ("memory", self.shown.nbytes(expected.memory_bytes),
             self.shown.nbytes(result.value("peak_memory"))),
            ("speedup", self.shown.interval(expected.speedup, "x"), times(speedup(result, base))),
            ("quality", self.shown.interval(expected.perplexity_ratio, ""),
             self.shown.number(text, "{:.3f}")),
        )  # fmt: skip
        return Table(
            self._columns("quantity", "expected", "measured"),
            tuple((words(f"quantity_{name}"), *rest) for name, *rest in rows),
        )

    def _functional(self) -> Iterable[Block]:
        made, words, config = self.case.made, self.words, self.case.config
        runtime = config.constraints.runtime
        yield words("functional_how", runtime=runtime, tokens=config.answer_tokens)
        yield words("functional_chat" if made.is_chat else "functional_plain")
        compared = [(e.base, e.artifact) for e in made.exchanges if e.artifact is not None]
        if compared:
            yield words(
                "functional_speed", base=_speed(base for base, _ in compared),
                artifact=_speed(artifact for _, artifact in compared),
            )  # fmt: skip
            if found := faults(made.exchanges):
                yield words("functional_faults", faults=found, count=len(compared))
        else:
            yield words("functional_none")
        yield Table(
            self._columns("message", "base", "artifact"),
            tuple((e.message, self._answer(e.base), self._answer(e.artifact))
                  for e in made.exchanges),
        )  # fmt: skip

    def _answer(self, found: Answered | None) -> str:
        if found is None:
            return "-"
        wrong = fault(found.text)
        text = f"[{self.words(f'fault_{wrong}')}] {found.text}" if wrong else found.text
        speed = found.tokens / found.seconds if found.seconds else 0.0
        return self.words("answer", text=text, speed=f"{speed:.1f}")

    def _deployment(self) -> Iterable[Block]:
        found, words = self.case.deployment, self.words
        if found.package is None:
            yield words("deployment_nothing")
            return
        about = {"package": found.package, "size": human_bytes(found.nbytes),
                 "runtime": found.runtime}  # fmt: skip
        if found.served is None and not found.exactness:
            yield words("deployment_folder", **about)
            return
        yield words("deployment_package", **about, version=found.version[:12])
        kl = next((m.value for m in found.exactness if m.name == "kl"), None)
        if kl is not None:
            yield words("deployment_exact", kl=f"{kl:.2g}")
        if found.served is not None:
            served = found.served
            yield words(
                "deployment_serving", slots=served.slots, context=served.context,
                threads=served.threads, memory=human_bytes(served.memory_bytes),
                peak=self.shown.nbytes(served.peak_bytes),
            )  # fmt: skip
        if found.pairs:
            yield words("deployment_pairs")
            yield Table(
                self._columns("quantity", "package", "base", "of_base"),
                tuple(
                    (p.name, paired(p.package, p.unit), paired(p.base, p.unit), times(p.ratio))
                    for p in found.pairs
                ),
            )
        yield from self._facts()

    def _facts(self) -> Iterable[Block]:
        facts, words = self.case.deployment.facts, self.words
        if not facts:
            return
        counts = {state: sum(f.status == state for f in facts) for state in ("passed", "failed")}
        yield words(
            "deployment_ready", passed=counts["passed"], failed=counts["failed"],
            rest=len(facts) - sum(counts.values()),
        )  # fmt: skip
        yield Table(
            self._columns("look", "outcome", "seen"),
            tuple((f.name, words(f"fact_{f.status}"), f.seen)
                  for f in facts if f.status != "not applicable"),
        )  # fmt: skip

    def _recommendation(self) -> Iterable[Block]:
        yield self._verdict()
        yield Bullets(tuple(map(self.say, self.advice.reasons)))

    def _monitor(self) -> Iterable[Block]:
        rows = tuple(map(self._watched, self.advice.monitors))
        if rows:
            yield Table(self._columns("what", "how", "usual", "alarm"), rows)

    def _watched(self, one: Monitor) -> tuple[str, ...]:
        return tuple(map(self.say, (one.what, one.how, one.usual, one.alarm)))

    def _next(self) -> Iterable[Block]:
        words, deployment = self.words, self.case.deployment
        lines = []
        if deployment.served is not None and deployment.package is not None:
            package = str(self.story.folder / deployment.package)
            for name in ("serve", "check", "bench"):
                lines.append(words(f"next_{name}", command=_command(name, package)))
        again = _command("lab", str(self.story.file), "-o", str(self.story.folder))
        yield Bullets((*lines, words("next_again", command=again), words("next_edit")))


def _speed(answers: Iterable[Answered]) -> str:
    found = [one.tokens / one.seconds for one in answers if one.seconds]
    return f"{median(found):.1f}" if found else "-"


def _command(*words: str) -> str:
    return shlex.join(["paredown", *words])
