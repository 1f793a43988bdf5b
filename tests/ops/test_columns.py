"""Rounding column by column: a plain loop beside it, compiled and not, on any number of threads."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from paredown.ops import compiled
from paredown.ops.affine import Grid, fit_grid
from paredown.ops.columns import COLUMNS, eliminate, round_columns
from paredown.ops.gptq import Problem, curvature, solve


@pytest.fixture(params=["compiled", "torch"])
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of computing the loops; the first one where numba is installed."""
    if request.param == "torch":
        monkeypatch.setattr(compiled, "loops", lambda: None)
    elif compiled.loops() is None:
        pytest.skip("no compiled loops here")
    return str(request.param)


@pytest.fixture
def _threads_as_before() -> Iterator[None]:
    count = torch.get_num_threads()
    yield
    torch.set_num_threads(count)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def problem(
    rows: int, width: int, *, symmetric: bool = False, group_size: int = 8, bits: int = 3
) -> tuple[Tensor, Tensor, Grid, Tensor]:
    """Arguments of `round_columns`, columns in falling order of activity."""
    x = random(2 * width + 8, width, seed=1) * torch.linspace(0.3, 3.0, width)
    inputs = curvature(x.T @ x / len(x), act_order=True)
    weight = random(rows, width)
    grid = fit_grid(
        weight,
        bits=bits,
        group_size=group_size,
        symmetric=symmetric,
        scale_dtype=torch.bfloat16,
        importance=inputs.importance,
        steps=5,
    )
    work = weight.T[inputs.order].contiguous()
    return work, inputs.factor, grid, inputs.order // group_size


