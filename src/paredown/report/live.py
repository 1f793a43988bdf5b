"""Progress on the terminal: a line per decision and result, and a bar with the time left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from paredown.report.escape import escaped
from paredown.spec.result import TrialResult
from paredown.spec.run import Objective
from paredown.spec.units import human_bytes, human_seconds

if TYPE_CHECKING:
    from paredown.report.terminal import TextTable
    from paredown.store.experiment import ExperimentRecord

_TELLING = 0.03
"""Share of a stage from which on the time it took says how long the rest takes."""
_TELLING_S = 1.0
_FEWEST = 8
"""Characters of a stage that are shown in the narrowest terminal."""
_QUIET_S = 4.0
"""Without a terminal, one progress line at most this often, and hardly less often: a reader must
see that it goes on."""
_BEAT_S = 0.5
"""Between two looks at whether a line is due."""


def _coordinator(fields: dict[str, Any]) -> str:
    model = "" if fields["model"] is None else f" {fields['model']}"
    line = f"coordinator: {fields['coordinator']}{model} ({fields['reason']})"
    if fields["model"] is None:
        return line
    first, share = fields["asked_from"], fields["share"]
    if share >= 1:
        return f"{line}; it leads: every decision is asked of it"
    if first is None:
        most = f"{100 * share:g} %"
        return f"{line}; so few episodes leave it no turn, as it may propose {most} of them at most"
    return f"{line}; it is asked from episode {first} on, now and then"


def _agenda(fields: dict[str, Any]) -> str:
    trials = "1 trial" if fields["trials"] == 1 else f"{fields['trials']} trials"
    within = "" if fields["hours"] is None else f" within {human_seconds(3600 * fields['hours'])}"
    first = f"; first {', then '.join(fields['first'])}" if fields["first"] else ""
    memory = ""
    if fields["memory_bytes"] is not None:
        memory = (
            f"; about {human_bytes(fields['memory_bytes'])} of memory beside torch itself "
            f"({human_bytes(fields['memory_free_bytes'])} are free)"
        )
    if fields.get("serve_bytes"):
        memory += f"; serving the base takes about {human_bytes(fields['serve_bytes'])}"
        memory += _elsewhere(fields)
    if fields.get("is_judged_only"):
        memory += "; the base is judged block by block from disk, without latency and memory"
    return (
        f"ahead: up to {trials}{within}, of {fields['possible']} strategies that can run here "
        f"({fields['policy']}){first}\n"
        f"a trial needs up to {human_bytes(fields['disk_bytes'])} of disk "
        f"({human_bytes(fields['disk_free_bytes'])} are free){memory}; "
        "it measures about as long as the base takes, and compresses before that"
    )


def _elsewhere(fields: dict[str, Any]) -> str:
    """Where the base could be served besides, where not, and whether there is room for it here."""
    found = []
    if fields.get("serve_devices"):
        found.append(f"it could run on {fields['serve_devices']}, too")
    if fields.get("serve_not_on"):
        found.append(f"one {fields['serve_not_on']} is too small")
    if fields["serve_bytes"] > fields["memory_free_bytes"]:
        found.append(f"more than the {human_bytes(fields['memory_free_bytes'])} that are free here")
    return f" ({'; '.join(found)})" if found else ""


def _final(fields: dict[str, Any]) -> str:
    which = f"episode {fields['episode']}" if fields["episode"] else "baseline"
    when = "after the search" if fields["action"] == "final" else "further items"
    return f"{when}: {which}, {fields['reason']}"


_SAID: dict[str, Callable[[dict[str, Any]], str]] = {
    "coordinator": _coordinator,
    "agenda": _agenda,
    "final": _final,
    "interrupted": lambda _: (
        "stopping after this episode; Ctrl-C again stops at once (paredown resume goes on)"
    ),
    "note": lambda fields: f"note: {fields['text']}",
    "wishes": lambda fields: f"from an earlier session: {fields['text']}",
    "dropped": lambda fields: f"not run, though you asked for it: {fields['because']}",
    "paused": lambda _: "paused",
}
"""Events that are a line of words."""


class Display:
    """Listener of a run that shows nothing; the others build on it.

    Attributes:
        results: those that came while it listened.
    """

    def __init__(self) -> None:
        self.results: list[TrialResult] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing is open."""

    def __call__(self, event: str, fields: dict[str, Any]) -> None:
        """Take one event of the run."""
        if event == "result":
            self.results.append(fields["result"])

    def end(self, record: ExperimentRecord) -> None:
        """Told of the whole experiment, once it has ended by itself."""


