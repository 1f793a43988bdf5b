"""Who decides what is tried next: the classical search alone, or with an LLM beside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

from paredown.coordinate.advisor import (
    KEY,
    LOCAL,
    Advisor,
    Endpoint,
    find_endpoint,
    require_client,
)
from paredown.coordinate.llm import LlmPolicy
from paredown.coordinate.prompts import Background
from paredown.errors import ConfigError, MissingExtraError
from paredown.search.portfolio import ADVISOR_PROMISE, Arm
from paredown.spec.run import RunConfig
from paredown.store.events import EventLog

LOCAL_S = 300.0
"""Seconds that a local server may take for an answer, at least."""


@final
@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which coordinator a run has, and why.

    Attributes:
        uses_llm: whether an LLM advises.
        reason: in words.
        endpoint: where it answers; None without one, and for a local server until it runs.
    """

    uses_llm: bool
    reason: str
    endpoint: Endpoint | None = None

    def document(self, config: RunConfig) -> dict[str, Any]:
        """For the event log and displays."""
        where = None if self.endpoint is None else self.endpoint.host
        return {
            "coordinator": "llm" if self.uses_llm else "search",
            "model": config.llm.model if self.uses_llm else None,
            "host": where,
            "reason": self.reason,
        }


def choose_coordinator(config: RunConfig) -> Choice:
    """Decide from the request and the environment, before anything is started.

    Raises:
        ConfigError: an LLM was asked for and none is configured, or the budget cannot be kept.
        MissingExtraError: an LLM was asked for and its client is not installed.
    """
    if config.coordinator == "search":
        return Choice(uses_llm=False, reason="--coordinator search")
    if config.llm.model == LOCAL:
        from paredown.coordinate.local import require_server

        require_client()
        require_server()
        return Choice(uses_llm=True, reason="--llm local: a server on this machine")
    found = find_endpoint(config.llm)
    asked = config.coordinator == "llm"
    if isinstance(found, str):
        if asked:
            raise ConfigError(f"coordinator 'llm': {found}; set one, or use --llm local")
        return Choice(uses_llm=False, reason=f"auto: {found}")
    try:
        require_client()
    except MissingExtraError as error:
        if asked:
            raise
        return Choice(uses_llm=False, reason=f"auto: {error}")
    if config.llm.budget_usd is not None and found.price is None:
        raise ConfigError(
            f"llm.budget_usd: the price of {config.llm.model!r} at {found.host} is not known; "
            "give llm.price, or limit tokens instead (--llm-budget 200000)"
        )
    why = "--coordinator llm" if asked else f"auto: {_configured(found)}"
    return Choice(uses_llm=True, reason=why, endpoint=found)


def _configured(endpoint: Endpoint) -> str:
    return f"{KEY} is set" if endpoint.key != "none" else "an address is set"


@contextmanager
def opened_endpoint(choice: Choice) -> Iterator[Endpoint | None]:
    """The endpoint while it can be asked; a local server lives as long as this context."""
    if not choice.uses_llm or choice.endpoint is not None:
        yield choice.endpoint
        return
    from paredown.coordinate.local import local_server

    with local_server() as endpoint:
        yield endpoint


def arms(
    endpoint: Endpoint | None, config: RunConfig, background: Background, events: EventLog
) -> tuple[Arm, ...]:
    """What joins the portfolio: the LLM, capped at `CAP` of cost and trials, or nothing."""
    if endpoint is None:
        return ()
    is_local = config.llm.model == LOCAL
    # Where the trials run, too, a prompt takes its time.
    timeout_s = max(config.llm.timeout_s, LOCAL_S) if is_local else config.llm.timeout_s
    advisor = Advisor(endpoint, config.llm.model_copy(update={"timeout_s": timeout_s}))
    policy = LlmPolicy(advisor, background, events, only_candidates=is_local)
    return (Arm(policy=policy, capped=True, promise=ADVISOR_PROMISE),)