def plain(
    work: Tensor, factor: Tensor, grid: Grid, group_of: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The same by one loop over all columns: codes, values, errors over pivots; (inp, out) all.

    32 rows at a time, which torch's vectors hold without a rest; zeros stand for those missing.
    """
    width, rows = work.shape
    wide = -(-rows // 32) * 32
    w, scale = torch.zeros(width, wide), torch.ones(width, wide)
    zero = torch.zeros(width, wide)
    w[:, :rows] = work
    scale[:, :rows] = grid.scale.float().T[group_of]
    if grid.zero is not None:
        zero[:, :rows] = grid.zero.float().T[group_of]
    codes, errors = torch.zeros(2, width, wide)
    for start in range(0, width, COLUMNS):
        stop = min(start + COLUMNS, width)
        for i in range(start, stop):
            codes[i] = ((w[i] / scale[i]).round() + zero[i]).clamp(grid.low, grid.high)
            value = (codes[i] - zero[i]) * scale[i]
            errors[i] = (w[i] - value) / factor[i, i]
            w[i] = value
            w[i + 1 : stop].addr_(factor[i, i + 1 : stop], errors[i], alpha=-1.0)
        w[stop:] -= factor[start:stop, stop:].T @ errors[start:stop]
    return codes[:, :rows].to(torch.int8), w[:, :rows], errors[:, :rows]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    ("rows", "width"),
    [(1, 8), (3, 16), (32, 40), (40, 128), (200, 136), (130, 296), (64, 512)],
)
@pytest.mark.usefixtures("how")
def test_codes_are_those_of_the_plain_loop_bit_for_bit(
    rows: int, width: int, symmetric: bool
) -> None:
    work, factor, grid, group_of = problem(rows, width, symmetric=symmetric)
    # The product of each block has as many rows as the plain one's: its bits may depend on that.
    work = torch.cat([work, work.new_zeros(width, -rows % 32)], dim=1) if width > COLUMNS else work
    grid = widened(grid, work.shape[1])
    codes, values, _ = plain(work, factor, grid, group_of)
    found = round_columns(work, factor, grid, group_of)
    assert torch.equal(found, codes)
    assert torch.equal(work, values)
    # Not what rounding without making good would give.
    assert codes.unique().numel() > 4


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("rows", "width"), [(1, 8), (19, 24), (32, 40), (250, 128)])
@pytest.mark.usefixtures("how")
def test_errors_are_those_of_the_plain_loop_bit_for_bit(
    rows: int, width: int, symmetric: bool
) -> None:
    work, factor, grid, group_of = problem(rows, width, symmetric=symmetric)
    expected = plain(work, factor, grid, group_of)
    scale, codes = grid.scale.float().T.contiguous(), torch.empty_like(work, dtype=torch.int8)
    zero = torch.zeros_like(scale) if grid.zero is None else grid.zero.float().T.contiguous()
    errors = eliminate(
        work,
        codes=codes,
        scale=scale,
        zero=zero,
        group_of=group_of,
        factor=factor,
        low=grid.low,
        high=grid.high,
    )
    # Errors show the last bit of every sum, which codes and values hide.
    for found, wanted in zip((codes, work, errors), expected, strict=True):
        assert torch.equal(found, wanted)


def widened(grid: Grid, rows: int) -> Grid:
    """The grid with rows of scale 1 below it."""
    more = rows - len(grid.scale)
    scale = torch.cat([grid.scale, grid.scale.new_ones(more, grid.scale.shape[1])])
    if grid.zero is None:
        return Grid(grid.bits, grid.group_size, scale, None)
    zero = torch.cat([grid.zero, grid.zero.new_zeros(more, grid.zero.shape[1])])
    return Grid(grid.bits, grid.group_size, scale, zero)


@pytest.mark.usefixtures("how", "_threads_as_before")
def test_the_number_of_threads_changes_no_bit() -> None:
    results = []
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(1)
        work, factor, grid, group_of = problem(328, 160)
        torch.set_num_threads(threads)
        codes = round_columns(work, factor, grid, group_of)
        assert torch.get_num_threads() == threads
        results.append((codes, work))
    for codes, values in results[1:]:
        assert torch.equal(codes, results[0][0])
        assert torch.equal(values, results[0][1])


@pytest.mark.usefixtures("_threads_as_before")
def test_the_number_of_threads_changes_no_bit_of_a_factor() -> None:
    x = random(300, 400)
    hessian = x.T @ x / 300
    factors = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        factors.append(curvature(hessian, act_order=True).factor)
        assert torch.get_num_threads() == threads
    assert torch.equal(factors[0], factors[1])
    assert torch.equal(factors[0], factors[2])


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 1000])
@pytest.mark.usefixtures("_threads_as_before")
def test_parts_cover_every_row_once(rows: int) -> None:
    torch.set_num_threads(3)
    seen: list[int] = []
    compiled._in_parts(rows, 1 << 20, lambda first, last: seen.extend(range(first, last)))
    assert sorted(seen) == list(range(rows))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("importance", [True, False])
def test_grids_are_the_same_with_and_without_the_compiled_loop(
    monkeypatch: pytest.MonkeyPatch, symmetric: bool, importance: bool
) -> None:
    if compiled.loops() is None:
        pytest.skip("no compiled loops here")
    settings: dict[str, Any] = {
        "bits": 4,
        "group_size": 24,
        "symmetric": symmetric,
        "scale_dtype": torch.bfloat16,
        "importance": random(72, seed=2).square() if importance else None,
        "steps": 20,
    }
    weight = random(70, 72)
    one = fit_grid(weight, **settings)
    monkeypatch.setattr(compiled, "loops", lambda: None)
    two = fit_grid(weight, **settings)
    assert torch.equal(one.scale, two.scale)
    if one.zero is not None and two.zero is not None:
        assert torch.equal(one.zero, two.zero)
    assert (one.zero is None) == (two.zero is None) == symmetric


def test_squares_are_those_of_torch_bit_for_bit() -> None:
    loops = compiled.loops()
    if loops is None:
        pytest.skip("no compiled loops here")
    groups, scale = random(300, 24), random(300, seed=1).abs() + 0.1
    zero, weights = random(300, seed=2).round(), random(3, 24, seed=3).square()
    found = torch.empty(300, 24)
    compiled.squares(loops, groups, scale, zero, weights, -4, 3, found)
    levels = ((groups / scale[:, None]).round() + zero[:, None]).clamp(-4, 3) - zero[:, None]
    errors = levels * scale[:, None] - groups
    assert torch.equal(found, errors.square() * weights.repeat(100, 1))


def test_one_problem_serves_all_grids(monkeypatch: pytest.MonkeyPatch) -> None:
    x = random(200, 64, seed=1)
    inputs, weight = curvature(x.T @ x / 200, act_order=True), random(32, 64)
    shared = Problem(weight, inputs)
    settings: dict[str, Any] = {"symmetric": False, "scale_dtype": torch.float32, "steps": 5}
    found = []
    for bits, group in ((2, 64), (4, 16), (8, 32)):
        alone = solve(weight, inputs, bits=bits, group_size=group, **settings)
        solution = shared.solve_on(alone.grid)
        found.append(solution)
        assert torch.equal(solution.codes, alone.codes)
        assert torch.equal(solution.errors, alone.errors)
        assert torch.equal(solution.powers, alone.powers)
    assert found[0].error > found[1].error > found[2].error > 0


def test_without_numba_there_are_no_compiled_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled.loops.cache_clear()
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.setattr(compiled, "find_spec", lambda name: None)
    assert compiled.loops() is None
    compiled.loops.cache_clear()


def test_where_torch_rounds_products_the_compiled_loops_are_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled.loops.cache_clear()
    monkeypatch.setattr(compiled, "_torch_fuses", lambda: False)
    monkeypatch.setattr(compiled, "find_spec", lambda name: object())
    assert compiled.loops() is None
    compiled.loops.cache_clear()


def test_loops_are_compiled_where_no_folder_can_keep_them(monkeypatch: pytest.MonkeyPatch) -> None:
    numba = pytest.importorskip("numba")
    from paredown.ops import loops

    real = numba.njit

    def njit(signature: str, **options: Any) -> Any:
        if options.pop("cache", False):
            raise RuntimeError("cannot cache function: no locator available")
        return real(signature, **options)

    monkeypatch.setattr(numba, "njit", njit)

    def twice(found: Any) -> None:
        for i in range(len(found)):
            found[i] *= 2

    double = loops._compile(twice, "void(float32[::1])")
    numbers = torch.ones(3)
    double(numbers.numpy())
    assert numbers.tolist() == [2, 2, 2]
