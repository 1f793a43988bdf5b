"""Readiness of a server, or of a package that is served for the purpose."""

from __future__ import annotations

import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from paredown.deploy import answers, strain
from paredown.deploy.client import Client
from paredown.deploy.facts import Fact, Subject, failed, look, not_applicable, passed, within
from paredown.deploy.package import (
    MODEL,
    PackageRecord,
    ServingSettings,
    package_proof,
    read_record,
    read_settings,
    verify,
    version_of,
)
from paredown.deploy.process import DRAIN_S, ServerProcess, free_port, started
from paredown.deploy.proof import Proof
from paredown.deploy.questions import Questioner, Streamed
from paredown.deploy.serve import package_command
from paredown.errors import ServerError
from paredown.spec.units import human_bytes

Tell = Callable[[Fact], None]
_DRAINED_TOKENS = 64
_HOST = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long is waited.

    Attributes:
        request_s: for one answer.
        whole_s: for the whole check.
    """

    request_s: float = 60.0
    whole_s: float = 900.0


def check_server(
    url: str,
    *,
    key: str | None = None,
    name: str | None = None,
    proof: Proof | None = None,
    slots: int | None = None,
    patience: Patience = Patience(),
    tell: Tell = lambda fact: None,
) -> list[Fact]:
    """Look at a server that runs somewhere; only this address is spoken to.

    Args:
        key: that it asks for.
        name: of the model; None: the first that it lists.
        proof: of the package that it is said to serve.
        slots: requests that it works on at once; None: it is asked.
        tell: told of every fact as it is known.

    Raises:
        ConfigError: `url` is no address.
    """
    subject = Subject(
        client=Client(url, key=key, timeout_s=patience.request_s), proof=proof, name=name,
        slots=slots, deadline=time.monotonic() + patience.whole_s,
    )  # fmt: skip
    found = look(answers.LOOKS, subject, tell=tell)
    subject.slots = slots or _slots(subject.client)
    return [
        *found,
        *look(strain.LOOKS, subject, tell=tell),
        *look([(n, _of_a_process(n)) for n in _PROCESS], subject, tell=tell),
    ]


_PROCESS = ("memory", "drains", "restart", "key in logs", "rollback")


def _of_a_process(name: str) -> Callable[[Subject], Fact]:
    return lambda subject: not_applicable(name, "the process is not ours; give the package instead")


def _slots(client: Client) -> int | None:
    """How many requests llama.cpp works on at once; None where nobody says."""
    try:
        found = client.get("/props").document().get("total_slots")
    except ServerError:  # another engine's server, which tells it nowhere
        return None
    return found if isinstance(found, int) else None


def check_package(
    folder: Path, *, patience: Patience = Patience(), proof: Proof | None = None,
    tell: Tell = lambda fact: None,
) -> list[Fact]:  # fmt: skip
    """Serve a package on loopback and look at everything, its beginning and its end included.

    Nothing is left running. Checksums come first: what is damaged is not served.

    Args:
        proof: to compare with; None: the package's own.

    Raises:
        ConfigError: it is no package, its bytes have changed, or its engine is not installed.
    """
    record = read_record(folder)
    files, settings = verify(folder), read_settings(folder)
    with tempfile.TemporaryDirectory(prefix="paredown-check-") as scratch:
        trial = _Trial(folder, record, settings, Path(scratch), patience)
        trial.proof = proof or package_proof(folder)
        found = [passed("checksums", f"{files} files are as they were made")]
        tell(found[0])
        found += trial.first_life(tell)
        found += trial.second_life(tell)
    return found


class _Trial:
    """Two lives of a package's server: one under strain that ends by SIGTERM, one after it."""

    proof: Proof

    def __init__(
        self, folder: Path, record: PackageRecord, settings: ServingSettings, scratch: Path,
        patience: Patience,
    ) -> None:  # fmt: skip
        self.folder, self.record, self.settings = folder, record, settings
        self.scratch, self.patience = scratch, patience
        self.deadline = time.monotonic() + patience.whole_s
        self.key = secrets.token_hex(16)

    @contextmanager
    def _server(self, log: Path) -> Iterator[ServerProcess]:
        port = free_port()
        with started(
            package_command(self.folder, self.record, self.settings, host=_HOST, port=port),
            url=f"http://{_HOST}:{port}", log=log, key=self.key, timeout_s=self.patience.request_s,
        ) as server:  # fmt: skip
            yield server

    def _subject(self, client: Client) -> Subject:
        return Subject(
            client=client, proof=self.proof, name=self.settings.name, context=self.settings.context,
            slots=self.settings.slots, deadline=self.deadline,
        )  # fmt: skip

    def first_life(self, tell: Tell) -> list[Fact]:
        """Started, asked, strained, and ended while it answers."""
        log = self.scratch / "first.log"
        with self._server(log) as server:
            subject = self._subject(server.client)
            found = look([("process", lambda _: _starts(server))], subject, tell=tell)
            if found[0].status == "failed":
                return found  # its last words say why; nothing else can be asked
            found += look(answers.LOOKS, subject, tell=tell)
            found += look(strain.LOOKS, subject, tell=tell)
            found += look(
                [
                    ("memory", lambda _: _memory(server, self.settings)),
                    ("drains", lambda s: _drains(server, s)),
                    ("key in logs", lambda _: _no_key(log, self.key)),
                    ("rollback", lambda _: _rollback(self.folder, self.record)),
                ],
                subject,
                tell=tell,
            )
        return found

    def second_life(self, tell: Tell) -> list[Fact]:
        """Started again: how long until it answers."""
        with self._server(self.scratch / "second.log") as server:
            subject = self._subject(server.client)
            return look([("restart", lambda s: _restarts(server, s))], subject, tell=tell)


