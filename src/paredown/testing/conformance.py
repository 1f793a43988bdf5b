"""The contract of a method as tests; subclass it for every method, your own included.

class TestMyMethod(MethodConformance):
    method_name = "mine"
    params = {"strength": 2}
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from pydantic import ValidationError

from paredown.artifact.checkpoint import Checkpoint
from paredown.blocks.probe import probe_tokens
from paredown.errors import MethodError, ParedownError
from paredown.methods import registry
from paredown.methods.base import AnyMethod, Context, Params, Training
from paredown.runtimes.registry import readers
from paredown.runtimes.torch.load import load, load_dense
from paredown.runtimes.torch.proof import check_kernels, compare, probe
from paredown.spec.strategy import Step, Strategy
from paredown.spec.target import Target
from paredown.store.atomic import new_folder
from paredown.store.cache import Cache
from paredown.testing.tiny import VOCABULARY, tiny_model


class _Stop(Exception):
    """Stands for whatever may end a step half-way."""


class _Breaking(Checkpoint):
    """A checkpoint that gives `readable` tensors and then fails."""

    def __init__(self, folder: Path, readable: float = math.inf) -> None:
        super().__init__(folder)
        self.readable, self.given = readable, 0

    def read(self, name: str) -> torch.Tensor:
        if self.given >= self.readable:
            raise _Stop
        self.given += 1
        return super().read(name)


def _random_windows(count: int, length: int, text: str | None) -> torch.Tensor:
    """Random text of few different tokens, so that there is something to learn."""
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, VOCABULARY // 8, (count, length), generator=generator)


class MethodConformance:
    """Subclass, and set the class attributes."""

    method_name: ClassVar[str]
    params: ClassVar[dict[str, Any]] = {}
    """Parameters that fit the tiny model."""
    family: ClassVar[str] = "llama"
    dtype: ClassVar[torch.dtype] = torch.bfloat16
    sizes: ClassVar[dict[str, Any]] = {}
    """Fields of the tiny model's config, where a kernel does not take every shape."""

    @pytest.fixture
    def method(self) -> AnyMethod:
        return registry.load(self.method_name)

    @pytest.fixture
    def settings(self, method: AnyMethod) -> Params:
        return method.params_type.model_validate(self.params)

    @pytest.fixture
    def source(self, tmp_path: Path) -> Checkpoint:
        return Checkpoint(
            tiny_model(tmp_path / "model", self.family, dtype=self.dtype, **self.sizes)
        )

    def context(self, tmp_path: Path, **changes: Any) -> Context:
        """What a worker would hand to the method."""
        tokens = torch.randint(0, VOCABULARY, (4, 32), generator=torch.Generator().manual_seed(1))
        (tmp_path / "scratch").mkdir(parents=True, exist_ok=True)
        settings: dict[str, Any] = {
            "device": "cpu",
            "seed": 0,
            "source_hash": f"tiny-{self.family}",
            "scratch": tmp_path / "scratch",
            "cache": Cache(tmp_path / "cache"),
            "calibration": lambda: tokens,
            "progress": lambda share, message: None,
            "training": Training(base=tmp_path / "model", windows=_random_windows),
        }
        return Context(**(settings | changes))

    def run(
        self, method: AnyMethod, source: Checkpoint, settings: Params, tmp_path: Path, name: str
    ) -> tuple[Path, torch.Tensor | None]:
        """Apply the method; returns the artifact and the logits it claims."""
        out = tmp_path / name
        out.mkdir()
        return out, method.apply(source, out, settings, self.context(tmp_path))

    def test_parameters_survive_json(self, settings: Params) -> None:
        assert type(settings).model_validate_json(settings.model_dump_json()) == settings

    def test_unknown_parameters_are_refused(self, settings: Params) -> None:
        with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
            type(settings).model_validate({**settings.model_dump(), "no_such_parameter": 1})

    def test_listing_needs_no_torch(self, method: AnyMethod) -> None:
        assert method.summary
        assert json.dumps(method.params_type.model_json_schema())

    def test_check_accepts_the_model(
        self, method: AnyMethod, settings: Params, source: Checkpoint
    ) -> None:
        method.check(source.spec, settings, Target())

    def test_artifact_is_what_was_predicted_and_meant(
        self, method: AnyMethod, settings: Params, source: Checkpoint, tmp_path: Path
    ) -> None:
        out, claimed = self.run(method, source, settings, tmp_path, "out")
        made, predicted = Checkpoint(out).spec, method.predict(source.spec, settings)
        assert {t.name: t for t in made.tensors} == {t.name: t for t in predicted.tensors}
        assert made.weight_bytes == predicted.weight_bytes
        assert made.quantization == predicted.quantization
        tokens = probe_tokens(VOCABULARY)
        check_kernels(load(out))
        exact = made.quantization != "bitsandbytes"
        dtype = torch.float32 if exact else None
        found = probe(load(out, dtype=dtype), tokens)
        compare(found if claimed is None else claimed, found, "paredown")
        assert made.options == predicted.options
        if "transformers" in readers(made):
            compare(found, probe(load_dense(out, dtype=dtype), tokens), "plain transformers")
        else:  # refused, not loaded as something else
            with pytest.raises((ValueError, RuntimeError, ParedownError)):
                load_dense(out, dtype=dtype)

    def test_weights_stay_finite(
        self, method: AnyMethod, settings: Params, source: Checkpoint, tmp_path: Path
    ) -> None:
        out, _ = self.run(method, source, settings, tmp_path, "out")
        made = Checkpoint(out)
        floats = (value for name in made.names if (value := made.read(name)).is_floating_point())
        assert all(value.float().isfinite().all() for value in floats)

    def test_same_seed_same_result(
        self, method: AnyMethod, settings: Params, source: Checkpoint, tmp_path: Path
    ) -> None:
        one, _ = self.run(method, source, settings, tmp_path, "one")
        two, _ = self.run(method, source, settings, tmp_path, "two")
        first, second = Checkpoint(one), Checkpoint(two)
        assert first.names == second.names
        assert all(torch.equal(first.read(n), second.read(n)) for n in first.names)

    def test_source_is_left_alone(
        self, method: AnyMethod, settings: Params, source: Checkpoint, tmp_path: Path
    ) -> None:
        before = {f.name: f.read_bytes() for f in source.folder.iterdir()}
        self.run(method, source, settings, tmp_path, "out")
        assert {f.name: f.read_bytes() for f in source.folder.iterdir()} == before

    def test_skipped_layers_are_bit_identical(
        self, method: AnyMethod, settings: Params, source: Checkpoint, tmp_path: Path
    ) -> None:
        if "skip" not in method.params_type.model_fields:
            pytest.skip("the method has no `skip`")
        some = settings.model_copy(update={"skip": ("*.0.*",)})
        out, _ = self.run(method, source, some, tmp_path, "out")
        result = Checkpoint(out)
        kept = [n for n in source.names if ".0." in n]
        assert kept
        assert all(torch.equal(result.read(n), source.read(n)) for n in kept)

    def test_tied_embeddings_stay_tied(
        self, method: AnyMethod, settings: Params, tmp_path: Path
    ) -> None:
        tied = Checkpoint(
            tiny_model(
                tmp_path / "tied",
                self.family,
                dtype=self.dtype,
                tie_word_embeddings=True,
                **self.sizes,
            )
        )
        out, _ = self.run(method, tied, settings, tmp_path, "out")
        model = load(out)
        head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
        if hasattr(embedding, "weight"):
            assert head.weight is embedding.weight
        else:  # packed
            assert head.weights is embedding.weights

    def test_non_finite_weights_are_refused(
        self, method: AnyMethod, settings: Params, source: Checkpoint, tmp_path: Path
    ) -> None:
        from safetensors.torch import load_file, save_file

        file = source.folder / "model.safetensors"
        tensors = load_file(file)
        linears = source.spec.structure.linears
        name = next(n for n in linears if n.endswith(("up_proj", "fc1", "c_fc", "w3")))
        tensors[f"{name}.weight"][3, 5] = float("nan")
        save_file(tensors, file, metadata={"format": "pt"})
        with pytest.raises(MethodError):
            self.run(method, Checkpoint(source.folder), settings, tmp_path, "out")

    def test_a_step_that_fails_half_way_leaves_nothing(
        self, method: AnyMethod, settings: Params, source: Checkpoint, tmp_path: Path
    ) -> None:
        whole = _Breaking(source.folder)
        self.run(method, whole, settings, tmp_path, "whole")
        broken = _Breaking(source.folder, whole.given // 2)
        place = tmp_path / "place"
        with pytest.raises(_Stop), new_folder(place / "out") as out:
            method.apply(broken, out, settings, self.context(tmp_path / "again"))
        assert list(place.iterdir()) == []

    def test_strategy_with_it_round_trips(self) -> None:
        strategy = Strategy(steps=(Step(method=self.method_name, params=self.params),))
        full = registry.canonical(strategy)
        assert registry.canonical(str(full)) == full
        assert registry.canonical(registry.label(full)) == full
