"""`paredown prune`: `paredown compress` in the words of the pruning papers' scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paredown.cli import complete
from paredown.cli.options import with_settings
from paredown.spec.requests import CompressRequest
from paredown.spec.run import CALIBRATION

ENV_PREFIX = "PAREDOWN_PRUNE_"


@with_settings(CompressRequest, env_prefix=ENV_PREFIX, panel=CALIBRATION)
def prune(
    request: CompressRequest,
    *,
    prune_method: Annotated[
        str,
        typer.Option(
            "--prune-method",
            metavar="NAME",
            help="structured_afr, wanda, flap, ...: `paredown methods` lists them.",
            autocompletion=complete.function("methods"),
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="DIR", help="New folder; also --save-model."),
    ],
    pruning_ratio: Annotated[
        float | None,
        typer.Option(
            "--pruning-ratio", metavar="SHARE", help="Of neurons or weights; the method's default."
        ),
    ] = None,
    global_pruning: Annotated[
        bool,
        typer.Option(
            "--global-pruning", help="Compare the scores of all layers, not of one at a time."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Prune a model: `paredown compress` in the words of the pruning papers' scripts.

    Says the strategy that it means, and does what `paredown compress -s` does with it. Scripts'
    --dataset, --nsamples and --save-model are read as --data, --samples and --output.
    """
    from paredown.cli.compress import carry_out
    from paredown.report.console import make_console

    strategy = _strategy(prune_method, pruning_ratio, is_global=global_pruning)
    make_console(stderr=True).print(f"strategy: {strategy}", markup=False, soft_wrap=True)
    carry_out(request, strategy, output, as_json=as_json)


def _strategy(name: str, ratio: float | None, *, is_global: bool) -> str:
    """The words as one step.

    Raises:
        StrategyError: no such method.
        ConfigError: it does not prune, or has no such parameter.
    """
    from paredown.errors import ConfigError
    from paredown.methods import registry
    from paredown.methods.base import Kind
    from paredown.spec.strategy import Step

    method = registry.load(name)
    if method.kind is not Kind.PRUNING:
        raise ConfigError(f"{name} does not prune; use: paredown compress -s {name}")
    asked = ({} if ratio is None else {"ratio": ratio}) | ({"scope": "global"} if is_global else {})
    if missing := sorted(asked.keys() - method.params_type.model_fields.keys()):
        option = {"ratio": "--pruning-ratio", "scope": "--global-pruning"}[missing[0]]
        raise ConfigError(f"{name} has no {missing[0]}, so it takes no {option}")
    return str(Step(method=name, params=asked))
