"""Every score once more, slowly: from hooks on the whole model and plain autograd.

What a method keeps must be what the slow scores rank first, on each shape of MLP.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from paredown.artifact.checkpoint import Checkpoint
from paredown.blocks.skeleton import read_matrix
from paredown.methods import registry
from paredown.runtimes.torch.load import load_dense
from paredown.spec.structure import Mlp
from paredown.testing.conformance import MethodConformance
from paredown.testing.tiny import VOCABULARY, tiny_model

SHAPES = ["llama", "gpt2", "phi3"]
"""SwiGLU; two matrices with GELU, stored transposed, with biases; gate and up in one matrix."""


def windows() -> Tensor:
    return torch.randint(0, VOCABULARY, (3, 32), generator=torch.Generator().manual_seed(11))


class Slow:
    """The whole model on all windows, with what went through its MLPs and its gradients."""

    def __init__(self, source: Checkpoint) -> None:
        self.source, self.mlps = source, source.spec.structure.mlps
        self.model = load_dense(source.folder)
        self.hidden: dict[str, Tensor] = {}
        self.outputs: list[Tensor] = []
        for mlp in self.mlps:
            down = self._module(mlp.output)
            down.register_forward_pre_hook(
                lambda m, args, n=mlp.output: self.hidden.update({n: args[0]})
            )
            for name in (*mlp.inputs, mlp.output):
                self._module(name).register_forward_hook(lambda m, a, y: self.outputs.append(y))

    def _module(self, name: str) -> Any:
        return self.model.get_submodule(name)

    def run(self, ids: Tensor) -> Tensor:
        self.hidden.clear()
        self.outputs.clear()
        self.model.requires_grad_(True)
        logits: Tensor = self.model(ids, use_cache=False).logits
        return logits

    def changes(self, ids: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
        """sum_t h dL/dh of each window of one batch, (windows, width) per MLP."""
        value = loss(self.run(ids), ids)
        states = [self.hidden[mlp.output] for mlp in self.mlps]
        gradients = torch.autograd.grad(value, states)
        return [
            (h.detach() * g).reshape(len(ids), -1, h.shape[-1]).sum(1)
            for h, g in zip(states, gradients, strict=True)
        ]

    def cross_entropy(self, logits: Tensor, ids: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:])

    def frobenius(self, logits: Tensor, ids: Tensor) -> Tensor:
        return torch.stack([(y.square().sum() / y.numel()).sqrt() for y in self.outputs]).sum()

    def nuclear(self, logits: Tensor, ids: Tensor) -> Tensor:
        rows = [y.reshape(len(ids), -1) for y in self.outputs]
        return torch.stack([torch.linalg.svdvals(y).mean() for y in rows]).sum()

    def snip(self) -> list[Tensor]:
        each = [self.changes(row[None], self.cross_entropy) for row in windows()]
        return [torch.cat(c).square().mean(0) for c in zip(*each, strict=True)]

    def fo(self) -> list[Tensor]:
        each = [self.changes(row[None], self.frobenius) for row in windows()]
        return [torch.cat(c).abs().mean(0) for c in zip(*each, strict=True)]

    def refer_svd(self) -> list[Tensor]:
        return [c.abs().mean(0) for c in self.changes(windows(), self.nuclear)]

    def afr(self) -> list[Tensor]:
        def z(scores: list[Tensor]) -> list[Tensor]:
            every = torch.cat(scores)
            return [(s - every.mean()) / every.std(correction=0) for s in scores]

        return [a + b for a, b in zip(z(self.fo()), z(self.snip()), strict=True)]

    def columns(self) -> list[tuple[Tensor, Tensor]]:
        """Output matrix and activations (tokens, width) of each MLP."""
        self.run(windows())
        return [
            (
                read_matrix(self.source, mlp.output),
                self.hidden[mlp.output].detach().reshape(-1, mlp.width),
            )
            for mlp in self.mlps
        ]

    def wanda_sp(self) -> list[Tensor]:
        return [
            torch.stack([w[:, i].norm() * h[:, i].norm() for i in range(w.shape[1])])
            for w, h in self.columns()
        ]

    def flap(self) -> list[Tensor]:
        return [
            torch.stack(
                [w[:, i].norm() ** 2 * h[:, i].var(correction=0) for i in range(w.shape[1])]
            )
            for w, h in self.columns()
        ]

    def l2(self) -> list[Tensor]:
        found = []
        for mlp in self.mlps:
            parts = [p for n in mlp.inputs for p in read_matrix(self.source, n).split(mlp.width)]
            every = torch.cat([*parts, read_matrix(self.source, mlp.output).T], dim=1)
            found.append(torch.stack([row.norm() for row in every]))
        return found


SCORES: dict[str, Callable[[Slow], list[Tensor]]] = {
    "structured_afr": Slow.afr,
    "structured_snip": Slow.snip,
    "structured_refer_svd": Slow.refer_svd,
    "wanda_sp": Slow.wanda_sp,
    "flap": Slow.flap,
    "l2_structured": Slow.l2,
}


def kept_rows(source: Checkpoint, made: Checkpoint, mlp: Mlp) -> list[int]:
    """Which neurons of the source are left, by their rows in the first matrix."""
    before = read_matrix(source, mlp.inputs[0])[: mlp.width].tolist()
    after = read_matrix(made, mlp.inputs[0])
    return [before.index(row) for row in after[: len(after) // mlp.parts].tolist()]


def run(name: str, source: Checkpoint, tmp_path: Path, **params: Any) -> Checkpoint:
    method = registry.load(name)
    out = tmp_path / "out"
    out.mkdir()
    context = MethodConformance().context(tmp_path, calibration=windows)
    method.apply(source, out, method.params_type.model_validate(params), context)
    return Checkpoint(out)


@pytest.mark.parametrize("family", SHAPES)
@pytest.mark.parametrize("name", SCORES)
def test_neurons_kept_are_those_that_the_slow_score_ranks_first(
    name: str, family: str, tmp_path: Path
) -> None:
    source = Checkpoint(tiny_model(tmp_path / "model", family, dtype=torch.float32))
    made = run(name, source, tmp_path, ratio=0.3, repair=False)
    for mlp, scores in zip(source.spec.structure.mlps, SCORES[name](Slow(source)), strict=True):
        kept = kept_rows(source, made, mlp)
        removed = [i for i in range(mlp.width) if i not in kept]
        assert len(removed) in {32, 64}  # of 160, or of 256
        rounding = 1e-4 * float(scores.std())
        assert scores[kept].min() >= scores[removed].max() - rounding


@pytest.mark.parametrize("name", ["afr", "snip", "refer_svd"])
def test_weights_removed_are_those_that_the_slow_score_ranks_last(
    name: str, tmp_path: Path
) -> None:
    """|w dL/dw| of each window (for the nuclear norm, of all windows), standardised and summed."""
    source = Checkpoint(tiny_model(tmp_path / "model", dtype=torch.float32))
    made = run(name, source, tmp_path, ratio=0.4, scope="global")
    slow = Slow(source)
    names = source.spec.structure.linears

    def products(loss: Callable[[Tensor, Tensor], Tensor], batches: list[Tensor]) -> Tensor:
        total = torch.zeros(())
        for ids in batches:
            weights = [slow._module(n).weight for n in names]
            value = loss(slow.run(ids), ids)
            found = torch.autograd.grad(value, weights, materialize_grads=True)
            pairs = zip(weights, found, strict=True)
            each = torch.cat([(w * g).abs().detach().flatten() for w, g in pairs])
            total = total + each / len(batches)
        return (total - total.mean()) / total.std(correction=0)

    single = [row[None] for row in windows()]
    scores = {
        "snip": lambda: products(slow.cross_entropy, single),
        "afr": lambda: products(slow.cross_entropy, single) + products(slow.frobenius, single),
        "refer_svd": lambda: products(slow.nuclear, [windows()]),
    }[name]()
    zero = torch.cat([(made.read(f"{n}.weight") == 0).flatten() for n in names])
    assert int(zero.sum()) == round(0.4 * len(zero))
    assert scores[zero].max() <= scores[~zero].min() + 1e-4


def test_blocks_removed_are_those_that_turn_their_input_least(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", dtype=torch.float32, num_hidden_layers=6)
    source = Checkpoint(folder)
    made = run("depth", source, tmp_path, ratio=0.5)
    model = load_dense(folder)
    with torch.no_grad():
        model.model.norm = torch.nn.Identity()  # the last entry would be behind the norm
        states = model.model(windows(), output_hidden_states=True).hidden_states
    influence = [
        float((1 - torch.cosine_similarity(a, b, dim=-1)).mean()) for a, b in pairwise(states)
    ]
    left = sorted(sorted(range(6), key=influence.__getitem__)[3:])
    for new, old in enumerate(left):
        name = "self_attn.q_proj.weight"
        assert torch.equal(
            made.read(f"model.layers.{new}.{name}"), source.read(f"model.layers.{old}.{name}")
        )
