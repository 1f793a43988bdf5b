"""The base and the front are asked more once the search has ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import paredown
from paredown.coordinate.final import pending
from paredown.errors import ConfigError
from paredown.spec.run import RunConfig
from tests.coordinate.test_run import settings
from tests.evaluate.tasks_samples import tiny_chatter
from tests.samples import EVALUATE, write_text_file


def questions(path: Path, n: int) -> Path:
    rows = [
        {"question": f"Is {i} even?", "choices": ["yes", "no"], "answer": i % 2} for i in range(n)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def request(folder: Path, **changes: Any) -> dict[str, Any]:
    if not (folder / "model").exists():
        tiny_chatter(folder / "model")
        write_text_file(folder / "text.txt")
    file = questions(folder / "even.jsonl", 30)
    evaluate = EVALUATE.model_dump() | {"benchmarks": (str(file),), "limit": 10}
    common = {"evaluate": evaluate, "methods": ("rtn",), "episodes": 1,
              "further_rounds": 0}  # fmt: skip
    return settings(folder, **(common | changes))


@pytest.mark.slow
def test_a_resume_asks_the_front_and_the_base_the_rest_once(tmp_path: Path) -> None:
    place: dict[str, Any] = {"experiment_name": "f", "output_dir": tmp_path}
    first = paredown.optimize(**request(tmp_path), **place)
    assert {s.n for r in first.record.results for s in r.scores} == {10}
    told: list[str] = []
    front = paredown.optimize(
        **request(tmp_path, final_limit=0), **place, resume=True,
        listen=lambda event, fields: told.append(event),
    )  # fmt: skip
    assert "final" in told
    scored = {r.episode: r.scores[0] for r in front.record.results if r.scores}
    on_front = {r.episode for r in front.findings.on_front if r.scores}
    for episode, score in scored.items():
        asked = episode == 0 or episode in on_front
        assert (score.n, score.final) == ((30, True) if asked else (10, False))
        if asked and episode > 0:
            assert score.versus_base is not None
            assert score.versus_base.n == 30
            result = next(r for r in front.record.results if r.episode == episode)
            value = result.get(score.name)
            assert value is not None
            assert (value.n, value.value) == (30, score.value)
            items = front.folder / f"episode_{episode:03d}" / score.items
            assert len(items.read_text().splitlines()) == 30
    assert on_front  # or nothing was shown
    events = [e for e in front.record.events if e["event"] == "final_scores"]
    assert {e["episode"] for e in events if e["status"] == "ok"} == {0, *on_front}
    assert "30 of 30 (final)" in (front.folder / "report.md").read_text()
    again: list[str] = []
    paredown.optimize(
        **request(tmp_path, final_limit=0), **place, resume=True,
        listen=lambda event, fields: again.append(event),
    )  # fmt: skip
    assert again == []
    config = RunConfig(**request(tmp_path, final_limit=0))
    assert pending(front.record.results, config) == []
    more = config.model_copy(update={"final_limit": None})
    assert pending(front.record.results, more) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"final_limit": 5}, "the search asks 10 items already"),
     ({"final_limit": 5, "evaluate": EVALUATE.model_dump()}, "none is named")],
)  # fmt: skip
def test_a_final_limit_that_would_do_nothing_is_refused(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        paredown.optimize(**request(tmp_path, **changes), output_dir=tmp_path / "out")
