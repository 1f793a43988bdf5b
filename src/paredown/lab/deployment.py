"""Stage 4: the package of what was chosen, proved in its engine and looked at as it will be run."""

from __future__ import annotations

from pathlib import Path

from paredown.coordinate.deliver import deploy
from paredown.deploy.check import check_package
from paredown.deploy.facts import Fact
from paredown.deploy.sizing import Wishes
from paredown.lab.checkpoints import Deployment, Implementation, Served
from paredown.lab.context import Lab, now
from paredown.lab.implementation import artifact_of
from paredown.pipeline.deliver import Delivered
from paredown.runtimes.registry import engine
from paredown.spec.packed import weights_bytes
from paredown.spec.serial import content_hash
from paredown.spec.units import GB
from paredown.store.content import model_hash

_CODE = 1
PACKAGE = "package"
"""Folder, in that of the lab."""


def depends_on(lab: Lab, made: Implementation) -> dict[str, str]:
    """What the stage is made from: of the implementation only what goes on."""
    config, artifact = lab.config, artifact_of(lab, made)
    return {
        "artifact": "" if artifact is None else model_hash(artifact),
        "deployment target": config.constraints.deployment_target,
        "how it is served": content_hash(
            [config.context, config.slots, config.constraints.max_memory_gb]
        ),
        "how it is measured": content_hash([config.data, str(config.data_dir), config.evaluate]),
        "code": str(_CODE),
    }


def prepare_deployment(lab: Lab, made: Implementation) -> Deployment:
    """Make the package, prove it, serve it and look whether it is ready.

    An engine that reads the artifact's own folder needs no other files: then that is what is
    deployed, and nothing is served here.

    Raises:
        ConfigError: the engine does not hold the artifact, or no server fits into the memory.
        MethodError: the package is not the artifact.
        ServerError: its server does not start, dies, or answers nonsense.
    """
    artifact, runtime = artifact_of(lab, made), lab.config.constraints.runtime
    if artifact is None or not engine(runtime).own_files:
        return Deployment(
            made_at=now(), made_from=depends_on(lab, made), runtime=runtime,
            package=None if artifact is None else _relative(lab, artifact),
            nbytes=0 if artifact is None else weights_bytes(artifact),
            version="" if artifact is None else model_hash(artifact), exactness=(), pairs=(),
            served=None, facts=(),
        )  # fmt: skip
    done = _delivered(lab, artifact)
    settings, proof = done.settings, done.proof
    return Deployment(
        made_at=now(), made_from=depends_on(lab, made), runtime=runtime,
        package=_relative(lab, done.folder), nbytes=done.record.nbytes, version=done.record.version,
        exactness=proof.exactness, pairs=proof.served,
        served=Served(
            context=settings.context, slots=settings.slots, threads=settings.threads,
            memory_bytes=settings.memory_bytes, peak_bytes=proof.peak_bytes,
        ) if proof.served else None,
        facts=_facts(lab, done.folder) if proof.served else (),
    )  # fmt: skip


def _delivered(lab: Lab, artifact: Path) -> Delivered:
    config = lab.config
    most = config.constraints.max_memory_gb
    with lab.teller.job() as watch:
        return deploy(
            artifact,
            lab.folder / PACKAGE,
            runtime=config.constraints.runtime,
            base=config.model,
            name=Path(config.model).name.lower(),
            data=list(config.data),
            config=config.evaluate,
            data_dir=config.data_dir,
            device=config.device,
            wishes=Wishes(
                context=config.context, slots=config.slots,
                memory_bytes=None if most is None else int(most * GB),
            ),
            trust_remote_code=config.trust_remote_code,
            watch=watch,
        )  # fmt: skip


def _facts(lab: Lab, package: Path) -> tuple[Fact, ...]:
    with lab.teller.job() as watch:
        return tuple(
            check_package(
                package, tell=lambda fact: watch("check", 0.0, f"{fact.name}: {fact.status}")
            )
        )


def _relative(lab: Lab, folder: Path) -> str:
    """Below the lab where it is there; as it is otherwise."""
    return str(folder.relative_to(lab.folder)) if lab.folder in folder.parents else str(folder)
