"""`paredown deploy`: an artifact as a package that an operations team can take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paredown.cli.options import with_settings
from paredown.spec.requests import DeployRequest

if TYPE_CHECKING:
    from paredown.pipeline.deliver import Delivered
    from paredown.spec.progress import StageProgress

ENV_PREFIX = "PAREDOWN_DEPLOY_"


@with_settings(DeployRequest, env_prefix=ENV_PREFIX, argument="model")
def deploy(
    request: DeployRequest,
    *,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Folder of the package; a package that is there is kept beside it.",
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Make a package of an artifact for an engine, and prove it there.

    The package holds exactly the numbers of the artifact in the engine's files, the server's
    settings, container, systemd and Kubernetes files, a model card, HANDOVER.md, proof.json and
    checksums. It is in its place only when the engine has answered with the artifact's
    log-probabilities, behind its server as well.

    Settings come from options, then from environment variables (PAREDOWN_DEPLOY_SLOTS=2), then
    from --config, then from the defaults; `none` stands for no value.
    """
    from paredown.report.console import make_console
    from paredown.report.live import StepProgress

    console = make_console(stderr=as_json)
    with StepProgress(console) as progress:
        done = _deploy(request, output, progress.watch)
    if as_json:
        import json

        print(json.dumps(_document(done), indent=2))
        return
    for line in _lines(done):
        console.print(line, soft_wrap=True)


def _deploy(request: DeployRequest, output: Path, watch: StageProgress) -> Delivered:
    from paredown import api
    from paredown.deploy.sizing import Wishes
    from paredown.spec.notation import shared
    from paredown.spec.run import EvaluateConfig
    from paredown.spec.units import GB

    memory = request.max_memory_gb
    return api.deploy(
        request.model,
        output,
        runtime=request.runtime,
        base=request.base,
        name=request.name,
        data=request.data,
        config=EvaluateConfig(**shared(request, EvaluateConfig)),
        data_dir=request.data_dir,
        device=request.device,
        wishes=Wishes(
            port=request.port,
            context=request.context,
            slots=request.slots,
            threads=request.threads,
            cache=request.cache,
            memory_bytes=None if memory is None else int(memory * GB),
        ),
        max_kl=request.max_kl,
        trust_remote_code=request.trust_remote_code,
        watch=watch,
    )


def _document(done: Delivered) -> dict[str, Any]:
    from paredown.spec.serial import plain

    return {
        "package": str(done.folder),
        "record": plain(done.record),
        "settings": plain(done.settings),
        "proof": str(done.folder / "proof.json"),
        "exactness": plain(done.proof.exactness),
        "quality": plain(done.proof.quality),
        "served": plain(done.proof.served),
        "kept": None if done.kept is None else str(done.kept),
    }


def _lines(done: Delivered) -> list[str]:
    """What was made and proved, in words, and what to do with it."""
    import shlex

    from paredown.deploy.card import amount, number, ratio
    from paredown.spec.units import human_bytes

    record, proof, settings = done.record, done.proof, done.settings
    size = human_bytes(record.nbytes)
    lines = [
        f"{done.folder}: {size} for {record.runtime}, version {record.version[:12]}",
        *(f"  {m.name} to the artifact: {number(m)}" for m in proof.exactness if m.name == "kl"),
        *(f"  {m.name}: {number(m)}" for m in proof.quality),
        *(
            f"  {score.name}: {100 * score.value:.1f} %"
            + (f" ({score.versus_base.verdict})" if score.versus_base else "")
            for score in proof.scores
        ),
        *(
            f"  {p.name}: {amount(p.package, p.unit)}, base {amount(p.base, p.unit)}: {ratio(p)}"
            for p in proof.served
        ),
        f"  {settings.slots} requests at once of {settings.context} tokens, {settings.threads} "
        f"threads, at most {human_bytes(settings.memory_bytes)}",
        *(f"  - {note}" for note in proof.notes),
    ]
    if done.kept is not None:
        lines.append(f"  the version before is kept in {done.kept}")
    if not proof.served:
        return lines
    place = str(done.folder)
    return [
        *lines,
        f"serve it: {shlex.join(['paredown', 'serve', place])}",
        f"is it ready: {shlex.join(['paredown', 'check', place])}",
        f"who runs it reads: {done.folder / 'HANDOVER.md'}",
    ]