@dataclass(frozen=True)
class _Shown:
    """What goes on: words, share done, seconds left (None: not known), and when that was said."""

    what: str
    done: float
    left: float | None
    at: float


class StepProgress:
    """Shows the stages of a single job (compress, evaluate).

    The line lives: between what a worker says its times go on, and where there is no terminal it is
    printed again, so that nothing is silent for longer than `_QUIET_S`.
    """

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.console, self._clock = console, clock
        self._start = self._printed = clock()
        self._stage = ""
        self._shown: _Shown | None = _Shown("starting", 0.0, None, self._start)
        self.live = Live(
            console=console, refresh_per_second=5, transient=True, get_renderable=self.now
        )
        self._closing = threading.Event()
        self._beat = threading.Thread(target=self._keep_on, name="progress", daemon=True)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live.start()
        else:
            self._beat.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        if self._beat.is_alive():
            self._beat.join()  # a line must not come behind what the command prints next
        self.live.stop()

    def watch(self, stage: str, share: float, message: str) -> None:
        """Update the display: bar and times are those of the stage."""
        if stage != self._stage:
            self._stage, self._start = stage, self._clock()
        elapsed = self._clock() - self._start
        tells = share > _TELLING and elapsed >= _TELLING_S
        left = elapsed * (1 - share) / share if tells else None
        self.show(f"{stage}: {message}", share, left)

    def show(self, what: str, done: float, left: float | None = None) -> None:
        """Show this from now on, or print it where there is no terminal and it is time to."""
        self._shown = _Shown(what, done, left, self._clock())
        self.beat()

    def hide(self) -> None:
        """Nothing goes on."""
        self._shown = None

    def now(self) -> Text:
        """The line as it is at this moment, which is later than what it was told."""
        shown, now = self._shown, self._clock()
        if shown is None:
            return Text()
        left = None if shown.left is None else max(shown.left - (now - shown.at), 0.0)
        return self.line(shown.what, shown.done, now - self._start, left)

    def say(self, *lines: RenderableType) -> None:
        """Print above the line."""
        self._printed = self._clock()
        for line in lines:
            self.console.print(line, soft_wrap=isinstance(line, Text))

    def beat(self) -> None:
        """Print the line again, if nothing was printed for a while and it does not live."""
        due = self._clock() - self._printed >= _QUIET_S
        if due and self._shown is not None and not self.console.is_terminal:
            self.say(Text(self.now().plain))

    def _keep_on(self) -> None:
        while not self._closing.wait(_BEAT_S):
            self.beat()

    def line(self, what: str, done: float, elapsed: float, left: float | None) -> Text:
        """One line: what, a bar, time passed and time left."""
        # Words and bar give way, not the time: that is what somebody who waits looks for.
        width = min(24, max(0, self.console.width - 56)) if self.console.is_terminal else 24
        filled = round(width * min(done, 1.0))
        remaining = "" if left is None else f", about {human_seconds(left)} left"
        head = f"[{'#' * filled}{'.' * (width - filled)}] "
        time_told = f" ({human_seconds(elapsed)}{remaining})"
        room = max(self.console.width - len(head) - len(time_told), _FEWEST)
        # A live display prints behind the console's own escaping.
        shown = escaped(what)
        if self.console.is_terminal and len(shown) > room:
            shown = shown[: room - 1] + "\u2026"
        return Text(f"{head}{shown}{time_told}", overflow="ellipsis", no_wrap=True)


