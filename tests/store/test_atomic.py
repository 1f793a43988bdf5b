"""Files and folders that are complete or not there."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from paredown.errors import ConfigError
from paredown.spec.target import Limits
from paredown.store.atomic import (
    clear_disk_errors,
    folder_bytes,
    new_folder,
    require_writable,
    write_bytes,
    write_json,
    write_text,
)


def test_content_arrives_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    write_text(path, "grüße")
    assert path.read_bytes() == "grüße".encode()
    write_bytes(path, b"second")
    assert path.read_bytes() == b"second"
    assert [*path.parent.iterdir()] == [path]
    assert path.stat().st_mode & 0o777 == 0o644


def test_json_takes_models_and_refuses_nan(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"limits": Limits(target_ratio=2)})
    assert json.loads(path.read_text())["limits"]["target_ratio"] == 2
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"x": float("nan")})
    assert "target_ratio" in path.read_text()


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match=r"the disk is full.*free some space"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [*tmp_path.iterdir()] == [path]


def raise_errno(number: int) -> None:
    with clear_disk_errors(Path("somewhere")):
        raise OSError(number, os.strerror(number))


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_folder_that_is_not_writable(number: int) -> None:
    with pytest.raises(ConfigError, match=r"cannot write somewhere: .*; choose another folder"):
        raise_errno(number)


def test_a_full_quota() -> None:
    with pytest.raises(ConfigError, match="the disk is full"):
        raise_errno(errno.EDQUOT)


def test_other_errors_keep_their_traceback() -> None:
    with pytest.raises(IsADirectoryError):
        raise_errno(errno.EISDIR)


def fill(folder: Path, name: str, *, fail: bool = False) -> None:
    with new_folder(folder) as partial:
        assert partial.parent == folder.parent
        (partial / name).write_text("x")
        if fail:
            raise KeyError(name)


def test_a_new_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with new_folder(target) as partial:
        (partial / "a").write_text("x")
        assert not target.exists()
    assert [f.name for f in target.iterdir()] == ["a"]
    assert [*tmp_path.iterdir()] == [target]


def test_a_failed_folder_keeps_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "out"
    fill(target, "old")
    with pytest.raises(KeyError):
        fill(target, "new", fail=True)
    assert [f.name for f in target.iterdir()] == ["old"]
    assert [*tmp_path.iterdir()] == [target]
    fill(target, "new")
    assert [f.name for f in target.iterdir()] == ["new"]


def test_what_a_killed_process_has_left_is_deleted_and_nothing_else(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from paredown.store.atomic import new_folder\n"
        "with new_folder(Path(sys.argv[1])) as partial:\n"
        "    (partial / 'half').write_text('x'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    target = tmp_path / "out[1]"
    subprocess.run([sys.executable, "-c", code, str(target)], check=False)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".out[1].partial-")
    fill(target, "new")
    assert left.exists()  # so young that its process might be about to lock it
    os.utime(left, (1.0, 1.0))
    with new_folder(target) as partial:
        assert not left.exists()
        os.utime(partial, (1.0, 1.0))
        fill(target, "meanwhile")  # another writer, while this one works
        assert partial.exists()
    assert [*tmp_path.iterdir()] == [target]


def test_bytes_of_a_folder(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a.bin", b"123")
    write_bytes(tmp_path / "sub" / "b.txt", b"4567")
    assert folder_bytes(tmp_path) == 7
    assert folder_bytes(tmp_path, "*.bin") == 3


def test_a_loop_of_links_and_a_file_in_the_place_of_a_folder(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(ConfigError, match=r"cannot write .*loop.*: Too many levels"):
        require_writable(loop / "out")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"cannot write .*: Not a directory"):
        require_writable(tmp_path / "file")
    with pytest.raises(ConfigError, match=r"cannot write .*: File name too long") as caught:
        require_writable(tmp_path / ("x" * 5000))
    assert len(str(caught.value)) < 500


def test_a_limit_on_the_size_of_files_is_named(tmp_path: Path) -> None:
    code = (
        "import resource, signal, pathlib\n"
        "from paredown.errors import ConfigError\n"
        "from paredown.store.atomic import write_bytes\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        f"try:\n    write_bytes(pathlib.Path({str(tmp_path / 'f')!r}), b'x' * 5000)\n"
        "except ConfigError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "ulimit -f" in done.stdout
    assert list(tmp_path.iterdir()) == []
