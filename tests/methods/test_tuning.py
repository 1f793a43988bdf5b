"""Methods that train: they keep the contract, make the held-out loss better, and can be resumed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from paredown.artifact.checkpoint import Checkpoint
from paredown.blocks.probe import probe_tokens
from paredown.errors import ConfigError, DataError, DivergedError, MissingExtraError, StrategyError
from paredown.methods import registry
from paredown.methods.base import AnyMethod, Context, Training
from paredown.runtimes.torch.load import load, load_dense
from paredown.runtimes.torch.packed import dense_dtype
from paredown.runtimes.torch.proof import EXACT, compare, probe
from paredown.spec.infer import infer_spec
from paredown.spec.model import ModelSpec
from paredown.spec.packed import ADAPTER, ADAPTER_WEIGHTS, weights_bytes
from paredown.spec.strategy import parse_strategy
from paredown.spec.target import Target
from paredown.store.atomic import new_folder
from paredown.testing.conformance import MethodConformance
from paredown.testing.tiny import VOCABULARY, tiny_model
from paredown.train import training
from paredown.train.recovery import RECORD
from tests.kernels import avx512_bf16

_SHORT: dict[str, Any] = {"tokens": 512, "window": 32, "batch_tokens": 64, "learning_rate": 3e-3}
SHORT = ", ".join(f"{k}={v}" for k, v in _SHORT.items())


EVEN: dict[str, Any] = {"intermediate_size": 192}
"""Sizes that bitsandbytes' NF4 kernels take on every processor: tiny models are 160 wide."""


class _Killed(Exception):
    """Stands for a killed worker."""


class TestLora(MethodConformance):
    method_name = "lora"
    params: ClassVar[dict[str, Any]] = _SHORT


@pytest.mark.slow
class TestLoraGpt2(MethodConformance):
    """Conv1D, dropouts of its own, tensors stored without the base model's prefix."""

    method_name = "lora"
    params: ClassVar[dict[str, Any]] = {**_SHORT, "dropout": 0.1, "recompute": True}
    family = "gpt2"
    dtype = torch.float32


@pytest.mark.slow
class TestLoraGemma2(MethodConformance):
    method_name = "lora"
    params: ClassVar[dict[str, Any]] = _SHORT
    family = "gemma2"


class TestQlora(MethodConformance):
    method_name = "qlora"
    params: ClassVar[dict[str, Any]] = {**_SHORT, "rank": 4}
    sizes = EVEN


@pytest.mark.slow
class TestQloraOpt(MethodConformance):
    method_name = "qlora"
    params: ClassVar[dict[str, Any]] = {**_SHORT, "double_quant": False}
    family = "opt"
    sizes: ClassVar[dict[str, Any]] = {"ffn_dim": 192}


class _Taught(MethodConformance):
    """The teacher is another model, else there is nothing to learn."""

    def context(self, tmp_path: Path, **changes: Any) -> Context:
        base = tmp_path / "teacher"
        if not base.exists():
            tiny_model(base, self.family, seed=7, tokenizer=False)
        context = super().context(tmp_path, **changes)
        assert context.training is not None
        return replace(context, training=replace(context.training, base=base))


class TestDistill(_Taught):
    method_name = "distill"
    params: ClassVar[dict[str, Any]] = {**_SHORT, "features": 0.1, "temperature": 2.0}


@pytest.mark.slow
class TestDistillFull(_Taught):
    method_name = "distill"
    params: ClassVar[dict[str, Any]] = {**_SHORT, "parameters": "full", "learning_rate": 1e-3}

    def test_a_step_that_fails_half_way_leaves_nothing(
        self, method: AnyMethod, settings: Any, source: Checkpoint, tmp_path: Path
    ) -> None:
        """It reads the whole model first, so it is ended at a step of the training."""

        def die(share: float, message: str) -> None:
            if "step 5 of" in message:
                raise _Killed

        place = tmp_path / "place"
        with pytest.raises(_Killed), new_folder(place / "out") as out:
            method.apply(source, out, settings, self.context(tmp_path, progress=die))
        assert list(place.iterdir()) == []


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("dense"), **EVEN)


@pytest.fixture(scope="module")
def spec(dense: Path) -> ModelSpec:
    return infer_spec(dense)


def check(strategy: str, spec: ModelSpec) -> ModelSpec:
    return registry.check(parse_strategy(strategy), spec, Target())


