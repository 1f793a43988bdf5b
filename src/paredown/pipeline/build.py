"""The first half of a trial: compress, and prove in a fresh process what was built."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from paredown.methods import registry
from paredown.pipeline.bench import Bench, Clock, TrialFailed, discard, tidy
from paredown.pipeline.messages import EXPECTED, CompressDone, CompressJob, VerifyJob
from paredown.runtimes import registry as runtimes
from paredown.runtimes.base import Claim
from paredown.spec.infer import infer_spec
from paredown.spec.progress import StageProgress
from paredown.spec.result import Evidence, Failure, LoadsIn
from paredown.spec.strategy import Strategy
from paredown.spec.units import human_bytes, human_seconds


class Built(BaseModel):
    """What came of the first half of a trial: an artifact that reloads, or the failure."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    notes: tuple[str, ...] = ()
    loads_in: tuple[LoadsIn, ...] = ()
    failure: Failure | None = None
    config_error: bool = False
    seconds: float = 0.0
    reused_s: float = 0.0
    """Seconds that steps had taken whose result was there from an earlier trial."""


def build(
    bench: Bench,
    strategy: Strategy,
    folder: Path,
    out: Path,
    *,
    timeout_s: float,
    worst: float | None = None,
    watch: StageProgress | None = None,
) -> Built:
    """Compress into `out` and prove, in a fresh process, that it reloads to what was meant.

    Whatever happens inside the worker processes becomes part of the returned record.

    Args:
        worst: an artifact is a failure if few tokens show its perplexity to be surely more than
            this multiple of the base's; None: it is kept, whatever it is worth.
    """
    clock = Clock(bench, folder, timeout_s, watch)
    reused_s = 0.0
    try:
        made = _compress(bench, strategy, out, clock)
        reused_s = made.reused_s  # also of one that fails from here on: it is no cheaper for that
        notes, loads_in = _verify(bench, strategy, made, out, clock, worst=worst)
    except TrialFailed as error:
        discard(out)
        return Built(
            failure=error.failure,
            config_error=error.config_error,
            seconds=clock.elapsed,
            reused_s=reused_s,
        )
    finally:
        tidy(folder)
    notes = (*clock.notes, *notes)
    return Built(notes=notes, loads_in=loads_in, seconds=clock.elapsed, reused_s=reused_s)


def _compress(bench: Bench, strategy: Strategy, out: Path, clock: Clock) -> CompressDone:
    return clock.run(
        CompressJob(
            device=bench.device,
            trust_remote_code=bench.trust_remote_code,
            model=bench.base.folder,
            model_name=bench.base.name,
            model_hash=bench.base.hash,
            strategy=strategy,
            out=out,
            text=bench.text,
            samples=bench.calibration.amount.wanted,
            least_samples=bench.calibration.amount.least,
            length=bench.calibration.length,
            seed=bench.seed,
        )
    )


def _verify(
    bench: Bench,
    strategy: Strategy,
    built: CompressDone,
    out: Path,
    clock: Clock,
    *,
    worst: float | None,
) -> tuple[tuple[str, ...], tuple[LoadsIn, ...]]:
    """Notes on what was built, and what loads it."""
    expected = clock.folder / EXPECTED
    # Asked of what was made, not of what was meant: only the files decide what loads them.
    claims = runtimes.claims(infer_spec(out))
    checked = clock.run(
        VerifyJob(
            device=bench.device,
            runtime=bench.runtime,
            trust_remote_code=bench.trust_remote_code,
            artifact=out,
            base=bench.base.folder,
            expected=expected if expected.exists() else None,
            plain=claims["transformers"].holds,
            stream=bench.evaluate.stream,
            held_out=None if worst is None else bench.held_out,
            worst=worst or 0.0,
        )
    )
    notes = list(checked.notes)
    if built.reused_steps:
        kept = " > ".join(step.method for step in strategy.steps[: built.reused_steps])
        notes.append(
            f"the result of {kept} was there from an earlier trial, where it took "
            f"{human_seconds(built.reused_s)}; the search reckons with them"
        )
    if built.predicted_bytes != built.stored_bytes:  # else a failure: see `require_predicted`
        unsure = [m.name for m, params in registry.resolve(strategy) if not m.knows_bytes(params)]
        notes.append(
            f"forecast at {human_bytes(built.predicted_bytes)} of weights, stored "
            f"{human_bytes(built.stored_bytes)}: what {' and '.join(unsure)} leaves is known once "
            "it has measured the model"
        )
    if checked.kl_engine is not None and checked.kl_arithmetic is not None:
        notes.append(
            f"{bench.runtime} answers as the artifact does in torch up to KL "
            f"{checked.kl_engine:.2g} nats per token, on random tokens; its own arithmetic, on the "
            f"uncompressed model, makes {checked.kl_arithmetic:.2g}"
        )
    seen = {"torch"} | ({"transformers"} if checked.kl_transformers is not None else set())
    seen |= {bench.runtime} if checked.kl_engine is not None else set()
    return tuple(notes), _loads_in(claims, seen)


def _loads_in(claims: dict[str, Claim], seen: set[str]) -> tuple[LoadsIn, ...]:
    """What loads an artifact: in which runtimes it was seen to load, and what others claim."""
    found = []
    for name, claim in claims.items():
        if name in seen:
            found.append(LoadsIn(runtime=name, known="checked"))
        elif claim.holds:
            # Nothing was run in it, whatever it is known for.
            known: Evidence = "untested" if claim.evidence == "untested" else "documented"
            found.append(LoadsIn(runtime=name, known=known, detail=claim.why))
    return tuple(found)
