"""Energy and CO2e of a run, written into its events as it goes, so that a kill loses little."""

from __future__ import annotations

from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

from paredown.coordinate.state import Listener
from paredown.evaluate.carbon import Meter, NoEstimateError
from paredown.spec.run import RunConfig
from paredown.store.events import EventLog


class RunMeter:
    """Meters the machine while a run is active. No fault of it ends the run.

    Every reading becomes an event `energy` with what this session has used so far; or, once, with
    why nothing is known (`missing`).
    """

    def __init__(self, config: RunConfig, events: EventLog) -> None:
        self._events = events
        self._meter: Meter | None = None
        if config.evaluate.energy_s > 0 and config.executor != "local":
            self._events.add("energy", missing="the run is spread over a cluster, not metered")
        elif config.evaluate.energy_s > 0:
            try:
                self._meter = Meter(config.country)
            except NoEstimateError as error:
                self._events.add("energy", missing=str(error))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._meter is not None:
            self._meter.close()

    def note(self) -> None:
        """Write down what was used so far."""
        if self._meter is None:
            return
        try:
            self._events.add("energy", **asdict(self._meter.read()))
        except NoEstimateError as error:
            self._meter = None
            self._events.add("energy", missing=str(error))

    def after_results(self, listen: Listener) -> Listener:
        """A listener that tells `listen`, and takes note after every result."""

        def told(event: str, fields: dict[str, Any]) -> None:
            if event == "result":
                self.note()
            listen(event, fields)

        return told