def run(strategy: str, source: Path, folder: Path, **changes: Any) -> tuple[Path, Tensor]:
    """Run a strategy as a worker does; returns the artifact and the logits of the last step."""
    claimed: Any = None
    base = source
    for i, (method, params) in enumerate(registry.resolve(parse_strategy(strategy))):
        out = folder / f"step{i}"
        out.mkdir(parents=True)
        context = MethodConformance().context(folder, **changes)
        assert context.training is not None
        context = replace(
            context,
            source_hash=f"{i} of {strategy}",
            scratch=folder / f"tmp{i}",
            training=replace(context.training, base=base),
        )
        claimed = method.apply(Checkpoint(source), out, params, context)
        source = out
    return source, claimed


@pytest.mark.parametrize("quantization", ["rtn(bits=3, group_size=32)", "nf4", "int8"])
def test_over_packed_weights_the_adapter_is_kept(
    dense: Path, spec: ModelSpec, quantization: str, tmp_path: Path
) -> None:
    strategy = f"{quantization} > lora({SHORT}, dropout=0.1)"
    out, claimed = run(strategy, dense, tmp_path)
    before, after = Checkpoint(tmp_path / "step0"), Checkpoint(out)
    assert before.names == after.names
    assert all(torch.equal(before.read(n), after.read(n)) for n in before.names)
    predicted = check(strategy, spec)
    assert len(predicted.adapter) == 2 * 14
    assert after.spec.adapter == predicted.adapter
    assert after.spec.weight_bytes == predicted.weight_bytes
    assert weights_bytes(out) > weights_bytes(tmp_path / "step0")
    dtype = None if before.spec.quantization == "bitsandbytes" else torch.float32
    # An adapter's own products are rounded where the processor is fast in bfloat16.
    rounded = dtype is None and dense_dtype("cpu") == torch.bfloat16
    tolerance = EXACT if rounded else 1e-5
    tokens = probe_tokens(VOCABULARY)
    compare(claimed, probe(load(out, dtype=dtype), tokens), "paredown", tolerance=tolerance)
    compare(claimed, probe(load_dense(out, dtype=dtype), tokens), "peft", tolerance=tolerance)
    bare = probe(load(tmp_path / "step0", dtype=dtype), tokens)
    with pytest.raises(Exception, match="not the one"):  # the adapter does matter
        compare(claimed, bare, "x", tolerance=tolerance)
    assert "LoRA adapter" in load(out).paredown.notes[-1]


