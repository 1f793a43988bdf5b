from __future__ import annotations

import io

import pytest
from rich.console import Console

from paredown.judge.front import find_front
from paredown.judge.recommend import recommend
from paredown.report.tables import (
    EPISODE_COLUMNS,
    FRONT_COLUMNS,
    episode_rows,
    failures,
    front_notes,
    front_rows,
    measurement_rows,
)
from paredown.report.terminal import front_table
from paredown.spec.result import TrialResult
from paredown.spec.run import OBJECTIVES
from paredown.spec.target import Limits
from tests.report.report_samples import baseline, failed, ok, several


def rendered(results: tuple[TrialResult, ...], width: int = 140) -> str:
    front = find_front(results, OBJECTIVES)
    chosen = recommend(results, results[0], Limits(), front)
    stream = io.StringIO()
    Console(file=stream, width=width).print(front_table(results, front, chosen))
    return stream.getvalue()


def test_the_baseline_comes_first_then_large_to_small() -> None:
    front = find_front(several(), OBJECTIVES)
    rows = front_rows(several(), front)
    assert [row[0] for row in rows] == ["0", "1", "2", "3"]
    assert all(len(row) == len(FRONT_COLUMNS) for row in rows)
    assert rows[2] == (
        "2", "gptq(bits=4)", "-", "20.80 ± 0.41", "+4.0 %", "0.0104", "18.00 ± 0.35", "1.67x",
        "495.0 MB", "94.5 MB", "2.86x", "-",
    )  # fmt: skip


def test_a_speed_that_contradicts_its_latency_is_explained() -> None:
    plain = {"perplexity": 20, "size": 1, "decode_latency": 18.0, "peak_memory": 1}
    agrees = ok(1, "rtn(bits=4)", plain | {"speedup": 1.7})
    differs = ok(2, "gptq(bits=4)", plain | {"perplexity": 19, "size": 2, "speedup": 0.8})
    results = (baseline(), agrees, differs)  # the baseline has 30 ms
    front = find_front(results, OBJECTIVES)
    (note,) = front_notes(results, front)
    assert note.startswith("episode 2: its speed (0.80x) was taken in turns with the base")
    assert note.endswith("would say 1.67x")


def test_a_base_that_is_larger_in_the_engines_files_is_explained() -> None:
    numbers = {"perplexity": 20, "size": 540e6, "decode_latency": 18.0, "peak_memory": 1}
    base = ok(0, None, numbers | {"compression_ratio": 0.5})
    results = (base, ok(1, "rtn(bits=4)", numbers | {"size": 90e6, "compression_ratio": 3}))
    (note,) = front_notes(results, find_front(results, OBJECTIVES))
    assert note == (
        "the base takes 540.0 MB in the files of the engine and 270.0 MB as it was given; ratios "
        "are to the latter"
    )
    same = ok(0, None, numbers | {"compression_ratio": 1.001})  # headers of another length
    assert front_notes((same,), find_front((same,), OBJECTIVES)) == []


def test_the_baseline_is_shown_even_when_dominated() -> None:
    better = ok(1, "rtn(bits=4)", {"perplexity": 1, "size": 1, "decode_latency": 1,
                                   "peak_memory": 1})  # fmt: skip
    results = (baseline(), better)
    front = find_front(results, OBJECTIVES)
    assert front.episodes == (1,)
    assert [row[0] for row in front_rows(results, front)] == ["0", "1"]


def test_every_episode_has_a_row_with_its_outcome() -> None:
    partial = ok(6, "int8", {"perplexity": 20.0}, unmet=("ratio 1.00x < 2x",))
    results = (*several(), partial)
    front = find_front(results, OBJECTIVES)
    rows = episode_rows(results, front, recommend(results, results[0], Limits(), front))
    assert all(len(row) == len(EPISODE_COLUMNS) for row in rows)
    assert [row[3] for row in rows] == [
        *["on front"] * 4, "dominated", "out_of_memory", "incomplete",
    ]  # fmt: skip
    assert [row[0] for row in rows] == ["0", "1 +", "2 *k", "3", "4", "5", "6 !"]
    assert rows[-1][6] == "+0.0 %"


def test_failures_give_cause_and_stage_on_one_line() -> None:
    assert failures((failed(5, message="a\nb"),)) == [
        ("5", "rtn(bits=2)", "out_of_memory in compress: a b")
    ]


def test_brackets_in_a_strategy_are_no_markup() -> None:
    label = 'rtn(skip=["[red]lm_head[/red]"])'
    text = rendered((baseline(), ok(1, "rtn(bits=4)", {"perplexity": 1, "size": 1,
                    "decode_latency": 1, "peak_memory": 1}, label=label)))  # fmt: skip
    assert label in text


@pytest.mark.parametrize("width", [70, 80, 90, 100, 120])
def test_a_narrow_terminal_drops_whole_columns_and_cuts_no_number(width: int) -> None:
    text = rendered(several(), width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text
    for cell in ("94.5 MB", "+60.0 %", "2.86x", "20.80 ±", "18.00 ±", "0.35"):
        assert cell in text
    assert ("KL" in text) == (width >= 100)
    assert ("900.0 MB" in text) == (width >= 80)


def test_measurements_say_how() -> None:
    row = measurement_rows(baseline())[0]
    assert row == ("perplexity", "20", "perplexity", "0.2", "16", "measured",
                   "protocol of perplexity")  # fmt: skip
