"""Whole experiments on a tiny model: search, kill, resume, refuse."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import paredown
from paredown.errors import ConfigError, DataError, ExperimentError, ModelError, StrategyError
from paredown.spec.run import RunConfig
from paredown.store.experiment import read_experiment
from paredown.testing.tiny import tiny_model
from paredown.text.ascii import write_byte_tokenizer
from tests.samples import CALIBRATION, EVALUATE, write_text_file


def settings(folder: Path, **changes: object) -> dict[str, object]:
    model, text = folder / "model", folder / "text.txt"
    if not model.exists():
        tiny_model(model)
        write_text_file(text)
    defaults: dict[str, object] = {
        "model": str(model),
        "data": str(text),
        "evaluate": EVALUATE.model_dump(),
        "calibration": CALIBRATION.model_dump(),
        "episodes": 3,
        "policy": "grid",
        "methods": ("rtn", "gptq", "l2_structured"),
        "skills": False,
    }
    return defaults | changes


def test_an_experiment_leaves_everything_that_was_promised(tmp_path: Path) -> None:
    events: list[str] = []
    front = paredown.optimize(
        **settings(tmp_path, limits={"max_accuracy_loss": 1000.0}),  # type: ignore[arg-type]
        experiment_name="one",
        output_dir=tmp_path / "out",
        listen=lambda event, fields: events.append(event),
    )
    folder = tmp_path / "out" / "one"
    names = {p.name for p in folder.iterdir()}
    assert names >= {
        "run.json", "model_spec.json", "events.jsonl", "pareto_frontier.json",
        "final_results.json", "search_history.csv", "search_space_analysis.png",
        "pareto_visualization.html", "report.md", "episode_000", "episode_001", "episode_003",
    }  # fmt: skip
    for name in ("run.json", "model_spec.json", "final_results.json", "pareto_frontier.json"):
        assert json.loads((folder / name).read_text())["schema_version"] == 1
    rows = list(csv.DictReader((folder / "search_history.csv").open()))
    assert [row["episode"] for row in rows] == ["0", "1", "2", "3"]
    assert "https://" not in (folder / "pareto_visualization.html").read_text()[:2000]
    assert events.count("result") == 4
    assert front.baseline is not None
    assert front.best is not None
    assert front.best.artifact is not None
    model = paredown.load(front.best.artifact)
    assert type(model).__name__ == "LlamaForCausalLM"
    kept = {c.result.episode for c in front.points if c.artifact is not None}
    on_disk = {int(p.parent.name[-3:]) for p in folder.glob("episode_*/artifact")}
    assert kept <= on_disk


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["torch", "llama.cpp"])
def test_the_best_model_of_a_size(tmp_path: Path, runtime: str) -> None:
    """The plan for the size comes first, its files keep it to the byte, and the report shows it."""
    request = settings(tmp_path, methods=("mixed", "gptq"), policy="portfolio", episodes=2)
    if runtime == "llama.cpp":
        write_byte_tokenizer(tmp_path / "model")
    whole = sum(f.stat().st_size for f in (tmp_path / "model").glob("*.safetensors"))
    size = int(0.75 * whole)
    front = paredown.optimize(
        **request, limits={"size": size}, runtime=runtime, experiment_name="s",  # type: ignore[arg-type]
        output_dir=tmp_path,
    )  # fmt: skip
    first = front.record.trials[0]
    assert first.strategy is not None
    assert first.strategy.steps[0].method == "mixed"
    assert first.strategy.steps[0].params["runtime"] == runtime
    assert first.proposed_by == "aim"
    assert first.unmet == ()
    # Of so small a file, what is told of a GGUF's header is some thousand bytes too much.
    assert 0.94 * size <= (first.value("size") or 0.0) <= size
    assert front.best is not None
    assert (front.best.result.value("size") or 0.0) <= size
    if front.best.result.episode == 1:
        assert "Bits by layer" in (front.folder / "report.md").read_text()


@pytest.mark.slow
def test_the_same_request_again_must_say_resume(tmp_path: Path) -> None:
    request = settings(tmp_path, episodes=1)
    paredown.optimize(**request, experiment_name="a", output_dir=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(ExperimentError, match="exists already; continue it with --resume"):
        paredown.optimize(**request, experiment_name="a", output_dir=tmp_path)  # type: ignore[arg-type]
    again: list[str] = []
    paredown.optimize(
        **request, experiment_name="a", output_dir=tmp_path, resume=True,  # type: ignore[arg-type]
        listen=lambda event, fields: again.append(event),
    )  # fmt: skip
    assert again == []
    other = settings(tmp_path, episodes=1, seed=7)
    with pytest.raises(ExperimentError, match=r"other settings .*seed: 0 there, 7 now"):
        paredown.optimize(**other, experiment_name="a", output_dir=tmp_path, resume=True)  # type: ignore[arg-type]
    more = settings(tmp_path, episodes=2)
    front = paredown.optimize(
        **more, experiment_name="a", output_dir=tmp_path, resume=True  # type: ignore[arg-type]
    )  # fmt: skip
    assert len(front.record.trials) == 2


@pytest.mark.slow
def test_a_killed_run_loses_at_most_the_trial_in_flight(tmp_path: Path) -> None:
    # What is proposed after a resume is tried without processes, in `test_nodes`.
    request = settings(tmp_path, episodes=2, policy="random", seed=3)
    script = (
        "import json, sys, paredown; from pathlib import Path\n"
        f"paredown.optimize(**json.loads(sys.argv[1]), experiment_name='k', "
        f"output_dir={str(tmp_path)!r}, resume=True)\n"
    )
    command = [sys.executable, "-c", script, json.dumps(request)]
    process = subprocess.Popen(command, cwd=tmp_path)
    first = tmp_path / "k" / "episode_001" / "results.json"
    second = tmp_path / "k" / "episode_002" / "strategy.json"
    deadline = time.monotonic() + 500
    while not second.exists() and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before, planned = first.read_text(), second.read_text()
    front = paredown.optimize(
        **request, experiment_name="k", output_dir=tmp_path, resume=True  # type: ignore[arg-type]
    )  # fmt: skip
    assert first.read_text() == before or "artifact" in before
    assert second.read_text() == planned
    uninterrupted = paredown.optimize(
        **request, experiment_name="whole", output_dir=tmp_path  # type: ignore[arg-type]
    )  # fmt: skip
    assert [r.strategy for r in front.record.results] == [
        r.strategy for r in uninterrupted.record.results
    ]
    assert front.record.final is not None


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"methods": ("gptqq",)}, StrategyError, "did you mean 'gptq'"),
        ({"data": "wikitxt2"}, DataError, "did you mean 'wikitext2'"),
        ({"episodes": 0}, ConfigError, "episodes = 0"),
        ({"episode": 3}, ConfigError, "did you mean 'episodes'"),
        ({"limits": {"target_ratio": 99.0}}, ConfigError, "99"),
        ({"limits": {"size": "9kB"}}, ConfigError, "size 9kB: no strategy makes it so small; betw"),
        ({"limits": {"bpw": 31}}, ConfigError, "so nothing has to be made smaller; give less"),
        ({"limits": {"max_memory_gb": 0.00001}}, ConfigError, "memory"),
        ({"limits": {"max_memory_gb": 0.19}}, ConfigError, "0.2 GB of memory before any model"),
        ({"limits": {"target_ratio": 0.5}}, ConfigError, "for 50 % of the size give 2"),
        ({"evaluate": {"tokens": 10**6}}, DataError, "evaluation part has .* are needed"),
        ({"calibration": {"samples": 10**5}}, DataError, "calibration part has .* are needed"),
        ({"calibration": {"source": "wiki.test.raw"}}, DataError, "test or validation split"),
        ({"device": "cuda"}, ConfigError, "use --device cpu"),
        ({"model": "no/such/model/here"}, ModelError, "no such folder"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_written(
    tmp_path: Path, changes: dict[str, object], error: type[ConfigError], words: str
) -> None:
    with pytest.raises(error, match=words):
        paredown.optimize(
            **settings(tmp_path, **changes), experiment_name="x", output_dir=tmp_path  # type: ignore[arg-type]
        )  # fmt: skip
    assert not (tmp_path / "x").exists()


def test_nan_weights_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    request = settings(tmp_path)
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"up_proj.weight holds 1 NaN"):
        paredown.optimize(**request, experiment_name="x", output_dir=tmp_path)  # type: ignore[arg-type]


def test_equal_requests_are_equal(tmp_path: Path) -> None:
    one = RunConfig.model_validate(settings(tmp_path))
    assert RunConfig.model_validate_json(one.model_dump_json()) == one


def test_record_reads_back(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="no experiment folder"):
        read_experiment(tmp_path)
