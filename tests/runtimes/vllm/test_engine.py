"""vLLM passes the suite of engines, where there is one to be had."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from paredown.artifact.checkpoint import Checkpoint
from paredown.artifact.compressed_tensors import read_packed, read_schemes
from paredown.ops.grids import dequantize
from paredown.runtimes.session import Session
from paredown.runtimes.vllm.environment import missing
from paredown.runtimes.vllm.kernels import processor_packs
from paredown.testing.runtimes import EngineConformance

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
    pytest.mark.skipif(not processor_packs(), reason="its packed kernels need AVX-512"),
]


class TestVllm(EngineConformance):
    runtime_name = "vllm"
    strategy = "rtn(bits=4, group_size=32, symmetric=true)"
    refused: ClassVar[str | None] = "rtn(bits=3, group_size=32)"
    kl_bound = 0.01

    def dense_weight(self, session: Session, name: str) -> Tensor:
        """It reads the artifact's own folder."""
        from paredown.runtimes.vllm.session import VllmSession

        assert isinstance(session, VllmSession)
        checkpoint = Checkpoint(Path(session.folder))
        scheme = read_schemes(checkpoint)[name]
        return dequantize(*read_packed(checkpoint, name, scheme), torch.float32)
