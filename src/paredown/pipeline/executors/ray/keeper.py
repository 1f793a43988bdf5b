"""The actor that owns the tasks of an experiment, so that they outlive the session that asked.

Ray ends a driver's tasks with the driver. Those of a detached actor go on, and a resumed session
finds the actor by its name, and in it what is under way and what has come of it. A session that
ends in order takes the actor with it; one that nobody resumes ends itself after a while.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, final

import ray

from paredown.pipeline.executors.ray.node import perform
from paredown.pipeline.executors.ray.order import Order, Report

IDLE_S = 3600.0
"""So long the answers of a session that is gone are kept."""
_LOOK_S = 30.0


@dataclass
class _Kept:
    """An order with its task; `session` is the last that has asked for it."""

    order: Order
    session: str
    reference: Any
    answer: asyncio.Task[Report]


@final
class Keeper:
    """Keeps orders by their ids."""

    def __init__(self, idle_s: float = IDLE_S) -> None:
        self._kept: dict[str, _Kept] = {}
        self._idle_s, self._last = idle_s, time.monotonic()
        self._end: asyncio.Task[None] | None = None

    async def submit(
        self, order: Order, options: Mapping[str, Any], *, session: str, anew: bool
    ) -> str:
        """See that an order is carried out; the token of the one that is.

        One that an earlier session has given is not given again, but for one that is done where it
        is wanted `anew`.

        Args:
            options: of Ray, for the task.
        """
        self._last = time.monotonic()
        self._end = self._end or asyncio.ensure_future(self._end_when_idle())
        known = self._kept.get(order.id)
        if known is not None and known.session != session and not (anew and known.answer.done()):
            known.session = session
            return known.order.token
        # No `retry_exceptions`: an exception is a bug, and comes again.
        task = ray.remote(perform).options(max_retries=-1, **options)
        reference = task.remote(order)
        answer = asyncio.ensure_future(_followed(reference))
        self._kept[order.id] = _Kept(order, session, reference, answer)
        return order.token

    async def answer(self, id: str) -> Report:
        """What has come of an order, once that is known."""
        try:
            return await asyncio.shield(self._kept[id].answer)
        finally:
            self._last = time.monotonic()

    async def goes_on(self, folder: str, *, session: str) -> bool:
        """Whether there are orders in a folder that an earlier session has given."""
        self._last = time.monotonic()
        return any(
            str(kept.order.folder) == folder and kept.session != session
            for kept in self._kept.values()
        )

    async def cancel(self, ids: tuple[str, ...]) -> None:
        """End orders, and forget them; returns once they have ended."""
        ended = []
        for kept in (self._kept.pop(id) for id in ids if id in self._kept):
            if not kept.answer.done():
                ray.cancel(kept.reference, force=True)  # the job ends with the process it kills
            ended.append(kept.answer)
        for answer in ended:
            with suppress(Exception):
                await answer

    async def _end_when_idle(self) -> None:
        while True:
            await asyncio.sleep(min(_LOOK_S, self._idle_s))
            busy = any(not kept.answer.done() for kept in self._kept.values())
            if busy:
                self._last = time.monotonic()
            elif time.monotonic() - self._last > self._idle_s:
                os._exit(0)


async def _followed(reference: Any) -> Report:
    report: Report = await reference
    return report
