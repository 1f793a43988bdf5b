"""Do the scores of neurons know which neurons matter? Each of 200 is removed alone.

Neurons are drawn at random from blocks spread over the model. For each, the true change of the
cross-entropy and the KL to the whole model are measured on held-out text when it alone is silenced
(only the blocks behind it are computed again). Then every score, measured on calibration text, is
compared with both by rank correlation: over all neurons, which is what `scope="global"` relies on,
and within blocks, which is what `scope="layer"` relies on. Made for models of the Llama kind.

    python benchmarks/pruning.py
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import table
from torch import Tensor

from paredown.analysis.statistics import Interval, paired_bootstrap_ci
from paredown.models.calibration import TextRequest, windows
from paredown.models.checkpoint import Checkpoint
from paredown.models.load import load_dense
from paredown.models.neuron_scores import NeuronScores
from paredown.models.neurons import weight_scores
from paredown.models.source import locate
from paredown.models.texts import Part
from paredown.ops.divergence import kl_rows
from paredown.ops.saliency import (
    flap_scores,
    l2_scores,
    random_scores,
    standardised,
    wanda_sp_scores,
)
from paredown.store.cache import Cache

Scores = dict[str, list[Tensor]]


def text(folder: Path, part: Part, count: int, length: int) -> Tensor:
    """Windows of the Python reference; both parts are disjoint by document."""
    return windows(
        TextRequest("pydoc", None, None),
        part,
        folder,
        count=count,
        length=length,
        seed=0,
        cache=Cache.default(),
        model_hash="",
    )


def all_scores(source: Checkpoint, tokens: Tensor, scratch: Path) -> Scores:
    """Every score of every neuron, (width,) per MLP."""
    statistics = NeuronScores(
        source,
        source_hash=str(source.folder),
        tokens=tokens,
        cache=Cache(scratch / "cache"),
        device="cpu",
        scratch=scratch,
        trust_remote_code=False,
        progress=lambda share, message: None,
    )
    found = statistics.gradients(("ce", "frobenius", "nuclear"), "own")
    moments = statistics.activations()
    pairs = zip(standardised(found["frobenius"]), standardised(found["ce"]), strict=True)
    return {
        "structured_afr": [outputs + loss for outputs, loss in pairs],
        "structured_snip": found["ce"],
        "FO (AFR without SNIP)": found["frobenius"],
        "structured_refer_svd": found["nuclear"],
        "wanda_sp": weight_scores(
            source, lambda i, _, output: wanda_sp_scores(output, moments[i].second)
        ),
        "flap": weight_scores(
            source, lambda i, _, output: flap_scores(output, moments[i].second, moments[i].mean)
        ),
        "l2_structured": weight_scores(source, lambda _, rows, output: l2_scores(rows, output)),
        "random_structured": [random_scores(len(m.mean), i) for i, m in enumerate(moments)],
    }


class Deletion:
    """A model on held-out text, and what becomes of it when one neuron falls silent."""

    def __init__(self, folder: Path, tokens: Tensor, blocks: list[int]) -> None:
        self.model = load_dense(folder, dtype=torch.float32)
        self.tokens = tokens
        self.layers = self.model.model.layers
        self.calls: dict[int, dict[str, Any]] = {}
        self.outputs: dict[int, Tensor] = {}
        self.hidden: dict[int, Tensor] = {}
        handles = []
        for i, layer in enumerate(self.layers):
            handles.append(layer.register_forward_pre_hook(self._note_call(i), with_kwargs=True))
            if i in blocks:
                down = layer.mlp.down_proj
                handles.append(down.register_forward_pre_hook(_note(self.hidden, i)))
                handles.append(layer.register_forward_hook(_note(self.outputs, i)))
        with torch.no_grad():
            last = self.model.model(tokens, use_cache=False).last_hidden_state
            self.base = self._log_chances(last)
        for handle in handles:
            handle.remove()
        self.loss = self._losses(self.base)

    def _note_call(self, i: int) -> Callable[[Any, Any, dict[str, Any]], None]:
        def hook(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
            self.calls[i] = kwargs

        return hook

    def _log_chances(self, last: Tensor) -> Tensor:
        logits: Tensor = self.model.lm_head(last[:, :-1]).flatten(0, 1)
        return logits.log_softmax(-1)

    def _losses(self, log_chances: Tensor) -> float:
        following = self.tokens[:, 1:].reshape(-1, 1)
        return -float(log_chances.gather(1, following).mean())

    @torch.no_grad()
    def without(self, block: int, neuron: int) -> tuple[float, float]:
        """(change of the loss, KL to the whole model), nats per token, without one neuron."""
        column = self.layers[block].mlp.down_proj.weight[:, neuron]
        state = self.outputs[block] - self.hidden[block][..., neuron, None] * column
        for i in range(block + 1, len(self.layers)):
            state = self.layers[i](state, **self.calls[i])
        log_chances = self._log_chances(self.model.model.norm(state))
        kl = float(kl_rows(self.base, log_chances).mean())
        return self._losses(log_chances) - self.loss, kl


def _note(found: dict[int, Tensor], i: int) -> Callable[..., None]:
    def hook(_: Any, args: Any, output: Any = None) -> None:
        value = args[0] if output is None else output
        found[i] = value[0] if isinstance(value, tuple) else value

    return hook


def ranks(values: Any) -> Any:
    """Ranks 0 .. n-1; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts + 1) / 2)[inverse]


