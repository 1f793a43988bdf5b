"""The first half of a trial: compress, and prove in a fresh process what was built."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from paredown.methods import registry
from paredown.pipeline.bench import Bench, Clock, TrialFailed, discard, tidy
from paredown.pipeline.messages import EXPECTED, CompressJob, VerifyJob
from paredown.spec.infer import infer_spec
from paredown.spec.progress import StageProgress
from paredown.spec.result import CHECKED_PLAIN, Failure
from paredown.spec.strategy import Strategy


class Built(BaseModel):
    """What came of the first half of a trial: an artifact that reloads, or the failure."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    notes: tuple[str, ...] = ()
    failure: Failure | None = None
    config_error: bool = False
    seconds: float = 0.0


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
    try:
        notes = _compress_and_verify(bench, strategy, out, clock, worst=worst)
    except TrialFailed as error:
        discard(out)
        return Built(failure=error.failure, config_error=error.config_error, seconds=clock.elapsed)
    finally:
        tidy(folder)
    return Built(notes=notes, seconds=clock.elapsed)


def _compress_and_verify(
    bench: Bench, strategy: Strategy, out: Path, clock: Clock, *, worst: float | None
) -> tuple[str, ...]:
    built = clock.run(
        CompressJob(
            device=bench.device,
            trust_remote_code=bench.trust_remote_code,
            model=bench.base.folder,
            model_name=bench.base.name,
            model_hash=bench.base.hash,
            strategy=strategy,
            out=out,
            text=bench.text,
            samples=bench.calibration.samples,
            length=bench.calibration.length,
            seed=bench.seed,
        )
    )
    expected = clock.folder / EXPECTED
    last, params = registry.resolve(strategy)[-1]
    made = infer_spec(out)
    runtimes = registry.runtimes(last, params, made)
    checked = clock.run(
        VerifyJob(
            device=bench.device,
            trust_remote_code=bench.trust_remote_code,
            artifact=out,
            expected=expected if expected.exists() else None,
            plain="transformers" in runtimes,
            held_out=None if worst is None else bench.held_out,
            worst=worst or 0.0,
        )
    )
    notes = list(checked.notes)
    if built.reused_steps:
        kept = " > ".join(step.method for step in strategy.steps[: built.reused_steps])
        notes.append(
            f"the result of {kept} was there from an earlier trial; its time is not counted"
        )
    if built.predicted_bytes != built.stored_bytes:
        notes.append(
            f"predicted {built.predicted_bytes} bytes of tensors, stored {built.stored_bytes}"
        )
    if checked.kl_transformers is not None:
        notes.append(CHECKED_PLAIN)
    if "vllm" in runtimes:
        untested = made.experts or made.vision
        what = "a mixture of experts" if made.experts else "a model that sees images"
        notes.append(
            f"vLLM knows this format; whether it reads it of {what} is untested"
            if untested
            else "vLLM reads this format (not run here)"
        )
    return tuple(notes)
