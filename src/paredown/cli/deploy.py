"""`paredown deploy`: an artifact as a package that an operations team can take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from paredown.cli import complete

if TYPE_CHECKING:
    from paredown.pipeline.deliver import Delivered
    from paredown.spec.run import DeviceName

_SERVING = "How it is served"
_PROVING = "How it is proved"


def deploy(
    artifact: Annotated[
        str,
        typer.Argument(
            metavar="ARTIFACT", help="Model folder, or EXPERIMENT[#EPISODE]: the recommended one."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="DIR",
            help="Folder of the package; a package that is there is kept beside it.",
        ),
    ],
    runtime: Annotated[
        str,
        typer.Option(
            "--to", metavar="RUNTIME", help="Engine that will serve it.",
            autocompletion=complete.function("runtimes"),
        ),
    ] = "llama.cpp",
    base: Annotated[
        str | None,
        typer.Option(help="Model to measure beside; by default the artifact's own base."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Under which it is served; by default the output's name.")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data", "-d", metavar="NAME", rich_help_panel=_PROVING,
            help="Text and benchmarks to measure on in the engine; by default pydoc.",
        ),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(min=512, rich_help_panel=_PROVING, help="Tokens of held-out text."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=0, rich_help_panel=_PROVING, help="Items per benchmark; 0: all."),
    ] = None,
    max_kl: Annotated[
        float | None,
        typer.Option(
            min=0.0, rich_help_panel=_PROVING,
            help="Nats per token that the engine's rounding may cause; by default 0.02.",
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(rich_help_panel=_PROVING, help="Folder with offline data sets."),
    ] = None,
    max_memory_gb: Annotated[
        float | None,
        typer.Option(
            min=0.001, metavar="GB", rich_help_panel=_SERVING,
            help="Memory that the server may take; by default 80 % of this machine's.",
        ),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            metavar="TOKENS", rich_help_panel=_SERVING,
            help="Of one request; by default 4096, or what the memory allows.",
        ),
    ] = None,
    slots: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=_SERVING,
            help="Requests at once; by default 4, or what the memory allows.",
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=_SERVING, help="Of the processor; by default one a physical core."
        ),
    ] = None,
    cache: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE", rich_help_panel=_SERVING,
            help="Keys and values: f16, or q8_0 for half the memory and other answers.",
        ),
    ] = None,
    port: Annotated[
        int, typer.Option(rich_help_panel=_SERVING, help="On which it will listen.")
    ] = 8080,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Whether a model's own code may run.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:  # fmt: skip
    """Make a package of an artifact for an engine, and prove it there.

    The package holds exactly the numbers of the artifact in the engine's files, the server's
    settings, container, systemd and Kubernetes files, a model card, HANDOVER.md, proof.json and
    checksums. It is in its place only when the engine has answered with the artifact's
    log-probabilities, behind its server as well.
    """
    from paredown import api
    from paredown.cli.live import StepProgress
    from paredown.cli.terminal import make_console
    from paredown.deploy.proof import AGREES
    from paredown.deploy.sizing import Wishes
    from paredown.spec.explain import checked
    from paredown.spec.run import EvaluateConfig
    from paredown.spec.units import GB

    given: dict[str, Any] = {"tokens": tokens, "limit": limit}
    config = checked(EvaluateConfig, {k: v for k, v in given.items() if v is not None})
    wishes = Wishes(
        port=port, context=context, slots=slots, threads=threads, cache=cache,
        memory_bytes=None if max_memory_gb is None else int(max_memory_gb * GB),
    )  # fmt: skip
    console = make_console(stderr=as_json)
    with StepProgress(console) as progress:
        done = api.deploy(
            artifact, output, runtime=runtime, base=base, name=name, data=data or ["pydoc"],
            config=config, data_dir=data_dir, device=cast("DeviceName", device), wishes=wishes,
            max_kl=AGREES if max_kl is None else max_kl, trust_remote_code=trust_remote_code,
            watch=progress.watch,
        )  # fmt: skip
    if as_json:
        import json

        print(json.dumps(_document(done), indent=2))
        return
    for line in _lines(done):
        console.print(line, soft_wrap=True)


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
