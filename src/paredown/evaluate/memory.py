"""Memory of the process that serves a model: after loading, and at its peak in every phase."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from paredown.evaluate.footprint import peak_rss
from paredown.evaluate.timing import prompts
from paredown.runtimes.session import Session
from paredown.spec.result import Measurement
from paredown.spec.run import EvaluateConfig
from paredown.spec.units import Unit

_CLEAR = Path("/proc/self/clear_refs")
_PEAK = "5"
"""What the kernel takes for `begin the peak of resident memory again`."""


class MemoryWatch:
    """Follows the peak memory of a process (CPU), or of torch on the GPU, phase by phase.

    The process is this one, until an engine tells its own. Where the peak cannot be begun again
    (other systems than Linux), only that over all is known.
    """

    def __init__(self, device: str, *, clear: Path = _CLEAR) -> None:
        self.device, self._clear = device, clear
        self.peaks: dict[str, int] = {}
        self._highest = 0
        self._pid: int | None = None

    def follow(self, pid: int) -> None:
        """From now on the memory is that of this process, which was started for the model."""
        if pid == os.getpid():
            return
        # What this process has taken to start the other one is no memory of serving.
        self._pid, self._highest = pid, 0
        self._clear = Path(f"/proc/{pid}/clear_refs")

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Note the peak of a stretch of work."""
        begun = self._begin()
        yield
        if begun:
            self.peaks[name] = self._peak()

    @property
    def highest(self) -> int:
        """Bytes: the peak since the process began."""
        return max(self._highest, self._peak(), *self.peaks.values())

    def _begin(self) -> bool:
        # Before the counter begins again, and forgets it.
        self._highest = self.highest
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            return True
        try:
            self._clear.write_text(_PEAK)
        except OSError:
            return False
        return True

    def _peak(self) -> int:
        if self.device == "cuda":
            return torch.cuda.max_memory_allocated()
        return peak_rss(self._pid)


def serve_once(
    session: Session, config: EvaluateConfig, watch: MemoryWatch, *, seed: int = 0
) -> None:
    """Read one prompt and decode behind it, as phases `prefill` and `decode`."""
    generator = torch.Generator().manual_seed(seed)
    prompt = prompts(session, 1, config.prompt_tokens, generator).to(watch.device)
    with watch.phase("prefill"):
        state = session.prefill(prompt)
    with watch.phase("decode"):
        session.decode(state, config.decode_tokens)


def measure_weights(session: Session) -> Measurement:
    """Bytes of all weights as the loaded model holds them, each storage once."""
    how = "storages of the tensors that the loaded model holds: weights, scales, packed copies"
    return _measurement("weights_memory", session.weights_bytes(), how)


def peak_measurements(watch: MemoryWatch, config: EvaluateConfig) -> list[Measurement]:
    """The peak over all, and that of every phase."""
    if watch.device == "cuda":
        what, over_all = "peak allocated by torch on the GPU", "peak allocated by torch on the GPU"
    else:
        what = "peak resident memory of the process"
        over_all = "peak resident memory of a fresh process that loads the model and serves prompts"
    when = {
        "load": f"{what} while loading, batch 1",
        "prefill": f"{what} while reading a prompt of {config.prompt_tokens} tokens, batch 1",
        "decode": f"{what} while decoding {config.decode_tokens} tokens behind it, batch 1",
    }
    return [
        _measurement("peak_memory", watch.highest, over_all),
        *(
            _measurement(f"peak_memory_{name}", watch.peaks[name], how)
            for name, how in when.items()
            if name in watch.peaks
        ),
    ]


def _measurement(name: str, size: int, how: str) -> Measurement:
    return Measurement(
        name=name, value=size, unit=Unit.BYTES, n=1, stderr=None, lower_is_better=True,
        source="measured", how=how,
    )  # fmt: skip
