"""`paredown serve` as a process: told when it answers, drained, and its failures in one line."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from paredown.deploy.client import Client
from paredown.deploy.process import free_port
from paredown.deploy.questions import Questioner
from paredown.deploy.serve import is_loopback
from tests.deploy.engines import ROOT, make_package

CODE = (
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests.deploy.engines import install; "
    "install(); from paredown.cli.main import main; main()"
)


def paredown(*words: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CODE, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={**os.environ, **environment},
    )  # fmt: skip


@contextmanager
def serving(folder: Path, **environment: str) -> Iterator[tuple[subprocess.Popen[str], Client]]:
    port = free_port()
    process = paredown("serve", str(folder), "--port", str(port), **environment)
    key = environment.get("PAREDOWN_API_KEY")
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
        assert "as they were made" in lines[0]
        assert f"fake answers at http://127.0.0.1:{port}/v1" in lines[1]
        yield process, Client(f"http://127.0.0.1:{port}", key=key)
    finally:
        process.kill()
        process.wait()


def test_it_serves_and_drains(tmp_path: Path) -> None:
    folder = make_package(tmp_path / "p")
    with serving(folder) as (process, client):
        (server,) = psutil.Process(process.pid).children()
        events = client.stream(
            "/v1/completions", {"model": "fake", "prompt": "a", "max_tokens": 99}
        )
        texts = [next(events)["choices"][0]["text"]]
        process.send_signal(signal.SIGTERM)
        texts += [event["choices"][0]["text"] for event in events]
        assert "".join(texts).endswith("been there. ")  # what was begun came to its end
        assert process.wait(20) == 0
        assert not server.is_running()


def test_a_killed_parent_leaves_no_server(tmp_path: Path) -> None:
    with serving(make_package(tmp_path / "p")) as (process, _):
        (server,) = psutil.Process(process.pid).children()
        process.kill()
        server.wait(10)  # raises if it still runs


def test_the_key_is_asked_and_never_on_the_command_line(tmp_path: Path) -> None:
    key = "a-key-of-mine-1234"
    with serving(make_package(tmp_path / "p"), PAREDOWN_API_KEY=key) as (process, client):
        Questioner(client, "fake").complete("a", max_tokens=1)
        reply = Client(client.url).post("/v1/completions", {"prompt": "a"})
        assert reply.status == 401
        (server,) = psutil.Process(process.pid).children()
        assert key not in " ".join([*server.cmdline(), *psutil.Process(process.pid).cmdline()])


@pytest.mark.parametrize(
    ("behaviour", "options", "code", "words"),
    [
        ("dies", (), 1, "the server ended with exit code 3; its last words: cannot load the model"),
        ("good", ("--host", "0.0.0.0"), 2, "set a key in PAREDOWN_API_KEY first"),
    ],
)
def test_what_goes_wrong_is_one_line(
    behaviour: str, options: tuple[str, ...], code: int, words: str, tmp_path: Path
) -> None:
    folder = make_package(tmp_path / "p", behaviour)
    process = paredown("serve", str(folder), "--port", str(free_port()), *options)
    _, told = process.communicate(timeout=60)
    assert process.returncode == code
    assert words in told
    assert told.count("\n") == 1


def test_a_port_in_use_is_told_before_anything(tmp_path: Path) -> None:
    folder = make_package(tmp_path / "p")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = paredown("serve", str(folder), "--port", str(port))
        _, told = process.communicate(timeout=60)
    assert process.returncode == 2
    assert f"nothing can listen on 127.0.0.1:{port}" in told


def test_a_flipped_byte_is_told(tmp_path: Path) -> None:
    folder = make_package(tmp_path / "p")
    (folder / "model" / "behaviour").write_text("gooe")
    process = paredown("serve", str(folder), "--port", str(free_port()))
    _, told = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "is not as it was made" in told


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("localhost", True), ("::1", True),
     ("0.0.0.0", False), ("10.0.0.1", False), ("example", False), ("::", False)],
)  # fmt: skip
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
