"""Bits matrix by matrix against all layers alike, at equal bytes, in one run.

For each calibration seed the layers are measured once. Then plans are found for every size, and
judged, in memory, by their KL on held-out text and on text of another domain; and so are uniform
models from the same codes (GPTQ, asymmetric, groups of 64) in 3 to 8 bits with embeddings in 4 to
8: once with the embedding by GPTQ too, and once rounded to nearest, as it was before. A ratio is
the KL over the least that a uniform model has, on a straight line in the logarithms of bytes and KL
between two of them. Printed besides: how the forecast did over 20 plans, what each stage took,
and, with `--evaluations`, how far TPE and NSGA-II come on the same bank.

    python benchmarks/frontier.py --model demo --data-dir DIR --out results.json

Every number is kept in `--out` as soon as it is there; the same command goes on with the rest.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from common import table

from paredown.analysis.envelope import Judged, gain_over
from paredown.analysis.forecast import forecast_quality
from paredown.artifact.checkpoint import TORCH_DTYPES, Checkpoint
from paredown.artifact.source import locate
from paredown.blocks.comparison import Comparison
from paredown.blocks.embeddings import round_rows
from paredown.methods.base import Context, Training
from paredown.methods.shared.frontier import Frontier
from paredown.methods.shared.units import choices_of, plain_record
from paredown.runtimes.torch.writer import write_texts
from paredown.spec.plan import PlanRecord, layers_of_document, read_word
from paredown.spec.scheme import Scheme
from paredown.store.cache import Cache
from paredown.store.content import model_hash
from paredown.text.windows import TextRequest, windows

SIZES = (3.2, 3.6, 4.2, 4.7, 5.3, 6.3)
"""Bits per weight of whole artifacts."""
FORECAST_SIZES = (3.0, 3.4, 3.8, 4.0, 4.4, 4.5, 4.9, 5.1, 5.5, 5.7, 5.9, 6.1, 6.6, 7.0)
"""Further ones, with which the forecast is judged over 20 plans."""
ANCHORS = (3.6, 4.7, 6.3)
UNIFORM = ((3, 4), (3, 6), (4, 4), (4, 6), (5, 6), (5, 8), (6, 8), (8, 8))
"""Bits of the layers and of the embedding."""
_GROUP = 64
_STAGES = (
    ("forward", "gradients"), ("gradients", "gradients"), ("prices", "codes and prices"),
    ("measuring", "anchors"), ("block", "second moments"),
)  # fmt: skip
Kls = dict[str, float]
"""KL by text, nats per token."""


class Kept:
    """Results by name in a file that is replaced as a whole."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}

    def get(self, name: str, make: Callable[[], Any]) -> Any:
        """What is kept under a name; made, and kept, where nothing is."""
        if name not in self.found:
            self.put(name, make())
        return self.found[name]

    def put(self, name: str, value: Any) -> None:
        """Keep a result."""
        self.found[name] = value
        part = self.file.with_suffix(".part")
        part.write_text(json.dumps(self.found))
        Path(part).replace(self.file)


@dataclass
class Clock:
    """Seconds by stage; a stage lasts until another is told of."""

    seconds: dict[str, float] = field(default_factory=dict)
    stage: str = "second moments"
    since: float = field(default_factory=time.perf_counter)

    def hear(self, share: float, message: str) -> None:
        """As `Context.progress`."""
        self.turn(next((s for word, s in _STAGES if message.startswith(word)), "embedding"))

    def turn(self, stage: str) -> None:
        """What went by belongs to the stage before."""
        now = time.perf_counter()
        self.seconds[self.stage] = self.seconds.get(self.stage, 0.0) + now - self.since
        self.stage, self.since = stage, now


