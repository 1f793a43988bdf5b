"""Models of ModelScope through its library, which a stand-in with its signatures plays here."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from paredown.artifact.source import is_hub_name, locate, spec_of
from paredown.errors import ConfigError, ModelError
from tests.coordinate.fake_run import write_model


class HubError(Exception):
    pass


class Library:
    """What is used of `modelscope.hub`."""

    def __init__(self, model: Path) -> None:
        self.model, self.is_here = model, False
        self.asked: list[tuple[str, str | None]] = []
        self.size = 1000
        self.failure: Exception | None = None

    def snapshot_download(
        self, model_id: str, revision: str | None = None, local_files_only: bool = False,
        allow_patterns: list[str] | None = None, ignore_patterns: list[str] | None = None,
    ) -> str:  # fmt: skip
        assert allow_patterns is not None
        assert "*.safetensors" in allow_patterns
        if local_files_only:
            if not self.is_here:
                raise ValueError("Cannot find the requested files in the cached path")
            return str(self.model)
        self.asked.append((model_id, revision))
        if self.failure is not None:
            raise self.failure
        self.is_here = True
        return str(self.model)

    def get_model_files(
        self, model_id: str, revision: str | None = None, recursive: bool = False
    ) -> list[dict[str, Any]]:
        return [
            {"Path": "model.safetensors", "Size": self.size},
            {"Path": "pytorch_model.bin", "Size": 10**18},
        ]


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    write_model(tmp_path / "m")
    found = Library(tmp_path / "m")
    modules = {name: ModuleType(name) for name in (
        "modelscope", "modelscope.hub", "modelscope.hub.snapshot_download", "modelscope.hub.api",
        "modelscope.hub.errors",
    )}  # fmt: skip
    modules["modelscope.hub.snapshot_download"].snapshot_download = found.snapshot_download  # type: ignore[attr-defined]
    modules["modelscope.hub.api"].HubApi = lambda: found  # type: ignore[attr-defined]
    modules["modelscope.hub.errors"].HubError = HubError  # type: ignore[attr-defined]
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    return found


def test_a_model_is_fetched_once_at_its_revision(library: Library) -> None:
    told: list[str] = []
    name = "modelscope:Qwen/Qwen3-0.6B@v2"
    folder = locate(name, lambda share, message: told.append(message))
    assert folder == library.model
    assert told[0].startswith(f"downloading 1.0 kB of {name} (")  # the pickle is not fetched
    assert spec_of(name).name == name
    assert library.asked == [("Qwen/Qwen3-0.6B", "v2")]
    assert not is_hub_name(name)


def test_what_does_not_fit_is_not_begun(library: Library) -> None:
    library.size = 10**18
    with pytest.raises(ModelError, match=r"1000000\.0 TB .* MODELSCOPE_CACHE"):
        locate("modelscope:a/b")
    assert library.asked == []


@pytest.mark.parametrize("failure", [HubError("no such\nmodel"), OSError("no route")])
def test_its_errors_are_one_line(library: Library, failure: Exception) -> None:
    library.failure = failure
    with pytest.raises(ModelError, match=r"ModelScope does not give 'modelscope:a/b' \(no ") as e:
        locate("modelscope:a/b")
    assert "\n" not in str(e.value)


def test_offline_it_is_not_asked(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="not complete in ModelScope's cache, and HF_HUB_OFFLINE"):
        locate("modelscope:a/b")
    library.is_here = True
    assert locate("modelscope:a/b") == library.model


def test_a_name_without_an_owner_is_refused() -> None:
    with pytest.raises(ModelError, match="write modelscope:OWNER/NAME"):
        locate("modelscope:b")


def test_without_the_library_one_line_says_what_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(ConfigError, match=r"pip install 'paredown\[modelscope\]'"):
        locate("modelscope:a/b")
