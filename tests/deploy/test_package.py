"""A package: a byte that changed is found, and it is checked through two lives of its server."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import psutil
import pytest

from paredown.deploy.check import Patience, check_package
from paredown.deploy.facts import Fact
from paredown.deploy.package import (
    MODEL,
    SERVING,
    SUMS,
    Previous,
    package_proof,
    read_record,
    read_settings,
    verify,
    version_of,
)
from paredown.errors import ConfigError
from tests.deploy.engines import make_package
from tests.deploy.proofs import proof

QUICK = Patience(request_s=5.0, whole_s=60.0)


def facts_of(folder: Path) -> dict[str, Fact]:
    return {fact.name: fact for fact in check_package(folder, patience=QUICK)}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    folder = make_package(tmp_path / "p")
    assert verify(folder) == 3  # the model's file, package.json, proof.json
    assert read_record(folder).runtime == "fake"
    assert read_settings(folder).slots == 2
    assert package_proof(folder) == proof()


def test_coreutils_read_the_checksums(tmp_path: Path) -> None:
    folder = make_package(tmp_path / "p")
    command = ["sha256sum", "--quiet", "--check", SUMS]
    assert subprocess.run(command, cwd=folder, check=False).returncode == 0
    (folder / MODEL / "behaviour").write_text("gooe")
    assert subprocess.run(command, cwd=folder, check=False, capture_output=True).returncode != 0


def test_a_changed_byte_is_found_and_nothing_is_served(tmp_path: Path) -> None:
    folder = make_package(tmp_path / "p")
    (folder / MODEL / "behaviour").write_text("gooe")
    with pytest.raises(ConfigError, match=r"model/behaviour \(4 B\) is not as it was made"):
        check_package(folder)


def test_missing_and_added_files_are_found(tmp_path: Path) -> None:
    folder = make_package(tmp_path / "p")
    (folder / "more").write_text("")
    with pytest.raises(ConfigError, match="more is none of"):
        verify(folder)
    (folder / "more").unlink()
    (folder / MODEL / "behaviour").unlink()
    with pytest.raises(ConfigError, match="behaviour is missing"):
        verify(folder)
    with pytest.raises(ConfigError, match="no package"):
        read_record(tmp_path)


def test_settings_may_be_changed_and_nothing_else(tmp_path: Path) -> None:
    folder = make_package(tmp_path / "p")
    told = json.loads((folder / SERVING).read_text())
    (folder / SERVING).write_text(json.dumps(told | {"slots": 3}))
    verify(folder)
    assert read_settings(folder).slots == 3
    (folder / SERVING).write_text(json.dumps(told | {"slots": "many"}))
    with pytest.raises(ConfigError, match=r"serving.json: slots"):
        read_settings(folder)


def test_a_package_that_behaves_passes_everything(tmp_path: Path) -> None:
    before = make_package(tmp_path / "before", "good, once")
    previous = Previous(version=version_of(before / MODEL), folder="../before")
    facts = facts_of(make_package(tmp_path / "p", previous=previous))
    others = {name for name, fact in facts.items() if fact.status != "passed"}
    assert not others, facts
    assert {"checksums", "process", "memory", "drains", "restart", "rollback"} < facts.keys()
    shutil.rmtree(before)
    changed = {f.name: f for f in check_package(tmp_path / "p", patience=QUICK)}
    assert {n for n, f in changed.items() if f.status == "failed"} == {"rollback"}


@pytest.mark.parametrize(
    ("behaviour", "fact", "words"),
    [
        ("dies", "process", "exit code 3; its last words: cannot load the model: out of luck"),
        ("drops answers", "drains", "SIGTERM cut"),
        ("logs the key", "key in logs", "prints its key"),
        ("needs no key", "key asked", "status 200"),
    ],
)
def test_what_only_a_process_shows(behaviour: str, fact: str, words: str, tmp_path: Path) -> None:
    facts = facts_of(make_package(tmp_path / "p", behaviour))
    assert facts[fact].status == "failed"
    assert words in facts[fact].seen


def test_memory_beyond_the_limit_is_seen(tmp_path: Path) -> None:
    found = facts_of(make_package(tmp_path / "p", memory_bytes=1000))["memory"]
    assert found.status == "failed"
    assert found.at_most == 1000
    assert (found.value or 0.0) > 1000


def test_nothing_is_left_running_when_the_user_interrupts(tmp_path: Path) -> None:
    def interrupt(fact: Fact) -> None:
        if fact.name == "generation":
            raise KeyboardInterrupt

    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with pytest.raises(KeyboardInterrupt):
        check_package(make_package(tmp_path / "p"), patience=QUICK, tell=interrupt)
    left = [c for c in psutil.Process().children(recursive=True) if c.pid not in before]
    assert not left
