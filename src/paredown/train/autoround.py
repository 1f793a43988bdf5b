"""The AutoRound library at work, and its results as codes and grids of our own."""

from __future__ import annotations

import gc
import io
import logging
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paredown.artifact.checkpoint import TORCH_DTYPES, Checkpoint
from paredown.blocks.memory import release
from paredown.blocks.names import module_name
from paredown.errors import MethodError
from paredown.ops.affine import Grid, require_finite
from paredown.runtimes.torch.load import load_dense
from paredown.spec.scheme import Scheme

_OFF_GRID = 0.3
"""Largest distance of a tuned weight from its grid, in steps; in 16 bits it is off by a little."""


def tune(
    source: Checkpoint,
    schemes: dict[str, Scheme],
    *,
    tokens: Tensor,
    iterations: int,
    batch_size: int,
    seed: int,
    device: str,
    scratch: Path,
    trust_remote_code: bool,
    progress: Callable[[float, str], None],
) -> dict[str, tuple[Tensor, Grid]]:
    """Codes and grid of every layer in `schemes`, as AutoRound tunes them.

    The whole model is held in memory, on the CPU in float32.

    Args:
        tokens: (samples, length) int64 calibration windows.
        iterations: steps of signed gradient descent per block.
        batch_size: windows per step.
        scratch: folder for whatever the library writes.

    Raises:
        MethodError: a weight is NaN or infinite, or the library failed to quantize a layer.
    """
    dtype = torch.float32 if device == "cpu" else None
    model = load_dense(source.folder.resolve(), dtype=dtype, trust_remote_code=trust_remote_code)
    names = {name: module_name(model, name) for name in schemes}
    for name, inner in names.items():
        require_finite(model.get_submodule(inner).weight, name)
    # The library writes files of its own into the current folder.
    with chdir(scratch), _quietly(progress, len(source.spec.structure.blocks)):
        from auto_round import AutoRound

        tuner = AutoRound(
            model,
            object(),  # a tokenizer is demanded, but only read for text
            scheme="W4A16",
            layer_config=_layer_config(model, {names[n]: s for n, s in schemes.items()}),
            dataset=list(tokens.split(1)),
            nsamples=len(tokens),
            seqlen=tokens.shape[1],
            iters=iterations,
            batch_size=min(batch_size, len(tokens)),
            scale_dtype=TORCH_DTYPES[source.spec.dtype],
            seed=seed,
            device_map=device,
            amp=device != "cpu",
            enable_torch_compile=False,
            low_cpu_mem_usage=False,
        )
        tuner.quantize()
    found = {n: take_layer(n, model.get_submodule(names[n]), s) for n, s in schemes.items()}
    del tuner, model
    release()
    return found


def _layer_config(model: nn.Module, schemes: dict[str, Scheme]) -> dict[str, dict[str, Any]]:
    """What the library is to do with every Linear: those not in `schemes` stay as they are."""
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return {
        name: {
            "bits": schemes[name].bits,
            "group_size": schemes[name].group_size,
            "sym": schemes[name].symmetric,
        }
        if name in schemes
        else {"bits": 16, "data_type": "float"}
        for name in linears
    }


def take_layer(name: str, layer: Any, scheme: Scheme) -> tuple[Tensor, Grid]:
    """Codes and grid of a tuned layer, whose weight is `(q - zp) * scale`.

    Symmetric scales may be negative: the code range is one longer below zero, and the library turns
    each group so that its largest weight falls there.
    """
    scale = getattr(layer, "scale", None)
    if scale is None:
        raise MethodError(f"auto-round left {name} unquantized")
    weight = layer.weight.detach().float().cpu()
    half = 2 ** (scheme.bits - 1)
    scale = scale.detach().cpu().reshape(len(weight), -1)
    group = scheme.group_width(weight.shape[1])
    steps = weight.reshape(len(weight), -1, group) / scale.float()[..., None]
    codes = steps.round()
    off = float((steps - codes).abs().max())
    zero = None
    if not scheme.symmetric:
        # Its codes are unsigned, ours signed: half the range lower.
        zero = (layer.zp.detach().cpu().reshape(scale.shape) - half).round()
        codes = codes + zero[..., None]
    low, high = float(codes.min()), float(codes.max())
    # Written so that a NaN is refused as well.
    if not (off <= _OFF_GRID and low >= -half and high < half):
        raise MethodError(
            f"auto-round's {name} is not on its grid: off by {off:.2g} steps, codes {low:g} to "
            f"{high:g} in {scheme.bits} bits"
        )
    grid = Grid(scheme.bits, group, scale, None if zero is None else zero.to(torch.int8))
    return codes.to(torch.int8).reshape(weight.shape), grid


class _Blocks(logging.Handler):
    """Reports progress by the library's messages, one per block, and shows none of them."""

    def __init__(self, progress: Callable[[float, str], None], blocks: int) -> None:
        super().__init__()
        self.progress, self.blocks, self.done = progress, blocks, 0

    def emit(self, record: logging.LogRecord) -> None:
        if "layers in the block" in record.getMessage():
            self.done = min(self.done + 1, self.blocks)
            self.progress(self.done / self.blocks, f"tuned block {self.done} of {self.blocks}")


@contextmanager
def _quietly(progress: Callable[[float, str], None], blocks: int) -> Iterator[None]:
    """No messages or bars on the terminal; fast garbage collection, which runs after each block."""
    from auto_round.logger import logger

    handlers, propagates, level = list(logger.handlers), logger.propagate, logger.level
    logger.handlers, logger.propagate = [_Blocks(progress, blocks)], False
    logger.setLevel(logging.INFO)
    gc.freeze()
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        gc.unfreeze()
        logger.handlers, logger.propagate = handlers, propagates
        logger.setLevel(level)
