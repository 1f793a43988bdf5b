"""`paredown steer`: a command for a run that goes on, through its folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

_LOOK_S = 0.2


def steer(
    folder: Annotated[Path, typer.Argument(help="Folder of the experiment.", show_default=False)],
    command: Annotated[
        list[str],
        typer.Argument(
            metavar="COMMAND...",
            help="As typed into `paredown run --interactive`: exclude gptq, pause, help.",
            show_default=False,
        ),
    ],
    wait: Annotated[
        float, typer.Option("--wait", min=0, metavar="SECONDS", help="For the answer, at most.")
    ] = 30.0,
) -> None:
    """Ask something of a run that goes on; its answer is printed.

    Works from any machine that can write into the folder. Quote strategies:
    paredown steer DIR 'try gptq(bits=3)'.
    """
    from paredown.spec.steering import COMMANDS

    text = " ".join(command)
    if text.strip() == "help":
        for name, what in COMMANDS.items():
            print(f"{name:<16}{what}")
        return
    from paredown.store.commands import answer_to, send
    from paredown.store.events import EventReader

    sent = send(folder, text)
    log = EventReader(folder / "events.jsonl")
    until = time.monotonic() + wait
    while True:
        answer = answer_to(sent, log.read())
        if answer is not None:
            print(answer)
            return
        if time.monotonic() >= until:
            break
        time.sleep(_LOOK_S)
    typer.echo(f"sent; no answer within {wait:g} s: it will stand in events.jsonl", err=True)
    raise typer.Exit(1)
