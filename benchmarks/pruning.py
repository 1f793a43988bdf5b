"""Do the scores of neurons know which neurons matter? Each of 200 is removed alone.

Neurons are drawn at random from the whole model. For each, the true change of the cross-entropy and
the KL to the whole model are measured on held-out text when it alone is silenced (only the blocks
behind it are computed again). Then every score, measured on calibration text, is compared with both
by rank correlation: over all neurons, which is what `scope="global"` relies on, and of the ranks
within each block, which is what `scope="layer"` relies on. Made for models of the Llama kind.

What was measured stays in paredown's cache, so a run that was stopped goes on where it was.

    python benchmarks/pruning.py
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import table
from torch import Tensor

from paredown.analysis.statistics import Interval, paired_bootstrap_ci
from paredown.artifact.checkpoint import Checkpoint
from paredown.artifact.source import locate
from paredown.blocks.hessians import tensor_hash
from paredown.blocks.neuron_scores import NeuronScores
from paredown.blocks.neurons import weight_scores
from paredown.ops.divergence import kl_rows
from paredown.ops.saliency import (
    afr_scores,
    flap_scores,
    l2_scores,
    random_scores,
    wanda_sp_scores,
)
from paredown.runtimes.torch.load import load_dense
from paredown.runtimes.torch.writer import write_texts
from paredown.store.cache import Cache
from paredown.text.texts import Part
from paredown.text.windows import TextRequest, windows

Scores = dict[str, list[Tensor]]


def text(folder: Path, part: Part, options: argparse.Namespace, count: int) -> Tensor:
    """Windows of a text source; both parts are disjoint by document."""
    return windows(
        TextRequest(options.text, None, None),
        part,
        folder,
        count=count,
        length=options.length,
        seed=0,
        cache=Cache.default(),
        write=write_texts,
    )


def file_hash(source: Checkpoint) -> str:
    """Content of a model's weights."""
    digest = hashlib.sha256()
    for file in sorted(source.folder.glob("*.safetensors")):
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()[:32]


