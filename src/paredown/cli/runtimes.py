"""`paredown runtimes`: the engines, what each holds and joins, and whether it is here. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from paredown.spec.target import Device


def runtimes(
    name: Annotated[str | None, typer.Argument(help="Show all that this runtime holds.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
    install: Annotated[
        bool,
        typer.Option(
            "--install",
            help="Make the environment of its own that this runtime lives in (vllm: minutes, 3 GB "
            "and more).",
        ),
    ] = False,
    torch_index: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="With --install: index of PyTorch's wheels, beside the usual one."
        ),
    ] = None,
) -> None:
    """List the engines that artifacts are made for, or explain one.

    A run is made for one of them: 'paredown run -m MODEL --runtime transformers'.
    """
    import json

    if install:
        _install(name, torch_index)
        return

    from paredown.runtimes import registry

    names = [name] if name is not None else list(registry.names())
    documents = [_document(n) for n in names]
    if as_json:
        print(json.dumps(documents if name is None else documents[0], indent=2))
    elif name is None:
        _print_list(documents)
    else:
        _print_one(documents[0])


def _install(name: str | None, index: str | None) -> None:
    from paredown.errors import ConfigError
    from paredown.hardware.detect import detect
    from paredown.runtimes import registry
    from paredown.runtimes.vllm import environment

    if name != "vllm":
        needs = None if name is None else registry.load(name).needs
        mend = (
            f"{name} comes with pip install 'paredown[{needs.extra}]'"
            if needs is not None and needs.extra
            else "name it: paredown runtimes vllm --install"
        )
        raise ConfigError(f"--install: only vllm lives in an environment of its own; {mend}")
    device: Device = "cuda" if detect().gpus else "cpu"
    made = environment.make(device, index=index, tell=typer.echo)
    typer.echo(f"vLLM {made.version} is ready: {made.python}")


def _document(name: str) -> dict[str, Any]:
    from paredown.runtimes import registry
    from paredown.runtimes.base import Engine
    from paredown.spec.reference import plain_model

    runtime, spec = registry.load(name), plain_model()
    units = runtime.joins(spec)
    return {
        "name": name,
        "summary": runtime.summary,
        "source": runtime.source,
        "engine": isinstance(runtime, Engine),
        "devices": list(runtime.needs.devices),
        "missing": runtime.needs.missing(),
        "holds": _held(runtime),
        "two_level": _two_level(runtime),
        # Of one block: the others are joined alike.
        "joins": [
            [layer.rpartition(".")[2] for layer in unit.layers]
            for unit in units
            if len(unit.layers) > 1 and ".layers.0." in unit.layers[0]
        ],
    }


def _held(runtime: Any) -> list[dict[str, Any]]:
    """The integer grids that a linear layer may be stored on, by bits and symmetry."""
    from paredown.runtimes.base import GROUPS
    from paredown.spec.layers import LayerUnit, grid_option
    from paredown.spec.reference import plain_model

    spec = plain_model()
    unit = LayerUnit((spec.structure.linears[-1],))
    found = []
    for bits in range(2, 9):
        for symmetric in (True, False):
            groups = [
                group
                for group in GROUPS
                if runtime.holds(
                    spec, unit, grid_option(bits, group, symmetric=symmetric, scale_dtype="BF16")
                ).holds
            ]
            if groups:
                found.append({"bits": bits, "symmetric": symmetric, "groups": groups})
    return found


def _two_level(runtime: Any) -> list[int]:
    """Bits of the two-level grids that a linear layer may be stored on."""
    from paredown.spec.layers import LayerUnit, superblock_option
    from paredown.spec.reference import plain_model
    from paredown.spec.superblocks import SUPER_LAYOUTS

    spec = plain_model()
    unit = LayerUnit((spec.structure.linears[-1],))
    return [
        bits for bits in SUPER_LAYOUTS if runtime.holds(spec, unit, superblock_option(bits)).holds
    ]


def _print_list(documents: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("runtime", "what it is", "holds", "measured in", "here"):
        table.add_column(title)
    for d in documents:
        here = "yes" if d["missing"] is None else "not installed"
        measured = "yes" if d["engine"] else "no"
        table.add_row(d["name"], d["summary"], _in_short(d["holds"]), measured, here)
    Console(highlight=False).print(table)


def _in_short(held: list[dict[str, Any]]) -> str:
    """`4, 8 bits symmetric; 4 asymmetric`, or `2-8 bits` where both are alike and without gaps."""
    bits = {
        symmetric: [grid["bits"] for grid in held if grid["symmetric"] is symmetric]
        for symmetric in (True, False)
    }
    whole = list(range(2, 9))
    if bits[True] == bits[False] == whole:
        return "2-8 bits"
    said = {True: "bits symmetric", False: "asymmetric"}
    parts = (f"{', '.join(map(str, b))} {said[symmetric]}" for symmetric, b in bits.items() if b)
    return "; ".join(parts)


def _print_one(document: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False)
    console.print(f"[bold]{document['name']}[/bold]: {escape(document['summary'])}")
    if document["missing"] is not None:
        console.print(f"[yellow]{escape(document['missing'])}[/yellow]")
    console.print(f"runs on: {', '.join(document['devices'])}")
    console.print(f"models are measured in it: {'yes' if document['engine'] else 'no'}")
    console.print(f"how it is known: {escape(document['source'])}")
    joins = ["+".join(layers) for layers in document["joins"]]
    console.print(f"joins: {', '.join(joins) or 'nothing'}")
    console.print("holds, of a linear layer of a plain model:")
    for grid in document["holds"]:
        word = "symmetric" if grid["symmetric"] else "asymmetric"
        groups = ", ".join("a row" if group < 0 else str(group) for group in grid["groups"])
        console.print(f"  {grid['bits']} bits {word}, groups of {groups}")
    if document["two_level"]:
        bits = ", ".join(map(str, document["two_level"]))
        console.print(f"  {bits} bits on two-level grids, in super-blocks of 256")
