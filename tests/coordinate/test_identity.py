"""A resumed experiment is made of what it was made of, wherever it goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paredown.coordinate.identity import CONTENT, content_of, inputs_of, require_same_content
from paredown.coordinate.nodes import measure_baseline
from paredown.coordinate.run import run_experiment
from paredown.errors import ExperimentError
from paredown.hardware.detect import Gpu, detect
from paredown.methods import registry
from paredown.spec.infer import infer_spec
from paredown.spec.result import TrialResult
from paredown.spec.run import EvaluateConfig, RunConfig
from paredown.store.events import read_events
from paredown.store.experiment import Experiment, read_experiment
from paredown.testing.tiny import tiny_model
from tests.coordinate.fake_run import FakeExecutor, fake_run, go
from tests.samples import write_text_file
from tests.search.search_fakes import use_fakes

ITEM = '{"question": "What is white?", "answer": "snow"}\n'


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """A request for a model, a text and items of one's own."""
    tiny_model(tmp_path / "model")
    write_text_file(tmp_path / "text.txt")
    (tmp_path / "items.jsonl").write_text(ITEM)
    return RunConfig(
        model=str(tmp_path / "model"),
        data=str(tmp_path / "text.txt"),
        evaluate=EvaluateConfig(benchmarks=(str(tmp_path / "items.jsonl"),)),
        skills=False,
    )


def begin(folder: Path, config: RunConfig) -> Experiment:
    """An experiment as it is when it begins."""
    model = infer_spec(Path(config.model))
    return Experiment.create(folder, config, model, {CONTENT: content_of(config)})


def append(text: str) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        file.write_text(file.read_text() + text)

    return change


def flip_last_bit(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("model/model.safetensors", flip_last_bit, "model/model.safetensors"),
        ("model/config.json", append("\n"), "model/config.json"),
        ("model/tokenizer.json", append("\n"), "model/tokenizer.json"),
        ("model/chat_template.jinja", Path.touch, "model/chat_template.jinja"),
        ("text.txt", append("\n\nmore"), "text/"),
        ("items.jsonl", append(ITEM.replace("white", "cold")), "items/"),
    ],
)
def test_other_content_under_the_same_path_is_not_resumed(
    tmp_path: Path, config: RunConfig, name: str, change: Callable[[Path], None], told: str
) -> None:
    begin(tmp_path / "runs" / "e", config)
    require_same_content(read_experiment(tmp_path / "runs" / "e"), content_of(config))
    change(tmp_path / name)
    with pytest.raises(ExperimentError, match="was made of other content") as error:
        run_experiment(config, name="e", output_dir=tmp_path / "runs", resume=True)
    kinds = {kind for kind in ("model/", "text/", "items/") if kind in str(error.value)}
    assert told in str(error.value)
    assert len(kinds) == 1  # and nothing besides


def test_the_same_content_elsewhere_is_the_same(tmp_path: Path, config: RunConfig) -> None:
    before = content_of(config)
    moved = (tmp_path / "model").rename(tmp_path / "moved")
    (moved / "README.md").write_text("notes say nothing of what a model answers")
    assert content_of(config.model_copy(update={"model": str(moved)})) == before


def test_other_images_under_the_same_path_are_not_resumed(
    tmp_path: Path, config: RunConfig
) -> None:
    experiment = begin(tmp_path / "e", config)
    images = tmp_path / "photos"
    images.mkdir()
    (images / "texts.jsonl").write_text('{"image": "a.png", "answer": "a cat"}\n')
    (images / "a.png").write_bytes(b"one")
    strategy = registry.canonical(f'structured_afr_llava(images="{images}")')
    experiment.begin(1, strategy, inputs=inputs_of(strategy, None))
    assert list(experiment.inputs(1)) == ["step 1/images"]
    require_same_content(read_experiment(tmp_path / "e"), content_of(config))
    (images / "a.png").write_bytes(b"two")
    with pytest.raises(ExperimentError, match="step 1/images of episode 1"):
        require_same_content(read_experiment(tmp_path / "e"), content_of(config))


def test_on_another_machine_the_base_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fakes(monkeypatch)
    run, _ = fake_run(tmp_path, FakeExecutor())
    first = measure_baseline(run)
    here = detect()
    assert first.machine == here.id
    elsewhere = here.model_copy(update={"cpu": "another processor"})
    monkeypatch.setattr("tests.coordinate.fake_run.detect", lambda: elsewhere)
    executor = FakeExecutor()
    moved, told = fake_run(tmp_path, executor, begin=False)
    again = measure_baseline(moved)
    assert again.machine == elsewhere.id != here.id
    assert ("evaluate", "episode_000") in executor.timeouts  # it was not read back
    assert [f["reason"] for name, f in told if name == "decision"] == [
        "the uncompressed model, again: this is another machine"
    ]
    kept = moved.experiment.episode(0) / f"results-{here.id}.json"
    assert TrialResult.model_validate_json(kept.read_text()) == first
    (event,) = [e for e in read_events(moved.experiment.events.path) if e["event"] == "machine"]
    assert (event["before"], event["now"]) == (here.id, elsewhere.id)
    assert measure_baseline(moved) == again  # once


def test_a_result_says_where_it_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fakes(monkeypatch)
    run, _ = fake_run(tmp_path, FakeExecutor(), episodes=1)
    go(run)
    assert {r.machine for r in run.experiment.results()} == {detect().id}


def test_what_is_free_or_was_read_a_little_differently_makes_no_other_machine() -> None:
    here = detect()
    busy = here.model_copy(update={"available_bytes": 1, "memory_bytes": here.memory_bytes - 4096})
    assert busy.id == here.id
    gpu = Gpu(name="G", memory_bytes=1, free_bytes=1, compute_capability="9.0")
    with_gpu = here.model_copy(update={"gpus": (gpu,)})
    emptier = gpu.model_copy(update={"free_bytes": 0})
    assert here.model_copy(update={"gpus": (emptier,)}).id == with_gpu.id
    changed: list[dict[str, Any]] = [
        {"cpu": "x"},
        {"logical_cores": 99},
        {"flags": ()},
        {"gpus": (gpu,)},
    ]
    ids = {here.model_copy(update=change).id for change in changed}
    assert len(ids | {here.id}) == len(changed) + 1
