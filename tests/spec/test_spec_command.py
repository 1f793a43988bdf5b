"""`paredown spec` as a user calls it."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from rich.console import Console
from safetensors.numpy import save_file
from typer.testing import CliRunner

os.environ["HF_HUB_OFFLINE"] = "1"

from paredown.artifact import source
from paredown.cli import spec as command
from paredown.errors import ConfigError, ModelError
from paredown.hardware.detect import Gpu, Machine
from paredown.methods import recommend
from paredown.methods.recommend import Suggestion
from paredown.spec.infer import infer_spec
from paredown.spec.model import ModelSpec, VisionSpec

MACHINE = Machine(
    system="Linux x86_64",
    cpu="Test CPU",
    physical_cores=2,
    logical_cores=4,
    memory_bytes=8_000_000_000,
    available_bytes=4_000_000_000,
    flags=("avx2",),
)
ADVICE = Suggestion(strategy="rtn(bits=8)", reason="because it is small", predicted_bytes=10)


@pytest.fixture(autouse=True)
def advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recommend, "recommend", lambda spec, machine: [ADVICE])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    shapes = {
        "model.embed_tokens.weight": (100, 64),
        "lm_head.weight": (100, 64),
        "model.layers.0.self_attn.q_proj.weight": (64, 64),
        "model.layers.0.self_attn.k_proj.weight": (32, 64),
        "model.layers.0.mlp.down_proj.weight": (64, 128),
    }
    save_file(
        {name: np.zeros(shape, dtype=np.float16) for name, shape in shapes.items()},
        tmp_path / "model.safetensors",
    )
    return tmp_path


def run(*arguments: str) -> Any:
    app = typer.Typer()
    app.command()(command.spec)
    return CliRunner().invoke(app, [*arguments])


def shown(spec: ModelSpec, machine: Machine = MACHINE, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(command.render_spec(spec, machine, **options))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_tables_name_every_fact(folder: Path) -> None:
    result = run("-m", str(folder))
    assert result.exit_code == 0
    for text in ("LlamaForCausalLM", "27,136", "4 heads of 16", "512 tokens", "int4", "fp32"):
        assert text in result.stdout


def test_tables_show_sizes_machine_and_advice(folder: Path) -> None:
    text = shown(infer_spec(folder), context=100, batch=2, group_size=32)
    assert "Test CPU, 2 cores; 4.0 GB of 8.0 GB free; no GPU" in text
    assert "groups of 32" in text
    assert "100 tokens x 2" in text
    assert "rtn(bits=8)" in text
    assert "because it is small" in text
    assert "yes" in text


def test_json_can_be_read_by_programs(folder: Path) -> None:
    result = run("-m", str(folder), "--json", "--context", "100", "--batch", "2")
    report = json.loads(result.stdout)
    assert report["schema_version"] == 1
    assert report["spec"]["parameters"] == 27136
    assert "tensors" not in report["spec"]
    assert (report["stored_bytes"], report["stored_tensors"]) == (54272, 5)
    assert (report["context"], report["batch"], report["group_size"]) == (100, 2, 64)
    rows = {row["precision"]: row for row in report["sizes"]}
    assert list(rows) == ["as stored (F16)", "fp32", "fp16", "int8", "int4"]
    assert rows["fp16"]["weights_bytes"] == 54272
    assert rows["fp16"]["serve_bytes"] == 54272 + 2 * 100 * 128
    assert report["recommendations"] == [ADVICE.model_dump()]
    assert report["machine"]["logical_cores"] >= 1


def test_context_is_the_models_own_if_it_is_short(folder: Path) -> None:
    report = command.build_report(infer_spec(folder), MACHINE, context=None, batch=1, group_size=64)
    assert report.context == 512


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--context", "513"), "--context 513: .* reads at most 512 tokens"),
        (("--group-size", "0"), "--group-size 0: use 1 or more, or -1"),
    ],
)
def test_impossible_wishes_are_refused(
    folder: Path, arguments: tuple[str, str], message: str
) -> None:
    result = run("-m", str(folder), *arguments)
    assert isinstance(result.exception, ConfigError)
    with pytest.raises(ConfigError, match=message):
        raise result.exception


@pytest.mark.parametrize("option", ["--context", "--batch"])
def test_nothing_to_serve_is_refused(folder: Path, option: str) -> None:
    assert run("-m", str(folder), option, "0").exit_code == 2


def test_a_quantized_model_is_shown_as_it_is(folder: Path) -> None:
    spec = infer_spec(folder).model_copy(update={"quantization": "gptq"})
    text = shown(spec)
    assert "as stored (gptq)" in text
    assert "fp16" not in text
    assert "Quantized already (gptq)." in text


def test_without_advice_it_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recommend, "recommend", lambda spec, machine: [])
    spec = infer_spec(folder)
    assert "No method suits this model as it is stored." in shown(spec)
    packed = spec.model_copy(update={"quantization": "gptq"})
    assert "Start from its unquantized version." in shown(packed)


def test_unknown_facts_are_named(folder: Path) -> None:
    spec = infer_spec(folder).model_copy(
        update={"kv_heads": None, "unknown": ("kv_heads",), "experts": 8, "hidden_size": None}
    )
    text = shown(spec)
    assert "Memory to quantize: unknown" in text
    assert "unknown for keys and values" in text
    assert "8, unknown per token" in text


def test_active_parameters_and_vision_tower_are_shown(folder: Path) -> None:
    tower = VisionSpec(
        model_type="clip", layers=3, hidden_size=8, intermediate_size=None, parameters=1200
    )
    spec = infer_spec(folder).model_copy(update={"active_parameters": 9000, "vision": tower})
    text = shown(spec)
    assert "27,136 (27.1k), 9.0k active per token" in text
    assert "clip: 3 layers, 1.2k parameters" in text


def test_what_does_not_fit_is_said(folder: Path) -> None:
    tight = MACHINE.model_copy(update={"available_bytes": 1000})
    report = command.build_report(infer_spec(folder), tight, context=8, batch=1, group_size=64)
    assert {row.fits for row in report.sizes} == {False}
    assert report.quantize_fits is False


def test_memory_of_a_gpu_counts(folder: Path) -> None:
    gpu = Gpu(name="G", memory_bytes=10**9, free_bytes=10**9, compute_capability="9.0")
    machine = MACHINE.model_copy(update={"available_bytes": 1000, "gpus": (gpu,)})
    report = command.build_report(infer_spec(folder), machine, context=8, batch=1, group_size=64)
    assert {row.fits for row in report.sizes} == {True}
    assert "G, 1.0 GB free" in shown(infer_spec(folder), machine)


def test_a_hub_model_that_is_not_here_is_read_from_its_headers(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = infer_spec(folder, name="owner/name").model_copy(update={"path": None})
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(source, "infer_remote", lambda name: remote)
    assert source.spec_of("owner/name") == remote


def test_a_missing_folder_is_not_asked_of_the_hub(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no such folder"):
        source.spec_of(str(tmp_path / "nothing"))


def test_a_relative_folder_is_not_a_hub_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent.parent)
    name = f"{folder.parent.name}/{folder.name}"
    assert source.spec_of(name).path == folder.resolve()
