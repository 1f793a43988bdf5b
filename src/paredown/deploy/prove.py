"""Export an artifact, and prove in its engine that the files are the artifact and what it is worth.

Two comparisons are made on the same held-out text, in the engine itself. *Exactness*: against the
artifact computed by torch; what differs is the engine's arithmetic. *Quality*: against the base in
the same engine; what differs is the compression.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

import psutil
from torch import Tensor

from paredown.blocks.memory import release
from paredown.deploy.golden import TEXTS, differing, golden_prompts, token_texts
from paredown.deploy.proof import Golden, Pair, Tokens
from paredown.errors import VerificationError
from paredown.evaluate.energy import measure_energy
from paredown.evaluate.quality import measure_quality
from paredown.runtimes.base import Engine, Package
from paredown.runtimes.registry import engine
from paredown.runtimes.session import Session
from paredown.spec.progress import Progress
from paredown.spec.result import Measurement
from paredown.spec.run import EvaluateConfig
from paredown.spec.target import Device

_TORCH = "torch"
_ENERGY = {"energy": "energy per output token", "prefill_energy": "energy per prompt token"}
_Z95 = 1.96
_ROOM = 1.5
"""Times the bytes of the base's files that must be free before both are opened at once."""


@dataclass(frozen=True, kw_only=True)
class Subjects:
    """What is exported, and whereto.

    Attributes:
        artifact, base: model folders.
        out, base_out: new folders for the engine's files of each.
    """

    artifact: Path
    base: Path
    out: Path
    base_out: Path
    runtime: str
    device: Device
    trust_remote_code: bool = False


@dataclass(frozen=True, kw_only=True)
class Proved:
    """What was found before anything was served.

    Attributes:
        nbytes, base_nbytes: of the weights files.
        vocabulary: tokens that artifact and package know.
        exactness: of the package against the artifact in torch.
        quality: of the package, in its engine, against the base in the same engine.
        energy: per token, beside the base in the same engine; nothing where none can be told.
    """

    nbytes: int
    base_nbytes: int
    golden: tuple[Golden, ...]
    tokens: tuple[Tokens, ...]
    vocabulary: int
    exactness: tuple[Measurement, ...]
    quality: tuple[Measurement, ...]
    energy: tuple[Pair, ...]
    notes: tuple[str, ...]


def export_and_prove(
    subjects: Subjects,
    *,
    tokens: Tensor,
    protocol: str,
    largest_kl: float,
    config: EvaluateConfig,
    progress: Progress,
) -> Proved:
    """Write the engine's files and compare them with the artifact and the base.

    Args:
        tokens: (count, length) windows of held-out text.
        largest_kl: from the artifact, in nats per token, that is accepted.
        config: how energy is measured.

    Raises:
        ConfigError: the engine does not hold the artifact; what would do.
        VerificationError: the files are not the artifact: other tokens, or too far from it.
    """
    runtime = engine(subjects.runtime)
    progress(0.0, f"exporting for {runtime.name}")
    package = runtime.export(subjects.artifact, subjects.out)
    base_package = runtime.export(subjects.base, subjects.base_out)
    progress(0.15, f"comparing {runtime.name} with the artifact in torch")
    session = _open(runtime, package.folder, subjects)
    try:
        _require_tokens(session, subjects)
        golden, exactness = _against_torch(session, tokens, protocol, subjects)
        _require_close(exactness, largest_kl)
        progress(0.6, f"measuring beside the base in {runtime.name}")
        quality, energy, notes = _beside_base(
            runtime, base_package, session, tokens, protocol, subjects, config
        )
        told, vocabulary = session.notes, session.vocabulary
    finally:
        session.close()
    return Proved(
        nbytes=package.nbytes, base_nbytes=base_package.nbytes, golden=golden,
        tokens=token_texts(subjects.artifact, trust_remote_code=subjects.trust_remote_code),
        vocabulary=vocabulary, exactness=tuple(exactness), quality=tuple(quality),
        energy=tuple(energy), notes=(*package.notes, *told, *notes),
    )  # fmt: skip


