"""Models that were published quantized: their numbers, and that they are a base like any other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import paredown
from paredown.artifact.checkpoint import Checkpoint
from paredown.artifact.decoded import decoded, decoded_note
from paredown.errors import ModelError
from paredown.ops.foreign import awq_weight, fp8_weight, gptq_weight, mxfp4_weight
from paredown.spec.infer import infer_spec
from paredown.testing.tiny import tiny_model


def codes(rows: int, width: int, bits: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 1 << bits, (rows, width), generator=generator)


def word(values: list[int], bits: int) -> int:
    """Values in one 32-bit word, the first in the lowest bits, as a signed number."""
    found = sum(value << (bits * i) for i, value in enumerate(values))
    return found - (1 << 32) if found >= 1 << 31 else found


def down(values: Tensor, bits: int) -> Tensor:
    """(n, m) codes as words (n * bits / 32, m), packed along the first axis."""
    each = 32 // bits
    columns = values.T.tolist()
    words = [[word(c[i : i + each], bits) for c in columns] for i in range(0, len(values), each)]
    return torch.tensor(words, dtype=torch.int32)


def across(values: Tensor, bits: int) -> Tensor:
    return down(values.T, bits).T.contiguous()


def test_fp8_by_hand() -> None:
    stored = torch.tensor([[1.0, -2.0, 0.5], [448.0, 0.25, 4.0]]).to(torch.float8_e4m3fn)
    scales = torch.tensor([[2.0, 10.0], [3.0, 100.0]])
    expected = torch.tensor([[2.0, -4.0, 5.0], [1344.0, 0.75, 400.0]])
    assert torch.equal(fp8_weight(stored, scales, (1, 2)), expected)


def test_mxfp4_by_hand() -> None:
    blocks = torch.zeros(1, 1, 16, dtype=torch.uint8)
    blocks[0, 0, 0] = 0b1010_0111  # 6 in the low bits, -1 in the high ones
    blocks[0, 0, 15] = 0b0001_1101  # -3, then 0.5
    found = mxfp4_weight(blocks, torch.tensor([[129]], dtype=torch.uint8))
    assert found.shape == (1, 32)
    assert found[0, [0, 1, 30, 31]].tolist() == [24.0, -4.0, -12.0, 2.0]
    assert found[0, 2:30].abs().max() == 0


def test_mxfp4_is_what_transformers_makes_of_it() -> None:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, 256, (2, 6, 3, 16), generator=generator, dtype=torch.uint8)
    scales = torch.randint(120, 130, (2, 6, 3), generator=generator, dtype=torch.uint8)
    expected = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    assert torch.equal(mxfp4_weight(blocks, scales).transpose(1, 2), expected)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("offset", [0, 1])
def test_gptq(bits: int, offset: int) -> None:
    rows, width, groups = 32, 64, 4
    q, zero = codes(rows, width, bits), codes(rows, groups, bits, seed=1)
    scales = torch.rand(groups, rows, generator=torch.Generator().manual_seed(2))
    order = torch.randint(0, groups, (width,), generator=torch.Generator().manual_seed(3))
    found = gptq_weight(
        down(q.T, bits), across(zero.T, bits), scales, order.int(), bits, offset=offset
    )
    for i, j in ((0, 0), (5, 63), (31, 17)):
        g = int(order[j])
        expected = float(scales[g, i]) * (int(q[i, j]) - int(zero[i, g]) - offset)
        assert float(found[i, j]) == pytest.approx(expected, rel=1e-6)


def test_awq() -> None:
    rows, width, groups = 16, 64, 2
    q, zero = codes(rows, width, 4), codes(rows, groups, 4, seed=1)
    scales = torch.rand(groups, rows, generator=torch.Generator().manual_seed(2))
    order = [0, 2, 4, 6, 1, 3, 5, 7]  # of the row that each four bits of a word hold

    def packed(values: Tensor) -> Tensor:
        mixed = values.T.unflatten(-1, (-1, 8))[..., order].flatten(-2)
        return across(mixed, 4)

    found = awq_weight(packed(q), packed(zero), scales)
    for i, j in ((0, 0), (3, 40), (15, 63)):
        expected = float(scales[j // 32, i]) * (int(q[i, j]) - int(zero[i, j // 32]))
        assert float(found[i, j]) == pytest.approx(expected, rel=1e-6)


def as_gptq(folder: Path) -> dict[str, Tensor]:
    """Pack the down projections of a model by hand; the weights that they stand for."""
    file = folder / "model.safetensors"
    tensors, meant = load_file(file), dict[str, Tensor]()
    for name in [n for n in tensors if n.endswith("down_proj.weight")]:
        rows, width = tensors.pop(name).shape
        q = codes(rows, width, 4, seed=len(meant))
        scales = torch.full((width // 32, rows), 0.01, dtype=torch.float16)
        meant[name] = (0.01 * (q - 8)).to(torch.bfloat16)
        layer = name.removesuffix(".weight")
        tensors |= {
            f"{layer}.qweight": down(q.T, 4),
            f"{layer}.qzeros": across(torch.full((width // 32, rows), 7), 4),
            f"{layer}.scales": scales,
            f"{layer}.g_idx": (torch.arange(width) // 32).int(),
        }
    save_file(tensors, file, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    told = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False}
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": told}))
    return meant


def test_a_published_gptq_model_is_a_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAREDOWN_HOME", str(tmp_path / "home"))
    given = tiny_model(tmp_path / "given", "llama")
    meant = as_gptq(given)
    base = decoded(given)
    assert decoded(given) == base
    opened = Checkpoint(base)
    assert infer_spec(base).quantization is None
    for name, weight in meant.items():
        assert (opened.read(name).float() - weight.float()).abs().max() < 1e-3
    kept = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(opened.read(kept), Checkpoint(given).read(kept))
    assert "given in gptq" in decoded_note(base)


@pytest.mark.slow
def test_a_published_gptq_model_is_compressed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAREDOWN_HOME", str(tmp_path / "home"))
    given = tiny_model(tmp_path / "given", "llama")
    as_gptq(given)
    out = tmp_path / "out"
    paredown.compress(str(given), "rtn(bits=8, group_size=32)", output=out, data="pydoc")
    assert infer_spec(out).quantization == "compressed-tensors"


def test_ordinary_models_stay_where_they_are(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", "llama", tokenizer=False)
    assert decoded(folder) == folder
    assert decoded_note(folder) == ""


def test_what_is_not_understood_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAREDOWN_HOME", str(tmp_path / "home"))
    folder = tiny_model(tmp_path / "model", "llama", tokenizer=False)
    config = json.loads((folder / "config.json").read_text())
    told = {"quant_method": "gptq", "bits": 3}
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": told}))
    with pytest.raises(ModelError, match="GPTQ of 3 bits is not decoded"):
        decoded(folder)
