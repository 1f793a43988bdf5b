"""What a report says of the bits of a recommended model, by layer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paredown.report.findings import Judged, find
from paredown.report.html import front_html
from paredown.report.markdown import report_markdown
from paredown.report.planned import plan_section, planned
from paredown.report.write import write_report
from paredown.spec.plan import PlanRecord, UnitPlan
from paredown.spec.result import TrialResult
from tests.report.report_samples import baseline, point, record

LAYER = "model.layers.{}.self_attn.{}"
PLAN = PlanRecord(
    parameters=1000,
    nbytes=500,
    kl=0.011,
    units=tuple(
        UnitPlan(layers=(LAYER.format(block, name),), option=option, nbytes=100, kl=0.002)
        for block in range(2)
        for name, option in (("q_proj", "3a64"), ("k_proj", "3a64"), ("v_proj", "6a64"))
    ),
)
ARTIFACT = "episode_001/artifact"


def judged(folder: Path, *, artifact: str | None = ARTIFACT) -> Judged:
    """A run in which a plan is recommended over a uniform model."""
    plan = point(1, "mixed(bpw=4.0)", 1.001, 0.25, 0.5, 0.4)
    other = point(2, "gptq(bits=4)", 1.2, 0.4, 0.6, 0.5)
    results: tuple[TrialResult, ...] = (
        baseline(), plan.model_copy(update={"artifact": artifact}), other,
    )  # fmt: skip
    made = record(folder, results)
    if artifact is not None:
        (folder / artifact).mkdir(parents=True)
        document = {"strategy": {}, "plan": PLAN.model_dump(mode="json")}
        (folder / artifact / "paredown.json").write_text(json.dumps(document))
    return find(made)


def test_the_plan_is_told_in_words_table_page_and_picture(tmp_path: Path) -> None:
    findings = judged(tmp_path / "x")
    assert findings.recommendation.episode == 1
    report = write_report(findings.record, "done")
    picture = tmp_path / "x" / "bits_by_layer.png"
    assert picture in report.files
    assert picture.read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "x" / "report.md").read_text()
    assert "(bits_by_layer.png)" in text
    # 3 bits more than usual: 0.002 x (4^3 - 1) = 0.126.
    assert "has 6 bits: with 3, as most layers have, it would cost about 0.13 nats" in text
    assert "| v | 2 | 2 in 6 | 0.004 |" in text
    assert "The forecast was a KL of 0.011 nats per token; measured were 0.01" in text
    page = (tmp_path / "x" / "pareto_visualization.html").read_text()
    assert "Bits by layer" in page
    assert 'id="bits"' in page
    assert "plotly" not in page


def test_without_a_plan_nothing_is_said(tmp_path: Path) -> None:
    for name, artifact in (("gone", ARTIFACT), ("none", None)):
        findings = judged(tmp_path / name, artifact=artifact)
        if artifact is not None:
            (tmp_path / name / artifact / "paredown.json").unlink()
        assert planned(findings) is None
        assert "Bits by layer" not in report_markdown(findings, None)
        assert "Bits by layer" not in front_html(findings)


def test_a_plan_without_a_forecast_is_a_table_all_the_same(tmp_path: Path) -> None:
    found = planned(judged(tmp_path / "x"))
    assert found is not None
    bare = PLAN.model_copy(
        update={"kl": None, "units": tuple(u.model_copy(update={"kl": None}) for u in PLAN.units)}
    )
    section = plan_section(type(found)(result=found.result, plan=bare))
    assert [row[0] for row in section.rows] == ["q", "k", "v"]
    assert len(section.lines) == 1


@pytest.mark.parametrize("kind", ["q", "v"])
def test_rows_count_layers_by_width(tmp_path: Path, kind: str) -> None:
    found = planned(judged(tmp_path / "x"))
    assert found is not None
    rows = {row[0]: row for row in plan_section(found).rows}
    assert rows[kind] == (kind, "2", "2 in 3" if kind == "q" else "2 in 6", "0.004")