def _open(runtime: Engine, folder: Path, subjects: Subjects) -> Session:
    return runtime.open(
        folder, device=subjects.device, trust_remote_code=subjects.trust_remote_code
    )


def _against_torch(
    session: Session, tokens: Tensor, protocol: str, subjects: Subjects
) -> tuple[tuple[Golden, ...], list[Measurement]]:
    """Golden prompts as torch sees them, and the engine's quality against torch."""
    artifact = _open(engine(_TORCH), subjects.artifact, subjects)
    try:
        if session.vocabulary != artifact.vocabulary:
            raise VerificationError(
                f"{subjects.runtime} has a vocabulary of {session.vocabulary} tokens, and the "
                f"artifact one of {artifact.vocabulary}"
            )
        golden = golden_prompts(
            artifact, subjects.artifact, trust_remote_code=subjects.trust_remote_code
        )
        live = _Live(artifact.logits(tokens))
        return golden, measure_quality(session, tokens, live, protocol=protocol)
    finally:
        artifact.close()
        release()  # the base needs its room


def _require_tokens(session: Session, subjects: Subjects) -> None:
    other = differing(session, subjects.artifact, trust_remote_code=subjects.trust_remote_code)
    if other:
        raise VerificationError(
            f"{subjects.runtime} makes other tokens of {len(other)} of {len(TEXTS)} texts, such as "
            f"{other[0]!r}: the package would answer another question than is asked"
        )


def _require_close(exactness: list[Measurement], largest: float) -> None:
    kl = next(m for m in exactness if m.name == "kl")
    if kl.value > largest:
        raise VerificationError(
            f"the exported model is not the artifact: KL {kl.value:.3g} nats per token, where at "
            f"most {largest:g} is accepted (--max-kl)"
        )


def _beside_base(
    runtime: Engine,
    package: Package,
    session: Session,
    tokens: Tensor,
    protocol: str,
    subjects: Subjects,
    config: EvaluateConfig,
) -> tuple[list[Measurement], list[Pair], list[str]]:
    """Quality and energy against the base in the same engine, and what could not be measured."""
    if psutil.virtual_memory().available < _ROOM * package.nbytes:
        found = measure_quality(session, tokens, None, protocol=protocol)
        return found, [], ["there was no room to open the base beside it: compared with nothing"]
    base = _open(runtime, package.folder, subjects)
    try:
        live = _Live(base.logits(tokens))
        quality = measure_quality(session, tokens, live, protocol=protocol)
        return quality, *_energy(session, base, config)
    finally:
        base.close()


def _energy(
    session: Session, base: Session, config: EvaluateConfig
) -> tuple[list[Pair], list[str]]:
    """Joules per token of both, one behind the other, and why where there are none."""
    (mine, notes), (reference, more) = (measure_energy(s, config) for s in (session, base))
    beside = {m.name: m for m in reference}
    pairs = [_pair(m, beside[m.name]) for m in mine if m.name in beside]
    return pairs, list(dict.fromkeys((*notes, *more)))


def _pair(mine: Measurement, base: Measurement) -> Pair:
    ratio = mine.value / base.value
    errors = [(m.stderr or 0.0) / m.value for m in (mine, base)]
    spread = _Z95 * ratio * math.hypot(*errors)  # to first order; both are measured by themselves
    return Pair(
        name=_ENERGY[mine.name], unit=mine.unit, package=mine.value, base=base.value, ratio=ratio,
        low=ratio - spread, high=ratio + spread, n=mine.n or 1, lower_is_better=True,
        how=f"{mine.source}: {mine.how}",
    )  # fmt: skip


@final
class _Live:
    """The logits of a session that answers in step: stored they would take gigabytes."""

    def __init__(self, rows: Iterator[Tensor]) -> None:
        self._rows, self._next = rows, 0

    def logits(self, window: int) -> Tensor:
        """(length - 1, vocabulary) float32 of the next window."""
        if window != self._next:
            raise AssertionError(f"window {window} is asked for, {self._next} is next")
        self._next += 1
        return next(self._rows).float()
