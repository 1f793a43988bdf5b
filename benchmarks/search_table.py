"""A table of real evaluations of one model, cheap enough to be made on one core.

Everything is computed by the package's own methods, on real weights and real text; what makes it
cheap is what is left out. Pruned models are made and written as any trial makes them. Quantized
ones are rounded in memory by the functions that the methods call, and judged as the dense model
that their codes stand for, without being packed, reloaded and timed. Their size is that of the
packed tensors, which follows from the layout and which every real trial checks against the file.
So the table knows quality and size, not latency. The price of a strategy is the processor time of
its steps and of its evaluation on one thread, in full even where steps are shared with another.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby, product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paredown.artifact.description import library_versions
from paredown.artifact.source import locate
from paredown.blocks.hessians import tensor_hash
from paredown.blocks.names import module_name
from paredown.coordinate.setup import open_base
from paredown.errors import ConfigError, MethodError
from paredown.evaluate.quality import BaseOutputs, measure_quality
from paredown.methods import registry
from paredown.methods.shared.groups import GroupParams, schemes_of
from paredown.ops.affine import dequantize, quantize
from paredown.ops.gptq import round_to_nearest
from paredown.ops.hqq import fit_half_quadratic
from paredown.pipeline import messages
from paredown.pipeline.bench import Base
from paredown.pipeline.work.compress import compress
from paredown.pipeline.work.texts import request
from paredown.runtimes.torch.load import load_dense
from paredown.runtimes.torch.session import TorchSession
from paredown.runtimes.torch.writer import write_texts
from paredown.search.replay import Table
from paredown.spec.infer import infer_spec
from paredown.spec.model import ModelSpec
from paredown.spec.result import Failure, FailureKind, Measurement, TrialResult
from paredown.spec.scheme import Scheme
from paredown.spec.strategy import Step, Strategy
from paredown.spec.target import Target
from paredown.spec.units import Unit
from paredown.store.cache import Cache
from paredown.text.windows import windows

WINDOWS, LENGTH = 4, 128
"""Held-out text that every strategy is judged on."""
PRUNINGS = (
    "l2_structured(ratio=0.1, repair=false)",
    "magnitude(ratio=0.3)",
    "depth(ratio=0.1)",
    "l2_structured(ratio=0.2, repair=false)",
    "heads(ratio=0.25)",
    "magnitude(ratio=0.5)",
    "depth(ratio=0.2)",
    "random_structured(ratio=0.1, repair=false)",
    "l2_structured(ratio=0.3, repair=false)",
)
ROUNDED = ("rtn", "hqq")


def strategies() -> Iterator[Strategy]:
    """Single methods, then pipelines; what shares its rounded layers is side by side."""
    quick = {"search_steps": 0}
    single = [
        *_grid("rtn", (4, 8, 3, 6, 5), (64, 32, -1), (True, False), quick),
        *_grid("rtn", (4, 3), (64, 32), (True, False), {"search_steps": 8}),
        *_grid("hqq", (4, 3), (64, 32), (False,), {**quick, "iterations": 4}),
    ]
    yield from (Strategy(steps=(step,)) for step in single)
    firsts = [registry.canonical(text).steps[0] for text in PRUNINGS]
    yield from (Strategy(steps=(first,)) for first in firsts)
    seconds = [*_grid("rtn", (4, 3, 6), (64, 32), (True, False), quick)]
    for first, second in product(firsts, seconds):
        yield Strategy(steps=(first, second))


def _grid(
    method: str, bits: Any, groups: Any, symmetric: Any, more: dict[str, Any]
) -> Iterator[Step]:
    for b, g, s, e in product(bits, groups, symmetric, (None, 8)):
        given = {"bits": b, "group_size": g, "symmetric": s, "embedding_bits": e}
        yield Step(method=method, params={**given, **more})


@dataclass
class Bench:
    """The model, the text, and the dense weights that are rounded at the moment."""

    base: Base
    tokens: Tensor
    outputs: Any
    text: messages.TextSpec
    model: Any = None
    spec: ModelSpec | None = None
    weights: dict[str, Tensor] = field(default_factory=dict)
    rounded: tuple[Any, float] = (None, 0.0)
    """How the model's layers are rounded, and the seconds that took."""
    embeddings: dict[Scheme, tuple[Tensor, float]] = field(default_factory=dict)
    """The rounded embedding, and the seconds that took."""

    @classmethod
    def open(cls, name: str, data: str) -> Bench:
        folder = locate(name)
        base = open_base(name, folder, infer_spec(folder, name=name))
        text = messages.TextSpec(evaluation=data, calibration=None, data_dir=None)
        tokens = windows(
            request(text), "evaluation", folder, count=WINDOWS, length=LENGTH, seed=0,
            cache=Cache.default(), write=write_texts,
        )  # fmt: skip
        outputs = BaseOutputs(
            folder, tokens=tokens, tokens_hash=tensor_hash(tokens),
            cache=Cache.default(), device="cpu",
        )  # fmt: skip
        bench = cls(base=base, tokens=tokens, outputs=_Kept(outputs, len(tokens)), text=text)
        bench.use(folder)
        return bench

    def use(self, folder: Path) -> None:
        """Take the dense weights of `folder`."""
        self.model = load_dense(folder, device="cpu", dtype=torch.float32)
        self.spec = infer_spec(folder, name=self.base.name)
        self.weights, self.rounded = {}, (None, 0.0)

    def round(self, step: Step) -> float:
        """Round the model's layers as `step` does; returns the seconds that takes."""
        method, params = registry.resolve(Strategy(steps=(step,)))[0]
        assert self.spec is not None
        assert isinstance(params, GroupParams)
        schemes = schemes_of(self.spec, params)
        linears = {n: s for n, s in schemes.items() if n in self.spec.structure.linears}
        embedding = {n: s for n, s in schemes.items() if n not in linears}
        key = (method.name, params.model_copy(update={"embedding_bits": None}))
        if self.rounded[0] != key:
            start = time.process_time()
            for name, scheme in linears.items():
                self._set(name, _round(method.name, self._weight(name), scheme, params))
            self.rounded = (key, time.process_time() - start)
        table = self.model.get_input_embeddings().weight
        table.data = dense = self.weights.setdefault("embedding", table.data)
        if not embedding:
            return self.rounded[1]
        (scheme,) = set(embedding.values())
        if scheme not in self.embeddings:  # no pruning here changes the embedding
            start = time.process_time()
            parts = [_nearest(part, scheme, steps=20) for part in dense.split(4096)]
            self.embeddings[scheme] = torch.cat(parts), time.process_time() - start
        table.data, seconds = self.embeddings[scheme]
        return self.rounded[1] + seconds

    def _module(self, name: str) -> Any:
        return self.model.get_submodule(module_name(self.model, name))

    def _weight(self, name: str) -> Tensor:
        return self.weights.setdefault(name, self._module(name).weight.data)

    def _set(self, name: str, weight: Tensor) -> None:
        self._module(name).weight.data = weight


