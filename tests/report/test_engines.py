"""What a report says of other engines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from paredown.report.engines import all_engines, promises, refusals, take_commands
from paredown.report.markdown import report_markdown
from paredown.spec.elsewhere import Elsewhere
from paredown.store.elsewhere import write_elsewhere
from tests.report.report_samples import baseline, findings, several


def test_several_engines_are_one_table_and_the_engine_is_named(tmp_path: Path) -> None:
    judged = findings(tmp_path, several(), runtime="llama.cpp", also_in=("onnxruntime",))
    assert all_engines(judged) is None
    assert "Other engines" not in report_markdown(judged, None)
    kept = [r for r in judged.on_front if r.episode]
    folder = judged.record.folder
    rows = [Elsewhere(runtime="onnxruntime", episode=0, result=baseline())]
    for result in kept[:-1]:
        faster = tuple(
            m.model_copy(update={"value": m.value / 100}) if m.name == "decode_latency" else m
            for m in result.measurements
        )
        changed = result.model_copy(update={"measurements": faster})
        rows.append(Elsewhere(runtime="onnxruntime", episode=result.episode, result=changed))
    rows.append(Elsewhere(runtime="onnxruntime", episode=kept[-1].episode, refused="groups of 24"))
    write_elsewhere(folder, rows)
    found = all_engines(judged)
    assert found is not None
    assert found.chosen is not None
    text = report_markdown(judged, None)
    named = f"episode {found.chosen.result.episode} in {found.chosen.runtime}"
    assert f"**Across engines, take {named}**" in text
    assert refusals(judged) == [f"onnxruntime, episode {kept[-1].episode}: groups of 24"]
    if found.chosen.result.episode:
        assert f"--runtime {found.chosen.runtime}" in take_commands(judged, found)[0]


def test_what_others_would_bring_says_how_that_is_known(tmp_path: Path) -> None:
    judged = findings(tmp_path, several())
    assert promises(judged) == []
    row = {"runtime": "llama.cpp", "episode": 1, "low": 1.7, "high": 4.84}
    told = [{**row, "by": "elsewhere"}, {**row, "runtime": "openvino", "by": "calibrated"}]
    event = {"event": "engines", "promised": told}
    record = replace(judged.record, events=(*judged.record.events, event))
    one, two = promises(replace(judged, record=record))
    assert "estimated to decode it 1.7 to 4.8 times as fast" in one
    assert "match --calibrate --runtime llama.cpp" in one
    assert "on this machine" in two
    assert "--runtime openvino" in two