@dataclass
class Ground:
    """A model, its calibration with one seed, and the texts that it is judged on."""

    folder: Path
    args: argparse.Namespace
    seed: int
    work: Path
    clock: Clock = field(default_factory=Clock)

    def read(self, text: str, part: Any, count: int, seed: int) -> Any:
        """(count, 512) windows of a text's part."""
        return windows(
            TextRequest(text, None, self.args.data_dir), part, self.folder, count=count,
            length=512, seed=seed, cache=Cache.default(), write=write_texts,
        )  # fmt: skip

    @cached_property
    def source(self) -> Checkpoint:
        """The model."""
        return Checkpoint(self.folder)

    @cached_property
    def frontier(self) -> Frontier:
        """What is known of its layers."""
        calibration = partial(self.read, self.args.text, "calibration", seed=self.seed)
        context = Context(
            device="cpu", seed=self.seed, source_hash=model_hash(self.folder), scratch=self.work,
            cache=Cache.default(), calibration=lambda: calibration(count=self.args.samples),
            progress=self.clock.hear,
            training=Training(
                base=self.folder, windows=lambda n, length, name: calibration(count=n)
            ),
        )  # fmt: skip
        return Frontier(self.source, choices_of(self.source.spec, "torch"), context, tokens=4096)

    @cached_property
    def comparisons(self) -> dict[str, Comparison]:
        """The base on held-out windows of every text."""
        count = max(1, self.args.tokens // 512)
        return {
            text: Comparison(self.source, self.read(text, "evaluation", count, 0), device="cpu")
            for text in (self.args.text, self.args.other)
        }

    def judge(self, schemes: Mapping[str, Scheme], *, nearest: bool = False) -> Kls:
        """KL of the model with these schemes by layer name.

        Args:
            nearest: the embedding is rounded to nearest, not by GPTQ.
        """
        bank = self.frontier.bank
        inner = {n: s for n, s in schemes.items() if n in bank.layers.names}
        outer = {}
        for name in schemes.keys() - inner.keys():
            dtype = TORCH_DTYPES[self.source.spec.dtype]
            outer[name] = (
                round_rows(self.source.read(f"{name}.weight"), schemes[name], None, dtype)
                if nearest
                else bank.embeddings(name, schemes[name])
            )
        return {
            text: found.kl(layers=lambda b: bank.layers.rounded(b, inner), embeddings=outer)
            for text, found in self.comparisons.items()
        }

    def plans(self, sizes: Sequence[float]) -> dict[str, Any]:
        """Plans by size, as documents, and the seconds of the stages."""
        parameters = self.source.spec.parameters
        anchors = [int(bpw * parameters / 8) for bpw in ANCHORS]
        kappa = self.frontier.kappa([partial(_same, size) for size in anchors])
        self.clock.turn("solving")
        made = {}
        for bpw in sizes:
            plan = self.frontier.solve(int(bpw * parameters / 8), kappa)
            made[str(bpw)] = self.frontier.found(plan, kappa).record.model_dump(mode="json")
        self.clock.turn("end")
        return {"plans": made, "seconds": dict(self.clock.seconds)}


def _same(size: int, kappa: float) -> int:
    return size


def schemes_of(plan: Mapping[str, Any]) -> dict[str, Scheme]:
    """Scheme by layer name of a plan's document; layers that stay as they are are left out."""
    words = layers_of_document(plan)
    return {name: s for name, word in words.items() if (s := read_word(word)) is not None}


def one_seed(kept: Kept, folder: Path, args: argparse.Namespace, seed: int) -> None:
    """Whatever is missing of a calibration seed."""
    with tempfile.TemporaryDirectory() as work:
        ground = Ground(folder, args, seed, Path(work))
        wanted = (*args.sizes, *(FORECAST_SIZES if seed == 0 else ()))
        plans = kept.get(f"{seed} plans", lambda: ground.plans(wanted))["plans"]
        for bpw in args.sizes:
            _timed(kept, f"{seed} mixed {bpw}", partial(ground.judge, schemes_of(plans[str(bpw)])))
        for bits, outer in UNIFORM:
            for name, nearest in (("uniform", False), ("nearest", True)):
                flat = _uniform(ground, bits, outer)
                kept.get(f"{seed} bytes {bits} {outer}", partial(_bytes, ground, flat))
                _timed(kept, f"{seed} {name} {bits} {outer}",
                       partial(ground.judge, flat, nearest=nearest))  # fmt: skip
        for bpw in wanted[len(args.sizes) :]:
            _timed(kept, f"{seed} mixed {bpw}", partial(ground.judge, schemes_of(plans[str(bpw)])))
        if seed == 0 and args.evaluations:
            from frontier_search import search

            search(kept, ground, plans, args.evaluations)


def _timed(kept: Kept, name: str, judge: Callable[[], Kls]) -> None:
    def made() -> dict[str, Any]:
        start = time.perf_counter()
        return {"kl": judge(), "seconds": time.perf_counter() - start}

    print(name, kept.get(name, made)["kl"], flush=True)


def _uniform(ground: Ground, bits: int, outer: int) -> dict[str, Scheme]:
    return {
        name: Scheme(outer if unit.is_embedding else bits, _GROUP, symmetric=False)
        for unit in ground.frontier.choices.units
        for name in unit.unit.layers
    }


def _bytes(ground: Ground, schemes: dict[str, Scheme]) -> int:
    return plain_record(ground.source.spec, ground.frontier.choices, schemes).nbytes


def main() -> None:
    """Run what is missing, then print all there is."""
    args = arguments()
    kept = Kept(args.out)
    folder = locate(args.model)
    if not args.only_print:
        for seed in range(args.seeds):
            one_seed(kept, folder, args, seed)
    seeds = [s for s in range(args.seeds) if f"{s} plans" in kept.found]
    for name, said in (("uniform", "embedding by GPTQ"), ("nearest", "embedding to nearest")):
        print(f"\nover uniform models, {said}")
        print(table(rows(kept.found, seeds, args, name)))
    forecast(kept.found, args)
    cost(kept.found, seeds)
    if "search ours" in kept.found:
        from frontier_search import show

        show(kept.found)


def rows(
    found: dict[str, Any], seeds: Sequence[int], args: argparse.Namespace, reference: str
) -> list[tuple[str, ...]]:
    """A row for each size, and the geometric mean of the ratios; [least, most] over seeds."""
    texts = (args.text, args.other)
    made = [("bits/weight", "MB", *(f"KL {t}" for t in texts), *(f"ratio, {t}" for t in texts))]
    every: dict[str, list[float]] = {text: [] for text in texts}
    for bpw in args.sizes:
        have = [s for s in seeds if f"{s} mixed {bpw}" in found]
        if not have:
            continue
        size = PlanRecord.model_validate(found[f"{have[0]} plans"]["plans"][str(bpw)]).nbytes
        kls = {t: [found[f"{s} mixed {bpw}"]["kl"][t] for s in have] for t in texts}
        ratios = {
            t: [r for s in have if (r := _ratio(found, s, bpw, t, reference)) is not None]
            for t in texts
        }
        for text in texts:
            every[text] += ratios[text]
        cells = (
            *(f"{statistics.fmean(kls[t]):.4f}" for t in texts),
            *(spread(ratios[t]) for t in texts),
        )
        made.append((f"{bpw}", f"{size / 1e6:.1f}", *cells))
    means = [f"{statistics.geometric_mean(every[t]):.2f}" if every[t] else "" for t in texts]
    return [*made, ("geometric mean", "", *([""] * len(texts)), *means)]


def _ratio(found: dict[str, Any], seed: int, bpw: float, text: str, reference: str) -> float | None:
    """KL over that of the uniform models at the bytes of the plan; None outside their sizes."""
    others = [
        Judged(found[f"{seed} bytes {b} {o}"], found[key]["kl"][text], 0.0)
        for b, o in UNIFORM
        if (key := f"{seed} {reference} {b} {o}") in found
    ]
    size = PlanRecord.model_validate(found[f"{seed} plans"]["plans"][str(bpw)]).nbytes
    gain = gain_over(others, Judged(size, found[f"{seed} mixed {bpw}"]["kl"][text], 0.0))
    return None if gain is None else gain.ratio


def spread(ratios: Sequence[float]) -> str:
    """Mean and span of what the seeds gave."""
    if not ratios:
        return "outside"
    return f"{statistics.geometric_mean(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"


def forecast(found: dict[str, Any], args: argparse.Namespace) -> None:
    """How the forecasts of the first seed did, on each text."""
    plans = found.get("0 plans", {"plans": {}})["plans"]
    done = [bpw for bpw in plans if f"0 mixed {bpw}" in found]
    said = [plans[bpw]["kl"] or math.nan for bpw in done]
    for text in (args.text, args.other):
        seen = [found[f"0 mixed {bpw}"]["kl"][text] for bpw in done]
        print(f"\nforecast, {text}: {forecast_quality(said, seen)}")


def cost(found: dict[str, Any], seeds: Sequence[int]) -> None:
    """What each stage took before any plan was judged, over the seeds."""
    stages: dict[str, float] = {}
    for seed in seeds:
        for stage, seconds in found[f"{seed} plans"]["seconds"].items():
            stages[stage] = stages.get(stage, 0.0) + seconds
    whole = sum(stages.values())
    for stage, seconds in stages.items():
        print(f"{stage}: {seconds:.0f} s, {100 * seconds / whole:.0f} %")
    judged = [v["seconds"] for k, v in found.items() if isinstance(v, dict) and " mixed " in k]
    if judged:
        print(f"one plan judged: {statistics.median(judged):.0f} s")


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--text", default="wikitext2", help="calibrates and is judged on")
    parser.add_argument("--other", default="pydoc", help="another domain, only judged on")
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--out", type=Path, required=True, help="file that keeps the results")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=32, help="calibration windows of 512")
    parser.add_argument("--tokens", type=int, default=4096, help="held-out tokens of each text")
    parser.add_argument("--sizes", type=float, nargs="+", default=list(SIZES))
    parser.add_argument("--evaluations", type=int, default=0, help="of TPE and of NSGA-II")
    parser.add_argument("--only-print", action="store_true", help="nothing new is measured")
    return parser.parse_args()


if __name__ == "__main__":
    main()