class RunProgress(StepProgress, Display):
    """Listener of an experiment: a line per decision and result, the bar in between."""

    def __init__(
        self,
        console: Console,
        episodes: int,
        objectives: tuple[Objective, ...],
        *,
        show_front: bool = False,
    ) -> None:
        Display.__init__(self)
        StepProgress.__init__(self, console)
        self.episodes, self.objectives, self.show_front = episodes, objectives, show_front
        self.earlier: list[TrialResult] = []
        self._done = 0.0

    def __call__(self, event: str, fields: dict[str, Any]) -> None:
        if event in _SAID:
            self.say(Text(_SAID[event](fields)))
            if event == "paused":
                self.hide()
        elif event == "preparing":
            self.show(fields["message"], fields["share"])
        elif event == "decision":
            self._decision(fields)
        elif event == "result":
            Display.__call__(self, event, fields)
            self._result(fields["result"])
        elif event == "earlier":  # the run was resumed
            self.earlier = list(fields["results"])
        elif event == "progress":
            self._progress(fields)

    def _decision(self, fields: dict[str, Any]) -> None:
        if fields["action"] == "end":
            self.say(Text(f"end: {fields['reason']}"))
            self.show("writing the report", 1.0)
            return
        from paredown.methods import registry
        from paredown.spec.strategy import Strategy

        document = fields.get("strategy")
        label = (
            "baseline" if document is None else registry.label(Strategy.model_validate(document))
        )
        head = f"episode {fields['episode']}/{self.episodes}  {label}"
        self.say(Text.assemble((head, "bold"), f"  ({fields['reason']})"))
        self.show(f"episode {fields['episode']}: starting", self._done, self._left)

    @property
    def _left(self) -> float | None:
        """Seconds left, as they were told last and have gone on since."""
        shown = self._shown
        if shown is None or shown.left is None:
            return None
        return max(shown.left - (self._clock() - shown.at), 0.0)

    def _progress(self, fields: dict[str, Any]) -> None:
        left, passed = fields.get("left_s"), self._clock() - self._start
        # By time: a bar by episodes would stand still in long ones and jump in short ones.
        self._done = 0.0 if left is None or passed + left <= 0 else passed / (passed + left)
        what = f"episode {fields['episode']}: {fields['stage']}, {fields['message']}"
        self.show(what, self._done, left)

    def _result(self, result: TrialResult) -> None:
        self.say(Text("    " + summary_line(result)))
        if self.show_front:
            self.say(self._front_table())
        self.show("choosing what comes next", self._done, self._left)

    def _front_table(self) -> TextTable:
        from paredown.judge.front import find_front
        from paredown.report.terminal import front_table

        results = [*self.earlier, *self.results]
        return front_table(results, find_front(results, self.objectives))


def summary_line(result: TrialResult) -> str:
    """One result in one line."""
    if result.failure is not None:
        return f"failed: {result.failure.kind}: {result.failure.message}"
    parts = []
    perplexity, kl = result.value("perplexity"), result.value("kl")
    if perplexity is not None:
        parts.append(f"perplexity {perplexity:.2f}")
    if kl is not None:
        parts.append(f"KL {kl:.3f}")
    if result.latency_ms is not None:
        parts.append(f"{result.latency_ms:.1f} ms/token")
    size = result.value("size")
    if size is not None:
        parts.append(human_bytes(size))
    if result.compression_ratio is not None:
        parts.append(f"{result.compression_ratio:.2f}x smaller")
    unmet = f"; misses: {', '.join(result.unmet)}" if result.unmet else ""
    return f"{', '.join(parts)}{unmet}  [{human_seconds(result.wall_s)}]"
