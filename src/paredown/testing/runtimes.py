"""The contract of a runtime as tests; subclass it for every engine, your own included.

class TestMyEngine(EngineConformance):
    runtime_name = "mine"
    kl_bound = 0.003

    def dense_weight(self, session, name): ...
"""

from __future__ import annotations

import socket
import subprocess
import time
import urllib.request
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from paredown.artifact.checkpoint import Checkpoint
from paredown.artifact.compressed_tensors import read_packed, read_schemes
from paredown.errors import ConfigError
from paredown.methods import registry as methods
from paredown.ops.divergence import kl_rows
from paredown.ops.grids import dequantize
from paredown.runtimes.base import Engine, Package
from paredown.runtimes.registry import engine
from paredown.runtimes.session import Pair, Session
from paredown.runtimes.torch.load import load
from paredown.spec.infer import infer_spec
from paredown.spec.reference import plain_model
from paredown.spec.strategy import parse_strategy
from paredown.testing.conformance import MethodConformance
from paredown.testing.tiny import VOCABULARY, tiny_model
from paredown.text.ascii import write_byte_tokenizer
from paredown.text.windows import load_tokenizer

TEXTS = ("Hello world", "a  b\tc\n", "1234567890", "x = [i ** 2 for i in y]", "(!?) ~ <|>")
"""What token ids are compared on; all of it is in the tiny tokenizer."""
SERVER_S = 60.0
"""Seconds within which a server has to answer."""


def make(strategy: str, folder: Path, family: str = "llama", **changes: Any) -> Path:
    """A tiny model of a family, its config changed, compressed by one step, as an artifact."""
    ((method, params),) = methods.resolve(parse_strategy(strategy))
    out = folder / "artifact"
    out.mkdir()
    # A kind of tokenizer that engines with tokenizers of their own have, too.
    base = tiny_model(folder / "base", family, tokenizer=False, **changes)
    write_byte_tokenizer(base)
    source = Checkpoint(base)
    method.apply(source, out, params, MethodConformance().context(folder))
    load_tokenizer(base).save_pretrained(out)
    return out


