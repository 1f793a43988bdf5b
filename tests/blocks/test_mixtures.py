"""What is counted of the experts of a mixture, against plain computations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

from paredown.artifact.checkpoint import Checkpoint
from paredown.blocks.mixtures import Tally, tally
from paredown.blocks.rewrite import probe_walk
from paredown.runtimes.torch.load import load_dense
from paredown.testing.conformance import MethodConformance
from paredown.testing.tiny import tiny_model


def made(tmp_path: Path, family: str, **changes: Any) -> Checkpoint:
    folder = tmp_path / family
    return Checkpoint(tiny_model(folder, family, dtype=torch.float32, tokenizer=False, **changes))


def tallies(source: Checkpoint, windows: Tensor) -> dict[str, Tally]:
    walk = probe_walk(source, device="cpu", trust_remote_code=False, tokens=windows)
    return tally(walk, lambda share, message: None)


def reference(source: Checkpoint, windows: Tensor) -> dict[str, Tensor]:
    """(3, experts) per mixture: tokens, weight, weight times norm, one token after another.

    Routing and experts by the formulas of Qwen3-MoE, from the stored matrices; only what the
    mixture reads is taken from the model that transformers builds.
    """
    model = load_dense(source.folder)
    found = {}
    for block, layer in enumerate(model.model.layers):
        stack = f"model.layers.{block}.mlp"
        seen: list[Tensor] = []
        handle = layer.mlp.register_forward_pre_hook(
            lambda m, args, seen=seen: seen.append(args[0])
        )
        with torch.no_grad():
            model(windows)
        handle.remove()
        experts = source.spec.experts or 0
        sums = torch.zeros(3, experts)
        for x in seen[0].flatten(0, 1):
            chances = (source.read(f"{stack}.gate.weight") @ x).softmax(0)
            for j in chances.argsort(descending=True)[:2].tolist():
                gate, up, down = (
                    source.read(f"{stack}.experts.{j}.{part}_proj.weight")
                    for part in ("gate", "up", "down")
                )
                said = down @ (silu(gate @ x) * (up @ x))
                sums[:, j] += torch.stack([torch.tensor(1.0), chances[j], chances[j] * said.norm()])
        found[stack] = sums
    return found


def test_scores_are_those_of_a_plain_computation(tmp_path: Path) -> None:
    source = made(tmp_path, "qwen3_moe", num_experts=6)
    windows = MethodConformance().context(tmp_path).calibration()
    expected = reference(source, windows)
    found = tallies(source, windows)
    assert found.keys() == expected.keys()
    for stack, one in found.items():
        sums = torch.stack([one.tokens, one.share, one.output]).float()
        torch.testing.assert_close(sums, expected[stack], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(one.error.float(), expected[stack][2] / expected[stack][0])


def test_llama_4_weighs_what_its_experts_read(tmp_path: Path) -> None:
    """Every expert is run on every token, with zeros for those that are not its own."""
    source = made(tmp_path, "llama4_text", num_experts_per_tok=2)
    windows = MethodConformance().context(tmp_path).calibration()
    (stack, found), *_ = tallies(source, windows).items()
    model = load_dense(source.folder)
    seen: list[Tensor] = []
    model.model.layers[1].feed_forward.register_forward_pre_hook(
        lambda module, args: seen.append(args[0])
    )
    with torch.no_grad():
        model(windows)
    sums = torch.zeros(3, 4)
    for x in seen[0].flatten(0, 1):
        logits = source.read(f"{stack}.router.weight") @ x
        for j in logits.argsort(descending=True)[:2].tolist():
            share = logits[j].sigmoid()
            gate, up, down = (
                source.read(f"{stack}.experts.{j}.{part}_proj.weight")
                for part in ("gate", "up", "down")
            )
            said = down @ (silu(gate @ (share * x)) * (up @ (share * x)))
            sums[:, j] += torch.stack([torch.tensor(1.0), share, said.norm()])
    counted = torch.stack([found.tokens, found.share, found.output]).float()
    torch.testing.assert_close(counted, sums, rtol=1e-4, atol=1e-4)


def test_an_expert_without_a_token_counts_nothing() -> None:
    one = Tally(*torch.tensor([[0.0, 4.0], [0.0, 2.0], [0.0, 6.0]]))
    assert one.error.tolist() == [0.0, 1.5]
