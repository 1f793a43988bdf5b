"""From a name to a folder: revisions, and downloads that were interrupted."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RevisionNotFoundError

from paredown.artifact import source
from paredown.artifact.hub import cached
from paredown.artifact.source import has_chat_template, locate
from paredown.errors import ModelError
from paredown.testing.tiny import tiny_model


class Hub:
    """Stands in for `snapshot_download`, with a cache laid out as the real one's."""

    def __init__(self, root: Path) -> None:
        self.storage = root / "models--owner--name"
        self.snapshot = self.storage / "snapshots" / "abc"
        (self.storage / "blobs").mkdir(parents=True)
        self.whole = tiny_model(root / "whole")
        self.asked: list[tuple[str, str | None]] = []
        self.failure: Exception | None = None

    def __call__(
        self, repo: str, *, revision: str | None = None, local_files_only: bool = False, **_: Any
    ) -> str:
        if local_files_only:
            if not self.snapshot.exists():
                raise LocalEntryNotFoundError("nothing is here")
            return str(self.snapshot)
        self.asked.append((repo, revision))
        if self.failure is not None:
            raise self.failure
        shutil.copytree(self.whole, self.snapshot, dirs_exist_ok=True)
        for part in (self.storage / "blobs").glob("*.incomplete"):
            part.unlink()
        return str(self.snapshot)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    found = Hub(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", found)
    return found


def test_what_is_complete_is_not_asked_for_again(hub: Hub) -> None:
    assert locate("owner/name") == locate("owner/name") == hub.snapshot
    assert hub.asked == [("owner/name", None)]


def test_a_revision_is_pinned(hub: Hub) -> None:
    assert locate("owner/name@v1.0") == hub.snapshot
    assert hub.asked == [("owner/name", "v1.0")]


def test_a_revision_that_is_not_there_is_one_line(hub: Hub) -> None:
    response: Any = type("Response", (), {"headers": {}, "request": None, "status_code": 404})()
    hub.failure = RevisionNotFoundError("404", response=response)
    with pytest.raises(ModelError, match=r"'owner/name@nope': there is no branch.* 'nope'"):
        locate("owner/name@nope")


@pytest.mark.parametrize("name", ["owner/na me", "owner/--", "owner/name@"])
def test_a_name_that_is_none_is_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's own library refuses it, before it looks for a network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with pytest.raises(ModelError) as caught:
        locate(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("lost", ["weights", "end of weights", "tokenizer", "a part"])
def test_an_interrupted_download_is_completed(hub: Hub, lost: str) -> None:
    locate("owner/name")
    weights = hub.snapshot / "model.safetensors"
    if lost == "weights":
        weights.unlink()
    elif lost == "end of weights":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif lost == "tokenizer":
        for file in hub.snapshot.glob("tokenizer*"):
            file.unlink()
    else:
        (hub.storage / "blobs" / "sha.incomplete").write_bytes(b"half")
    assert cached("owner/name") is None
    locate("owner/name")
    assert len(hub.asked) == 2
    assert cached("owner/name") == hub.snapshot


def test_without_a_network_whole_weights_are_enough(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    locate("owner/name")
    (hub.storage / "blobs" / "sha.incomplete").write_bytes(b"half")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert locate("owner/name") == hub.snapshot


def test_a_single_word_is_asked_of_the_hub(hub: Hub) -> None:
    assert locate("gpt2") == hub.snapshot
    assert hub.asked == [("gpt2", None)]


def test_a_single_word_that_is_nothing_names_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match=r"no such folder, and .* HF_HUB_OFFLINE .*mean 'demo'"):
        locate("dmeo")


def test_a_spec_fetches_headers_only(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "infer_remote", lambda name: f"headers of {name}")
    assert source.spec_of("owner/name") == "headers of owner/name"  # type: ignore[comparison-overlap]
    assert hub.asked == []  # no weights
    locate("owner/name")
    assert source.spec_of("owner/name").parameters > 0  # what is here is read here


def test_a_chat_template_is_found_in_each_of_its_places(tmp_path: Path) -> None:
    assert not has_chat_template(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "x"}')
    assert not has_chat_template(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    assert has_chat_template(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    assert has_chat_template(tmp_path)
