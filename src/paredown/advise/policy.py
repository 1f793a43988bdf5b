"""The LLM as a policy: one arm of the portfolio, held to what it brings, or in the lead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, final

from paredown.advise.client import Advisor, Message, Reply, estimate_tokens, price_of
from paredown.advise.guard import Advice, brief_schema, find_strategy, read_advice, schema
from paredown.advise.prompts import Background, build_brief_prompt, build_prompt, repair
from paredown.errors import AdviceError
from paredown.search.base import Decision, Policy, View
from paredown.spec.redact import redact
from paredown.spec.run import LlmConfig
from paredown.store.events import EventLog, read_events

USAGE = "llm"
"""The event of one question: what it took, and what came of it."""
ROUNDS = 2
"""A question, and one repair round."""
REASON_CHARS = 300
LESSON_CHARS = 240
"""One long sentence."""


class Usage:
    """What the LLM has used in this experiment, resumed sessions included, and its limit."""

    def __init__(self, config: LlmConfig, events: Sequence[dict[str, Any]]) -> None:
        self.config = config
        mine = [event for event in events if event.get("event") == USAGE]
        self.tokens = sum(int(event["sent"]) + int(event["received"]) for event in mine)
        self.usd = sum(float(event["usd"] or 0.0) for event in mine)

    def require(self, messages: Sequence[Message], advisor: Advisor) -> None:
        """Refuse a question whose answer could exceed the budget.

        Raises:
            AdviceError: the budget is too small for it.
        """
        sent, received = estimate_tokens(messages), self.config.answer_tokens
        if self.tokens + sent + received > self.config.budget_tokens:
            raise AdviceError(
                f"the LLM budget is used up: {self.tokens} of {self.config.budget_tokens} tokens, "
                f"and the next question may take {sent + received}"
            )
        price = price_of(advisor.endpoint, sent, received)
        limit = self.config.budget_usd
        if limit is not None and price is not None and self.usd + price > limit:
            raise AdviceError(f"the LLM budget is used up: ${self.usd:.4f} of ${limit:g}")

    def add(self, reply: Reply) -> None:
        self.tokens += reply.sent + reply.received
        self.usd += reply.usd or 0.0


@final
class LlmPolicy(Policy):
    """Asks an LLM; what cannot be used raises `AdviceError`, and a classical policy decides.

    Unlike other policies it remembers something: what it has used, which is in the event log too.
    """

    name: ClassVar[str] = "llm"

    def __init__(
        self,
        advisor: Advisor,
        background: Background,
        events: EventLog,
        *,
        brief: bool = False,
    ) -> None:
        """
        Args:
            advisor: asks the endpoint.
            background: what the LLM is told of model and request.
            events: where every question is recorded.
            brief: ask shortly, and let the endpoint's grammar allow nothing but the candidates
                shown: for small models, which would repeat themselves, on slow machines.
        """
        self.advisor, self.background, self.events = advisor, background, events
        self.brief = brief
        self.usage = Usage(advisor.config, read_events(events.path))

    def choose(self, view: View) -> Decision:
        prompt = (build_brief_prompt if self.brief else build_prompt)(self.background, view)
        # A small model is asked for no lesson even where it leads: it repeats a strategy's name.
        wanted = (
            brief_schema(list(prompt.candidates))
            if self.brief
            else schema(leads=self.background.config.llm.leads)
        )
        messages: tuple[Message, ...] = prompt.messages
        for round_number in range(1, ROUNDS + 1):
            reply = self._ask(messages, wanted, round_number)
            try:
                advice = read_advice(reply.text)
                strategy = find_strategy(advice, view)
            except AdviceError as error:
                problem = redact(str(error))[:600]
                self._record(round_number, "unusable", reply=reply, error=problem)
                if round_number == ROUNDS:
                    raise AdviceError(f"twice no usable answer, the last time: {problem}") from None
                messages = repair(prompt, reply.text, problem)
                continue
            self._record(round_number, advice.action or "strategy", reply=reply)
            if strategy is None:
                raise AdviceError(f"it leaves the choice to the search: {_words(advice.reason)}")
            return self._decision(advice, view.decide(strategy, reason="", policy=self.name), view)
        raise AssertionError("every round returns or raises")

    def _ask(
        self, messages: tuple[Message, ...], wanted: dict[str, Any], round_number: int
    ) -> Reply:
        try:
            self.usage.require(messages, self.advisor)
            reply = self.advisor.ask(messages, wanted)
        except AdviceError as error:
            self._record(round_number, "no_answer", error=str(error))
            raise
        self.usage.add(reply)
        return reply

    def _decision(self, advice: Advice, decision: Decision, view: View) -> Decision:
        """With the LLM's words, and its expectation in terms of measurements."""
        expected = dict(decision.expected or {})
        baseline = next((r for r in view.history if r.strategy is None), None)
        base = None if baseline is None else baseline.value("perplexity")
        if advice.expected.perplexity_ratio is not None and base is not None:
            expected["perplexity"] = advice.expected.perplexity_ratio * base
        if advice.expected.speedup is not None:
            expected["speedup"] = advice.expected.speedup
        # Who does not lead was not asked for a lesson, and what was not asked for is not shown.
        told = advice.learned if self.background.config.llm.leads else None
        return replace(
            decision,
            reason=_words(advice.reason),
            expected=expected,
            learned=_words(told, LESSON_CHARS) or None if told else None,
        )

    def _record(
        self, round_number: int, outcome: str, *, reply: Reply | None = None, error: str = ""
    ) -> None:
        self.events.add(
            USAGE,
            model=redact(self.advisor.endpoint.model),
            round=round_number,
            outcome=outcome,
            error=error or None,
            sent=0 if reply is None else reply.sent,
            received=0 if reply is None else reply.received,
            counted=None if reply is None else reply.counted,
            usd=None if reply is None else reply.usd,
            seconds=None if reply is None else reply.seconds,
        )


def _words(text: str, limit: int = REASON_CHARS) -> str:
    """The LLM's words as they may be shown: one short line."""
    line = " ".join("".join(c if c.isprintable() else " " for c in redact(text)).split())
    return line[:limit]