def spearman(a: Any, b: Any) -> float:
    """Rank correlation."""
    x, y = ranks(a), ranks(b)
    if x.std() == 0 or y.std() == 0:
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])


def within(values: Any, blocks: Any) -> Any:
    """Each value's rank among those of its block, as a share."""
    found = np.empty(len(values))
    for block in np.unique(blocks):
        inside = blocks == block
        found[inside] = (ranks(values[inside]) + 0.5) / inside.sum()
    return found


def compare(predicted: Any, true: Any) -> Interval:
    """Rank correlation with a 95 % bootstrap interval over neurons."""
    return paired_bootstrap_ci(predicted, true, statistic=spearman, seed=0)


def measure(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Draw neurons, remove each, correlate."""
    folder = locate(options.model)
    source = Checkpoint(folder)
    mlps = source.spec.structure.mlps
    places = np.linspace(0, len(mlps) - 1, options.blocks).round().astype(int)
    generator = torch.Generator().manual_seed(options.seed)
    each = options.neurons // options.blocks
    drawn = [
        (int(block), int(neuron))
        for block in places
        for neuron in torch.randperm(mlps[block].width, generator=generator)[:each]
    ]
    held_out = text(folder, "evaluation", options.windows, options.length)
    deletion = Deletion(folder, held_out, [int(block) for block in places])
    changes = np.array([deletion.without(*place) for place in drawn])
    del deletion
    calibration = text(folder, "calibration", options.samples, options.length)
    blocks = np.array([block for block, _ in drawn])
    truths = {"loss": np.abs(changes[:, 0]), "kl": changes[:, 1]}
    report: dict[str, Any] = {
        "model": folder.name,
        "neurons": len(drawn),
        "blocks": [int(block) for block in places],
        "held_out_tokens": held_out.numel(),
        "calibration_tokens": calibration.numel(),
        "median": {name: float(np.median(values)) for name, values in truths.items()},
        "largest": {name: float(values.max()) for name, values in truths.items()},
        "scores": {},
    }
    for name, layers in all_scores(source, calibration, scratch).items():
        values = np.array([float(layers[block][neuron]) for block, neuron in drawn])
        report["scores"][name] = {
            f"{truth} {scope}": asdict(
                compare(values, true)
                if scope == "global"
                else compare(within(values, blocks), within(true, blocks))
            )
            for truth, true in truths.items()
            for scope in ("global", "layer")
        }
    return report


def show(report: dict[str, Any]) -> None:
    """Print the correlations."""
    columns = ("kl global", "kl layer", "loss global", "loss layer")
    rows: list[tuple[str, ...]] = [("rank correlation with", *columns)]
    for name, found in report["scores"].items():
        cells = (found[c] for c in columns)
        shown = (f"{c['value']:.2f} [{c['low']:.2f}, {c['high']:.2f}]" for c in cells)
        rows.append((name, *shown))
    median, largest = report["median"], report["largest"]
    print(
        f"{report['model']}: {report['neurons']} neurons, each removed alone; "
        f"{report['held_out_tokens']} held-out and {report['calibration_tokens']} calibration "
        f"tokens\nKL per token: median {median['kl']:.1e}, largest {largest['kl']:.1e} nats; "
        f"|change of loss|: median {median['loss']:.1e}, largest {largest['loss']:.1e}"
    )
    print(table(rows))


def main() -> None:
    """Read options, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo", help="demo, or a model folder")
    parser.add_argument("--neurons", type=int, default=200)
    parser.add_argument("--blocks", type=int, default=10, help="blocks that they are drawn from")
    parser.add_argument("--windows", type=int, default=4, help="held-out windows")
    parser.add_argument("--samples", type=int, default=16, help="calibration windows")
    parser.add_argument("--length", type=int, default=256, help="tokens per window")
    parser.add_argument("--seed", type=int, default=0, help="which neurons")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        report = measure(options, Path(scratch))
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        show(report)


if __name__ == "__main__":
    main()
