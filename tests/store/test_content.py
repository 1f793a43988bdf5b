"""Hashes of what files hold."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from paredown.store import content
from paredown.store.content import code, file_hash, folder_hash, model_files, model_hash

LARGE = 1 << 23


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PAREDOWN_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def aged(path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was written a while ago, as the clock has it."""
    path.write_bytes(data)
    later = time.time() + 60
    monkeypatch.setattr("paredown.store.content.time.time", lambda: later)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_large_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"a" * LARGE
    aged(tmp_path / "w", data, monkeypatch)
    assert file_hash(tmp_path / "w") == sha(data)
    monkeypatch.setattr(content, "_digest", lambda path: pytest.fail("read again"))
    assert file_hash(tmp_path / "w") == sha(data)


def test_a_copied_time_hides_no_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w"
    aged(path, b"a" * LARGE, monkeypatch)
    before = path.stat()
    assert file_hash(path) == sha(b"a" * LARGE)
    with path.open("r+b") as file:
        file.write(b"b")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert file_hash(path) == sha(b"b" + b"a" * (LARGE - 1))


def test_what_was_just_written_is_not_remembered(tmp_path: Path, home: Path) -> None:
    (tmp_path / "w").write_bytes(b"a" * LARGE)
    file_hash(tmp_path / "w")
    assert not (home / "cache" / "hashes").exists()


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "merges.txt", "sub/chat.jinja", "modeling_x.py"]
)
def test_everything_that_a_loader_reads_makes_the_model(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    before = model_hash(folder)
    (folder / name).write_text("{ }")
    assert model_hash(folder) != before
    assert name in model_files(folder)


@pytest.mark.parametrize("name", ["README.md", "paredown.json", ".cache/note.json", "plot.png"])
def test_what_no_loader_reads_does_not(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    (folder / ".cache").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    before = model_hash(folder)
    (folder / name).write_text("{}")
    assert model_hash(folder) == before


def test_a_folder_is_names_and_contents(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"1")
    first = folder_hash(folder)
    (folder / "a.png").rename(folder / "b.png")
    renamed = folder_hash(folder)
    (folder / "b.png").write_bytes(b"2")
    assert len({first, renamed, folder_hash(folder)}) == 3
    (folder / "b.png").write_bytes(b"1")
    (folder / "b.png").rename(folder / "a.png")
    assert folder_hash(folder) == first


def test_another_code_is_another_key() -> None:
    assert code(1) != code(2)
    assert code(1)["versions"].keys() >= {"paredown", "torch", "transformers"}
