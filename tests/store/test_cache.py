"""The cache: content keys, least recently used out first, several workers at once."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paredown.errors import ConfigError
from paredown.store.cache import Cache


def put(cache: Cache, key: Any, size: int = 10, *, age_s: float = 0.0) -> Path:
    path = cache.put("kind", key, ".bin", lambda p: p.write_bytes(b"x" * size))
    stamp = time.time() - age_s
    os.utime(path, (stamp, stamp))
    return path


def test_equal_keys_share_a_file(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    path = put(cache, {"a": 1, "b": (2, 3)})
    assert cache.get("kind", {"b": [2, 3], "a": 1}, ".bin") == path
    assert cache.get("kind", {"a": 1, "b": [3, 2]}, ".bin") is None
    assert cache.get("other", {"a": 1, "b": [2, 3]}, ".bin") is None


def test_a_result_is_computed_once(tmp_path: Path) -> None:
    cache, calls = Cache(tmp_path), []

    def write(path: Path) -> None:
        calls.append(path)
        path.write_text("x")

    first = cache.get_or_put("kind", 1, ".txt", write)
    assert cache.get_or_put("kind", 1, ".txt", write) == first
    assert len(calls) == 1
    assert calls[0].suffix == ".txt"  # writers that look at the suffix see the true one


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    cache = Cache(tmp_path)

    def write(path: Path) -> None:
        path.write_text("half")
        raise KeyError

    with pytest.raises(KeyError):
        cache.put("kind", 1, ".txt", write)
    assert cache.get("kind", 1, ".txt") is None
    assert [f for f in tmp_path.rglob("*") if f.is_file()] == []


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit_bytes=30)
    old, older, oldest = (put(cache, i, age_s=1000.0 * i) for i in (1, 2, 3))
    assert cache.get("kind", 3, ".bin") == oldest  # used again, so now the newest
    new = put(cache, 4)
    assert not older.exists()
    assert old.exists()
    assert oldest.exists()
    assert new.exists()


def test_the_newest_stays_even_if_it_is_too_large(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit_bytes=30)
    small = put(cache, 1, age_s=1000)
    large = put(cache, 2, size=100)
    assert large.exists()
    assert not small.exists()


def test_nothing_goes_while_there_is_room(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit_bytes=30)
    paths = [put(cache, i, age_s=1e6) for i in range(3)]
    assert all(p.exists() for p in paths)


def test_what_another_worker_is_writing_stays(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit_bytes=30)

    def write(path: Path) -> None:
        path.write_bytes(b"x" * 20)
        stamp = time.time() - 60  # begun a minute ago
        os.utime(path, (stamp, stamp))
        put(cache, "from another worker", size=25)

    path = cache.put("kind", "slow", ".bin", write)
    assert path.stat().st_size == 20


def test_what_a_killed_worker_left_goes(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit_bytes=30)
    left = tmp_path / "kind" / ".abc.123.bin"
    left.parent.mkdir()
    left.write_bytes(b"x" * 20)
    stamp = time.time() - 2 * 3600
    os.utime(left, (stamp, stamp))
    put(cache, 1, size=20)
    assert not left.exists()


def write_and_read(folder: Path, worker: int) -> None:
    """One worker: what it was just handed is there, though all together are over the limit."""
    cache = Cache(folder, limit_bytes=400)
    for i in range(40):
        content = b"%d" % (i % 8) * 100

        def write(path: Path, content: bytes = content) -> None:
            path.write_bytes(content)

        assert cache.get_or_put("kind", i % 8, ".bin", write).read_bytes() == content


def test_workers_at_the_same_time(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=write_and_read, args=(tmp_path, i)) for i in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert not list(tmp_path.glob("*/.*"))


def test_the_default_is_in_the_home(isolated_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Cache.default() == Cache(isolated_home / "cache", 20e9)
    monkeypatch.setenv("PAREDOWN_CACHE_GB", "0.5")
    assert Cache.default().limit_bytes == 0.5e9


def folder_of(tmp_path: Path, name: str, size: int) -> Path:
    folder = tmp_path / name
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "weights").write_bytes(b"x" * size)
    return folder


def test_folders_are_adopted_and_evicted_whole(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", limit_bytes=250)
    one = cache.adopt("steps", "one", folder_of(tmp_path, "one", 100))
    assert not (tmp_path / "one").exists()
    assert cache.get("steps", "one", "") == one
    os.utime(one, (1, 1))
    two = cache.adopt("steps", "two", folder_of(tmp_path, "two", 100))
    assert one.exists()
    cache.adopt("steps", "three", folder_of(tmp_path, "three", 100))
    assert not one.exists()
    assert (two / "inner" / "weights").exists()


def test_a_folder_that_is_there_already_wins(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    cache.adopt("steps", "one", folder_of(tmp_path, "first", 3))
    path = cache.adopt("steps", "one", folder_of(tmp_path, "second", 5))
    assert (path / "inner" / "weights").stat().st_size == 3


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def lose_sum(path: Path) -> None:
    path.with_name(path.name + ".sum").unlink()


def damage_sum(path: Path) -> None:
    path.with_name(path.name + ".sum").write_text("[" * 5000)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (flip, "is damaged"),
        (zero, "is damaged"),
        (shorten, "is damaged"),
        (lose_sum, "has no checksum"),
        (damage_sum, "has a damaged checksum"),
    ],
)
def test_a_damaged_entry_is_told_dropped_and_computed_again(
    tmp_path: Path, damage: Callable[[Path], None], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache = Cache(tmp_path)
    path = cache.get_or_put("kind", 1, ".bin", lambda p: p.write_bytes(b"right" * 20))
    damage(path)
    assert cache.get("kind", 1, ".bin") is None
    assert f"{path} {told}; it is dropped and computed again" in caplog.text
    assert list(tmp_path.glob("kind/*")) == []
    again = cache.get_or_put("kind", 1, ".bin", lambda p: p.write_bytes(b"right" * 20))
    assert again.read_bytes() == b"right" * 20
    assert cache.get("kind", 1, ".bin") == again


@pytest.mark.parametrize("what", ["changed", "gone", "new"])
def test_a_damaged_folder_is_found_by_any_of_its_files(tmp_path: Path, what: str) -> None:
    cache = Cache(tmp_path / "cache")
    path = cache.adopt("steps", "one", folder_of(tmp_path, "first", 30))
    assert cache.get("steps", "one", "") == path
    weights = path / "inner" / "weights"
    if what == "changed":
        zero(weights)
    elif what == "gone":
        weights.unlink()
    else:
        (path / "more").write_text("x")
    assert cache.get("steps", "one", "") is None
    assert not path.exists()
    cache.adopt("steps", "one", folder_of(tmp_path, "again", 30))
    assert cache.get("steps", "one", "") == path


def test_an_entry_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def syncing(handle: int) -> None:
        order.append("sync")
        fsync(handle)

    def replacing(self: Path, to: Path) -> Path:
        order.append(Path(to).suffix)
        return replace(self, to)

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(Path, "replace", replacing)
    put(Cache(tmp_path), 1)
    assert order == ["sync", "sync", ".sum", ".bin"]


def test_what_killed_workers_left_is_swept_before_the_cache_is_full(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    kind = tmp_path / "kind"
    kind.mkdir()
    for name in (".abc.123.bin", "orphan.bin.sum", ".young.1.bin"):
        (kind / name).write_bytes(b"x")
        stamp = time.time() - (60 if "young" in name else 2 * 3600)
        os.utime(kind / name, (stamp, stamp))
    put(cache, 1)
    assert {f.name for f in kind.iterdir() if f.name.startswith((".", "o"))} == {".young.1.bin"}


def test_a_running_jobs_entries_stay_however_full_the_cache_is(tmp_path: Path) -> None:
    """As Hessians of a large model, which are all read at the end of an hour's pass."""
    cache = Cache(tmp_path, limit_bytes=50)
    before = put(cache, "before", 20, age_s=5000)
    with cache.hold():
        mine = [put(cache, i, 20, age_s=5000 - i) for i in range(5)]
        assert not before.exists()
        assert all(path.exists() for path in mine)
        _in_another_process(_fill, tmp_path)
        assert all(cache.get("kind", i, ".bin") for i in range(5))
        for path in mine:
            os.utime(path, (1, 1))
    put(cache, "after", 20)
    assert not any(path.exists() for path in mine)


def test_nothing_is_held_for_a_process_that_was_killed(tmp_path: Path) -> None:
    _in_another_process(_hold_and_die, tmp_path)
    path = Cache(tmp_path).path("kind", "held", ".bin")
    assert path.exists()
    os.utime(path, (1, 1))
    put(Cache(tmp_path, limit_bytes=50), "after", 40)
    assert not path.exists()
    assert list((tmp_path / ".holds").iterdir()) == []


def _fill(folder: Path) -> None:
    put(Cache(folder, limit_bytes=50), "from another process", 40)


def _hold_and_die(folder: Path) -> None:
    cache = Cache(folder)
    with cache.hold():
        put(cache, "held", 40)
        os._exit(9)


def _in_another_process(work: Callable[[Path], None], folder: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=work, args=(folder,))
    process.start()
    process.join(60)
    assert process.exitcode is not None


@pytest.mark.parametrize("told", ["lots", "", "nan", "inf", "-1"])
def test_a_limit_that_is_none_is_refused(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAREDOWN_CACHE_GB", told)
    with pytest.raises(ConfigError, match="PAREDOWN_CACHE_GB: must be a number of gigabytes"):
        Cache.default()
