"""What a notebook shows of a model and of a result: names beside values, as HTML."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

from paredown.spec.units import Unit, human_bytes

if TYPE_CHECKING:
    from paredown.spec.model import ModelSpec
    from paredown.spec.result import TrialResult


def model_card(spec: ModelSpec) -> str:
    """What is known of a model."""
    active = f" ({spec.active_parameters:,} for a token)" if spec.experts else ""
    size = human_bytes(sum(tensor.nbytes for tensor in spec.tensors))
    return _table(spec.name, {
        "architecture": spec.architecture, "parameters": f"{spec.parameters:,}{active}",
        "stored": f"{size}, {spec.dtype}", "quantized": spec.quantization, "layers": spec.layers,
        "hidden size": spec.hidden_size, "MLP": spec.intermediate_size, "heads": spec.heads,
        "key-value heads": spec.kv_heads, "experts": spec.experts, "vocabulary": spec.vocabulary,
        "context": spec.context, "not known": ", ".join(spec.unknown) or None,
    })  # fmt: skip


def result_card(result: TrialResult) -> str:
    """What came of a trial: every number, or why there is none."""
    told: dict[str, object] = {"status": result.status}
    if result.failure is not None:
        told["cause"] = f"{result.failure.kind}: {result.failure.message}"
    for m in result.measurements:
        value = human_bytes(m.value) if m.unit is Unit.BYTES else f"{m.value:.4g} {m.unit.value}"
        spread = "" if m.stderr is None else f" (standard error {m.stderr:.2g}, n = {m.n})"
        told[m.name.replace("_", " ")] = f"{value}{spread}"
    told["missed"] = "; ".join(result.unmet) or None
    return _table(f"{result.episode}: {result.label}", told)


def _table(title: str, values: Mapping[str, object]) -> str:
    rows = "\n".join(
        f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>"
        for name, value in values.items()
        if value is not None
    )
    return f"<table>\n<caption>{escape(title)}</caption>\n{rows}\n</table>"