def test_the_kernel_without_gradient_is_not_trained_through(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On processors with AVX512-BF16 a look at the held-out loss would repack NF4 layers, and all
    later gradients would miss what flows through them."""
    strategy = f"nf4 > lora({SHORT})"
    plain, _ = run(strategy, dense, tmp_path / "plain")
    avx512_bf16(monkeypatch)
    out, claimed = run(strategy, dense, tmp_path / "fast")
    one, two = (load_file(folder / ADAPTER / ADAPTER_WEIGHTS) for folder in (plain, out))
    assert all(torch.equal(one[n], two[n]) for n in one)
    served = load(out)
    compare(claimed, probe(served, probe_tokens(VOCABULARY)), "paredown", tolerance=EXACT)
    layer = served.model.layers[0].mlp.up_proj.base
    assert layer.weight.quant_state.packing_format_for_cpu  # what is claimed is what is served


def test_over_packed_embeddings_too(dense: Path, tmp_path: Path) -> None:
    out, claimed = run(f"rtn(group_size=32, embedding_bits=8) > lora({SHORT})", dense, tmp_path)
    found = probe(load(out, dtype=torch.float32), probe_tokens(VOCABULARY))
    compare(claimed, found, "paredown", tolerance=1e-5)


@pytest.mark.slow
def test_qlora_and_nf4_with_an_adapter_are_the_same(dense: Path, tmp_path: Path) -> None:
    one, _ = run(f"qlora({SHORT})", dense, tmp_path / "one")
    two, _ = run(f"nf4 > qlora({SHORT})", dense, tmp_path / "two")
    three, _ = run(f"nf4 > lora({SHORT})", dense, tmp_path / "three")
    first = load_file(one / ADAPTER / ADAPTER_WEIGHTS)
    for other in (two, three):
        second = load_file(other / ADAPTER / ADAPTER_WEIGHTS)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[n], second[n]) for n in first)


def test_only_the_targets_change(dense: Path, tmp_path: Path) -> None:
    out, _ = run(f'lora({SHORT}, targets=["q_proj", "*.1.mlp.*"])', dense, tmp_path)
    before, after = Checkpoint(dense), Checkpoint(out)
    changed = {n for n in before.names if not torch.equal(before.read(n), after.read(n))}
    assert changed == {
        "model.layers.0.self_attn.q_proj.weight", "model.layers.1.self_attn.q_proj.weight",
        *(f"model.layers.1.mlp.{leaf}_proj.weight" for leaf in ("gate", "up", "down")),
    }  # fmt: skip


def test_all_weights_change_where_all_are_trained(dense: Path, tmp_path: Path) -> None:
    out, _ = run(f'distill({SHORT}, parameters="full", teaching=0)', dense, tmp_path)
    before, after = Checkpoint(dense), Checkpoint(out)
    assert all(not torch.equal(before.read(n), after.read(n)) for n in before.names)


@pytest.mark.parametrize(
    "step", [f"lora({SHORT})", f'distill({SHORT}, parameters="full", teaching=0)']
)
def test_masked_weights_stay_zero(dense: Path, tmp_path: Path, step: str) -> None:
    masked, _ = run("magnitude(ratio=0.5)", dense, tmp_path / "masked")
    out, _ = run(step, masked, tmp_path / "tuned")
    before, after = Checkpoint(masked), Checkpoint(out)
    for name in before.spec.structure.linears:
        zeros = before.read(f"{name}.weight") == 0
        assert zeros.float().mean() > 0.4
        assert (after.read(f"{name}.weight")[zeros] == 0).all()
        assert not torch.equal(after.read(f"{name}.weight"), before.read(f"{name}.weight"))
    assert "are zero" in load(out).paredown.notes[0]


def test_the_held_out_loss_falls_and_is_recorded(dense: Path, tmp_path: Path) -> None:
    said: list[str] = []
    out, _ = run(f"lora({SHORT})", dense, tmp_path, progress=lambda share, text: said.append(text))
    record = json.loads((out / RECORD).read_text())
    assert record["after"] < record["before"]
    assert record["step"] == 8
    assert [step for step, _ in record["held_out"]] == [2, 4, 6, 8]
    assert "held out" in said[-1]
    assert said[-1].endswith("left")


@pytest.mark.parametrize(
    "step",
    [f"lora({SHORT}, dropout=0.2, epochs=2)", f'distill({SHORT}, parameters="full", teaching=0)'],
)
def test_a_killed_training_goes_on_and_ends_at_the_same_weights(
    dense: Path, tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SAVE_S", 0.0)
    monkeypatch.setattr(training, "SAVE_COST", 0)
    whole, _ = run(step, dense, tmp_path / "whole")
    seen: list[str] = []

    def die(share: float, message: str) -> None:
        if "step 5 of" in message:
            raise _Killed

    with pytest.raises(_Killed):
        run(step, dense, tmp_path / "killed", progress=die)
    cache = MethodConformance().context(tmp_path / "killed").cache
    assert list(cache.folder.glob("training/*"))
    out, _ = run(
        step, dense, tmp_path / "again", cache=cache, progress=lambda s, text: seen.append(text)
    )
    assert not [text for text in seen if "step 3 of" in text]  # it did go on
    assert [text for text in seen if "step 5 of" in text]
    one, two = Checkpoint(whole), Checkpoint(out)
    assert all(torch.equal(one.read(n), two.read(n)) for n in one.names)
    assert not list(cache.folder.glob("training/*"))


def test_another_text_is_another_training(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SAVE_S", 0.0)
    monkeypatch.setattr(training, "SAVE_COST", 0)

    def die(share: float, message: str) -> None:
        if "step 5 of" in message:
            raise _Killed

    with pytest.raises(_Killed):
        run(f"lora({SHORT})", dense, tmp_path / "killed", progress=die)
    seen: list[str] = []
    run(
        f"lora({SHORT})",
        dense,
        tmp_path / "other",
        cache=MethodConformance().context(tmp_path / "killed").cache,
        training=Training(base=dense, windows=lambda n, length, text: torch.ones(n, length).long()),
        progress=lambda share, text: seen.append(text),
    )
    assert [text for text in seen if "step 1 of" in text]


def test_a_training_that_does_not_help_is_a_failure(dense: Path, tmp_path: Path) -> None:
    def unlike(count: int, length: int, text: str | None) -> Tensor:
        """Held-out windows, which come first, hold other tokens than the rest."""
        found = torch.randint(0, 16, (count, length), generator=torch.Generator().manual_seed(3))
        found[: count - 16] += 64
        return found

    with pytest.raises(DivergedError, match=r"no better: \d\.\d+ before.*lower learning_rate"):
        run(f"lora({SHORT})", dense, tmp_path, training=Training(base=dense, windows=unlike))


@pytest.mark.parametrize("name", ["lora", "qlora", "distill"])
def test_a_rank_above_the_width_names_the_layer(spec: ModelSpec, name: str) -> None:
    with pytest.raises(ConfigError, match=r"rank = 33: layer .*k_proj' has only 32 outputs"):
        check(f"{name}(rank=33)", spec)
    check(f'{name}(rank=33, targets=["mlp.*"])', spec)


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ("lora(rank=0)", "rank = 0.*greater than or equal to 1"),
        ("lora(learning_rate=0)", "learning_rate = 0.*greater than 0"),
        ('lora(targets=["q_prj"])', "targets: 'q_prj' matches no layer"),
        ("lora(window=512)", "window = 512 is longer than the model's context of 256"),
        ('lora(text="no/such/file.txt")', "no text at 'no/such/file.txt'"),
        ('lora(text="wikitext2:test")', "text source|only the train split"),
        ("qlora > lora", "keeps an adapter already"),
        ("lora > nf4 > lora > gptq", "gptq after nf4: a model is quantized only once"),
        ("rtn(group_size=32) > qlora", "compressed-tensors; use lora"),
        ('nf4 > distill(parameters="full")', r"packed weights \(bitsandbytes\) cannot be trained"),
        ("distill(teaching=2)", "teaching = 2.*less than or equal to 1"),
    ],
)
def test_wrong_requests_are_refused_at_planning(
    spec: ModelSpec, strategy: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check(strategy, spec)


@pytest.mark.parametrize("name", ["lora", "qlora", "distill"])
def test_models_of_unknown_structure_are_refused(spec: ModelSpec, name: str) -> None:
    strange = spec.with_tensors([t for t in spec.tensors if ".layers." not in t.name])
    with pytest.raises(ConfigError, match="no layer"):
        check(name, strange)


@pytest.mark.parametrize("strategy", ["qlora", 'distill(parameters="full")'])
def test_all_weights_of_experts_are_not_trained(spec: ModelSpec, strategy: str) -> None:
    with pytest.raises(ConfigError, match="experts"):
        check(strategy, spec.model_copy(update={"experts": 8}))


def test_experts_carry_no_adapter(tmp_path: Path) -> None:
    mixture = infer_spec(tiny_model(tmp_path, "mixtral", tokenizer=False))
    packed = check("rtn(group_size=32)", mixture)
    adapted = {t.name.split(".lora_")[0] for t in check("lora", packed).adapter}
    attention = [n for n in mixture.structure.linears if ".self_attn." in n]
    assert adapted == {f"base_model.model.{name}" for name in attention}
    with pytest.raises(ConfigError, match="such as experts"):
        check('lora(targets=["*.experts.*"])', mixture)


def test_formats_without_gradient_are_refused(spec: ModelSpec) -> None:
    tensors = [
        t.model_copy(update={"dtype": "I8"}) if t.name.endswith("up_proj.weight") else t
        for t in spec.tensors
    ]
    foreign = spec.with_tensors(tensors, quantization="elsewhere")
    with pytest.raises(ConfigError, match=r"elsewhere weights .*up_proj.*put lora before"):
        check("lora", foreign)


@pytest.mark.parametrize(("library", "name"), [("peft", "lora"), ("bitsandbytes", "qlora")])
def test_a_missing_library_is_named_with_its_extra(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch, library: str, name: str
) -> None:
    from importlib.util import find_spec

    def find(module: str) -> Any:
        return None if module == library else find_spec(module)

    monkeypatch.setattr("paredown.methods.registry.find_spec", find)
    monkeypatch.setattr("paredown.methods.qlora.find_spec", find)
    with pytest.raises(MissingExtraError, match=library):
        check(name, spec)


def test_too_short_a_text_is_refused(dense: Path, tmp_path: Path) -> None:
    from paredown.runtimes.torch.writer import write_texts
    from paredown.store.cache import Cache
    from paredown.text.windows import TextRequest, windows

    def read(count: int, length: int, text: str | None) -> Tensor:
        return windows(
            TextRequest("pydoc", text, None), "calibration", dense, count=count, length=length,
            seed=0, cache=Cache(tmp_path), write=write_texts,
        )  # fmt: skip

    with pytest.raises(DataError, match=r"has \d+ windows of 32 tokens, 312\d+ are needed"):
        run(
            "lora(tokens=100000000, window=32)",
            dense,
            tmp_path / "run",
            training=Training(base=dense, windows=read),
        )


@pytest.mark.parametrize("name", ["lora", "qlora", "distill"])
def test_the_method_is_listed_as_tuning(name: str) -> None:
    method: AnyMethod = registry.load(name)
    assert registry.kind_of(parse_strategy(name)) == "tuning"
    assert method.extra == ("peft", "lora")


def test_pruning_after_packing_is_still_refused(spec: ModelSpec) -> None:
    with pytest.raises(StrategyError, match="put l2_structured before"):
        check("nf4 > l2_structured(ratio=0.3)", spec)
