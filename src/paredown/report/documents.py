"""The contents of pareto_frontier.json, final_results.json and report.json."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from paredown.judge.limits import in_limits, missed
from paredown.judge.quantities import loss, quantity
from paredown.judge.undecided import undecided
from paredown.report.cost import as_json, llm_cost, refusals, search_cost
from paredown.report.energy import energy_document
from paredown.report.engines import all_engines
from paredown.report.findings import Judged
from paredown.spec.result import TrialResult
from paredown.spec.run import Objective
from paredown.spec.serial import SCHEMA_VERSION, plain
from paredown.store.experiment import ExperimentRecord
from paredown.store.state import State


def front_document(findings: Judged) -> dict[str, Any]:
    """pareto_frontier.json: objectives, and the results on the front with their measurements."""
    front, chosen = findings.front, findings.recommendation
    rows = {objective: quantity(objective, findings.baseline) for objective in front.objectives}
    return {
        "schema_version": SCHEMA_VERSION,
        "objectives": [
            {
                "objective": objective,
                "measurement": row.measurement,
                "direction": row.direction,
                "relative_resolution": row.resolution,
            }
            for objective, row in rows.items()
        ],
        "compared": list(front.compared),
        "knee": front.knee,
        "recommended": _chosen(findings.result(chosen.episode), chosen.reason, findings),
        "runner_up": _chosen(findings.result(chosen.runner_up), chosen.runner_up_reason, findings),
        "recommendation": chosen.reason,
        "front": [_entry(result, findings) for result in findings.on_front],
    }


def final_document(findings: Judged, stop_reason: str | None) -> dict[str, Any]:
    """final_results.json: the experiment in one page; `stop_reason` None while it is running."""
    record, chosen = findings.record, findings.recommendation
    recommended = findings.result(chosen.episode)
    runner_up = findings.result(chosen.runner_up)
    nearest = findings.result(chosen.nearest)
    llm = llm_cost(record.events)
    return {
        "schema_version": SCHEMA_VERSION,
        "experiment": record.name,
        "model": record.config.model,
        "stop_reason": stop_reason,
        "baseline": None if findings.baseline is None else _entry(findings.baseline, findings),
        "best": {o: _best(o, findings) for o in findings.front.objectives},
        "front": list(findings.front.episodes),
        "knee": findings.front.knee,
        "recommended": _chosen(recommended, chosen.reason, findings),
        "runner_up": _chosen(runner_up, chosen.runner_up_reason, findings),
        "recommendation": chosen.reason,
        "limits": {
            "asked": plain(record.config.limits),
            "in_words": in_limits(record.config.limits),
            "met": chosen.meets_limits,
            "nearest": _nearest(nearest, findings),
        },
        "across_engines": _across(findings),
        "open": [asdict(each) for each in undecided(findings.findings)],
        "cost": {
            **as_json(search_cost(record)),
            "llm": None if llm is None else asdict(llm),
            **energy_document(findings),
        },
    }


def whole_document(findings: Judged, state: State, stop_reason: str | None) -> dict[str, Any]:
    """report.json: everything that the experiment's folder says, for machines."""
    record, front = findings.record, front_document(findings)
    refused: dict[str, list[str]] = {}
    for strategy, reason in refusals(record):
        refused.setdefault(reason, []).append(strategy)
    return {
        **final_document(findings, stop_reason),
        "state": state,
        "folder": str(record.folder),
        "config": plain(record.config),
        "front": front["front"],
        "objectives": front["objectives"],
        "episodes": plain(record.results),
        "refused": [{"reason": reason, "strategies": names} for reason, names in refused.items()],
    }


def stop_reason_of(record: ExperimentRecord, state: State) -> str | None:
    """Why a run ended, in its own words; None: it has not, or was killed."""
    reason = (record.final or {}).get("stop_reason") if state == "finished" else None
    return reason if isinstance(reason, str) else None


def _across(findings: Judged) -> dict[str, Any] | None:
    """What to take of all engines; None where there is one only."""
    judged = all_engines(findings)
    if judged is None:
        return None
    chosen = judged.chosen
    return {
        "front": [
            {"runtime": p.runtime, "episode": p.result.episode} for p in judged.points if p.on_front
        ],
        "recommended": None
        if chosen is None
        else {"runtime": chosen.runtime, "episode": chosen.result.episode},
        "reason": judged.reason,
    }


def _entry(result: TrialResult, findings: Judged) -> dict[str, Any]:
    return {
        "episode": result.episode,
        "strategy": plain(result.strategy),
        "label": result.label,
        "kind": result.kind,
        "quality_loss_percent": loss(result, findings.baseline),
        "unmet": list(result.unmet),
        "artifact": result.artifact,
        "measurements": plain(result.measurements),
    }


def _best(objective: Objective, findings: Judged) -> dict[str, Any] | None:
    """The best compressed result in one objective."""
    result = findings.findings.best(objective)
    measurement = (
        None if result is None else quantity(objective, findings.baseline).measured(result)
    )
    if result is None or measurement is None:
        return None
    return {
        "episode": result.episode,
        "label": result.label,
        "measurement": measurement.name,
        "value": measurement.value,
        "unit": measurement.unit.value,
        "stderr": measurement.stderr,
    }


def _chosen(result: TrialResult | None, reason: str, findings: Judged) -> dict[str, Any] | None:
    if result is None:
        return None
    return {
        "episode": result.episode,
        "label": result.label,
        "reason": reason,
        "quality_loss_percent": loss(result, findings.baseline),
        "artifact": result.artifact,
    }


def _nearest(result: TrialResult | None, findings: Judged) -> dict[str, Any] | None:
    if result is None:
        return None
    misses = missed(result, findings.baseline, findings.record.config.limits)
    return {
        "episode": result.episode,
        "label": result.label,
        "missed": [{"limit": m.asked, "seen": m.has, "accepted_by": m.mend} for m in misses],
    }
