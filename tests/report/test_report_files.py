from __future__ import annotations

import csv
import json
import re
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from paredown.report.chart import chart_svg, dots, objectives_shown, tip
from paredown.report.cost import refusals, search_cost
from paredown.report.documents import final_document, front_document
from paredown.report.episodes import SHOWN
from paredown.report.figures import points, search_space_png
from paredown.report.findings import find
from paredown.report.html import front_html
from paredown.report.markdown import report_markdown
from paredown.report.tables import EPISODE_COLUMNS, FRONT_COLUMNS
from paredown.report.write import write_progress_files, write_report
from paredown.spec.model import VisionSpec
from paredown.spec.result import LoadsIn, TrialResult
from paredown.store.experiment import read_experiment
from tests.report.report_samples import (
    baseline,
    failed,
    findings,
    measurement,
    ok,
    point,
    record,
    scored,
    several,
)

HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)>`|$a$ [b](c) %{y}'
CASES: dict[str, tuple[TrialResult, ...]] = {
    "nothing": (),
    "baseline only": (baseline(),),
    "only failures": (failed(0), failed(1), failed(2)),
    "baseline and failures": (baseline(), failed(1)),
    "one point": several()[:2],
    "ties": (baseline(), *(ok(i, "bf16", {m.name: m.value for m in baseline().measurements})
                           for i in (1, 2))),
    "several": several(),
    "no baseline": several()[1:],
    "missing measurements": (baseline(), ok(1, "int8", {"perplexity": 21.0}),
                             ok(2, "int8", {"size": 1e6}), ok(3, "int8", {})),
    "a wreck": (baseline(), point(1, "rtn(bits=2)", 1e7, 0.2, 0.5, 0.5)),
}  # fmt: skip


class Tags(HTMLParser):
    """Every start tag with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.mark.parametrize("name", CASES)
def test_every_case_writes_every_file(name: str, tmp_path: Path) -> None:
    experiment = record(tmp_path / "x", CASES[name])
    report = write_report(experiment, "all episodes done")
    assert sorted(f.name for f in report.files) == [
        "final_results.json", "pareto_frontier.json", "pareto_visualization.html", "report.json",
        "report.md", "search_history.csv", "search_history_long.csv", "search_space_analysis.png",
    ]  # fmt: skip
    assert all(f.stat().st_size > 0 for f in report.files)
    assert not list((tmp_path / "x").glob(".*.*"))  # no temporary file is left
    final = read_experiment(tmp_path / "x").final
    assert final is not None
    assert final["stop_reason"] == "all episodes done"
    whole = json.loads((tmp_path / "x" / "report.json").read_text())
    assert (whole["state"], whole["stop_reason"]) == ("finished", "all episodes done")
    assert len(whole["episodes"]) == len(CASES[name])


def test_final_results_hold_the_whole_answer(tmp_path: Path) -> None:
    events: tuple[dict[str, Any], ...] = ({"event": "refused", "strategy": "a", "reason": "b"},)
    write_report(
        record(tmp_path / "x", several(), events=events, limits={"target_ratio": 2.5}), "x"
    )
    final = json.loads((tmp_path / "x" / "final_results.json").read_text())
    assert final["schema_version"] == 1
    assert final["baseline"]["episode"] == 0
    assert {k: v["episode"] for k, v in final["best"].items()} == {
        "quality": 1, "size": 3, "latency": 3, "memory": 3,
    }  # fmt: skip
    assert (final["knee"], final["front"]) == (2, [0, 1, 2, 3])
    assert final["recommended"]["episode"] == 2
    assert final["recommended"]["quality_loss_percent"] == pytest.approx(4.0)
    assert final["runner_up"]["episode"] == 3
    assert (final["limits"]["met"], final["limits"]["nearest"]) == (True, None)
    assert final["cost"] == {
        "wall_s": 53.0, "compress_s": 20.0, "evaluate_s": 25.0, "episodes_ok": 4,
        "episodes_failed": 1, "refused": 1, "overhead_share": pytest.approx(8 / 53, abs=1e-4),
        "llm": None,
        "energy": None,
        "payback": {
            "tokens": None, "in_words": "not known: the energy of the search was not metered",
        },
    }  # fmt: skip


def test_limits_nobody_meets_are_in_every_report(tmp_path: Path) -> None:
    experiment = record(tmp_path / "x", several(), limits={"min_speedup": 10})
    write_report(experiment, "all episodes done")
    final = json.loads((tmp_path / "x" / "final_results.json").read_text())
    assert (final["recommended"], final["limits"]["met"]) == (None, False)
    assert final["limits"]["nearest"]["episode"] == 3
    assert final["limits"]["nearest"]["missed"] == [
        {"limit": "speed-up >= 10x", "seen": "2.00x", "accepted_by": "--min-speedup 2.0"}
    ]
    assert (
        "No recommendation:** no result meets the limits"
        in (tmp_path / "x" / "report.md").read_text()
    )


def test_frontier_and_history_agree(tmp_path: Path) -> None:
    write_progress_files(record(tmp_path / "x", several()))
    frontier = json.loads((tmp_path / "x" / "pareto_frontier.json").read_text())
    assert [o["measurement"] for o in frontier["objectives"]] == [
        "perplexity", "size", "decode_latency", "peak_memory",
    ]  # fmt: skip
    assert frontier["front"][1]["measurements"] == [
        m.model_dump(mode="json") for m in several()[1].measurements
    ]
    with (tmp_path / "x" / "search_history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(r["episode"]) for r in rows if r["on_front"] == "1"] == [
        entry["episode"] for entry in frontier["front"]
    ]
    assert not (tmp_path / "x" / "final_results.json").exists()


def test_pauses_before_a_resume_cost_nothing(tmp_path: Path) -> None:
    experiment = record(tmp_path / "x", (baseline(),))
    (tmp_path / "x" / "events.jsonl").write_text(
        '{"event":"started","time":100}\n{"event":"proposed","time":160}\n'
        '{"event":"started","time":9000}\n{"event":"ended","time":9040}\n'
    )
    assert search_cost(read_experiment(experiment.folder)).wall_s == 100.0


def test_the_page_needs_no_network_and_has_a_chart_for_each_quantity(tmp_path: Path) -> None:
    page = front_html(findings(tmp_path / "x", several()))
    tags = Tags(page).found
    away = [a[n] for _, a in tags for n in ("src", "href") if n in a]
    assert all(to is not None and to.startswith("#") for to in away)
    assert "default-src 'none'" in page
    charts = [a["id"] for t, a in tags if t == "section" and (a["id"] or "").startswith("chart-")]
    assert charts == ["chart-size", "chart-latency", "chart-memory"]
    assert len(page) < 100_000


def test_each_point_leads_to_its_episode(tmp_path: Path) -> None:
    tags = Tags(front_html(findings(tmp_path / "x", several()))).found
    ids = [a["id"] for _, a in tags if "id" in a]
    assert len(ids) == len(set(ids))
    links = {(a["href"] or "")[1:] for t, a in tags if t == "a"}
    assert {"episode-0", "episode-3"} <= links <= set(ids)


def test_a_tip_has_five_lines_at_most(tmp_path: Path) -> None:
    found = findings(tmp_path / "x", several())
    told = tip(found.record.results[3].model_copy(update={"unmet": ("a > b", "c > d", "e")}), found)
    assert told.splitlines()[0] == "episode 3, l2_structured(ratio=0.2) > gptq(bits=4)"
    assert told.splitlines()[1].startswith("quality loss +60.0 % ± ")
    assert "2.00x as fast" in told
    assert len(told.splitlines()) <= 5
    assert tip(found.record.results[0], found) == "the uncompressed model"


def test_the_chart_shows_paired_speed_and_limits(tmp_path: Path) -> None:
    """Latencies that were taken hours apart are no comparison."""
    found = findings(tmp_path / "x", several(), limits={"min_speedup": 1.5, "target_ratio": 2})
    base = found.baseline
    assert base is not None
    assert base.latency_ms is not None
    for dot in dots(found, "latency")[1:]:
        assert dot.x == pytest.approx(base.latency_ms / (dot.result.value("speedup") or 0))
    assert chart_svg(found, "latency").count('<path class="limit"') == 1
    assert "speed-up &gt;= 1.5x" in chart_svg(found, "latency")
    assert "speed-up" not in chart_svg(found, "size")
    assert chart_svg(found, "memory").count('<path class="limit"') == 0


def test_a_page_of_very_many_episodes_stays_small(tmp_path: Path) -> None:
    many = tuple(
        ok(n, f"gptq(bits={n % 7 + 2})", {"perplexity": 20 + n / 9, "size": 1e8 - 1e4 * n})
        for n in range(1, 600)
    )
    page = front_html(findings(tmp_path / "x", (baseline(), *many)))
    assert page.count("<details") <= SHOWN
    assert len(page) < 1_500_000


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    results = (
        baseline(),
        point(1, "int8", 1.0, 0.5, 0.5, 0.5).model_copy(
            update={"label": HOSTILE, "unmet": (HOSTILE,), "notes": (HOSTILE,)}
        ),
        failed(2, message=HOSTILE).model_copy(update={"label": HOSTILE}),
    )
    found = findings(tmp_path / "x", results, model=HOSTILE, data=HOSTILE)
    page = front_html(found)
    tags = Tags(page).found
    assert not [t for t, _ in tags if t == "img"]
    # As text that is shown it may stand; nothing is done with it.
    assert "alert(" not in "".join(f"{t}{a}" for t, a in tags if "data-tip" not in a)
    assert not [a for _, a in tags if any(name.startswith("on") for name in a)]
    assert "<script>alert" not in page
    report = report_markdown(found, HOSTILE)
    outside_code = re.sub(r"```.*?```|`[^`\n]*`", "", report, flags=re.DOTALL)
    assert "<" not in outside_code
    assert "[b](c)" not in outside_code
    rows = [line for line in report.splitlines() if line.startswith("| 1 \\*")]
    cells = [len(re.findall(r"(?<!\\)\|", row)) - 1 for row in rows]
    unfilled = 2  # no benchmark, and no energy that was measured
    assert cells == [len(FRONT_COLUMNS) - unfilled, len(EPISODE_COLUMNS) - unfilled]
    assert search_space_png(found).startswith(b"\x89PNG")


def test_a_name_that_the_font_lacks_is_no_warning(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    search_space_png(findings(tmp_path / "x", several(), model="模型 🙂"))
    assert not [w for w in recwarn if "Glyph" in str(w.message)]


def test_the_figure_shows_what_has_ratio_and_loss(tmp_path: Path) -> None:
    shown = points(findings(tmp_path / "x", several()))
    assert [p.result.episode for p in shown] == [0, 1, 2, 3, 4]
    assert [p.on_front for p in shown] == [True] * 4 + [False]
    assert shown[0].loss_half == 0.0
    assert shown[2].loss == pytest.approx(4.0)
    assert shown[2].loss_half == pytest.approx(1.96 * 1.04)  # 1 % of 20.8, over the baseline's 20


CHECKED = (LoadsIn(runtime="transformers", known="checked"),)


def test_the_report_says_how_to_load_what_was_kept(tmp_path: Path) -> None:
    kept = several()[2].model_copy(update={"artifact": "episode_002/artifact"})
    results = (*several()[:2], kept)
    report = report_markdown(findings(tmp_path / "x", results), "all episodes done")
    assert "**Take episode 2, `gptq(bits=4)`**: the smallest artifact" in report
    assert "model = paredown.load('episode_002/artifact')" in report
    assert "AutoModelForCausalLM" not in report
    checked = kept.model_copy(update={"loads_in": CHECKED})
    report = report_markdown(findings(tmp_path / "y", (*several()[:2], checked)), None)
    assert "AutoModelForCausalLM.from_pretrained('episode_002/artifact'" in report
    assert "AutoModelForImageTextToText" not in report


def test_a_model_that_sees_is_loaded_by_its_own_class(tmp_path: Path) -> None:
    kept = several()[2].model_copy(update={"artifact": "episode_002/artifact", "loads_in": CHECKED})
    found = findings(tmp_path / "x", (*several()[:2], kept))
    vision = VisionSpec(
        model_type="clip", layers=2, hidden_size=8, intermediate_size=16, parameters=9
    )
    sees = found.record.spec.model_copy(update={"vision": vision})
    record = replace(found.record, spec=sees)
    report = report_markdown(replace(found, record=record), None)
    assert "from transformers import AutoModelForImageTextToText" in report
    assert "AutoModelForImageTextToText.from_pretrained('episode_002/artifact'" in report
    assert "AutoModelForCausalLM" not in report


def test_a_refusal_said_again_at_a_resume_counts_once(tmp_path: Path) -> None:
    event = {"event": "refused", "strategy": "a", "reason": "b"}
    experiment = record(tmp_path / "x", (baseline(),), events=(event, event))
    assert refusals(experiment) == [("a", "b")]


def test_the_machine_is_told_in_units_for_people(tmp_path: Path) -> None:
    experiment = record(tmp_path / "x", (baseline(),))
    machine = {"memory_bytes": 16e9, "flags": [], "gpus": [{"name": "G", "memory_bytes": 80e9}]}
    known = replace(experiment, run={"hardware": machine})
    report = report_markdown(find(known), None)
    assert "- memory: 16.0 GB\n- flags: -\n- gpus: name G, memory 80.0 GB\n" in report


def test_the_report_says_how_to_make_again_what_was_not_kept(tmp_path: Path) -> None:
    report = report_markdown(findings(tmp_path / "x", several(), model="my model"), None)
    assert "paredown compress -m 'my model' -s 'gptq(bits=4)' --data " in report


def test_the_report_lists_failures_refusals_protocols_and_versions(tmp_path: Path) -> None:
    event = {"event": "refused", "strategy": "gptq > rtn", "reason": "quantized only once"}
    experiment = record(tmp_path / "x", several(), events=(event,))
    write_report(experiment, "time budget used up")
    report = (tmp_path / "x" / "report.md").read_text()
    for text in (
        "out\\_of\\_memory in compress: used more than 2.0 GB",
        "| `gptq > rtn` | quantized only once |",
        "protocol of decode\\_latency",
        "- torch: 2.10",
        "- cores: 2",
        "limits: none",
        "ended because: time budget used up",
    ):
        assert text in report


def test_writing_is_quick(tmp_path: Path) -> None:
    experiment = record(tmp_path / "x", several())
    write_report(experiment, "warm-up: imports")
    start = time.process_time()  # not of the clock: other processes may be at work
    write_report(experiment, "all episodes done")
    assert time.process_time() - start < 3


def test_a_named_benchmark_is_what_files_show(tmp_path: Path) -> None:
    results = (scored(baseline(), 0.6), scored(point(1, "int8", 1.01, 0.55, 0.9, 0.7), 0.57))
    found = findings(tmp_path, results)
    # Of the score, not of the perplexity: 0.57 of 0.6.
    assert [d.loss for d in dots(found, "size")] == pytest.approx([0.0, 5.0])
    write_progress_files(found.record)
    with (tmp_path / "search_history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["accuracy"] for row in rows] == ["0.6", "0.57"]
    assert [row["gsm8k"] for row in rows] == ["0.6", "0.57"]
    assert float(rows[1]["quality"]) == pytest.approx(0.95)
    front = front_document(found)
    assert front["objectives"][0]["measurement"] == "quality"
    assert front["objectives"][0]["direction"] == "maximize"
    assert front["objectives"][1]["direction"] == "minimize"
    assert front["front"][1]["quality_loss_percent"] == pytest.approx(5.0)
    text = report_markdown(found, "done")
    assert "| # | strategy | accuracy | perplexity | loss |" in text
    assert "| +5.0 % ± 8.3% |" in text
    best = final_document(found, "done")["best"]["quality"]
    assert (best["measurement"], best["value"]) == ("quality", pytest.approx(0.95))
    assert search_space_png(found) != search_space_png(findings(tmp_path / "b", several()[:2]))


def test_energy_is_a_column_and_a_panel_where_it_was_measured(tmp_path: Path) -> None:
    def used(result: TrialResult, joules: float, source: str) -> TrialResult:
        new = measurement("energy", joules).model_copy(update={"source": source})
        return result.model_copy(update={"measurements": (*result.measurements, new)})

    results = (baseline(), point(1, "int8", 1.01, 0.55, 0.9, 0.7))
    for source, shown in (("measured", True), ("estimated", False)):
        found = findings(tmp_path / source, tuple(used(r, 2.0, source) for r in results))
        assert ("energy" in objectives_shown(found)) is shown
        assert ("| J/token |" in report_markdown(found, "done")) is shown
        assert ('id="chart-energy"' in front_html(found)) is shown
