"""What the dashboard reads: the run's own numbers, none worked out a second way. No Streamlit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import paredown
from paredown.dashboard.access import is_local_name, is_right, token_for
from paredown.dashboard.axes import axes, limit_lines
from paredown.dashboard.episode import LOG_BYTES, detail, flips, log_tail
from paredown.dashboard.files import Files
from paredown.dashboard.parallel import best_rows, parallel_plot
from paredown.dashboard.plots import MANY, front_plot
from paredown.dashboard.queries import experiment_folders, overview
from paredown.dashboard.server import options
from paredown.dashboard.summary import Summary, last_method, summarise
from paredown.errors import ConfigError, ExperimentError
from paredown.judge.words import half_width, number
from paredown.report.findings import find
from paredown.store.experiment import Experiment, read_experiment
from paredown.store.history import HISTORY_FILE
from tests.dashboard.folders import at_work, failed_only, many, with_plan
from tests.report.report_samples import baseline, point, record, scored

TRIALS = 30
LIMITS = {"max_accuracy_loss": 10, "target_ratio": 2.0, "max_memory_gb": 0.55, "min_speedup": 1.1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("root") / "some"
    many(place, TRIALS, limits=LIMITS)
    return place


@pytest.fixture
def summary(folder: Path) -> Summary:
    return summarise(folder, Files())


def test_every_number_is_the_run_s_own(folder: Path, summary: Summary) -> None:
    findings = find(read_experiment(folder))
    known = axes(summary)
    assert [row.episode for row in summary.rows] == list(range(TRIALS + 1))
    assert set(summary.measurements) == set(findings.front.episodes)
    assert summary.recommended == findings.recommendation.episode
    assert summary.recommendation == findings.recommendation.reason
    for row, result in zip(summary.rows, findings.record.results, strict=True):
        assert row.label == result.label
        assert (row.outcome == "failed") == (result.failure is not None)
        for axis in known.values():
            value = result.value(axis.measurement)
            expected = None if value is None else pytest.approx(value / axis.divisor)
            assert axis.value(row) == expected, (row.episode, axis.name)


def test_outcomes_are_told_apart(summary: Summary) -> None:
    found = {row.outcome for row in summary.rows}
    assert {"base", "dominated", "failed"} <= found
    failed = next(row for row in summary.rows if row.outcome == "failed")
    assert "used too much" in failed.why
    mixed = [row.episode for row in summary.rows if row.is_mixed]
    assert mixed == [row.episode for row in summary.rows if row.label.startswith("mixed(")]


@pytest.mark.parametrize(
    ("label", "method"),
    [("gptq", "gptq"), ("afr(ratio=0.2) > gptq(bits=4)", "gptq"), ("lora > mixed(bpw=4)", "mixed")],
)
def test_the_last_method_names_a_strategy(label: str, method: str) -> None:
    assert last_method(label) == method


def test_what_the_run_has_not_summed_up_is_judged_now(tmp_path: Path) -> None:
    """Killed before the first episode was written down in the history."""
    found = record(tmp_path / "e", (baseline(), point(1, "gptq(bits=4)", 1.04, 0.35, 0.6, 0.55)))
    assert not (found.folder / HISTORY_FILE).exists()
    files = Files()
    summary = summarise(found.folder, files)
    assert [row.label for row in summary.rows] == ["uncompressed", "gptq(bits=4)"]
    assert set(summary.measurements) == set(find(found).front.episodes)
    Experiment(found.folder).begin(2, None)
    Experiment(found.folder).finish(point(2, "rtn(bits=4)", 1.1, 0.3, 0.6, 0.5))
    assert len(summarise(found.folder, files).rows) == 3


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        # By hand from the base of the records: size, perplexity, latency, and its own bound.
        ("size", 0.269060552 / 2.0),
        ("perplexity", 14.468088648156222 * 1.1),
        ("latency", 72.7037254687275 / 1.1),
        ("memory", 0.55),
    ],
)
def test_limits_lie_where_they_are_met(summary: Summary, axis: str, expected: float) -> None:
    found = limit_lines(summary, axes(summary)[axis])
    assert [line.value for line in found] == [pytest.approx(expected)]


def test_a_limit_on_kept_quality_lies_on_the_scored_axis(tmp_path: Path) -> None:
    base = scored(baseline(), 0.6)
    trial = scored(point(1, "gptq(bits=4)", 1.04, 0.35, 0.6, 0.55), 0.57)
    found = record(tmp_path / "e", (base, trial), limits={"max_accuracy_loss": 10})
    summary = summarise(found.folder, Files())
    known = axes(summary)
    assert list(known)[:2] == ["quality", "perplexity"]
    assert "gsm8k" in known
    assert [line.value for line in limit_lines(summary, known["quality"])] == [pytest.approx(0.9)]
    assert limit_lines(summary, known["perplexity"]) == []


def test_only_what_was_asked_is_a_limit(tmp_path: Path) -> None:
    many(tmp_path / "e", 3)
    summary = summarise(tmp_path / "e", Files())
    assert all(limit_lines(summary, axis) == [] for axis in axes(summary).values())


def test_the_front_is_drawn_with_its_intervals(summary: Summary) -> None:
    known = axes(summary)
    x, y = known["size"], known["perplexity"]
    figure = front_plot(summary, x, y, (limit_lines(summary, x), limit_lines(summary, y)))
    drawn: dict[int, tuple[str, float]] = {}
    for trace in figure.data:
        for i, episode in enumerate(() if trace.customdata is None else trace.customdata):
            half = trace.error_y.array[i] if trace.error_y.visible else 0.0
            drawn[int(episode)] = trace.marker.symbol, half
    assert set(drawn) == {row.episode for row in summary.rows if row.outcome != "failed"}
    for row in summary.rows:
        if row.outcome == "failed" or row.episode == 0:
            continue
        symbol, half = drawn[row.episode]
        assert ("diamond" in symbol) == row.is_mixed
        assert symbol.endswith("-open") != (row.episode in summary.measurements)
        measured = summary.measurements.get(row.episode, ())
        known_half = next((half_width(m) for m in measured if m.name == "perplexity"), 0.0)
        assert half == pytest.approx(known_half)
    assert len(figure.layout.shapes) == 2  # the limits
    assert any(trace.name == "recommended" for trace in figure.data)


def test_many_points_go_to_the_graphics_card_all_together(tmp_path: Path) -> None:
    many(tmp_path / "e", MANY + 100)
    summary = summarise(tmp_path / "e", Files())
    known = axes(summary)
    figure = front_plot(summary, known["size"], known["KL"], ((), ()))
    assert {trace.type for trace in figure.data} == {"scattergl"}


def test_the_best_are_best_and_better_is_up(summary: Summary) -> None:
    known = axes(summary)
    size = known["size"]
    rows = best_rows(summary, list(known.values()), size, 5)
    assert len(rows) == 5
    assert [size.value(r) for r in rows] == sorted(size.value(r) or 0.0 for r in rows)
    smallest = min(size.value(r) or 9.9 for r in summary.trials if r.outcome != "failed")
    assert size.value(rows[0]) == smallest
    figure = parallel_plot(rows, list(known.values()), size)
    # Energy is the same in all: an axis that tells nothing.
    names = [name for name in known if name != "energy"]
    assert list(figure.layout.xaxis.ticktext) == names
    heights = {trace.customdata[0]: trace.y[names.index("size")] for trace in figure.data}
    assert (heights[rows[0].episode], heights[rows[-1].episode]) == (1.0, 0.0)
    told = [note.text for note in figure.layout.annotations]
    assert told[2 * names.index("size")] == number(smallest)


def test_experiments_are_listed_and_a_damaged_one_hides_no_other(tmp_path: Path) -> None:
    files = Files()
    assert experiment_folders(tmp_path / "none") == []
    many(tmp_path / "old", 3)
    failed_only(tmp_path / "new")
    os.utime(tmp_path / "old" / "events.jsonl", (1, 1))
    for path in (tmp_path / "old").glob("*"):
        os.utime(path, (1, 1))
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "run.json").write_text("{")
    (tmp_path / "no-experiment").mkdir()
    found = {o.name: o for o in (overview(f, files) for f in experiment_folders(tmp_path))}
    assert list(found)[-1] == "old"
    assert found["broken"].state == "damaged"
    assert "run.json" in found["broken"].best
    assert (found["old"].done, found["old"].episodes) == (3, 3)
    assert found["new"].best == "uncompressed"
    with at_work(tmp_path / "new"):
        assert overview(tmp_path / "new", files).state == "running"
        assert summarise(tmp_path / "new", files).moment is not None
    assert experiment_folders(tmp_path / "old") == [tmp_path / "old"]


def test_a_damaged_history_is_told(folder: Path, tmp_path: Path) -> None:
    many(tmp_path / "e", 2)
    path = tmp_path / "e" / HISTORY_FILE
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(ExperimentError, match="damaged"):
        summarise(tmp_path / "e", Files())
    path.write_text("")
    with pytest.raises(ExperimentError, match="names no columns"):
        summarise(tmp_path / "e", Files())


def test_a_file_is_parsed_once_until_it_changes(tmp_path: Path) -> None:
    calls = []

    def parse(path: Path) -> str:
        calls.append(path)
        return path.read_text() if path.exists() else ""

    files, path = Files(), tmp_path / "f"
    assert files.get(path, parse) == files.get(path, parse) == ""
    path.write_text("one")
    assert files.get(path, parse) == files.get(path, parse) == "one"
    path.write_text("three")
    assert files.get(path, parse) == "three"
    assert len(calls) == 3


def test_an_episode_to_the_last_number(tmp_path: Path) -> None:
    many(tmp_path / "e", 6, seed=1)
    with_plan(tmp_path / "e", episode=5, blocks=3)
    found = detail(tmp_path / "e", 5)
    assert found is not None
    assert found.plan is not None
    assert len(found.plan.by_layer) == 12
    assert found.decided is not None
    assert found.decided.reason == "the next of the grid"
    assert found.log.endswith("block 2 of 12\n")
    assert found.artifact == tmp_path / "e" / "episode_005" / "artifact"
    assert detail(tmp_path / "e", 99) is None
    without = detail(tmp_path / "e", 4)
    assert without is not None
    assert (without.plan, without.artifact, without.log) == (None, None, "")


def test_the_end_of_a_log_is_whole_lines_without_secrets(tmp_path: Path) -> None:
    path = tmp_path / "worker.log"
    secret = "hf_" + "a" * 34
    path.write_text("x" * LOG_BYTES + "\n" + f"token {secret}\nlast\n")
    tail = log_tail(path)
    assert tail.startswith("token ")
    assert secret not in tail
    assert tail.endswith("last\n")


def test_items_that_turned(tmp_path: Path) -> None:
    base, trial = scored(baseline(), 0.6), scored(point(1, "rtn", 1, 0.5, 1, 1), 0.5)
    folder = record(tmp_path / "e", (base, trial)).folder

    def write(episode: int, items: list[dict[str, Any]]) -> None:
        lines = "".join(json.dumps(item) + "\n" for item in items)
        (folder / f"episode_{episode:03d}" / "gsm8k.jsonl").write_text(lines)

    def item(number: int, score: float, answer: object, key: str = "h") -> dict[str, Any]:
        return {"id": f"gsm8k/{number}", "hash": key, "score": score, "answer": answer}

    write(0, [item(1, 1, "4"), item(2, 0, "5"), item(3, 1, 2), item(4, 1, "8")])
    write(1, [item(1, 1, "4"), item(2, 1, "6"), item(3, 0, 1), item(4, 0, "9", key="another")])
    turned = flips(folder, trial, trial.scores[0])
    assert [(f.item, f.lost, f.base_answer, f.answer) for f in turned] == [
        ("gsm8k/3", True, "2", "1"),
        ("gsm8k/2", False, "5", "6"),
    ]
    assert flips(folder, base, base.scores[0]) == []
    (folder / "episode_001" / "gsm8k.jsonl").write_text("[]\n")
    with pytest.raises(ExperimentError, match="no item"):
        flips(folder, trial, trial.scores[0])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.9.9.9"])
def test_loopback_needs_no_token(host: str) -> None:
    assert token_for(host, None) is None
    assert token_for(host, "t" * 16) == "t" * 16


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org"])
def test_elsewhere_a_token_is_made(host: str) -> None:
    first, second = token_for(host, None), token_for(host, None)
    assert first is not None
    assert len(first) >= 32
    assert first != second
    with pytest.raises(ConfigError, match="16 or more"):
        token_for(host, "short")


def test_only_the_token_is_right() -> None:
    assert is_right("täglich-neu-1234", "täglich-neu-1234")
    assert not is_right("", "täglich-neu-1234")


@pytest.mark.parametrize(
    ("header", "local"),
    [
        ("localhost:8501", True), ("127.0.0.1:8501", True), ("[::1]:8501", True),
        ("localhost", True), ("evil.example:8501", False), ("192.168.1.4:8501", False),
    ],
)  # fmt: skip
def test_a_foreign_name_is_not_local(header: str, local: bool) -> None:
    assert is_local_name(header) is local


def test_streamlit_is_quiet_and_protected() -> None:
    found = options("127.0.0.1", 8501)
    assert found["browser.gatherUsageStats"] is False
    assert found["server.headless"] is True
    assert (found["server.enableCORS"], found["server.enableXsrfProtection"]) == (True, True)
    assert options("0.0.0.0", 1)["browser.serverAddress"] == "localhost"


def test_reading_needs_neither_torch_nor_streamlit(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from paredown.dashboard.files import Files; "
        "from paredown.dashboard.summary import summarise; "
        "from paredown.dashboard.queries import overview; "
        "from paredown.dashboard.episode import detail; import paredown.cli.dashboard; "
        f"p = Path({str(folder)!r}); summarise(p, Files()); overview(p, Files()); detail(p, 1); "
        "print(sorted({'torch', 'transformers', 'streamlit', 'pandas'} & sys.modules.keys()))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(paredown.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_run_s_time_left_counts_down(folder: Path) -> None:
    with at_work(folder, time=time.time() - 10, left_s=60.0, paused=True):
        found = summarise(folder, Files())
    assert found.moment is not None
    assert found.moment.paused
