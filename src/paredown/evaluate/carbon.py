"""CodeCarbon: estimates of energy where no counter is readable, and of the CO2e of a whole run.

The only door to CodeCarbon. It is always used offline: no address is ever asked for, and nothing is
written. A whole run is metered by a process of its own (`python -m paredown.evaluate.carbon`), so
that neither CodeCarbon's start nor any fault of it touches the run.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
import logging
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from paredown.errors import ConfigError, MissingExtraError

WORLD = "world"
"""Stands for the average of the world, where no country is given."""
HOW_TO_GET = "pip install 'paredown[energy]'"
_MIX = Path("data", "private_infra", "global_energy_mix.json")
_MOST_KW = {"cpu_energy": 3.0, "gpu_energy": 20.0}
"""More than the processors and the GPUs of one machine take."""
_START_S = 60.0
_ANSWER_S = 15.0


class NoEstimateError(Exception):
    """CodeCarbon is not there, or has failed; nothing else may fail for it."""


@dataclass(frozen=True, kw_only=True)
class Used:
    """What a machine has used since its meter was started, by CodeCarbon's estimate."""

    kwh: float
    kg_co2e: float
    seconds: float
    country: str
    """ISO code, or `world`."""
    codecarbon: str
    """Its version."""
    left_out: int = 0
    """Stretches in which a counter of the hardware jumped, which are no part of the sums."""


def check_country(code: str | None) -> None:
    """See that CodeCarbon knows the grid of a country.

    Raises:
        MissingExtraError: a country is given, and CodeCarbon is not there to heed it.
        ConfigError: it knows no such country; the nearest is told.
    """
    if code is None:
        return
    folder = _folder()
    if folder is None:
        raise MissingExtraError(f"the CO2e of country {code!r}", "codecarbon", "energy")
    grids = json.loads((folder / _MIX).read_text(encoding="utf-8"))
    if code in grids:
        return
    names = {grid["country_name"]: key for key, grid in grids.items()}
    alike = [f"{key} ({name})" for name, key in names.items() if name.upper().startswith(code[:3])]
    near = difflib.get_close_matches(code, grids, n=1)
    found = alike or [f"{key} ({grids[key]['country_name']})" for key in near]
    hint = f"; did you mean {' or '.join(found[:3])}?" if found else ""
    raise ConfigError(f"country {code!r} is no three letters of ISO 3166 that have data{hint}")


def _folder() -> Path | None:
    """CodeCarbon's folder; it is found, not imported."""
    found = importlib.util.find_spec("codecarbon")
    return None if found is None or found.origin is None else Path(found.origin).parent


class Estimate:
    """Estimates joules of this process: power at full load times its share of processor time.

    Memory is left out: CodeCarbon takes its power as constant, so it is part of the idle power.
    """

    def __init__(self) -> None:
        """Takes seconds.

        Raises:
            NoEstimateError: CodeCarbon is not there, or failed.
        """
        if _folder() is None:
            raise NoEstimateError(f"{HOW_TO_GET} for an estimate")
        with _faults():
            self._tracker = _tracker(None, "process", [])
            # The first reading of a process only sets the mark for the next.
            self._tracker.start_task()
            self._tracker.stop_task()

    @property
    def what(self) -> str:
        """Which estimate, in words."""
        return (
            f"estimated by CodeCarbon {_version()}: power of the processor at full load times this "
            "process's share of its time, idle power and memory left out"
        )

    @contextmanager
    def window(self) -> Iterator[list[float]]:
        """Yields a list that gets the joules of the block.

        Raises:
            NoEstimateError: CodeCarbon failed.
        """
        joules: list[float] = []
        with _faults():
            self._tracker.start_task()
        yield joules
        with _faults():
            used = self._tracker.stop_task()
            joules.append((used.cpu_energy + used.gpu_energy) * 3.6e6)  # from kWh


@contextmanager
def _faults() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001  another project's fault must not end a trial
        raise NoEstimateError(f"CodeCarbon failed ({type(error).__name__}: {error})") from None


