"""An engine's process as the parent sees it: asked line by line, bounded in time, never left over.

What runs in it is a `paredown.runtimes.worker.Worker`. Imports no torch.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from paredown.errors import DivergedError, MethodError, ModelError

SILENCE_S = 600.0
"""It tells after every batch of tokens that it is at work; what says nothing for so long hangs."""
_LAST_LINES = 4
_LAST_BYTES = 4000


@dataclass(frozen=True, slots=True)
class Program:
    """What is run as an engine's own process."""

    engine: str
    """How users call it."""
    module: str
    """Run with `python -m`; it imports no torch."""
    python: tuple[str, ...] = (sys.executable, "-m")
    """The words before the module: another Python has to be shown where paredown is."""


class EngineProcess:
    """A worker with one model open; everything that goes wrong in it ends as one clear error."""

    def __init__(
        self,
        program: Program,
        path: Path,
        *,
        threads: int,
        silence_s: float = SILENCE_S,
        **options: Any,
    ) -> None:
        """Start it and load `path`.

        Args:
            options: of the worker's `do_load`.

        Raises:
            ModelError: the engine does not load it; with what it says.
        """
        self._silence_s, self._name, self._engine = silence_s, path.name, program.engine
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [*program.python, program.module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            bufsize=0,
        )
        self._left = b""
        try:
            self.about = self.ask("load", path=str(path), threads=threads, **options)
        except MethodError as error:
            self.close()
            raise ModelError(str(error)) from None
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Of the process that holds the model."""
        return self._process.pid

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """The answer to a request.

        Raises:
            DivergedError: the model's answers are not finite.
            MethodError: it refused, died or hung; with the last lines of its log.
        """
        *_, (answer, _) = self._answers(do, request)
        return answer

    def parts(self, do: str, **request: Any) -> Iterator[bytearray]:
        """The raw numbers of a request that is answered in parts; errors as of `ask`."""
        for _, data in self._answers(do, request):
            if data:
                yield data

    def close(self) -> None:
        """End it, whatever it is doing."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._log.close()

    def _answers(
        self, do: str, request: dict[str, Any]
    ) -> Iterator[tuple[dict[str, Any], bytearray]]:
        """Messages up to the last, which is no part and no sign of life."""
        line = json.dumps({"do": do, **request}).encode() + b"\n"
        try:
            self._send(line)
        except OSError:  # its end of the pipe is gone
            raise self._ended(do) from None
        while True:
            answer = json.loads(self._line(do))
            data = self._exactly(answer.get("nbytes", 0), do)
            if "error" in answer:
                kind = DivergedError if answer.get("diverged") else MethodError
                raise kind(f"{self._name} in {self._engine}: {answer['error']}{self._log_words()}")
            if "beat" not in answer:
                yield answer, data
            if "beat" not in answer and "part" not in answer:
                return

    def _send(self, line: bytes) -> None:
        handle, left = _handle(self._process.stdin), memoryview(line)
        while left:
            left = left[os.write(handle, left) :]

    def _line(self, do: str) -> bytes:
        while b"\n" not in self._left:
            self._left += self._more(1 << 16, do)
        line, _, self._left = self._left.partition(b"\n")
        return line

    def _exactly(self, count: int, do: str) -> bytearray:
        found = bytearray(self._left[:count])
        self._left = self._left[count:]
        while len(found) < count:
            found += self._more(min(count - len(found), 1 << 20), do)
        return found

    def _more(self, most: int, do: str) -> bytes:
        """What it has written, waited for as long as may be."""
        handle = _handle(self._process.stdout)
        ready, _, _ = select.select([handle], [], [], self._silence_s)
        if not ready:
            self._process.kill()
            raise MethodError(
                f"{self._engine} has said nothing for {self._silence_s:g} s ({do}) and was ended"
                f"{self._log_words()}"
            )
        data = os.read(handle, most)
        if not data:
            raise self._ended(do)
        return data

    def _ended(self, do: str) -> MethodError:
        """It closed its output: say how it died."""
        deadline = time.monotonic() + 5
        while self._process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        code = self._process.poll()
        if code is not None and code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        else:
            how = f"ended with exit code {code}"
        return MethodError(f"{self._engine} {how} ({do}){self._log_words()}")

    def _log_words(self) -> str:
        """The end of its log, in one line."""
        size = os.fstat(self._log.fileno()).st_size
        tail = os.pread(self._log.fileno(), _LAST_BYTES, max(0, size - _LAST_BYTES))
        lines = [line.strip() for line in tail.decode(errors="replace").splitlines()]
        last = [line for line in lines if line][-_LAST_LINES:]
        return f"; its log ends: {' | '.join(last)}" if last else ""


def _handle(pipe: IO[bytes] | None) -> int:
    if pipe is None:
        raise AssertionError("it was started with pipes")
    return pipe.fileno()
