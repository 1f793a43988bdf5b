"""Who decides what is tried next: the classical search alone, or with an LLM beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any, final

from paredown.advise.client import (
    KEY,
    LOCAL,
    Advisor,
    Endpoint,
    find_endpoint,
    require_client,
)
from paredown.advise.policy import LlmPolicy
from paredown.advise.prompts import Background
from paredown.errors import ConfigError, MissingExtraError
from paredown.search.base import OPENING_SHARE
from paredown.search.policies.portfolio import ADVISOR_PROMISE, Arm
from paredown.spec.run import RunConfig
from paredown.store.events import EventLog

LOCAL_S = 180.0
"""Seconds that a local server may take for an answer, at least: most of it is for reading."""
LOCAL_TOKENS = 160
"""Longest answer of a local server: a strategy and a few words."""


@final
@dataclass(frozen=True, kw_only=True)
class Coordinator:
    """Which coordinator a run has, and why.

    Attributes:
        uses_llm: whether an LLM advises.
        reason: in words.
        endpoint: where it answers; None without one, and for a local server until it runs.
    """

    uses_llm: bool
    reason: str
    endpoint: Endpoint | None = None

    def document(self, config: RunConfig, methods: int, begun: int = 0) -> dict[str, Any]:
        """For the event log and displays, in a run that searches so many methods and begins with
        so many strategies that are known already."""
        where = None if self.endpoint is None else self.endpoint.host
        return {
            "coordinator": "llm" if self.uses_llm else "search",
            "model": config.llm.model if self.uses_llm else None,
            "host": where,
            "reason": self.reason,
            "share": config.llm.share if self.uses_llm else None,
            "asked_from": first_turn(config, methods, begun) if self.uses_llm else None,
        }


def choose_coordinator(config: RunConfig) -> Coordinator:
    """Decide from the request and the environment, before anything is started.

    Raises:
        ConfigError: an LLM was asked for and none is configured, or the budget cannot be kept.
        MissingExtraError: an LLM was asked for and its client is not installed.
    """
    if config.coordinator == "search":
        return Coordinator(uses_llm=False, reason="--coordinator search")
    if config.llm.model == LOCAL:
        from paredown.advise.local import require_server

        require_client()
        require_server()
        return Coordinator(uses_llm=True, reason="--llm local: a server on this machine")
    found = find_endpoint(config.llm)
    asked = config.coordinator == "llm"
    if isinstance(found, str):  # why there is none
        if asked:
            raise ConfigError(f"coordinator 'llm': {found}; set one, or use --llm local")
        return Coordinator(uses_llm=False, reason=f"auto: {found}")
    try:
        require_client()
    except MissingExtraError as error:
        if asked:
            raise
        return Coordinator(uses_llm=False, reason=f"auto: {error}")
    if config.llm.budget_usd is not None and found.price is None:
        raise ConfigError(
            f"llm.budget_usd: the price of {config.llm.model!r} at {found.host} is not known; "
            "give llm.price, or limit tokens instead (--llm-budget 200000)"
        )
    why = "--coordinator llm" if asked else f"auto: {_configured(found)}"
    return Coordinator(uses_llm=True, reason=why, endpoint=found)


def first_turn(config: RunConfig, methods: int, begun: int) -> int | None:
    """The first episode in which an LLM can be asked; None where there are too few of them.

    One that leads is asked at once. Else what is known, or the opening, comes first, and then an
    LLM has a turn once it stays under its share with it.
    """
    if config.llm.leads:
        return 1
    opening = min(math.ceil(config.episodes * OPENING_SHARE), methods)
    first = max(opening, begun) + math.ceil(1 / config.llm.share)
    return first if first <= config.episodes else None


def _configured(endpoint: Endpoint) -> str:
    return f"{KEY} is set" if endpoint.key != "none" else "an address is set"


@contextmanager
def opened_advisor(coordinator: Coordinator, config: RunConfig) -> Iterator[Advisor | None]:
    """The LLM while it can be asked; its connections, and a local server, live as long as this
    context."""
    with ExitStack() as stack:
        endpoint, llm = coordinator.endpoint, config.llm
        if coordinator.uses_llm and endpoint is None:
            from paredown.advise.local import local_server

            endpoint = stack.enter_context(local_server())
            # Where the trials run, too, an answer takes its time, and should be short.
            llm = llm.model_copy(
                update={
                    "timeout_s": max(llm.timeout_s, LOCAL_S),
                    "answer_tokens": min(llm.answer_tokens, LOCAL_TOKENS),
                }
            )
        if endpoint is None or not coordinator.uses_llm:
            yield None
            return
        yield stack.enter_context(closing(Advisor(endpoint, llm)))


def llm_policy(
    advisor: Advisor | None, config: RunConfig, background: Background, events: EventLog
) -> LlmPolicy | None:
    """The LLM as a policy; None without one."""
    if advisor is None:
        return None
    return LlmPolicy(advisor, background, events, brief=config.llm.model == LOCAL)


def arms(llm: LlmPolicy | None, config: RunConfig) -> tuple[Arm, ...]:
    """What joins the portfolio: an LLM that does not lead, capped at its share; or nothing."""
    if llm is None or config.llm.leads:
        return ()
    return (Arm(policy=llm, cap=config.llm.share, promise=ADVISOR_PROMISE),)