def _version() -> str:
    import importlib.metadata

    return importlib.metadata.version("codecarbon")


def _tracker(country: str | None, mode: Literal["machine", "process"], outputs: list[Any]) -> Any:
    """A tracker that asks nobody and writes nothing, whatever CodeCarbon's own settings say."""
    from codecarbon import OfflineEmissionsTracker

    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
    return OfflineEmissionsTracker(
        country_iso_code=country,
        region=None,
        country_2letter_iso_code=None,
        cloud_provider=None,
        cloud_region=None,
        electricitymaps_api_token="",
        emissions_endpoint=None,
        output_dir=os.curdir,
        output_methods=[],
        output_handlers=outputs,
        # Told of every measurement: over a longer stretch, a jump would look like work.
        api_call_interval=1,
        allow_multiple_runs=True,
        tracking_mode=mode,
        log_level="critical",
    )


class Meter:
    """Meters this machine from another process, until it is closed or this process ends."""

    def __init__(self, country: str | None) -> None:
        """Returns at once; the first reading waits for CodeCarbon's start.

        Raises:
            NoEstimateError: CodeCarbon is not installed.
        """
        if _folder() is None:
            raise NoEstimateError(f"CodeCarbon is not installed: {HOW_TO_GET}")
        self._patience = _START_S
        self._process = subprocess.Popen(
            [sys.executable, "-m", "paredown.evaluate.carbon", country or WORLD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def read(self) -> Used:
        """What was used so far.

        Raises:
            NoEstimateError: the process has ended, or does not answer; it is closed.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None or stdin.closed:
            raise NoEstimateError("CodeCarbon has stopped")
        try:
            stdin.write(b"\n")
            stdin.flush()
            ready, _, _ = select.select([stdout], [], [], self._patience)
            line = stdout.readline() if ready else b""
            self._patience = _ANSWER_S
            return Used(**json.loads(line))
        except (OSError, ValueError, TypeError) as error:
            self.close()
            raise NoEstimateError(f"CodeCarbon has stopped or does not answer ({error})") from None

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                # What was not flushed before the process died cannot be flushed any more.
                with suppress(BrokenPipeError):
                    pipe.close()


@dataclass
class Sum:
    """Adds up the readings of a meter, but for stretches in which a counter jumped.

    RAPL starts again at zero when a machine wakes up or a driver is loaded anew. CodeCarbon takes
    that for a whole turn of the counter, which adds up to hundreds of kilojoules.
    """

    kwh: float = 0.0
    kg_co2e: float = 0.0
    seconds: float = 0.0
    left_out: int = 0

    def __post_init__(self) -> None:
        self._last: Any = None

    def add(self, total: Any) -> None:
        """Take in a reading: CodeCarbon's totals since its start (kWh, kg, seconds)."""
        last, self._last = self._last, total

        def step(name: str) -> float:
            before = 0.0 if last is None else getattr(last, name)
            return float(getattr(total, name) - before)

        seconds = step("duration")
        self.seconds += seconds
        # A second more: short stretches are dominated by when a counter moves.
        hours = (seconds + 1.0) / 3600
        if any(not 0 <= step(name) <= most * hours for name, most in _MOST_KW.items()):
            self.left_out += 1
            return
        self.kwh += step("energy_consumed")
        self.kg_co2e += step("emissions")


def main(country: str) -> None:
    """Meter the machine; answer each line on stdin with what was used, until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    from codecarbon.output_methods.base_output import BaseOutput

    kept = Sum()

    class Keep(BaseOutput):
        def out(self, total: Any, delta: Any) -> None:
            kept.add(total)

        live_out = out

    tracker = _tracker(None if country == WORLD else country, "machine", [Keep()])
    tracker.start()
    for _ in sys.stdin:
        tracker.flush()
        used = Used(
            **asdict(kept),
            country=country,
            codecarbon=_version(),
        )
        sys.stdout.write(json.dumps(asdict(used)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
