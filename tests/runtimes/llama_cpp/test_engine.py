"""llama.cpp passes the suite of engines, and what its process does when something goes wrong."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from paredown.artifact.checkpoint import Checkpoint
from paredown.artifact.compressed_tensors import read_packed, read_schemes
from paredown.errors import MethodError, ModelError
from paredown.ops.grids import dequantize
from paredown.runtimes.llama_cpp.session import PROGRAM, LlamaSession
from paredown.runtimes.process import EngineProcess
from paredown.runtimes.session import Session
from paredown.testing.runtimes import EngineConformance
from tests.runtimes.llama_cpp.files import halves, weights

pytest.importorskip("xllamacpp")
pytest.importorskip("gguf")

NAMES = {
    "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output",
    "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down",
}  # fmt: skip
HEADS = {"q_proj": 4, "k_proj": 2}


def artifact_weight(folder: Path, name: str) -> Tensor:
    """A layer of the file by its name in transformers, in transformers' order of rows."""
    *_, leaf = name.split(".")
    outer = {"embed_tokens": "token_embd", "lm_head": "output"}
    stem = outer.get(leaf) or f"blk.{name.split('.')[2]}.{NAMES[leaf]}"
    found = weights(folder)[f"{stem}.weight"]
    return halves(found, HEADS[leaf]) if leaf in HEADS else found


class TestLlamaCpp(EngineConformance):
    runtime_name = "llama.cpp"
    refused = "rtn(bits=8, group_size=32, symmetric=false)"
    kl_bound = 0.005

    def dense_weight(self, session: Session, name: str) -> Tensor:
        assert isinstance(session, LlamaSession)
        return artifact_weight(session.file.parent, name)

    def test_not_one_number_differs(self, artifact: Path, session: Session) -> None:
        checkpoint = Checkpoint(artifact)
        for name, scheme in read_schemes(checkpoint).items():
            expected = dequantize(*read_packed(checkpoint, name, scheme), torch.float32)
            assert torch.equal(self.dense_weight(session, name), expected), name

    def test_states_go_on_from_where_they_were(self, session: Session, windows: Tensor) -> None:
        """A fork is worth as much as its origin, whatever was computed in between."""
        assert isinstance(session, LlamaSession)
        state = session.prefill(windows[:2])
        fork = session.fork(state)
        session.decode(state, 3)
        list(session.logits(windows[:1]))
        session.decode(fork, 300)  # more than its context was made for
        with pytest.raises(MethodError, match="used up"):
            session.decode(fork, 1)

    def test_its_process_is_another_one_and_is_ended(self, session: Session) -> None:
        assert session.pid != os.getpid()

    def test_shared_prompts_change_no_score(self, session: Session, windows: Tensor) -> None:
        from paredown.runtimes.session import Pair

        ids = windows[0].tolist()
        pairs = [Pair(tuple(ids[:9]), tuple(ids[9 : 9 + n])) for n in (1, 2, 4)]
        ((_, together),) = session.score([pairs])
        alone = [next(iter(session.score([[pair]])))[1][0] for pair in pairs]
        for one, other in zip(together, alone, strict=True):
            assert one.loglikelihood == pytest.approx(other.loglikelihood, abs=2e-3)
            assert one.next is not None
            assert other.next is not None
            assert one.next.ids[:4] == other.next.ids[:4]


class TestEveryGroupAndBit(TestLlamaCpp):
    """Mixed bits, asymmetric, in groups of several blocks, with embedding and head."""

    strategy: ClassVar[str] = (
        'rtn(bits=4, group_size=32, symmetric=false, embedding_bits=8, plan={"*.down_proj": 6, '
        '"*.q_proj": 2, "*.o_proj": 16})'
    )


def test_a_file_that_is_none_is_told_with_the_log(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ModelError, match=r"cannot load model\.gguf; its log ends: .+"):
        LlamaSession(file)


@pytest.fixture
def engine(tmp_path: Path) -> EngineProcess:
    from paredown.runtimes.registry import engine
    from paredown.testing.tiny import tiny_model
    from paredown.text.ascii import write_byte_tokenizer

    base = tiny_model(tmp_path / "base", tokenizer=False)
    write_byte_tokenizer(base)
    package = engine("llama.cpp").export(base, tmp_path / "out")
    return EngineProcess(PROGRAM, package.folder / "model.gguf", threads=1, silence_s=2.0)


def test_a_process_that_is_killed_is_an_error(engine: EngineProcess) -> None:
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(MethodError, match=r"killed by SIGKILL \(tokenize\)"):
        engine.ask("tokenize", texts=["a"])
    engine.close()


def test_a_process_that_hangs_is_ended(engine: EngineProcess) -> None:
    os.kill(engine.pid, signal.SIGSTOP)
    with pytest.raises(MethodError, match="has said nothing for 2 s"):
        engine.ask("tokenize", texts=["a"])
    engine.close()
    with pytest.raises(ProcessLookupError):
        os.kill(engine.pid, 0)


def test_long_windows_come_in_parts_and_whole(engine: EngineProcess) -> None:
    """More tokens than are computed at once; a window's rows are those of a shorter one."""
    ids = torch.randint(1, 128, (600,), generator=torch.Generator().manual_seed(0)).tolist()
    long = b"".join(map(bytes, engine.parts("logits", ids=ids)))
    short = b"".join(map(bytes, engine.parts("logits", ids=ids[:40])))
    engine.close()
    rows = torch.frombuffer(bytearray(long), dtype=torch.float32).reshape(-1, 128)
    first = torch.frombuffer(bytearray(short), dtype=torch.float32).reshape(-1, 128)
    assert rows.shape[0] == 600
    torch.testing.assert_close(rows[:40], first, atol=0.05, rtol=0.05)


@pytest.mark.parametrize(
    "strategy",
    [
        'rtn(bits=4, grid="k", embedding_bits=6, plan={"*.q_proj": 2, "*.k_proj": 3, '
        '"*.v_proj": 5, "*.up_proj": 6})',
        'rtn(bits=4, grid="short", symmetric=false, group_size=32, plan={"*.q_proj": 5})',
    ],
)
def test_its_own_grids_are_opened_with_not_one_number_changed(
    strategy: str, tmp_path: Path
) -> None:
    """Two-level grids and such with minima: file and session against the artifact."""
    from paredown.ops.divergence import kl_rows
    from paredown.runtimes.registry import engine
    from paredown.runtimes.torch.load import load
    from paredown.testing.runtimes import make

    artifact = make(strategy, tmp_path, hidden_size=256, intermediate_size=512)
    package = engine("llama.cpp").export(artifact, tmp_path / "package")
    checkpoint = Checkpoint(artifact)
    for name, scheme in read_schemes(checkpoint).items():
        expected = dequantize(*read_packed(checkpoint, name, scheme), torch.float32)
        assert torch.equal(artifact_weight(package.folder, name), expected), name
    assert engine("llama.cpp").weights_bytes(checkpoint.spec) <= package.nbytes
    windows = torch.randint(1, 128, (2, 40), generator=torch.Generator().manual_seed(0))
    exact, session = (
        load(artifact, dtype=torch.float32),
        LlamaSession(package.folder / "model.gguf"),
    )
    for window, found in zip(windows, session.logprobs(windows), strict=True):
        with torch.no_grad():
            wanted = exact(window[None]).logits[0, :-1].log_softmax(-1)
        assert float(kl_rows(wanted, found).mean()) < 0.02
    session.close()
