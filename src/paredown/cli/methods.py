"""`paredown methods`: every method, its parameters, and whether it can run here. No torch."""

from __future__ import annotations

from typing import Annotated

import typer

from paredown.cli import complete


def methods(
    name: Annotated[
        str | None,
        typer.Argument(
            help="Show this method's parameters.", autocompletion=complete.function("methods")
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """List the compression methods, or explain one.

    A strategy chains methods: 'structured_afr(ratio=0.1) > gptq(bits=4)'.
    """
    import json

    from paredown.methods import registry

    names = [name] if name is not None else list(registry.names())
    documents = [_document(n) for n in names]
    if as_json:
        print(json.dumps(documents if name is None else documents[0], indent=2))
    elif name is None:
        _print_list(documents)
    else:
        _print_one(documents[0])


def _document(name: str) -> dict[str, object]:
    from paredown.errors import MissingExtraError
    from paredown.methods import registry
    from paredown.spec.domain import domains

    method = registry.load(name)
    try:
        registry.require_extra(method)
        missing = None
    except MissingExtraError as error:
        missing = str(error)
    searched = {k: list(d.values) for k, d in domains(method.params_type).items()}
    schema = method.params_type.model_json_schema()
    return {
        "name": name,
        "kind": method.kind.value,
        "summary": method.summary,
        "needs_data": method.needs_data,
        "runtimes": list(registry.default_readers(method)),
        "missing": missing,
        "parameters": [
            {
                "name": key,
                "default": field.get("default"),
                "description": " ".join(field.get("description", "").split()),
                "searched": searched.get(key),
            }
            for key, field in schema.get("properties", {}).items()
        ],
    }


def _print_list(documents: list[dict[str, object]]) -> None:
    from rich.table import Table

    from paredown.report.console import make_console

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("method", "kind", "what it does", "loads in", "here"):
        table.add_column(title)
    for d in documents:
        runtimes = ", ".join(str(r) for r in d["runtimes"])  # type: ignore[attr-defined]
        here = "yes" if d["missing"] is None else "not installed"
        table.add_row(str(d["name"]), str(d["kind"]), str(d["summary"]), runtimes, here)
    make_console().print(table)


def _print_one(document: dict[str, object]) -> None:
    from rich.text import Text

    from paredown.report.console import make_console

    console = make_console()
    head = (str(document["name"]), "bold")
    console.print(Text.assemble(head, f" ({document['kind']}): {document['summary']}"))
    if document["missing"] is not None:
        console.print(str(document["missing"]), style="yellow")
    console.print(f"needs calibration text: {'yes' if document['needs_data'] else 'no'}")
    console.print(f"loads in: {', '.join(document['runtimes'])}")  # type: ignore[arg-type]
    for field in document["parameters"]:  # type: ignore[attr-defined]
        name = (field["name"], "bold")
        console.print(Text.assemble("\n  ", name, f" = {field['default']!r}"))
        console.print(f"    {field['description']}")
        if field["searched"]:
            console.print(f"    searched: {', '.join(map(str, field['searched']))}")
