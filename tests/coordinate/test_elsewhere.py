"""A search in one engine whose front is measured in another as well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import paredown
from paredown.coordinate.elsewhere import unmeasured
from paredown.errors import ConfigError, ExperimentError
from paredown.spec.elsewhere import Elsewhere
from paredown.spec.run import RunConfig
from paredown.store.elsewhere import FILE, read_elsewhere, write_elsewhere
from tests.coordinate.test_run import settings
from tests.report.report_samples import baseline, ok


@pytest.mark.slow
def test_the_front_is_measured_in_the_other_engine_once(tmp_path: Path) -> None:
    place: dict[str, Any] = {"experiment_name": "e", "output_dir": tmp_path}
    asked = settings(tmp_path, runtime="torch,transformers", episodes=1, methods=("rtn",))
    front = paredown.optimize(**asked, **place)  # type: ignore[arg-type]
    rows = read_elsewhere(front.folder)
    on_front = {r.episode for r in front.findings.on_front if r.artifact} | {0}
    assert {(row.runtime, row.episode) for row in rows} == {("transformers", e) for e in on_front}
    trial = next(row.result for row in rows if row.episode == 1)
    assert trial is not None
    assert trial.status == "ok"
    # The same model: only the way of computing differs, and so does its time.
    mine = front.record.results[1]
    assert trial.value("perplexity") == pytest.approx(mine.value("perplexity"), rel=0.02)
    assert trial.value("size") == mine.value("size")
    assert trial.value("decode_latency") != mine.value("decode_latency")
    report = (front.folder / "report.md").read_text()
    assert "Across engines, take" in report
    told = json.loads((front.folder / "final_results.json").read_text())["across_engines"]
    assert told["recommended"]["runtime"] in {"torch", "transformers"}
    events: list[str] = []
    paredown.optimize(
        **asked, **place, resume=True, listen=lambda event, fields: events.append(event)  # type: ignore[arg-type]
    )  # fmt: skip
    assert set(events) <= {"preparing"}  # nothing is measured again
    assert read_elsewhere(front.folder) == rows


def test_several_engines_in_one_word() -> None:
    config = RunConfig(model="m", runtime="llama.cpp, onnxruntime")
    assert (config.runtime, config.also_in) == ("llama.cpp", ("onnxruntime",))
    both = RunConfig.model_validate(
        {"model": "m", "runtime": "torch,torch,openvino", "also_in": "onnxruntime"}
    )
    assert (both.runtime, both.also_in) == ("torch", ("openvino", "onnxruntime"))
    assert RunConfig.model_validate(both.model_dump()) == both


def test_an_engine_that_is_not_there_is_told_before_anything(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing"):
        paredown.optimize(**settings(tmp_path, runtime="torch,nothing"))  # type: ignore[arg-type]


def test_what_is_left_to_measure() -> None:
    config = RunConfig(model="m", also_in=("a", "b"))
    values = {"perplexity": 20.4, "size": 9e7, "decode_latency": 20.0, "peak_memory": 3e8,
              "speedup": 1.5, "compression_ratio": 3.0, "perplexity_ratio": 1.02}  # fmt: skip
    kept = ok(1, "rtn(bits=4)", values, artifact="episode_001/artifact")
    gone = ok(2, "rtn(bits=3)", {**values, "size": 8e7, "perplexity": 22.0}, artifact=None)
    done = [Elsewhere(runtime="a", episode=0, refused="why")]
    left = unmeasured([baseline(), kept, gone], config, done)
    assert [(name, r.episode) for name, r in left] == [("a", 1), ("b", 0), ("b", 1)]
    assert unmeasured([baseline(), gone], config, []) == []


def test_records_of_engines_are_kept_and_damage_is_told(tmp_path: Path) -> None:
    assert read_elsewhere(tmp_path) == ()
    rows = (Elsewhere(runtime="a", episode=0, result=baseline()),
            Elsewhere(runtime="a", episode=1, refused="groups of 24"))  # fmt: skip
    write_elsewhere(tmp_path, rows)
    assert read_elsewhere(tmp_path) == rows
    (tmp_path / FILE).write_text('{"schema_version": 1, "results": [{"runtime": 3}]}')
    with pytest.raises(ExperimentError, match="damaged"):
        read_elsewhere(tmp_path)
