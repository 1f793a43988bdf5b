from __future__ import annotations

import pytest

from paredown.judge.phrases import in_words
from paredown.judge.quantities import ratio, speedup
from paredown.judge.words import number, one_line, signed_percent, with_error, with_unit
from tests.report.report_samples import BASE, baseline, measurement, ok, point


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        (23.41234, 0.0312, "23.412"),
        (23.41234, 2.4, "23.4"),
        (23.41234, 24.0, "23"),
        (0.0012345, 0.00011, "0.00123"),
        (20.0, 1e-12, "20.00000"),
        (20.5, None, "20.5"),
        (20.5, 0.0, "20.5"),
        (1234567.0, 100.0, "1.235e+06"),
        (0.0, 0.1, "0.00"),
    ],
)
def test_the_error_decides_the_digits(value: float, stderr: float | None, text: str) -> None:
    assert number(value, stderr) == text


def test_units_are_said_once() -> None:
    assert with_unit(measurement("decode_latency", 30.0, 0.3)) == "30.00 ± 0.59 ms/token"
    assert with_unit(measurement("size", 94.5e6)) == "94.5 MB"
    assert with_unit(measurement("size", 94.5e6, 1e6)) == "94.5 MB ± 2.0 MB"
    assert with_unit(measurement("perplexity", 20.0, 0.2)) == "20.00 ± 0.39"
    assert with_error(None) == "-"


def test_percent_of_a_wreck_stays_short() -> None:
    assert signed_percent(3.14159) == "+3.1 %"
    assert signed_percent(123456.0) == "+1.2e+05 %"
    assert signed_percent(None) == "-"


def test_one_line_drops_colours_and_control_characters() -> None:
    assert one_line("a\x1b[31mred\x1b[0m\r\nb\x07") == "ared b"
    assert one_line("x" * 50, 10) == "x" * 9 + "…"


def test_in_words_leaves_out_what_was_not_measured() -> None:
    assert in_words(baseline().model_copy(update={"measurements": ()}), None) == ""
    larger = point(1, "rtn(bits=8)", 1.0, 1.25, 1.0, 1.0)
    assert "smaller" not in in_words(larger, baseline())


def test_ratio_and_speed_follow_from_sizes_and_latencies_where_not_measured() -> None:
    bare = ok(1, "rtn(bits=4)", BASE | {"size": 90e6, "decode_latency": 20.0})
    assert ratio(bare, baseline()) == pytest.approx(3.0)
    assert speedup(bare, baseline()) == pytest.approx(1.5)
    assert ratio(bare, None) is None
    assert speedup(ok(2, "int8", {}), baseline()) is None
