"""Second moments: kept as triangles, dropped where they would not fit, found again when lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from paredown.artifact.checkpoint import Checkpoint
from paredown.blocks.hessians import (
    HessianBank,
    add_upper,
    from_upper_triangle,
    mirror_upper,
    upper_triangle,
)
from paredown.blocks.moments import PASS_SHARE, codes_bytes, moments_bytes
from paredown.methods import registry
from paredown.methods.base import Context
from paredown.runtimes.torch.load import load_dense
from paredown.spec.structure import Block
from paredown.store.cache import Cache
from paredown.testing.conformance import MethodConformance
from paredown.testing.tiny import tiny_model

GRID = {"bits": 3, "group_size": 32}
TOKENS = torch.randint(0, 90, (4, 32), generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("model")
    return Checkpoint(tiny_model(folder, dtype=torch.float32, tokenizer=False))


def bank(source: Checkpoint, cache: Cache, tokens: Tensor = TOKENS, name: str = "m") -> HessianBank:
    return HessianBank(source, source_hash=name, tokens=tokens, cache=cache, device="cpu")


def all_of(found: HessianBank) -> dict[str, Tensor]:
    """Every layer's moments, in one pass."""
    return {n: h.clone() for b, m in found.walk for n, h in found.of_block(b, m).items()}


def equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[n], two[n]) for n in one)


def too_small(source: Checkpoint) -> float:
    """A limit in bytes of a cache that is smaller than one pass."""
    return moments_bytes(source.spec) / 3


def test_a_hand_worked_triangle() -> None:
    matrix = torch.tensor([[1.0, 2.0, 3.0], [9.0, 4.0, 5.0], [9.0, 9.0, 6.0]])
    assert upper_triangle(matrix).tolist() == [1, 2, 3, 4, 5, 6]
    whole = [[1, 2, 3], [2, 4, 5], [3, 5, 6]]
    assert from_upper_triangle(torch.arange(1.0, 7.0)).tolist() == whole
    assert mirror_upper(matrix).tolist() == whole


@pytest.mark.parametrize("width", [3, 256, 600])
def test_half_of_a_sum_stands_for_the_whole(width: int) -> None:
    rows = torch.randn(2, 40, width, generator=torch.Generator().manual_seed(0))
    total = torch.zeros(width, width)
    for part in rows:
        add_upper(total, part)
    found = mirror_upper(total)
    expected = sum(part.double().T @ part.double() for part in rows)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-3)
    assert torch.equal(found, found.T)


def test_kept_moments_are_bit_for_bit_those_that_were_computed(
    source: Checkpoint, tmp_path: Path
) -> None:
    cache = Cache(tmp_path)
    first = bank(source, cache)
    computed = all_of(first)
    again = bank(source, cache)
    assert not again.walk.hidden  # nothing is computed
    assert equal(all_of(again), computed)


@torch.no_grad()
def test_moments_are_those_of_what_the_layers_see(source: Checkpoint, tmp_path: Path) -> None:
    found = all_of(bank(source, Cache(tmp_path)))
    model = load_dense(source.folder)
    seen: dict[str, list[Tensor]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name in found:
            rows = seen.setdefault(name, [])
            module.register_forward_pre_hook(lambda _, args, rows=rows: rows.append(args[0]))
    for window in TOKENS:
        model(window[None])
    assert len(seen) == len(found) > 10
    for name, parts in seen.items():
        x = torch.cat([part.flatten(0, -2) for part in parts]).double()
        torch.testing.assert_close(found[name].double(), x.T @ x / len(x), rtol=1e-4, atol=1e-5)


def test_the_bytes_of_a_pass_are_foretold(source: Checkpoint, tmp_path: Path) -> None:
    all_of(bank(source, Cache(tmp_path)))
    files = list(tmp_path.glob("hessian/*.safetensors"))
    stored = sum(f.stat().st_size for f in files)
    assert len(files) == len(source.spec.structure.blocks)
    assert 0 <= stored - moments_bytes(source.spec) < 2000 * len(files)  # of headers and counts
    assert codes_bytes(source.spec) == sum(
        layer.weight.numel()
        for name, layer in load_dense(source.folder).named_modules()
        if isinstance(layer, nn.Linear) and "layers" in name
    )


def test_a_pass_that_is_larger_than_the_cache_is_computed_and_dropped(
    source: Checkpoint, tmp_path: Path
) -> None:
    kept = all_of(bank(source, Cache(tmp_path / "large")))
    small = Cache(tmp_path / "small", too_small(source))
    found = bank(source, small)
    assert equal(all_of(found), kept)
    assert found.rare() == []
    assert not (tmp_path / "small" / "hessian").exists()
    assert bank(source, small).walk.hidden  # and is computed again


def test_the_pass_that_the_head_needs_tells_its_blocks_once(
    source: Checkpoint, tmp_path: Path
) -> None:
    said: list[str] = []
    for _ in range(2):  # the second one finds everything kept
        HessianBank(
            source, source_hash="m", tokens=TOKENS, cache=Cache(tmp_path), device="cpu", head=True,
            progress=lambda share, message: said.append(message),
        )  # fmt: skip
    blocks = source.spec.layers
    assert said == [f"second moments: block {i + 1} of {blocks}" for i in range(blocks or 0)]
    assert said


def test_what_just_fits_is_kept(source: Checkpoint, tmp_path: Path) -> None:
    limit = moments_bytes(source.spec) / PASS_SHARE
    assert bank(source, Cache(tmp_path / "a", limit)).is_kept
    assert not bank(source, Cache(tmp_path / "b", limit - 4)).is_kept


def test_moments_that_are_lost_on_the_way_are_computed_again(
    source: Checkpoint, tmp_path: Path
) -> None:
    cache = Cache(tmp_path)
    computed = all_of(bank(source, cache))
    found = bank(source, cache)

    def losing() -> Iterator[tuple[Block, nn.Module]]:
        for block, module in found.walk:
            if block.index == 1:
                for file in tmp_path.glob("hessian/*"):
                    file.unlink()
            yield block, module

    read = {n: h for b, m in losing() for n, h in found.of_block(b, m).items()}
    assert equal(read, computed)


@pytest.mark.parametrize("name", ["gptq", "awq", "wanda", "sparsegpt", "heads"])
def test_every_method_ends_with_a_cache_smaller_than_one_pass(
    source: Checkpoint, tmp_path: Path, name: str
) -> None:
    method = registry.load(name)
    params = method.params_type.model_validate(GRID if name in {"gptq", "awq"} else {"ratio": 0.5})
    made = []
    for limit in (1e9, too_small(source)):
        folder = tmp_path / f"{limit:.0f}"
        context = _context(folder, limit)
        (folder / "out").mkdir()
        method.apply(source, folder / "out", params, context)
        made.append(Checkpoint(folder / "out"))
    large, small = made
    assert large.names == small.names
    assert all(torch.equal(large.read(n), small.read(n)) for n in large.names)


def _context(folder: Path, limit: float) -> Context:
    folder.mkdir()
    return replace(MethodConformance().context(folder), cache=Cache(folder / "cache", limit))
