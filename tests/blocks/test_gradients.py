"""Gradients block by block against plain autograd through the whole model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from paredown.artifact.checkpoint import Checkpoint
from paredown.blocks.gradient_scores import neuron_products, trimmed_products, weight_products
from paredown.blocks.gradients import Loss
from paredown.errors import NumericsError
from paredown.runtimes.torch.load import load_dense
from paredown.spec.structure import Mlp
from paredown.testing.tiny import VOCABULARY, tiny_model

LOSSES: tuple[Loss, ...] = ("ce", "frobenius", "nuclear")
FAMILIES = ["llama", "opt", "gemma2"]


def windows(samples: int = 3, length: int = 24) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, VOCABULARY, (samples, length), generator=generator)


def model_of(folder: Path, family: str) -> Path:
    return tiny_model(folder / family, family, dtype=torch.float32, tokenizer=False)


def whole_model_loss(model: Any, mlps: tuple[Mlp, ...], ids: Tensor, loss: Loss) -> Tensor:
    """The loss written down once more, from the transformers model and hooks on its layers."""
    outputs: list[Tensor] = []
    handles = [
        model.get_submodule(name).register_forward_hook(lambda m, a, out: outputs.append(out))
        for mlp in mlps
        for name in (*mlp.inputs, mlp.output)
    ]
    logits = model(ids, use_cache=False).logits
    for handle in handles:
        handle.remove()
    if loss == "ce":
        each = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
        )
        return each.reshape(len(ids), -1).mean(1).sum()
    if loss == "frobenius":
        values = [
            (y.square().sum() / y.numel()).sqrt()
            for out in outputs
            for y in out.reshape(len(ids), -1)
        ]
    else:
        values = [torch.linalg.svdvals(out.flatten(1)).mean() for out in outputs]
    return torch.stack(values).sum()


def slow_gradients(folder: Path, ids: Tensor, loss: Loss) -> tuple[Any, dict[str, Tensor]]:
    model = load_dense(folder)
    model.requires_grad_(True)
    whole_model_loss(model, Checkpoint(folder).spec.structure.mlps, ids, loss).backward()
    return model, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", FAMILIES)
def test_products_are_those_of_the_weights_gradients(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sum_j W_d G_d = sum_k W_u G_u (+ b_u G_b) = sum_t h dL/dh, window by window."""
    monkeypatch.setattr(
        "paredown.blocks.gradient_scores.BATCH_TOKENS", 48
    )  # 2 windows a batch, then 1
    folder, ids = model_of(tmp_path, family), windows()
    source = Checkpoint(folder)
    fast = neuron_products(source, ids, ("ce", "frobenius"), device="cpu", scratch=tmp_path / "s")
    for loss in ("ce", "frobenius"):
        for sample in range(len(ids)):
            model, gradients = slow_gradients(folder, ids[sample : sample + 1], loss)
            weights = dict(model.named_parameters())
            for mlp in source.spec.structure.mlps:
                name = f"{mlp.output}.weight"
                below = (weights[name] * gradients[name]).sum(0)
                found = fast[loss][mlp.output][sample]
                torch.testing.assert_close(found, below.detach(), rtol=1e-3, atol=1e-5)
                if family != "llama" or loss != "ce":  # activations that are not homogeneous, or
                    continue  # outputs of `up` that are part of the loss themselves
                up = f"{mlp.inputs[-1]}.weight"
                above = (weights[up] * gradients[up]).sum(1)
                torch.testing.assert_close(found, above.detach(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "linear_in"),
    [
        ("llama", "up"),  # SwiGLU: h is linear in u
        ("phi3", "up"),  # the same, u in the lower half of one matrix
        ("gpt2", None),  # GELU is linear in nothing: h dL/dh and W_d G_d alone
        ("opt", "inputs"),  # ReLU is homogeneous: W_1 G_1 with the bias
    ],
)
def test_identity_of_every_mlp_shape(family: str, linear_in: str | None, tmp_path: Path) -> None:
    """sum_j W_d[j,i] G_d[j,i] = sum_k W_u[i,k] G_u[i,k] = sum_t h_ti dL/dh_ti, for cross-entropy.

    G by plain autograd for the weights of the whole model as transformers builds it.
    """
    folder, ids = model_of(tmp_path, family), windows(1)
    source = Checkpoint(folder)
    fast = neuron_products(source, ids, ("ce",), device="cpu", scratch=tmp_path)["ce"]
    model, gradients = slow_gradients(folder, ids, "ce")
    weights = dict(model.named_parameters())

    def products(name: str) -> Tensor:
        """w dL/dw, (out, inp)."""
        found: Tensor = (weights[name] * gradients[name]).detach()
        return found.T if family == "gpt2" and found.ndim == 2 else found

    for mlp in source.spec.structure.mlps:
        found = fast[mlp.output][0]
        assert found.abs().max() > 1e-4  # the comparison is not one of zeros
        below = products(f"{mlp.output}.weight").sum(0)
        torch.testing.assert_close(found, below, rtol=1e-3, atol=1e-6)
        if linear_in is None:
            continue
        above = products(f"{mlp.inputs[-1]}.weight").sum(1)[-mlp.width :]
        if linear_in == "inputs":
            above = above + products(f"{mlp.inputs[-1]}.bias")
        torch.testing.assert_close(found, above, rtol=1e-3, atol=1e-6)


