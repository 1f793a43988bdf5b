"""Models from a hub that speaks the hub's protocol, over HTTP: headers, downloads, refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import load_file, save_file

from paredown.artifact.source import locate, spec_of
from paredown.errors import ModelError
from tests.artifact import hub_server
from tests.artifact.hub_server import COMMIT, HubServer
from tests.coordinate.fake_run import write_model


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "model"
    write_model(folder)
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture
def hub(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A running hub, and a cache of its own."""
    with hub_server.running() as server:
        server.models["owner/name"] = whole
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield server


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def test_a_spec_is_read_from_headers_and_no_weight_is_sent(hub: HubServer, whole: Path) -> None:
    spec = spec_of("owner/name")
    assert spec.model_copy(update={"name": "", "path": None}) == spec_of(str(whole)).model_copy(
        update={"name": "", "path": None}
    )
    size = (whole / "model.safetensors").stat().st_size
    header = int.from_bytes((whole / "model.safetensors").read_bytes()[:8], "little")
    # The library asks for the first 100 kB at once; of a larger file it would get no more.
    assert hub.sent["model.safetensors"] <= min(size, 100_001)
    assert header < size
    assert set(hub.sent) == {"model.safetensors", "config.json"}


def test_a_large_model_sends_its_header_alone(hub: HubServer, tmp_path: Path, whole: Path) -> None:
    """Three megabytes of weights behind a header of two tensors."""
    folder = tmp_path / "large"
    folder.mkdir()
    config = json.loads((whole / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(whole / "model.safetensors")
    grown = {**tensors, "extra.weight": np.zeros((1000, 1500), dtype=np.float32)}
    save_file(grown, folder / "model.safetensors")
    hub.models["owner/large"] = folder
    spec_of("owner/large")
    assert (folder / "model.safetensors").stat().st_size > 3_000_000
    assert hub.sent["model.safetensors"] <= 100_001


def test_a_model_is_fetched_once_and_told_before(hub: HubServer) -> None:
    told: list[str] = []
    folder = locate("owner/name", lambda share, message: told.append(message))
    assert spec_of("owner/name").path == folder
    assert len(told) == 1
    assert told[0].startswith("downloading ")
    assert "of disk are free" in told[0]
    sent = dict(hub.sent)
    assert locate("owner/name@v1.0").name == COMMIT
    assert hub.sent["model.safetensors"] == sent["model.safetensors"]


def test_a_download_larger_than_the_disk_does_not_begin(hub: HubServer) -> None:
    hub.claims["model.safetensors"] = 10**18
    with pytest.raises(
        ModelError, match=r"'owner/name': 1000000\.\d TB would have .* has .* left; .*HF_HOME"
    ):
        locate("owner/name")
    assert hub.sent == {}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("owner/nobody", "the hub has no model 'owner/nobody'"),
        ("owner/name@nope", "there is no branch, tag or commit 'nope'"),
        ("owner/closed", "is gated: accept its terms"),
    ],
)
def test_refusals_of_the_hub_are_one_line(
    hub: HubServer, whole: Path, name: str, words: str
) -> None:
    hub.models["owner/closed"] = whole
    hub.gated.add("owner/closed")
    for ask in (locate, spec_of):
        with pytest.raises(ModelError, match=words) as caught:
            ask(name)
        assert "\n" not in str(caught.value)


def test_the_cache_and_the_switch_are_told_apart(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_offline(monkeypatch)
    with pytest.raises(ModelError, match=r"is not in the local cache .* HF_HUB_OFFLINE is set"):
        locate("owner/name")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    folder = locate("owner/name")
    go_offline(monkeypatch)
    assert locate("owner/name") == folder
    with pytest.raises(ModelError, match=rf"in the local cache .* at {COMMIT[:12]}, not at v1\.0"):
        locate("owner/name@v1.0")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"in the local cache .* without all of its weights"):
        locate("owner/name")


def test_a_mirror_is_asked_and_named(hub: HubServer, tmp_path: Path) -> None:
    """In a process of its own: the hub's library reads the variable when it is imported."""
    code = (
        "from paredown.artifact.source import spec_of\n"
        "print(spec_of('owner/name').parameters)\n"
        "try:\n    spec_of('owner/nobody')\n"
        "except Exception as error:\n    print(error)\n"
    )

    def ask(endpoint: str) -> subprocess.CompletedProcess[str]:
        env = os.environ | {
            "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home"),
        }  # fmt: skip
        return subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
        )

    found = ask(hub.url).stdout.splitlines()
    assert int(found[0]) > 0
    assert "the hub has no model" in found[1]
    assert hub.sent["config.json"] > 0
    lost = ask("http://user:secret@127.0.0.1:9").stderr.splitlines()[-1]
    assert "cannot reach the hub at http://[key]@127.0.0.1:9 (HF_ENDPOINT) for 'owner/name'" in lost
