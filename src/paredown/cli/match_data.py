"""What `paredown match` prints for programs: JSON with every range, CSV with a row per pair."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from paredown.hardware.catalogue import Figure
from paredown.hardware.estimate import Estimate
from paredown.hardware.here import Here
from paredown.hardware.matching import Fit, Stream, saved_by

if TYPE_CHECKING:
    from paredown.coordinate.serving import Matched

_FIGURES: tuple[Figure, ...] = ("memory", "bandwidth", "fp16")


def as_json(found: Matched) -> dict[str, Any]:
    """Everything, each estimate with its range and source."""
    from paredown.spec.serial import SCHEMA_VERSION

    kind = "stream" if isinstance(found.work, Stream) else "batch"
    return {
        "schema_version": SCHEMA_VERSION,
        "model": found.spec.name,
        "parameters": found.spec.parameters,
        "asked": {"kind": kind, **asdict(found.work)},
        "versions": [{"name": v.name, "bytes": v.nbytes, "rate": v.rate} for v in found.versions],
        "fits": [_fit_json(fit) for fit in found.fits],
        "refused": [
            {"device": r.device.name, "version": r.version.name, "reason": r.reason}
            for r in found.refused
        ],
        "here": [_here_json(h) for h in found.here],
        "saved": saved_by(found.fits),
        "notes": list(found.notes),
    }


def _fit_json(fit: Fit) -> dict[str, Any]:
    return {
        "version": fit.version.name,
        "device": fit.device.name,
        "runtime": fit.engine.name,
        "devices": fit.devices,
        "tensor_parallel": fit.layout.tensor,
        "pipeline_stages": fit.layout.stages,
        "copies": fit.copies,
        "batch": fit.batch,
        "memory_bytes": memory_json(fit.memory),
        "limit_bytes": fit.limit_bytes,
        "tight": fit.tight,
        "binds": fit.binds,
        "ttft_s": estimate_json(fit.ttft_s),
        "tpot_s": estimate_json(fit.tpot_s),
        "tokens_per_s": estimate_json(fit.tokens_per_s),
        "joules_per_token": estimate_json(fit.joules_per_token),
        "cost_usd": None if fit.cost is None else asdict(fit.cost),
        "figures": {figure: fit.device.known(figure) for figure in _FIGURES},
    }


def _here_json(here: Here) -> dict[str, Any]:
    return {
        "version": here.version.name, "runtime": here.engine.name,
        "memory_bytes": memory_json(here.memory), "free_bytes": here.free_bytes,
        "fits": here.fits, "ttft_s": estimate_json(here.ttft_s),
        "tpot_s": estimate_json(here.tpot_s),
    }  # fmt: skip


def memory_json(memory: Any) -> dict[str, Any]:
    """Every part of a prediction of memory, and the total."""
    parts = {name: estimate_json(getattr(memory, name)) for name in memory.__dataclass_fields__
             if name != "unknown"}  # fmt: skip
    return {**parts, "total": estimate_json(memory.total)}


def estimate_json(found: Estimate | None) -> dict[str, Any] | None:
    """Value, range and source; None where nothing is known."""
    return None if found is None else asdict(found)


def as_csv(found: Matched) -> str:
    """A row per version and device; numbers are values of estimates unless called exact."""
    rows = []
    for fit in found.fits:
        memory, cost = fit.memory, fit.cost
        total = memory.total
        rows.append({
            "version": fit.version.name, "device": fit.device.name, "runtime": fit.engine.name,
            "devices": fit.devices, "tensor_parallel": fit.layout.tensor,
            "pipeline_stages": fit.layout.stages, "copies": fit.copies, "batch": fit.batch,
            "weights_bytes_exact": round(memory.weights.value),
            "cache_bytes_exact": "" if memory.cache is None else round(memory.cache.value),
            "total_bytes": "" if total is None else round(total.value),
            "total_bytes_low": "" if total is None else round(total.low),
            "total_bytes_high": "" if total is None else round(total.high),
            "limit_bytes": round(fit.limit_bytes), "binds": fit.binds,
            "ttft_ms": "" if fit.ttft_s is None else f"{1e3 * fit.ttft_s.value:.4g}",
            "tpot_ms": f"{1e3 * fit.tpot_s.value:.4g}",
            "tokens_per_s": f"{fit.tokens_per_s.value:.4g}",
            "joules_per_token": "" if fit.joules_per_token is None
            else f"{fit.joules_per_token.value:.3g}",
            "usd_per_hour_low": "" if cost is None else f"{cost.hour_low:.4g}",
            "usd_per_hour_high": "" if cost is None else f"{cost.hour_high:.4g}",
            "usd_per_million_low": "" if cost is None else f"{cost.million_low:.4g}",
            "usd_per_million_high": "" if cost is None else f"{cost.million_high:.4g}",
            "price_of": "" if cost is None else cost.basis,
        })  # fmt: skip
    return csv_of(rows)


def csv_of(rows: Sequence[dict[str, Any]]) -> str:
    """A table with a row of names."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