class _Kept:
    """The base's logits, computed once."""

    def __init__(self, outputs: BaseOutputs, count: int) -> None:
        self._logits = [outputs.logits(i) for i in range(count)]

    def logits(self, window: int) -> Tensor:
        return self._logits[window]


def _round(method: str, weight: Tensor, scheme: Scheme, params: Any) -> Tensor:
    if method == "rtn":
        return _nearest(weight, scheme, steps=params.search_steps)
    grid = fit_half_quadratic(
        weight, bits=scheme.bits, group_size=scheme.group_width(weight.shape[1]),
        symmetric=scheme.symmetric, scale_dtype=torch.bfloat16, norm=params.norm,
        iterations=params.iterations, steps=params.search_steps,
    )  # fmt: skip
    return dequantize(quantize(weight, grid), grid)


def _nearest(weight: Tensor, scheme: Scheme, *, steps: int) -> Tensor:
    codes, grid = round_to_nearest(
        weight, bits=scheme.bits, group_size=scheme.group_width(weight.shape[1]),
        symmetric=scheme.symmetric, scale_dtype=torch.bfloat16, steps=steps,
    )  # fmt: skip
    return dequantize(codes, grid)


def build(path: Path, *, model: str, data: str, count: int) -> None:
    """Evaluate what is missing of the table, which is written after every strategy."""
    torch.set_num_threads(1)
    bench = Bench.open(model, data)
    table = _start(path, bench, data)
    wanted = [registry.canonical(strategy) for strategy in strategies()][:count]
    missing = [s for s in wanted if s.hash not in table.by_hash]
    with tempfile.TemporaryDirectory() as scratch:
        for first, group in groupby(missing, key=_dense_part):
            compress_s = _prepare(bench, first, table, Path(scratch) / str(len(table.by_hash)))
            for strategy in group:
                _add(table, bench, strategy, compress_s)
                table.write(path)
                number, last = len(table.by_hash), table.trials[-1]
                found = f"{last.value('perplexity'):.2f}" if last.status == "ok" else "failed"
                print(f"{number}: {strategy} -> {found}, {last.wall_s:.1f} s", file=sys.stderr)


