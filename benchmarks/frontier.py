"""Bits matrix by matrix against all layers alike, at equal bytes, in one run.

For each calibration seed, layers are measured once; then a plan is found for every size, built,
reloaded and judged on held-out text and on text of another domain, and so are the uniform models
in 3, 4, 5, 6 and 8 bits from the same codes (GPTQ, groups of 64, embedding by GPTQ too). A ratio is
the KL over that of the uniform models on a straight line in the logarithms of bytes and KL. Sizes
that no uniform model reaches have none. Printed besides: how the forecast did, and what each stage
took as a share of all.

    python benchmarks/frontier.py --model demo --text wikitext2 --other pydoc --data-dir DIR
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from common import table

from paredown.analysis.envelope import Judged, gain_over
from paredown.analysis.forecast import forecast_quality
from paredown.artifact.checkpoint import Checkpoint
from paredown.artifact.source import locate
from paredown.blocks.hessians import tensor_hash
from paredown.evaluate.quality import BaseOutputs, measure_quality
from paredown.methods.base import Context, Training
from paredown.methods.shared.frontier import Frontier
from paredown.methods.shared.units import choices_of, uniform_plans
from paredown.runtimes.registry import engine
from paredown.runtimes.torch.writer import write_texts
from paredown.spec.packed import weights_bytes
from paredown.spec.scheme import Scheme
from paredown.store.cache import Cache
from paredown.store.content import model_hash
from paredown.text.windows import TextRequest, windows

SIZES = (3.2, 3.6, 4.2, 4.7, 5.3, 6.3)
"""Bits per weight of whole artifacts."""
ANCHORS = (3.6, 4.7, 6.3)
_STAGES = (
    ("forward", "gradients"), ("gradients", "gradients"), ("prices", "codes and prices"),
    ("measuring", "anchors"), ("block", "writing"),
)  # fmt: skip


@dataclass
class Clock:
    """Seconds by stage; a stage lasts until another is told of."""

    seconds: dict[str, float] = field(default_factory=dict)
    stage: str = "second moments"
    since: float = field(default_factory=time.perf_counter)
    is_fixed: bool = False
    """Whether all that follows belongs to the stage at hand."""

    def hear(self, share: float, message: str) -> None:
        """As `Context.progress`."""
        found = next((stage for word, stage in _STAGES if message.startswith(word)), "embedding")
        self.turn(found)

    def turn(self, stage: str) -> None:
        """What went by belongs to the stage before."""
        if self.is_fixed:
            return
        now = time.perf_counter()
        self.seconds[self.stage] = self.seconds.get(self.stage, 0.0) + now - self.since
        self.stage, self.since = stage, now


@dataclass
class Bench:
    """A model and the text that it is judged on."""

    folder: Path
    requests: dict[str, TextRequest]
    tokens: int
    cache: Cache

    def read(self, text: str, part: Any, count: int, length: int, seed: int) -> Any:
        """(count, length) windows of a text's part."""
        return windows(
            self.requests[text], part, self.folder, count=count, length=length, seed=seed,
            cache=self.cache, write=write_texts,
        )  # fmt: skip

    def judge(self, artifact: Path) -> dict[str, Judged]:
        """KL of a reloaded artifact on every text."""
        session = engine("torch").open(artifact, device="cpu")
        session.for_many_tokens()
        found = {}
        for text in self.requests:
            held_out = self.read(text, "evaluation", max(1, self.tokens // 512), 512, 0)
            base = BaseOutputs(
                self.folder, tokens=held_out, tokens_hash=tensor_hash(held_out), cache=self.cache,
                device="cpu",
            )  # fmt: skip
            measured = measure_quality(session, held_out, base, protocol=text)
            kl = next(m for m in measured if m.name == "kl")
            found[text] = Judged(weights_bytes(artifact), kl.value, kl.stderr or 0.0)
        session.close()
        return found


@dataclass
class Seen:
    """What one calibration seed gave."""

    mixed: dict[float, dict[str, Judged]]
    uniform: list[dict[str, Judged]]
    forecast: dict[float, float]
    clock: Clock


def one_seed(bench: Bench, args: argparse.Namespace, seed: int, work: Path) -> Seen:
    """Measure the layers, then find, build and judge every plan."""
    source, clock = Checkpoint(bench.folder), Clock()
    read = partial(bench.read, args.text, "calibration", length=512, seed=seed)
    context = Context(
        device="cpu", seed=seed, source_hash=model_hash(bench.folder), scratch=work,
        cache=bench.cache, calibration=lambda: read(count=args.samples), progress=clock.hear,
        training=Training(base=bench.folder, windows=lambda n, length, name: read(count=n)),
    )  # fmt: skip
    choices = choices_of(source.spec, "torch")
    frontier = Frontier(source, choices, context, tokens=4096)
    budgets = {bpw: int(bpw * source.spec.parameters / 8) for bpw in args.sizes}
    anchors = [int(bpw * source.spec.parameters / 8) for bpw in ANCHORS]
    kappa = frontier.kappa([partial(same, size) for size in anchors])
    seen = Seen({}, [], {}, clock)

    def built(name: str, schemes: dict[str, Scheme]) -> dict[str, Judged]:
        out = work / name
        out.mkdir()
        frontier.bank.write(out, schemes, None)
        clock.turn("judging")
        return bench.judge(out)

    for bpw, budget in budgets.items():
        clock.turn("solving")
        plan = frontier.found(frontier.solve(budget, kappa), kappa)
        seen.forecast[bpw] = plan.record.kl or math.nan
        seen.mixed[bpw] = built(f"mixed-{bpw}", plan.schemes)
    clock.turn("uniform models")
    clock.is_fixed = True
    for i, schemes in enumerate(uniform_plans(choices)):
        seen.uniform.append(built(f"uniform-{i}", schemes))
    clock.is_fixed = False
    clock.turn("end")
    return seen


def main() -> None:
    """Run all seeds and print what came of them."""
    args = arguments()
    folder = locate(args.model)
    requests = {t: TextRequest(t, None, args.data_dir) for t in (args.text, args.other)}
    bench = Bench(folder, requests, args.tokens, Cache.default())
    runs = []
    for seed in range(args.seeds):
        with tempfile.TemporaryDirectory() as work:
            runs.append(one_seed(bench, args, seed, Path(work)))
    head = ("bits/weight", "MB", *(f"KL {t}" for t in requests))
    over = tuple(f"over uniform, {t}" for t in requests)
    print(table([(*head, *over), *rows(runs, tuple(requests))]))
    forecast = [run.forecast[b] for run in runs for b in run.mixed]
    measured = [run.mixed[b][args.text].kl for run in runs for b in run.mixed]
    print(f"forecast: {forecast_quality(forecast, measured)}")
    spent = [sum(run.clock.seconds.get(s, 0.0) for run in runs) for s in runs[0].clock.seconds]
    for stage, seconds in zip(runs[0].clock.seconds, spent, strict=True):
        print(f"{stage}: {seconds:.0f} s, {100 * seconds / sum(spent):.0f} %")


def rows(runs: Sequence[Seen], texts: tuple[str, ...]) -> list[tuple[str, ...]]:
    """A row for each size, the geometric mean of the ratios below; [least, most] over seeds."""
    made: list[tuple[str, ...]] = []
    every: dict[str, list[float]] = {text: [] for text in texts}
    for bpw in runs[0].mixed:
        ratios: dict[str, list[float]] = {text: [] for text in texts}
        for run in runs:
            for text in texts:
                gain = gain_over([u[text] for u in run.uniform], run.mixed[bpw][text])
                ratios[text] += [] if gain is None else [gain.ratio]
        for text in texts:
            every[text] += ratios[text]
        kls = {t: statistics.fmean(run.mixed[bpw][t].kl for run in runs) for t in texts}
        size = statistics.fmean(run.mixed[bpw][texts[0]].nbytes for run in runs)
        said = (*(f"{kls[t]:.4f}" for t in texts), *(spread(ratios[t]) for t in texts))
        made.append((f"{bpw}", f"{size / 1e6:.1f}", *said))
    means = [f"{statistics.geometric_mean(every[t]):.2f}" if every[t] else "" for t in texts]
    return [*made, ("geometric mean", "", *([""] * len(texts)), *means)]


def same(size: int, kappa: float) -> int:
    """A budget that does not depend on the scale of the forecast."""
    return size


def spread(ratios: Sequence[float]) -> str:
    """Mean and span of what the seeds gave."""
    if not ratios:
        return "outside"
    return f"{statistics.geometric_mean(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--text", default="wikitext2", help="calibrates and is judged on")
    parser.add_argument("--other", default="pydoc", help="another domain, only judged on")
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=32, help="calibration windows of 512")
    parser.add_argument("--tokens", type=int, default=4096, help="held-out tokens of each text")
    parser.add_argument("--sizes", type=float, nargs="+", default=list(SIZES))
    return parser.parse_args()


if __name__ == "__main__":
    main()
