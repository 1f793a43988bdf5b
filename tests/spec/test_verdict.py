"""One line per artifact, which claims no more than was shown."""

from __future__ import annotations

from typing import Any

from paredown.spec.result import TrialResult
from paredown.spec.scores import Comparison, TaskScore
from paredown.spec.verdict import in_hundred
from tests.report.report_samples import failed, measurement, ok


def scored(name: str, difference: float, half: float, **changes: Any) -> TaskScore:
    n = 500
    versus = {
        "n": n, "base_value": 0.5, "difference": difference, "low": difference - half,
        "high": difference + half, "lost": 5, "gained": 3, "changed": 15, "p_value": 0.7,
        "margin": 0.02, "equivalent": False, "verdict": "",
    } | changes  # fmt: skip
    return TaskScore(
        name=name, metric="acc", value=0.5 + difference, stderr=0.02, low=0.4, high=0.6, n=n,
        n_available=500, n_truncated=0, few_shot=0, chance=0.25, rows="here", how="so",
        items="items/x.jsonl", versus_base=Comparison(**versus),
    )  # fmt: skip


def result(*scores: TaskScore, ratio: float = 4.1) -> TrialResult:
    return ok(1, "gptq(bits=4)", {"compression_ratio": ratio}, scores=scores)


def test_the_sentence_of_the_issue() -> None:
    found = result(scored("arc_easy", -0.004, 0.019, equivalent=True)).verdict
    assert found == (
        "4.1x smaller; no measurable loss on arc_easy (n=500, -0.4 ± 1.9 points); "
        "3 in 100 answers changed"
    )


def test_an_artifact_that_is_hardly_compressed_says_so() -> None:
    """Of a mixture whose experts a method does not find, a tenth is quantized."""
    hardly = ok(1, "int8", {"compression_ratio": 1.1, "coverage": 0.09}).verdict
    assert hardly == "1.1x smaller; only 9 in 100 weights of the blocks are compressed"
    assert ok(1, "int8", {"compression_ratio": 1.9, "coverage": 0.98}).verdict == "1.9x smaller"


def test_losses_come_first_and_alike_ones_together() -> None:
    found = result(
        scored("a", 0.0, 0.01, equivalent=True),
        scored("b", -0.2, 0.05, p_value=0.001),
        scored("c", 0.001, 0.01, equivalent=True),
        scored("d", 0.0, 0.1, changed=None),
    ).verdict
    assert found == (
        "4.1x smaller; a loss on b (n=500, -20.0 ± 5.0 points); no measurable loss on "
        "a (n=500, +0.0 ± 1.0 points), c (n=500, +0.1 ± 1.0 points); too few items to tell "
        "whether 2 points are lost on d (n=500, +0.0 ± 10.0 points); 3 in 100 answers changed"
    )


def test_without_benchmarks_the_text_speaks() -> None:
    rise = measurement("perplexity_ratio", 1.093, 0.007)
    agree = measurement("top1_agreement", 0.884, 0.01)
    base = result(ratio=2.38)
    found = base.model_copy(update={"measurements": (*base.measurements, rise, agree)})
    assert found.verdict == "2.4x smaller; perplexity +9.3 ± 1.4 %; 12 in 100 next tokens changed"


def test_what_has_no_verdict() -> None:
    assert failed(1).verdict is None
    assert result(ratio=1.0).verdict is None
    assert result(ratio=0.5).verdict == "2.0x larger"


def test_the_verdict_is_in_the_file_and_read_back() -> None:
    found = result(scored("arc_easy", 0.0, 0.01, equivalent=True))
    assert '"verdict":"4.1x smaller' in found.model_dump_json()
    assert TrialResult.model_validate_json(found.model_dump_json()) == found


def test_shares_below_one_in_a_hundred_keep_a_digit() -> None:
    assert [in_hundred(x) for x in (0.0, 0.004, 0.034, 1.0)] == ["0", "0.4", "3", "100"]