def _dense_part(strategy: Strategy) -> Step | None:
    """The step that writes dense weights, if the strategy begins with one."""
    first = strategy.steps[0]
    return None if first.method in ROUNDED else first


def _prepare(bench: Bench, first: Step | None, table: Table, folder: Path) -> float:
    """Put the weights after `first` in place; returns the processor time that `first` takes."""
    if first is None:
        bench.use(bench.base.folder)
        return 0.0
    strategy = registry.canonical(Strategy(steps=(first,)))
    folder.mkdir()
    start = time.process_time()
    compress(
        messages.CompressJob(
            device="cpu", model=bench.base.folder, model_name=bench.base.name,
            model_hash=bench.base.hash, strategy=strategy, out=folder / "artifact",
            text=bench.text, samples=8, length=128, seed=0,
        ),
        folder,
        lambda share, message: None,
    )  # fmt: skip
    took = time.process_time() - start
    bench.use(folder / "artifact")
    known = table.by_hash.get(strategy.hash)
    return took if known is None else known.compress_s


def _add(table: Table, bench: Bench, strategy: Strategy, compress_s: float) -> None:
    """Evaluate a strategy; what cannot be packed on this model is not part of the space."""
    try:
        predicted = registry.check(strategy, bench.base.spec, Target()).weight_bytes
    except ConfigError as error:
        print(f"left out: {strategy}: {error}", file=sys.stderr)
        return
    last = strategy.steps[-1]
    if last.method in ROUNDED:
        compress_s += bench.round(last)
    table.by_hash[strategy.hash] = evaluated(
        bench, strategy, episode=len(table.by_hash) + 1, compress_s=compress_s, size=predicted
    )
    table.predicted_bytes[strategy.hash] = predicted


def evaluated(
    bench: Bench, strategy: Strategy | None, *, episode: int, compress_s: float, size: int
) -> TrialResult:
    """The record of one evaluation of the weights that the bench holds."""
    common: dict[str, Any] = {
        "episode": episode,
        "strategy": strategy,
        "label": "baseline" if strategy is None else registry.label(strategy),
        "kind": "baseline" if strategy is None else registry.kind_of(strategy),
        "compress_s": round(compress_s, 3),
    }
    start = time.process_time()
    try:
        quality = measure_quality(
            TorchSession(bench.model), bench.tokens, bench.outputs, protocol=bench.text.evaluation
        )
    except MethodError as error:
        failure = Failure(kind=FailureKind.DIVERGED, message=str(error), stage="evaluate")
        return TrialResult(**common, status="failed", failure=failure, wall_s=compress_s)
    took = time.process_time() - start
    return TrialResult(
        **common,
        status="ok",
        measurements=(*(_short(m) for m in quality), _size(size)),
        evaluate_s=round(took, 3),
        wall_s=round(compress_s + took, 3),
    )


def _short(found: Measurement) -> Measurement:
    return found.model_copy(update={"value": float(f"{found.value:.6g}")})


def _size(size: int) -> Measurement:
    return Measurement(
        name="size", value=float(size), unit=Unit.BYTES, n=1, stderr=None, lower_is_better=True,
        source="derived", how="bytes of the packed tensors, from their layout",
    )  # fmt: skip


def _start(path: Path, bench: Bench, data: str) -> Table:
    """The table so far; a new one begins with the baseline."""
    settings = {
        "model": Path(bench.base.name).name, "model_sha256": bench.base.hash, "data": data,
        "windows": WINDOWS, "length": LENGTH, "price": "processor seconds on one thread",
    }  # fmt: skip
    if path.exists():
        table = Table.read(path)
        if table.about["settings"] != settings:
            raise SystemExit(f"{path} was built with other settings: choose another file")
        return table
    size = bench.base.spec.weight_bytes
    baseline = evaluated(bench, None, episode=0, compress_s=0.0, size=size)
    left_out = {"tensors": [], "path": None, "name": settings["model"]}
    spec = bench.base.spec.model_dump(mode="json") | left_out
    about = {"settings": settings, "versions": library_versions(), "spec": spec}
    path.parent.mkdir(parents=True, exist_ok=True)
    return Table(about=about, baseline=baseline, by_hash={}, predicted_bytes={})
