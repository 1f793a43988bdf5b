"""What a worker process does: imports torch and all that the kinds of job need.

Importing it is most of a worker's start, which is why a fork server imports it once for all.
"""

from __future__ import annotations

from pathlib import Path
from typing import assert_never

from paredown.pipeline.messages import (
    AnswerJob,
    AnyDone,
    AnyJob,
    CompressJob,
    DeployJob,
    EvaluateJob,
    JudgeJob,
    PlansJob,
    ScoreJob,
    VerifyJob,
)
from paredown.pipeline.work.answer import answer
from paredown.pipeline.work.compress import compress
from paredown.pipeline.work.deploy import deploy
from paredown.pipeline.work.measure import evaluate, judge, score
from paredown.pipeline.work.plans import plans
from paredown.pipeline.work.verify import verify
from paredown.spec.progress import Progress
from paredown.store.cache import Cache


def perform(job: AnyJob, folder: Path, progress: Progress) -> AnyDone:
    """Do the job in `folder`; what it puts into the cache stays there at least until it ends.

    Raises:
        ParedownError: as the methods and evaluators raise them.
    """
    with Cache.default().hold():
        return _perform(job, folder, progress)


def _perform(job: AnyJob, folder: Path, progress: Progress) -> AnyDone:
    match job:
        case CompressJob():
            return compress(job, folder, progress)
        case VerifyJob():
            return verify(job, progress)
        case EvaluateJob():
            return evaluate(job, progress)
        case ScoreJob():
            return score(job, folder, progress)
        case DeployJob():
            return deploy(job, progress)
        case PlansJob():
            return plans(job, folder, progress)
        case JudgeJob():
            return judge(job, progress)
        case AnswerJob():
            return answer(job, progress)
        case _:
            assert_never(job)