def _starts(server: ServerProcess) -> Fact:
    seconds = server.wait_ready()
    return passed("process", f"alive; listens after {seconds:.1f} s", value=seconds, unit="s")


def _restarts(server: ServerProcess, subject: Subject) -> Fact:
    start = time.monotonic()
    server.wait_ready()
    Questioner(subject.client, subject.name or "").complete("Once upon a time", max_tokens=1)
    seconds = time.monotonic() - start
    seen = f"{seconds:.1f} s from its start to the first answer"
    return passed("restart", seen, value=seconds, unit="s")


def _memory(server: ServerProcess, settings: ServingSettings) -> Fact:
    peak = server.peak_bytes()
    if peak is None:
        return not_applicable("memory", "this system does not tell the peak memory of a process")
    limit = settings.memory_bytes
    seen = f"{human_bytes(peak)} at its peak, of {human_bytes(limit)} that it may take"
    return within("memory", seen, float(peak), at_most=float(limit), unit="bytes")


def _drains(server: ServerProcess, subject: Subject) -> Fact:
    """SIGTERM while it answers: the answer comes to its end, then the process to its own."""
    name, seen = "drains", _Background(subject)
    seen.start()
    if not seen.begun.wait(subject.client.timeout_s):
        return failed(name, "no answer had begun, so nothing could be drained")
    start = time.monotonic()
    server.begin_stop()
    code = server.wait_ended(timeout_s=DRAIN_S)
    seconds = time.monotonic() - start
    seen.join(subject.client.timeout_s)
    if seen.error is not None or seen.answer is None:
        return failed(name, f"SIGTERM cut the answer it was giving: {seen.error or 'no end came'}")
    if code is None:
        return failed(name, f"it still runs {DRAIN_S:g} s after SIGTERM")
    if code not in {0, -15}:
        return failed(name, f"SIGTERM ended it with exit code {code}")
    words = f"the answer in flight came to its end, the process ended after {seconds:.1f} s"
    return passed(name, words, value=seconds, unit="s")


class _Background(threading.Thread):
    """A long streamed answer; `begun` is set once it has asked and its first token may come."""

    def __init__(self, subject: Subject) -> None:
        super().__init__(daemon=True)
        self._subject, self.begun = subject, threading.Event()
        self.answer: Streamed | None = None
        self.error: ServerError | None = None

    def run(self) -> None:
        ask, texts = self._subject.ask, []
        document = {
            "model": ask.model, "prompt": "Once upon a time", "max_tokens": _DRAINED_TOKENS,
            "temperature": 0,
        }  # fmt: skip
        try:
            for event in ask.client.stream("/v1/completions", document):
                texts.append(event)
                self.begun.set()
            self.answer = Streamed(text="", finish=None, tokens=len(texts), times=())
        except ServerError as error:
            self.error = error


def _no_key(log: Path, key: str) -> Fact:
    text = log.read_text(errors="replace")
    if key in text:
        return failed("key in logs", "the server prints its key")
    return passed("key in logs", f"none in {len(text.splitlines())} lines")


def _rollback(folder: Path, record: PackageRecord) -> Fact:
    name, previous = "rollback", record.previous
    if previous is None:
        return not_applicable(name, "this is the first version")
    place = folder / previous.folder
    if not (place / MODEL).is_dir():
        return failed(name, f"version {previous.version[:12]} is no longer at {place}")
    verify(place)
    found = version_of(place / MODEL)
    if found != previous.version:
        return failed(name, f"{place} holds version {found[:12]}, not {previous.version[:12]}")
    return passed(name, f"version {previous.version[:12]} is at {place}")
