"""`paredown match` as a user calls it: in a second, from the spec alone."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from paredown.cli.match import match
from paredown.errors import ConfigError, ModelError
from paredown.hardware.detect import detect
from paredown.runtimes.calibration import Calibration, kept
from paredown.store.atomic import write_json
from paredown.store.home import home
from paredown.testing.tiny import tiny_model

app = typer.Typer()
app.command()(match)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model(tmp_path_factory.mktemp("match") / "m"))


def run(*words: str) -> Any:
    return CliRunner().invoke(app, [*words])


def said(*words: str) -> str:
    found = run(*words)
    assert found.exit_code == 0, found.exception
    return str(found.stdout)


def document(*words: str) -> Any:
    return json.loads(said(*words, "--json"))


def refused(*words: str) -> str:
    found = run(*words)
    assert isinstance(found.exception, ConfigError), found.exception
    return str(found.exception)


def test_every_number_says_how_it_is_known(folder: str) -> None:
    found = document("-m", folder, "--gpu", "rtx 4090,l4")
    assert [v["name"] for v in found["versions"]] == ["bf16", "fp8", "int8", "int4"]
    assert {f["device"] for f in found["fits"]} == {"RTX 4090", "L4"}
    fit = found["fits"][0]
    parts = fit["memory_bytes"]
    assert parts["weights"]["source"] == parts["cache"]["source"] == "derived"
    assert parts["weights"]["low"] == parts["weights"]["high"]
    assert parts["total"]["source"] == fit["tpot_s"]["source"] == "estimated"
    assert parts["total"]["low"] < parts["total"]["value"] < parts["total"]["high"]
    assert fit["cost_usd"]["basis"] == "rent, 2026-03"
    assert fit["figures"]["bandwidth"] == "verified"
    # 2 layers, 2 heads of 16, keys and values, 16 bits; the model reads 256 tokens.
    assert parts["cache"]["value"] == 2 * 2 * 2 * 16 * 2 * 256


def test_people_read_versions_side_by_side_and_the_best_with_its_reason(folder: str) -> None:
    text = " ".join(said("-m", folder, "-p", "bf16,int4").split())
    assert "1 sequence of 256 tokens" in text
    for words in ("Versions, if one device holds all of it", "Devices, best first",
                  "cheapest per token of those whose price is known", "bound by",
                  "50 more with --all", "the same 1x", "not verified"):  # fmt: skip
        assert words in text, words


def test_csv_has_a_row_per_version_and_device(folder: str) -> None:
    rows = list(csv.DictReader(io.StringIO(said("-m", folder, "-p", "bf16,int4", "--csv"))))
    assert len({(r["version"], r["device"]) for r in rows}) == len(rows) >= 100
    assert {r["version"] for r in rows} == {"bf16", "int4"}
    assert float(rows[0]["usd_per_million_low"]) <= float(rows[1]["usd_per_million_high"])


def test_strategies_and_artifacts_are_versions_too(folder: str) -> None:
    found = document("-m", folder, "-p", f"bf16,rtn(bits=4, group_size=32),{folder}", "--gpu", "l4")
    names = [v["name"] for v in found["versions"]]
    assert names == ["bf16", "rtn(group_size=32)", folder]
    sizes = {v["name"]: v["bytes"] for v in found["versions"]}
    assert sizes["bf16"] == sizes[folder] > sizes["rtn(group_size=32)"]


def test_a_stream_of_requests_with_goals(folder: str) -> None:
    words = ("-m", folder, "--requests-per-s", "5", "--input", "100", "--output", "20")
    found = document(*words, "--slo", "ttft=500ms,tpot=0.05s", "--gpu", "l4")
    assert found["asked"]["ttft_s"] == 0.5
    assert found["fits"][0]["tokens_per_s"]["value"] == 100
    nothing = said(*words, "--slo", "tpot=0.001ms", "--gpu", "l4")
    assert "a token takes about" in nothing
    assert "What would do" in nothing


def test_training_side_by_side(folder: str) -> None:
    found = document("-m", folder, "--train", "full,lora,qlora", "--rank", "4", "--gpu", "l4")
    assert [t["mode"] for t in found["trainings"]] == ["full", "lora", "qlora"]
    full, lora, _ = (t["memory_bytes_one_device"] for t in found["trainings"])
    assert full["optimizer"]["value"] > lora["optimizer"]["value"]
    text = said("-m", folder, "--train", "lora", "--gpu", "l4")
    assert "Memory, if one device holds all of it" in text
    rows = list(csv.DictReader(io.StringIO(said("-m", folder, "--train", "lora", "--csv"))))
    assert {r["mode"] for r in rows} == {"lora"}


def test_a_budget_that_nothing_meets_says_what_is_cheapest(folder: str) -> None:
    assert document("-m", folder, "--budget", "1usd/h")["fits"]
    found = document("-m", folder, "--budget", "0.01")
    assert found["fits"] == []
    assert "the cheapest is 1x" in found["notes"][-1]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--gpu", "rtx 4091"), "did you mean 'RTX 4090'"),
        (("--context", "300"), "reads at most 256 tokens"),
        (("--input", "256", "--context", "256"), "leaves no room in --context 256"),
        (("-p", "int3"), "neither a precision nor a folder nor a strategy; did you mean 'int"),
        (("-p", "gptq(bit=4)"), "no parameter 'bit'"),
        (("--runtime", "vlm"), "did you mean 'vllm'"),
        (("--slo", "ttft=5s"), "--slo has no meaning for a batch; leave it out, or add --requests"),
        (("--requests-per-s", "5", "--batch", "2"), "--batch has no meaning for a stream"),
        (("--train", "lora", "--precision", "int4"), "--precision has no meaning for training"),
        (("--rank", "4"), "--rank has no meaning for a batch"),
        (("--json", "--csv"), "two forms of one thing"),
        (("--slo", "ttft=soon", "--requests-per-s", "1"), "write ttft=500ms,tpot=50ms"),
        (("--budget", "cheap"), "write US dollars an hour"),
        (("--serve", "--train", "lora"), "two questions"),
    ],
)
def test_what_is_refused_says_what_would_do(folder: str, words: tuple[str, ...], told: str) -> None:
    assert told in refused("-m", folder, *words)


def test_no_model_is_refused_and_a_missing_one_named() -> None:
    assert "paredown match -m demo" in refused()
    assert isinstance(run("-m", "/nowhere/at/all").exception, ModelError)


def test_an_architecture_that_is_not_understood_is_told_not_guessed(
    folder: str, tmp_path: Path
) -> None:
    strange = tmp_path / "strange"
    strange.mkdir()
    for file in Path(folder).iterdir():
        (strange / file.name).write_bytes(file.read_bytes())
    config = json.loads((strange / "config.json").read_text())
    config["layer_types"] = ["hash_attention"] * 2
    (strange / "config.json").write_text(json.dumps(config))
    found = document("-m", str(strange), "--gpu", "l4")
    assert found["fits"] == []
    assert "hash_attention" in found["notes"][0]
    assert "the cache is unknown" in found["refused"][0]["reason"]
    text = said("-m", str(strange), "--gpu", "l4")
    assert "unknown" in text


def test_the_catalogue_is_listed_and_a_bad_one_refused(tmp_path: Path) -> None:
    assert "H100 SXM" in said("--devices", "--gpu", "h100")
    rows = json.loads(said("--devices", "--json"))
    assert all(row["source"] for row in rows)
    file = tmp_path / "own.yaml"
    file.write_text("devices:\n  - {name: X, memory_gb: 8, source: here}\n")
    assert "line 2, column 5: device 'X': bandwidth_gb_s is missing" in refused(
        "--devices", "--catalogue", str(file)
    )


def calibration() -> Calibration:
    return Calibration(
        machine=detect().id, threads=1, torch="2", copy_bytes_s=1e10, row_bytes_s=1e10,
        packed_bytes_s={4: 5e9}, cache_bytes_s=1e9, few_ops_s=1e11,
        few_packed_ops_s=1e11, dense_ops_s=1e11, packed_ops_s=1e11,
        unpack_s=1e9, layer_s=1e-3, step_s=0.0, process_bytes=4e8,
    )  # fmt: skip


def test_this_machines_speed_is_unknown_until_it_was_measured(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert document("-m", folder)["here"][0]["tpot_s"] is None
    file = home() / "calibration" / f"{detect().id}-1.json"
    file.parent.mkdir(parents=True)
    write_json(file, calibration().model_dump(mode="json"))
    here = document("-m", folder)["here"][0]
    # Two layers of a millisecond; everything else of so small a model is nothing beside them.
    assert here["tpot_s"]["value"] == pytest.approx(2e-3, rel=0.1)
    assert here["tpot_s"]["high"] == pytest.approx(1.5 * here["tpot_s"]["value"])
    assert here["memory_bytes"]["runtime"]["value"] == 4e8
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # other threads, another machine
    assert document("-m", folder)["here"][0]["tpot_s"] is None
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    file.write_text("{")
    assert kept(detect()) is None


def test_it_answers_without_torch(folder: str) -> None:
    code = (
        "import sys; from paredown.cli.main import app; import typer;"
        f"typer.main.get_command(app).main(['match', '-m', {folder!r}, '--csv'],"
        "standalone_mode=False);"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-500:]