class EngineConformance(ABC):
    """Every engine opens what it says that it holds, with the artifact's own numbers.

    Class attributes:
        runtime_name: as registered.
        strategy: makes an artifact that the engine holds, on integer grids.
        refused: makes one that it does not hold; None where it holds whatever is made.
        kl_bound: mean KL from the artifact in float32, nats per token: what the engine's own
            arithmetic explains (16-bit activations: 0.01 on tiny models).
    """

    runtime_name: ClassVar[str]
    strategy: ClassVar[str] = "rtn(bits=4, group_size=32)"
    refused: ClassVar[str | None] = None
    kl_bound: ClassVar[float] = 0.01

    @abstractmethod
    def dense_weight(self, session: Session, name: str) -> Tensor:
        """The (rows, inputs) weights of a layer as the opened package holds them."""

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls) -> Engine:
        return engine(cls.runtime_name)

    @pytest.fixture(scope="class")
    @classmethod
    def artifact(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return make(cls.strategy, tmp_path_factory.mktemp("conformance"))

    @pytest.fixture(scope="class")
    @classmethod
    def package(
        cls, engine: Engine, artifact: Path, tmp_path_factory: pytest.TempPathFactory
    ) -> Package:
        return engine.export(artifact, tmp_path_factory.mktemp("package") / "out")

    @pytest.fixture(scope="class")
    @classmethod
    def session(cls, engine: Engine, package: Package) -> Session:
        return engine.open(package.folder, device="cpu")

    @pytest.fixture(scope="class")
    @classmethod
    def windows(cls) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randint(1, VOCABULARY, (3, 24), generator=generator)

    def test_it_says_what_it_is_and_how_that_is_known(self, engine: Engine) -> None:
        assert engine.name == self.runtime_name
        assert engine.summary
        assert engine.source
        assert engine.needs.missing() is None

    def test_its_units_are_all_layers_once(self, engine: Engine) -> None:
        spec = plain_model()
        named = [name for unit in engine.joins(spec) for name in unit.layers]
        assert len(named) == len(set(named))
        assert set(spec.structure.linears) < set(named)

    def test_what_it_offers_it_holds(self, engine: Engine) -> None:
        spec = plain_model()
        for unit, offers in engine.options(spec).items():
            assert offers
            assert [o.nbytes for o in offers] == sorted(o.nbytes for o in offers)
            assert all(engine.holds(spec, unit, offer.option).holds for offer in offers)

    def test_the_package_is_as_large_as_it_says(self, package: Package, engine: Engine) -> None:
        files = [f for f in package.folder.rglob("*") if f.is_file() and f.stat().st_size]
        assert package.runtime == engine.name
        assert 0 < package.nbytes <= sum(f.stat().st_size for f in files)

    def test_its_numbers_are_the_artifacts(self, artifact: Path, session: Session) -> None:
        """Exported weights equal the artifact's: never a second rounding."""
        checkpoint = Checkpoint(artifact)
        schemes = read_schemes(checkpoint)
        assert schemes
        for name, scheme in schemes.items():
            codes, grid = read_packed(checkpoint, name, scheme)
            expected = dequantize(codes, grid, torch.float32)
            found = self.dense_weight(session, name).float()
            # The one rounding allowed is that to the dtype in which the engine holds weights.
            torch.testing.assert_close(found, expected, rtol=2**-8, atol=1e-6)

    def test_token_ids_are_the_artifacts(self, artifact: Path, session: Session) -> None:
        tokenizer = load_tokenizer(artifact)
        for text in TEXTS:
            assert session.encode(text) == list(tokenizer.encode(text))

    def test_logprobs_are_the_artifacts(
        self, artifact: Path, session: Session, windows: Tensor
    ) -> None:
        exact = load(artifact, dtype=torch.float32)
        found = list(session.logprobs(windows))
        assert len(found) == len(windows)
        for window, mine in zip(windows, found, strict=True):
            with torch.no_grad():
                expected = exact(window[None]).logits[0, :-1].log_softmax(-1)
            assert mine.shape == expected.shape
            assert float(kl_rows(expected, mine).mean()) <= self.kl_bound

    def test_answers_score_as_the_logprobs_say(self, session: Session, windows: Tensor) -> None:
        ids = windows[0].tolist()
        pairs = [Pair(tuple(ids[:8]), tuple(ids[8:12])), Pair(tuple(ids[:8]), tuple(ids[12:14]))]
        ((group, scored),) = session.score([pairs])
        assert group == 0
        for pair, found in zip(pairs, scored, strict=True):
            whole = torch.tensor([[*pair.context, *pair.continuation]])
            (logprobs,) = session.logprobs(whole)
            n = len(pair.continuation)
            expected = logprobs[-n:].gather(1, whole[0, -n:, None]).sum()
            assert found.loglikelihood == pytest.approx(float(expected), abs=0.1 * n)
            assert not found.truncated

    def test_it_generates_what_it_finds_likeliest(
        self, artifact: Path, session: Session, windows: Tensor
    ) -> None:
        prompt = windows[0, :8].tolist()
        ((_, first),) = session.generate([prompt], stops=(), max_tokens=6)
        ((_, second),) = session.generate([prompt], stops=(), max_tokens=6)
        assert first == second
        # One more token behind the prompt, so that its last position has a row of its own.
        (logprobs,) = session.logprobs(torch.tensor([[*prompt, 1]]))
        tokenizer = load_tokenizer(artifact)
        # Behind its prompt: alone, many tokenizers leave out the blank before a word.
        whole = tokenizer.decode([*prompt, int(logprobs[-1].argmax())])
        likeliest = whole.removeprefix(tokenizer.decode(prompt))
        assert first.text.startswith(likeliest)

    def test_passes_can_be_timed(self, session: Session, windows: Tensor) -> None:
        state = session.prefill(windows[:1])
        session.decode(session.fork(state), 2)
        session.decode(session.fork(state), 2)
        session.decode(state, 2)
        assert session.weights_bytes() > 0
        assert session.cache_bytes_per_token() > 0
        assert session.pid > 0
        assert session.context >= windows.shape[1]
        assert session.vocabulary >= VOCABULARY

    def test_what_it_does_not_hold_is_refused(self, engine: Engine, tmp_path: Path) -> None:
        if self.refused is None:
            pytest.skip("it holds whatever is made")
        artifact = make(self.refused, tmp_path)
        claim = engine.reads(infer_spec(artifact))
        assert not claim.holds
        assert claim.why
        with pytest.raises(ConfigError, match=engine.name):
            engine.export(artifact, tmp_path / "out")

    def test_its_server_starts_answers_and_stops(self, engine: Engine, package: Package) -> None:
        port = _free_port()
        command = engine.server(package, host="127.0.0.1", port=port)
        if command is None:
            pytest.skip("it has no server")
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            assert _answers(f"http://127.0.0.1:{port}/v1/models", process)
        finally:
            process.terminate()
            process.wait(timeout=SERVER_S)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    """Whether an address answers before its process ends and the time is up."""
    deadline = time.monotonic() + SERVER_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5) as reply:
                return bool(reply.status == 200)
        except OSError:  # not up yet: refused, or reset while it starts
            time.sleep(0.1)
    return False