def all_scores(source: Checkpoint, model_hash: str, tokens: Tensor, scratch: Path) -> Scores:
    """Every score of every neuron, (width,) per MLP."""
    statistics = NeuronScores(
        source,
        source_hash=model_hash,
        tokens=tokens,
        cache=Cache.default(),
        device="cpu",
        scratch=scratch,
        trust_remote_code=False,
        progress=lambda share, message: None,
    )
    say("scores")
    found = statistics.gradients(("ce", "frobenius", "nuclear"), "own")
    reference = statistics.gradients(("ce", "frobenius"), "reference")
    moments = statistics.activations()
    return {
        "structured_afr": afr_scores(found["frobenius"], found["ce"]),
        "structured_afr, robust": afr_scores(found["frobenius"], found["ce"], robust=True),
        "structured_afr, reference": afr_scores(reference["frobenius"], reference["ce"]),
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


def say(message: str) -> None:
    """A line about what is being done, beside the results."""
    print(f"{time.strftime('%H:%M:%S')} {message}", file=sys.stderr)


class Deletion:
    """A model on held-out text, and what becomes of it when one neuron falls silent."""

    def __init__(self, folder: Path, tokens: Tensor) -> None:
        self.model = load_dense(folder, dtype=torch.float32)
        self.tokens = tokens
        self.layers = self.model.model.layers
        self.calls: dict[int, dict[str, Any]] = {}
        self.outputs: dict[int, Tensor] = {}
        self.hidden: dict[int, Tensor] = {}
        handles = []
        for i, layer in enumerate(self.layers):
            handles.append(layer.register_forward_pre_hook(self._note_call(i), with_kwargs=True))
            down = layer.mlp.down_proj
            handles.append(down.register_forward_pre_hook(_note(self.hidden, i)))
            handles.append(layer.register_forward_hook(_note(self.outputs, i)))
        with torch.no_grad():
            last = self.model.model(tokens, use_cache=False).last_hidden_state
            self.base = self._log_chances(last)
        for handle in handles:
            handle.remove()
        self.loss = self._loss(self.base)

    def _note_call(self, i: int) -> Callable[[Any, Any, dict[str, Any]], None]:
        def hook(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
            self.calls[i] = kwargs

        return hook

    def _log_chances(self, last: Tensor) -> Tensor:
        logits: Tensor = self.model.lm_head(last[:, :-1]).flatten(0, 1)
        return logits.log_softmax(-1)

    def _loss(self, log_chances: Tensor) -> float:
        following = self.tokens[:, 1:].reshape(-1, 1)
        return -float(log_chances.gather(1, following).mean())

    def without(self, block: int, neuron: int) -> tuple[float, float]:
        """(change of the loss, KL to the whole model), nats per token, without one neuron."""
        column = self.layers[block].mlp.down_proj.weight[:, neuron]
        return self._behind(block, self.outputs[block] - self.hidden[block][..., [neuron]] * column)

    def noise(self, block: int) -> tuple[float, float]:
        """What `without` finds when nothing but the last digits of a block's output changes."""
        output = self.outputs[block]
        return self._behind(block, output * (1 + torch.finfo(output.dtype).eps))

    @torch.no_grad()
    def _behind(self, block: int, state: Tensor) -> tuple[float, float]:
        for i in range(block + 1, len(self.layers)):
            state = self.layers[i](state, **self.calls[i])
        log_chances = self._log_chances(self.model.model.norm(state))
        kl = float(kl_rows(self.base, log_chances).mean())
        return self._loss(log_chances) - self.loss, kl


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


def deletions(
    folder: Path, model_hash: str, held_out: Tensor, drawn: list[tuple[int, int]]
) -> tuple[Any, Any]:
    """(neurons, 2): change of loss and KL without each neuron; and the same for mere rounding."""
    cache = Cache.default()
    live: list[Deletion] = []  # made when the first neuron is missing in the cache

    def find(block: int, neuron: int | None) -> list[float]:
        key = {
            "version": 1, "model": model_hash, "tokens": tensor_hash(held_out),
            "block": block, "neuron": neuron,
        }  # fmt: skip

        def write(path: Path) -> None:
            if not live:
                live.append(Deletion(folder, held_out))
            one = live[0].noise(block) if neuron is None else live[0].without(block, neuron)
            path.write_text(json.dumps(one))

        found: list[float] = json.loads(
            cache.get_or_put("deletions", key, ".json", write).read_text()
        )
        return found

    changes = []
    for done, (block, neuron) in enumerate(drawn):
        changes.append(find(block, neuron))
        if done % 20 == 19:
            say(f"{done + 1} of {len(drawn)} neurons removed, each alone")
    last = max(block for block, _ in drawn)
    return np.array(changes), np.array([find(block, None) for block in (0, last // 2, last)])


def draw(widths: list[int], count: int, seed: int) -> list[tuple[int, int]]:
    """`count` different (block, neuron) of all that there are, in order."""
    generator = torch.Generator().manual_seed(seed)
    ends = np.cumsum(widths)
    chosen = torch.randperm(int(ends[-1]), generator=generator)[:count].sort().values.numpy()
    blocks = np.searchsorted(ends, chosen, side="right")
    starts = ends - np.array(widths)
    return [(int(b), int(n - starts[b])) for b, n in zip(blocks, chosen, strict=True)]


def measure(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Draw neurons, remove each, correlate."""
    folder = locate(options.model)
    source = Checkpoint(folder)
    model_hash = file_hash(source)
    widths = [mlp.width for mlp in source.spec.structure.mlps]
    drawn = draw(widths, options.neurons, options.seed)
    held_out = text(folder, "evaluation", options, options.windows)
    changes, noise = deletions(folder, model_hash, held_out, drawn)
    calibration = text(folder, "calibration", options, options.samples)
    blocks = np.array([block for block, _ in drawn])
    truths = {"loss": np.abs(changes[:, 0]), "kl": changes[:, 1]}
    report: dict[str, Any] = {
        "model": folder.name,
        "neurons": len(drawn),
        "of": sum(widths),
        "text": options.text,
        "held_out_tokens": held_out.numel(),
        "calibration_tokens": calibration.numel(),
        "median": {name: float(np.median(values)) for name, values in truths.items()},
        "largest": {name: float(values.max()) for name, values in truths.items()},
        "noise": {"loss": float(np.abs(noise[:, 0]).max()), "kl": float(noise[:, 1].max())},
        "scores": {},
    }
    for name, layers in all_scores(source, model_hash, calibration, scratch).items():
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
    print(
        f"{report['model']}: {report['neurons']} of {report['of']} neurons, each removed alone; "
        f"{report['held_out_tokens']} held-out and {report['calibration_tokens']} calibration "
        f"tokens of {report['text']}"
    )
    for truth, words in (("kl", "KL per token"), ("loss", "|change of loss|")):
        median, largest, noise = (report[k][truth] for k in ("median", "largest", "noise"))
        print(
            f"{words}: median {median:.1e}, largest {largest:.1e} nats; rounding alone {noise:.1e}"
        )
    print(table(rows))


def main() -> None:
    """Read options, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo", help="demo, or a model folder")
    parser.add_argument("--neurons", type=int, default=200)
    parser.add_argument("--text", default="pydoc", help="text source, with both of its parts")
    parser.add_argument("--windows", type=int, default=4, help="held-out windows")
    parser.add_argument("--samples", type=int, default=32, help="calibration windows")
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
