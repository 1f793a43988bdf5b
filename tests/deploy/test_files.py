"""Container, compose, systemd and Kubernetes files say the same of one server."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from paredown.deploy.card import license_of
from paredown.deploy.files import image_name, service_files
from paredown.deploy.package import PackageRecord, ServingSettings

RECORD = PackageRecord(
    name="my-model", runtime="llama.cpp", version="abcdef" * 10, nbytes=1, base="b",
    base_hash=None, strategy="", artifact_hash="0", context=None, license=None, libraries={},
)  # fmt: skip
SETTINGS = ServingSettings(
    name="m", context=64, slots=2, threads=3, memory_bytes=3 * 2**20 - 1, port=8123
)


@pytest.fixture
def files() -> dict[str, str]:
    return service_files(RECORD, SETTINGS, ("xllamacpp==1.2",))


def kubernetes(files: dict[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    deployment, service = yaml.safe_load_all(files["kubernetes.yaml"])
    return deployment, service


def test_nothing_is_left_to_fill_in(files: dict[str, str]) -> None:
    for name in ("my-model.service", "kubernetes.yaml"):
        assert "$" not in files[name].replace("PAREDOWN_API_KEY=...", "")
    assert files["requirements.txt"] == "xllamacpp==1.2\n"


def test_kubernetes(files: dict[str, str]) -> None:
    deployment, service = kubernetes(files)
    pod = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert container["image"] == "my-model:abcdefabcdef"
    assert container["ports"][0]["containerPort"] == 8123
    assert container["resources"]["limits"]["memory"] == "3Mi"
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()
    assert deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    key = container["env"][0]["valueFrom"]["secretKeyRef"]
    assert (container["env"][0]["name"], key["name"]) == ("PAREDOWN_API_KEY", "my-model")


def test_compose_is_reached_from_this_machine_only(files: dict[str, str]) -> None:
    service = yaml.safe_load(files["compose.yaml"])["services"]["my-model"]
    assert service["ports"] == ["127.0.0.1:8123:8123"]
    assert service["mem_limit"] == "3m"
    assert int(service["stop_grace_period"].rstrip("s")) > 60  # longer than the server drains


def test_the_image_starts_the_server_and_is_checked_when_it_is_built(files: dict[str, str]) -> None:
    lines = files["Dockerfile"].replace("\\\n", "").splitlines()
    entry = next(json.loads(x.partition(" ")[2]) for x in lines if x.startswith("ENTRYPOINT"))
    assert entry[:3] == ["python", "server.py", "model"]
    assert entry[-2:] == ["--port", "8123"]
    health = next(json.loads(x[x.index("[") :]) for x in lines if "CMD [" in x)
    compile(health[2], "health", "exec")
    assert "RUN sha256sum --quiet --check SHA256SUMS" in lines
    assert "USER 10001:10001" in lines


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_reads_the_unit(files: dict[str, str], tmp_path: Path) -> None:
    unit = tmp_path / "my-model.service"
    # Its programs are not installed here; everything else is read.
    text = files["my-model.service"].replace("/opt/my-model-venv/bin/python", "/bin/sh")
    unit.write_text(text)
    found = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    assert "my-model" not in found.stderr
    unit.write_text(text.replace("KillSignal=SIGTERM", "KillSignal=SIGNOTHING"))
    bad = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )
    assert "SIGNOTHING" in bad.stderr  # so the clean run above says something


@pytest.mark.parametrize(
    ("name", "expected"),
    [("My_Model v1.5", "my-model-v1-5"), ("---", "model"), ("x" * 80, "x" * 50), ("模型", "model")],
)
def test_names_that_kubernetes_takes(name: str, expected: str) -> None:
    assert image_name(name) == expected


def test_licences(tmp_path: Path) -> None:
    assert license_of(tmp_path) is None
    (tmp_path / "LICENSE").write_text("\n  Gemma Terms of Use  \nmore")
    assert license_of(tmp_path) == "Gemma Terms of Use"
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Model\n")
    assert license_of(tmp_path) == "apache-2.0"
    (tmp_path / "README.md").write_text("---\nlicense: other\nlicense_name: own\n---\n")
    assert license_of(tmp_path) == "own"
    (tmp_path / "README.md").write_text("---\n: : :\n  - [\n---\n")
    assert license_of(tmp_path) == "Gemma Terms of Use"
