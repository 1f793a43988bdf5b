"""Plans: find those along the curve of a model; building them is other jobs' work."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from paredown.artifact.checkpoint import Checkpoint
from paredown.methods.base import Context, Training
from paredown.methods.mixed import MixedParams
from paredown.methods.shared.frontier import Frontier
from paredown.methods.shared.units import choices_of, plain_record, uniform_plans
from paredown.pipeline.messages import PlansDone, PlansJob
from paredown.pipeline.work.texts import calibration_windows, training_windows
from paredown.spec.progress import Progress
from paredown.store.cache import Cache
from paredown.store.content import model_hash


def plans(job: PlansJob, folder: Path, progress: Progress) -> PlansDone:
    """Measure the layers of the model and solve for sizes along the curve.

    Raises:
        ConfigError: the runtime holds nothing of the model, or text or cache are too small.
    """
    source = Checkpoint(job.model, name=job.model_name)
    choices = choices_of(source.spec, job.runtime)
    scratch = folder / "steps"
    scratch.mkdir(parents=True, exist_ok=True)
    context = Context(
        device=job.device,
        seed=job.seed,
        source_hash=model_hash(job.model),
        scratch=scratch,
        cache=Cache.default(),
        calibration=partial(calibration_windows, job, progress),
        progress=progress,
        trust_remote_code=job.trust_remote_code,
        training=Training(base=job.model, windows=partial(training_windows, job, progress)),
    )
    tokens = MixedParams(runtime=job.runtime).tokens
    found = Frontier(source, choices, context, tokens=tokens).along(job.points)
    uniform = [plain_record(source.spec, choices, plan) for plan in uniform_plans(choices)]
    return PlansDone(plans=tuple(plan.record for plan in found), uniform=tuple(uniform))
