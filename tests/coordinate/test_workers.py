"""A whole run with two workers, in real processes on a tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import paredown
from tests.coordinate.test_run import settings


def busy(events: tuple[dict[str, Any], ...]) -> list[tuple[float, float]]:
    """When each episode was decided on, and when it was recorded."""
    begun = {e["episode"]: e["time"] for e in events if e["event"] == "decision"}
    return [
        (begun[e["episode"]], e["time"])
        for e in events
        if e["event"] == "episode" and e["episode"] > 0
    ]


@pytest.mark.slow
def test_two_trials_are_under_way_at_once_and_each_is_as_good_as_alone(tmp_path: Path) -> None:
    request = settings(tmp_path, methods=("rtn",), episodes=2)
    told: list[tuple[str, int]] = []
    front = paredown.optimize(
        **request, workers=2, experiment_name="two", output_dir=tmp_path,  # type: ignore[arg-type]
        listen=lambda event, fields: told.append((event, fields.get("episode", -1))),
    )  # fmt: skip
    assert [r.status for r in front.record.results] == ["ok", "ok", "ok"]
    (begun_a, end_a), (begun_b, end_b) = busy(front.record.events)
    assert max(begun_a, begun_b) < min(end_a, end_b)
    alone = paredown.optimize(
        **request, experiment_name="one", output_dir=tmp_path  # type: ignore[arg-type]
    )  # fmt: skip
    for one, other in zip(front.record.results, alone.record.results, strict=True):
        assert one.strategy == other.strategy
        # What is no matter of time is the same to the bit.
        for name in ("perplexity", "kl", "accuracy", "size", "compression_ratio"):
            assert one.value(name) == other.value(name)
