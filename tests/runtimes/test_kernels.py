"""Kernels are asked for what they compute, in a process that may die of it, once per machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from paredown.errors import ConfigError
from paredown.runtimes import kernels
from paredown.runtimes.kernels import Kernel, multiples, refusals, stand_in
from paredown.runtimes.torch import kernels as asked
from tests.kernels import AVX512, avx512_bf16, fake_kernel

NF4 = Kernel(name="nf4", device="cpu", dtype="BF16")
INT8 = Kernel(name="int8", device="cpu", dtype="F32")


@pytest.mark.parametrize(
    ("size", "small"),
    [
        (1, 1),
        (160, 160),
        (511, 511),
        (512, 256),
        (513, 257),
        (4096, 256),
        (11008, 256),
        (1000, 488),
    ],
)
def test_large_matrices_are_asked_for_by_small_ones(size: int, small: int) -> None:
    assert stand_in((size, 64)) == (small, 64)
    assert stand_in((64, size)) == (64, small)
    assert (size - small) % 256 == 0


def test_what_is_refused_is_told_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_kernel(tmp_path, monkeypatch, answer=AVX512)
    found = refusals(NF4, [(64, 160), (64, 64), (16, 64), (4096, 11008), (4096, 11000)])
    reason = "RuntimeError: invalid for input of size"
    assert found == {(64, 160): reason, (16, 64): reason, (4096, 11000): reason}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (AVX512, (32, 64)),
        ('""', (1, 1)),
        ('"" if width % 8 == 0 else "no"', (1, 8)),
        ('"" if rows % 16 == 0 else "no"', (16, 1)),
        ('"never"', None),
        # 64 and 128 work, but 256 does not: no rule of the kind.
        ('"" if width % 256 else "no"', None),
    ],
)
def test_the_rule_behind_refusals_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, expected: kernels.Shape | None
) -> None:
    fake_kernel(tmp_path, monkeypatch, answer=f"({answer})")
    assert multiples(NF4) == expected


def test_one_start_serves_what_comes_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = fake_kernel(tmp_path, monkeypatch, answer=AVX512)
    refusals(NF4, [(14336, 4096)])
    multiples(NF4)
    refusals(NF4, [(64, 160), (4096, 11008 - 64), (96, 32)])  # pruned, and tiny
    assert fake.starts == 1
    refusals(NF4, [(7, 9)])
    assert fake.starts == 2


def test_answers_are_kept_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = fake_kernel(tmp_path, monkeypatch, answer=AVX512)
    before = refusals(NF4, [(64, 160)])
    monkeypatch.setattr(kernels, "_known", {})  # as in another process
    assert refusals(NF4, [(64, 160)]) == before
    assert fake.starts == 1


@pytest.mark.parametrize("damaged", ["", "[[1, 2]]", '{"a": 1}', "[[1, 2, 3", "null"])
def test_damaged_answers_are_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: str
) -> None:
    fake = fake_kernel(tmp_path, monkeypatch, answer=AVX512)
    before = refusals(NF4, [(64, 160)])
    folder = tmp_path / "home-of-kernels" / "cache" / "kernels"
    (file,) = (entry for entry in folder.iterdir() if entry.suffix != ".sum")
    file.write_text(damaged)
    monkeypatch.setattr(kernels, "_known", {})
    assert refusals(NF4, [(64, 160)]) == before
    assert fake.starts == 2


def test_answers_hold_for_this_kernel_processor_and_these_versions_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = fake_kernel(tmp_path, monkeypatch)
    refusals(NF4, [(64, 160)])
    refusals(Kernel(name="nf4", device="cpu", dtype="F32"), [(64, 160)])
    refusals(Kernel(name="int8", device="cpu", dtype="BF16"), [(64, 160)])
    refusals(Kernel(name="nf4", device="cuda", dtype="BF16"), [(64, 160)])
    assert fake.starts == 4
    monkeypatch.setattr(kernels, "_libraries", lambda: {"bitsandbytes": "99"})
    refusals(NF4, [(64, 160)])
    assert fake.starts == 5
    monkeypatch.setattr(kernels, "_machine", lambda: {"flags": ["avx512_bf16"]})
    refusals(NF4, [(64, 160)])
    assert fake.starts == 6
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    refusals(NF4, [(64, 160)])
    assert fake.starts == 7


def test_a_crash_is_an_answer_and_the_rest_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = fake_kernel(tmp_path, monkeypatch, answer=AVX512, crashes=((8, 8), (11, 11)))
    found = refusals(NF4, [(8, 8), (9, 9), (11, 11), (64, 64)])
    assert found == {
        (8, 8): "crashes (SIGSEGV)",
        (9, 9): "RuntimeError: invalid for input of size",
        (11, 11): "crashes (SIGSEGV)",
    }
    assert fake.starts == 3


def test_a_question_without_end_is_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "TIMEOUT_S", 3.0)
    fake_kernel(tmp_path, monkeypatch, hangs=((8, 8),))
    assert refusals(NF4, [(8, 8)]) == {(8, 8): "does not end within 3 s"}


def test_a_library_that_does_not_start_is_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_kernel(tmp_path, monkeypatch, fails=True)
    with pytest.raises(ConfigError, match=r"nf4: whether bitsandbytes works.*no such library"):
        refusals(NF4, [(64, 64)])
    fake_kernel(tmp_path, monkeypatch)  # mended: nothing was kept of it
    assert refusals(NF4, [(64, 64)]) == {}


@pytest.mark.parametrize("kernel", [NF4, INT8])
def test_usual_shapes_are_computed_on_this_machine(kernel: Kernel) -> None:
    """The real process, on whatever processor this is."""
    assert refusals(kernel, [(64, 64), (256, 192), (4096, 14336)]) == {}
    needed = multiples(kernel)
    assert needed is not None
    assert all(64 % n == 0 for n in needed)


def test_asking_needs_no_torch_here() -> None:
    code = "import sys, paredown.runtimes.kernels; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["nf4", "int8"])
def test_a_product_is_compared_with_the_codes(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asked.why_not(name, 64, 64, dtype=dtype, device="cpu") == ""

    def wrong(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return torch.full((len(x), 64), float("nan"))

    from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt

    layer = Linear4bit if name == "nf4" else Linear8bitLt
    monkeypatch.setattr(layer, "forward", wrong)
    assert "off by nan" in asked.why_not(name, 64, 64, dtype=dtype, device="cpu")
    monkeypatch.setattr(layer, "forward", lambda self, x: torch.zeros(len(x), 64))
    assert "off by 100%" in asked.why_not(name, 64, 64, dtype=dtype, device="cpu")


@pytest.mark.parametrize(
    ("rows", "width", "why"),
    [
        (64, 160, "RuntimeError: shape '[64, 2]' is invalid for input of size 160"),
        (16, 64, "AssertionError: N must be divisible by block_n"),
        (64, 64, ""),
        (32, 192, ""),
    ],
)
def test_what_bitsandbytes_refuses_with_avx512_bf16(
    rows: int, width: int, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    avx512_bf16(monkeypatch)
    assert asked.why_not("nf4", rows, width, dtype=torch.bfloat16, device="cpu") == why


def nf4_layer(rows: int, width: int) -> Any:
    from bitsandbytes.nn import modules

    torch.manual_seed(0)
    kind: Any = modules.Linear4bit
    layer = kind(width, rows, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4")
    return layer.to("cpu").eval()


def test_gradients_pass_after_a_look_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    avx512_bf16(monkeypatch)
    x = torch.randn(3, 64, dtype=torch.bfloat16)
    fast, kept = nf4_layer(64, 64), nf4_layer(64, 64)
    asked.keep_differentiable(kept)
    with torch.no_grad():
        looks = fast(x), kept(x)
    torch.testing.assert_close(*looks, rtol=0.03, atol=0.03)
    x.requires_grad_(True)
    assert not fast(x).requires_grad  # what `keep_differentiable` is for
    kept(x).sum().backward()
    assert x.grad is not None
    assert x.grad.norm() > 0
    asked.use_fast_kernels(kept)
    with torch.no_grad():
        assert torch.equal(kept(x.detach()), looks[0])


def test_layers_that_the_fast_kernel_refuses_compute_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    avx512_bf16(monkeypatch)
    fake_kernel(tmp_path, monkeypatch, answer=AVX512)
    model: Any = nn.ModuleList([nf4_layer(64, 160), nf4_layer(64, 64), nn.Linear(160, 64)])
    assert asked.spare_refused_shapes(model, "BF16") == 1
    with torch.no_grad():
        assert model[0](torch.ones(1, 160)).isfinite().all()
        assert model[1](torch.ones(1, 64)).isfinite().all()
    assert model[1].weight.quant_state.packing_format_for_cpu  # this one is fast
    with pytest.raises(RuntimeError, match="invalid for input"), torch.no_grad():
        nf4_layer(64, 160)(torch.ones(1, 160))


def test_nobody_is_asked_about_models_without_fast_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = fake_kernel(tmp_path, monkeypatch, answer=AVX512)
    assert asked.spare_refused_shapes(nn.ModuleList([nn.Linear(160, 64)]), "BF16") == 0
    assert fake.starts == 0
