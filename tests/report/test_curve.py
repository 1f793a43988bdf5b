"""The files of a curve: what stands in the table, and what is not called a gain."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Literal

from paredown.report.curve import chosen, lines, quality_of, rows, write_curve
from paredown.spec.front import CurveRecord, FrontPoint
from paredown.spec.plan import PlanRecord, UnitPlan
from paredown.spec.result import Measurement
from paredown.spec.units import Unit


def measured(name: str, value: float, unit: Unit, stderr: float | None) -> Measurement:
    return Measurement(
        name=name, value=value, unit=unit, n=1 if stderr is None else 8, stderr=stderr,
        lower_is_better=True, source="measured", how="",
    )  # fmt: skip


def point(name: str, size: float, kl: float, stderr: float, forecast: float | None) -> FrontPoint:
    unit = UnitPlan(layers=("model.layers.0.mlp.up_proj",), option="4a64", nbytes=1, kl=0.1)
    plan = PlanRecord(parameters=1_000_000, nbytes=int(size), kl=forecast, units=(unit,))
    kind: Literal["uniform", "mixed"] = "uniform" if forecast is None else "mixed"
    found = (
        measured("kl", kl, Unit.NATS_PER_TOKEN, stderr),
        measured("size", size, Unit.BYTES, None),
    )
    return FrontPoint(name=name, kind=kind, plan=plan, measurements=found)


FAILED = point("mixed-04", 5e5, 1.0, 0.0, 0.1).model_copy(
    update={"measurements": (), "failure": "out of memory"}
)
RECORD = CurveRecord(
    request={}, model="<m>", model_sha256="0",
    points=(
        point("uniform-01", 4e5, 0.4, 0.001, None),
        point("uniform-02", 8e5, 0.1, 0.001, None),
        point("mixed-01", 4e5, 0.3, 0.001, 0.33),
        point("mixed-02", 6e5, 0.15, 0.02, 0.15),
        point("mixed-03", 9e5, 0.05, 0.001, 0.05),
        FAILED,
    ),
)  # fmt: skip


def test_a_gain_is_told_only_where_it_is_sure() -> None:
    found = {row.point.name: row.gain for row in rows(RECORD)}
    first, second = found["mixed-01"], found["mixed-02"]
    assert first is not None
    assert first.is_sure
    assert second is not None
    assert not second.is_sure
    assert found["mixed-03"] is None  # larger than any uniform model
    text = "\n".join(lines(RECORD))
    assert "KL x 0.75\n" in text
    assert "no sure gain" in text
    assert "mixed-04: out of memory" in text
    drawn = chosen(RECORD)
    assert drawn is not None
    assert drawn.name == "mixed-01"


def test_the_forecast_is_compared_with_what_was_measured() -> None:
    found = quality_of(RECORD)
    assert (found.n, found.rank_correlation) == (3, 1.0)
    assert found.median_error == 0.0
    assert "rank correlation 1.00, median error 0 % over 3 plans" in "\n".join(lines(RECORD))


def test_files_can_be_read_again(tmp_path: Path) -> None:
    write_curve(tmp_path, RECORD)
    read = CurveRecord.model_validate(json.loads((tmp_path / "front.json").read_text()))
    assert read == RECORD
    table = list(csv.DictReader((tmp_path / "front.csv").read_text().splitlines()))
    assert [row["point"] for row in table] == [row.point.name for row in rows(RECORD)]
    assert float(table[2]["bits_per_weight"]) == 3.2
    assert table[3]["gain"] == "False"
    assert PlanRecord.read(tmp_path / "plans" / "mixed-04.json") == FAILED.plan
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    told = (tmp_path / "report.md").read_text()
    assert "plans/mixed-01.json" in told
    assert "KL x 0.75" in told
    page = (tmp_path / "front.html").read_text()
    assert "&lt;m&gt;" in page
    assert "<m>" not in page.replace("&lt;m&gt;", "").split("<script")[0]


def test_no_picture_before_all_points_are_done(tmp_path: Path) -> None:
    waiting = FAILED.model_copy(update={"failure": None})
    write_curve(tmp_path, RECORD.model_copy(update={"points": (*RECORD.points[:5], waiting)}))
    assert (tmp_path / "front.json").exists()
    assert not (tmp_path / "front.png").exists()