def test_products_of_the_nuclear_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One loss for a batch: summed over its windows, products are those of the weights."""
    monkeypatch.setattr("paredown.blocks.gradient_scores.BATCH_TOKENS", 48)
    folder, ids = model_of(tmp_path, "llama"), windows(4)
    source = Checkpoint(folder)
    fast = neuron_products(source, ids, ("nuclear",), device="cpu", scratch=tmp_path)["nuclear"]
    for batch in (slice(0, 2), slice(2, 4)):
        model, gradients = slow_gradients(folder, ids[batch], "nuclear")
        weights = dict(model.named_parameters())
        for mlp in source.spec.structure.mlps:
            name = f"{mlp.output}.weight"
            below = (weights[name] * gradients[name]).sum(0).detach()
            found = fast[mlp.output][batch].sum(0)
            torch.testing.assert_close(found, below, rtol=1e-3, atol=1e-5)


def test_losses_computed_together_are_those_computed_alone(tmp_path: Path) -> None:
    source, ids = Checkpoint(model_of(tmp_path, "llama")), windows(2)
    together = neuron_products(source, ids, LOSSES, device="cpu", scratch=tmp_path)
    for loss in LOSSES:
        alone = neuron_products(source, ids, (loss,), device="cpu", scratch=tmp_path)[loss]
        for name, rows in alone.items():
            torch.testing.assert_close(together[loss][name], rows)


@pytest.mark.parametrize("family", FAMILIES)
def test_weight_products_are_the_mean_of_each_windows_own(family: str, tmp_path: Path) -> None:
    folder, ids = model_of(tmp_path, family), windows(2)
    source = Checkpoint(folder)
    found = dict(
        weight_products(source, ids, ("ce", "frobenius"), device="cpu", scratch=tmp_path / "s")
    )
    assert set(found) == set(source.spec.structure.linears)
    for loss in ("ce", "frobenius"):
        expected: dict[str, Tensor] = {}
        for sample in range(len(ids)):
            model, gradients = slow_gradients(folder, ids[sample : sample + 1], loss)
            weights = dict(model.named_parameters())
            for name in found:
                key = f"{name}.weight"
                part = (weights[key] * gradients.get(key, torch.zeros(()))).abs().detach() / 2
                expected[name] = expected.get(name, torch.zeros(())) + part
        for name, products in found.items():
            torch.testing.assert_close(products[loss], expected[name], rtol=1e-3, atol=1e-6)


def test_only_the_asked_layers_are_given(tmp_path: Path) -> None:
    source = Checkpoint(model_of(tmp_path, "llama"))
    names = [mlp.output for mlp in source.spec.structure.mlps]
    found = weight_products(
        source, windows(2), ("ce",), device="cpu", scratch=tmp_path, names=names
    )
    assert [name for name, _ in found] == names[::-1]  # from the last block on


def test_states_on_disk_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, ids, scratch = Checkpoint(model_of(tmp_path, "llama")), windows(2), tmp_path / "s"
    held = neuron_products(source, ids, ("ce",), device="cpu", scratch=scratch)["ce"]
    assert not scratch.exists()
    monkeypatch.setattr("paredown.blocks.gradients.STATES_BYTES", 0)
    stored = neuron_products(source, ids, ("ce",), device="cpu", scratch=scratch)["ce"]
    assert all(torch.equal(stored[name], rows) for name, rows in held.items())
    assert not list(scratch.iterdir())


def test_long_windows_see_the_head_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, ids = Checkpoint(model_of(tmp_path, "llama")), windows(2)
    whole = neuron_products(source, ids, ("ce",), device="cpu", scratch=tmp_path)["ce"]
    monkeypatch.setattr("paredown.blocks.gradients._HEAD_TOKENS", 5)
    parts = neuron_products(source, ids, ("ce",), device="cpu", scratch=tmp_path)["ce"]
    for name, rows in whole.items():
        torch.testing.assert_close(parts[name], rows)


def test_gradients_that_are_not_finite_are_named(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = model_of(tmp_path, "llama")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = float("inf")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NumericsError, match=r"layers\.1\.mlp.*ce loss is not finite"):
        neuron_products(Checkpoint(folder), windows(), ("ce",), device="cpu", scratch=tmp_path)


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_trimmed_products_are_those_of_the_weights(family: str, tmp_path: Path) -> None:
    """Written down once more: sort each column of A, leave 2 % out at both ends, |mean|."""
    folder, ids = model_of(tmp_path, family), windows(2)
    source = Checkpoint(folder)
    found = trimmed_products(source, ids, ("ce", "frobenius"), device="cpu", scratch=tmp_path)
    for loss in ("ce", "frobenius"):
        expected = dict.fromkeys(found[loss], torch.zeros(()))
        for sample in range(len(ids)):
            model, gradients = slow_gradients(folder, ids[sample : sample + 1], loss)
            weights = dict(model.named_parameters())
            for mlp in source.spec.structure.mlps:
                key = f"{mlp.output}.weight"
                saliency = weights[key] * gradients[key]
                for name in mlp.inputs:
                    saliency = (
                        saliency + (weights[f"{name}.weight"] * gradients[f"{name}.weight"]).T
                    )
                ordered = saliency.detach().sort(dim=0).values
                cut = int(0.02 * len(ordered))
                value = ordered[cut : len(ordered) - cut].mean(0).abs()
                expected[mlp.output] = expected[mlp.output] + value
        for name, values in expected.items():
            torch.testing.assert_close(found[loss][name], values, rtol=1e-3, atol=1e-6)
