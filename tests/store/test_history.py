"""The long form: every number on a row of its own, with what it takes to trust it."""

from __future__ import annotations

import csv
import io
import json

import pytest

from paredown.spec.strategy import parse_strategy
from paredown.store.history import LONG_FIELDS, long_history
from tests.report.report_samples import measurement, ok


def test_every_measurement_has_a_row() -> None:
    strategy = "structured_afr(ratio=0.1) > gptq(bits=3)"
    rows = (
        ok(0, None, {"perplexity": 10.0}),
        ok(1, strategy, {"perplexity": 12.0, "size": 5e6}, strategy=parse_strategy(strategy)),
    )
    read = list(csv.DictReader(io.StringIO(long_history(rows, {1}))))
    assert tuple(read[0]) == LONG_FIELDS
    assert [(r["episode"], r["metric"], r["on_front"]) for r in read] == [
        ("0", "perplexity", "0"), ("1", "perplexity", "1"), ("1", "size", "1"),
    ]  # fmt: skip
    assert (read[0]["method"], read[0]["parameters"]) == ("baseline", "[]")
    assert read[1]["method"] == "structured_afr > gptq"
    assert json.loads(read[1]["parameters"]) == [{"ratio": 0.1}, {"bits": 3}]
    # 12 with a standard error of 1 %.
    assert float(read[1]["low"]) == pytest.approx(12 - 1.96 * 0.12)
    assert float(read[1]["high"]) == pytest.approx(12 + 1.96 * 0.12)
    assert (read[2]["unit"], read[2]["stderr"], read[2]["low"]) == ("bytes", "", "")


def test_an_interval_that_was_computed_stays() -> None:
    m = measurement("perplexity", 12.0, 0.1).model_copy(update={"low": 11.0, "high": 14.0})
    row = ok(1, "rtn(bits=4)", {}, measurements=(m,))
    (read,) = csv.DictReader(io.StringIO(long_history((row,), set())))
    assert (read["low"], read["high"]) == ("11.0", "14.0")
