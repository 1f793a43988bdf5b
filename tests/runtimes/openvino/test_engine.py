"""OpenVINO passes the suite of engines; weights are what it makes of a file itself."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from paredown.artifact.checkpoint import Checkpoint
from paredown.artifact.compressed_tensors import read_packed, read_schemes
from paredown.errors import VerificationError
from paredown.ops.grids import dequantize
from paredown.runtimes.session import Session
from paredown.testing.runtimes import EngineConformance, make

ov = pytest.importorskip("openvino")
pytestmark = pytest.mark.slow


def weights_of(folder: Path, name: str) -> Tensor:
    """A layer of the file, computed by the engine."""
    model = ov.Core().read_model(folder / "openvino_model.xml")
    node = next(n for n in model.get_ordered_ops() if n.get_friendly_name() == name)
    place = node.input_value(1 if node.get_type_name() == "MatMul" else 0)
    part = ov.Model([ov.opset13.result(place)], [])
    compiled = ov.Core().compile_model(part, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    (found,) = compiled([]).values()
    return torch.from_numpy(found.copy())


class TestOpenVino(EngineConformance):
    """All bits and both kinds of grids, embedding and head, q/k/v unlike, one layer dense."""

    runtime_name = "openvino"
    strategy: ClassVar[str] = (
        'rtn(bits=4, group_size=32, symmetric=false, embedding_bits=8, plan={"*.down_proj": 6, '
        '"*.q_proj": 2, "*.o_proj": 16, "*.0.mlp.gate_proj": 3})'
    )
    refused = "smoothquant"
    kl_bound = 0.005

    def dense_weight(self, session: Session, name: str) -> Tensor:
        from paredown.runtimes.openvino.session import OpenVinoSession

        assert isinstance(session, OpenVinoSession)
        return weights_of(session.folder, name)

    def test_not_one_number_differs(self, artifact: Path, session: Session) -> None:
        checkpoint = Checkpoint(artifact)
        for name, scheme in read_schemes(checkpoint).items():
            expected = dequantize(*read_packed(checkpoint, name, scheme), torch.float32)
            assert torch.equal(self.dense_weight(session, name), expected), name


def test_a_product_that_is_computed_wrongly_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if a kernel took each code for its neighbour."""
    from paredown.runtimes.openvino import check, weights

    artifact = make("rtn(bits=4, group_size=32)", tmp_path)
    checkpoint = Checkpoint(artifact)
    schemes = read_schemes(checkpoint)
    assert check.require_right(checkpoint, schemes, schemes) > 1
    right = weights._unsigned
    monkeypatch.setattr(weights, "_unsigned", lambda codes, bits: right(codes, bits) ^ 1)
    with pytest.raises(VerificationError, match="wrongly"):
        check.require_right(checkpoint, schemes, schemes)
