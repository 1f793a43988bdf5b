"""Deploy: write the files of an engine, and prove in it what they are and what they are worth."""

from __future__ import annotations

from paredown.deploy.prove import Subjects, export_and_prove
from paredown.pipeline.messages import DeployDone, DeployJob
from paredown.pipeline.work.texts import evaluation_tokens, protocol
from paredown.spec.progress import Progress


def deploy(job: DeployJob, progress: Progress) -> DeployDone:
    """Export `artifact` and its base, and compare the package with both.

    Raises:
        VerificationError: the package is not the artifact.
    """
    tokens = evaluation_tokens(job.held_out, job, progress)
    proved = export_and_prove(
        Subjects(
            artifact=job.artifact, base=job.held_out.base, out=job.out, base_out=job.base_out,
            runtime=job.runtime, device=job.device, trust_remote_code=job.trust_remote_code,
        ),
        tokens=tokens,
        protocol=protocol(job.held_out),
        largest_kl=job.largest_kl,
        config=job.config,
        progress=progress,
    )  # fmt: skip
    return DeployDone(
        nbytes=proved.nbytes, base_nbytes=proved.base_nbytes, golden=proved.golden,
        tokens=proved.tokens, vocabulary=proved.vocabulary, exactness=proved.exactness,
        quality=proved.quality, energy=proved.energy, notes=proved.notes,
    )  # fmt: skip
