"""Methods that a script registers: they go to workers, are proved, and are known by their code."""

from __future__ import annotations

import importlib
import shutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file

import paredown
from paredown.errors import ConfigError, MethodError, StrategyError
from paredown.methods import registered, registry
from paredown.methods.base import Kind
from paredown.spec.domain import Choice, domains
from paredown.spec.strategy import Step
from paredown.testing.tiny import tiny_model

SCRIPT = """
    FACTOR = 0.5

    def scaled(weight):
        weight *= FACTOR

    class Halved:
        '''Scale one matrix.'''

        search_space = {"layer": [0, 1]}

        def apply(self, model, layer=0):
            scaled(model.model.layers[layer].mlp.up_proj.weight.data)
    """


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    registry._registered.clear()


def _of(script: str, name: str = "Halved") -> type[Any]:
    """A class as a script has it, in a module that no other process knows."""
    module = ModuleType("__main__")
    exec(textwrap.dedent(script), vars(module))
    found: type[Any] = vars(module)[name]
    return found


def test_it_is_saved_proved_and_followed_by_other_steps(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "model", "llama")
    paredown.register_method("halved")(_of(SCRIPT))
    done = paredown.compress(str(base), "halved(layer=1)", tmp_path / "out", device="cpu")
    assert {found.runtime for found in done.loads_in if found.known == "checked"} >= {"torch"}
    before, after = (
        load_file(base / "model.safetensors"),
        load_file(done.folder / "model.safetensors"),
    )
    changed = "model.layers.1.mlp.up_proj.weight"
    torch.testing.assert_close(after[changed], before[changed] * 0.5)
    assert all(torch.equal(after[name], before[name]) for name in before.keys() - {changed})
    assert (done.folder / "tokenizer.json").exists()


def test_what_takes_a_block_out_is_told_in_bytes(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "model", "llama")
    script = """
        class Shorter:
            def apply(self, model):
                del model.model.layers[-1]
                model.config.num_hidden_layers -= 1
        """
    paredown.register_method("shorter")(_of(script, "Shorter"))
    done = paredown.compress(str(base), "shorter", tmp_path / "out", device="cpu")
    (note,) = done.notes
    assert "what shorter leaves is known once it has measured the model" in note
    whole, less = (len(load_file(f / "model.safetensors")) for f in (base, done.folder))
    assert less == whole - 9  # four of attention, three of the MLP, two norms


def test_it_is_known_by_what_its_code_does() -> None:
    def code(script: str) -> str:
        return registered.of(_of(script), "halved", "pruning").written.code

    assert code(SCRIPT) == code(f"\n\n{SCRIPT}") == code(SCRIPT.replace("one matrix", "it"))
    assert code(SCRIPT) != code(SCRIPT.replace("0.5", "0.25"))  # a constant of the module
    assert code(SCRIPT) != code(SCRIPT.replace("*= FACTOR", "/= FACTOR"))  # a function it calls
    assert code(SCRIPT) != code(SCRIPT.replace("up_proj", "gate_proj"))
    tensor = SCRIPT.replace("FACTOR = 0.5", "import torch\n    FACTOR = torch.tensor([0.5])")
    assert code(tensor) == code(tensor) != code(tensor.replace("[0.5]", "[0.25]"))
    made = registered.of(_of(SCRIPT), "halved", "pruning")
    assert made.params_type().content(None) == {"code": made.written.code}


@pytest.mark.parametrize("use", ["from own_helpers import shrink", "import own_helpers"])
def test_a_module_of_the_users_own_is_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: str
) -> None:
    call = "shrink" if use.startswith("from") else "own_helpers.shrink"
    script = f"{use}\nclass Own:\n    def apply(self, model):\n        {call}(model)\n"
    monkeypatch.syspath_prepend(tmp_path)
    codes = []
    for factor in (2, 2, 3):
        text = f"def shrink(model):\n    return model * {factor}\n"
        (tmp_path / "own_helpers.py").write_text(text)
        monkeypatch.delitem(sys.modules, "own_helpers", raising=False)
        importlib.invalidate_caches()
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        codes.append(registered.of(_of(script, "Own"), "own", "pruning").written.code)
    assert codes[0] == codes[1] != codes[2]


def test_its_signature_and_its_space_are_its_parameters() -> None:
    paredown.register_method("halved", kind="tuning")(_of(SCRIPT))
    method = registry.load("halved")
    assert (method.kind, method.summary) == (Kind.TUNING, "Scale one matrix.")
    assert domains(method.params_type) == {"layer": Choice(0, 1)}
    assert registry.params_of(Step(method="halved")).model_dump() == {"layer": 0}
    with pytest.raises(StrategyError, match="no parameter 'lair'; did you mean 'layer'"):
        registry.params_of(Step(method="halved", params={"lair": 1}))
    with pytest.raises(StrategyError, match="layer = 'a'"):
        registry.params_of(Step(method="halved", params={"layer": "a"}))


def test_in_another_process_it_is_the_same() -> None:
    made = registered.of(_of(SCRIPT), "halved", "pruning")
    (again,) = registered.unpacked(registered.packed([made]))
    assert (again.name, again.written.code) == (made.name, made.written.code)


def test_keywords_are_parameters_where_the_space_names_them() -> None:
    class Any_:
        search_space: ClassVar = {"share": [0.1, 1]}

        def apply(self, model: Any, calibration: Any, **params: Any) -> None: ...

    made = registered.of(Any_, "any_", "pruning")
    assert made.needs_data
    assert made.params_type().model_dump() == {"share": 0.1}
    assert made.params_type.model_validate({"share": 1}).model_dump() == {"share": 1.0}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("pass", "stands over a class with"),
        ("def apply(self): ...", "apply takes a model"),
        ("def apply(self, model, share): ...", "share has no default"),
        ("def apply(self, model, share=torch): ...", "is no number, text or truth value"),
        ("search_space = {'shar': [1]}\n    def apply(self, model, share=1): ...", "names 'shar'"),
    ],
)
def test_what_cannot_be_used_is_refused_where_it_is_written(body: str, said: str) -> None:
    script = f"import torch\nclass Wrong:\n    {body}\n"
    with pytest.raises(ConfigError, match=said):
        paredown.register_method("wrong")(_of(script, "Wrong"))


def test_names_that_are_taken_or_cannot_be_written_are_refused() -> None:
    with pytest.raises(ConfigError, match="'gptq' already"):
        paredown.register_method("gptq")(_of(SCRIPT))
    with pytest.raises(ConfigError, match="letters, digits and _"):
        paredown.register_method("a b")(_of(SCRIPT))
    with pytest.raises(ConfigError, match="kind is quantization, pruning, tuning"):
        paredown.register_method("halved", kind="other")(_of(SCRIPT))


def test_a_result_that_is_no_model_fails_with_what_to_return(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "model", "llama")
    wrong = SCRIPT.replace("scaled(model.", "return (model.").replace(".data)", ")")
    paredown.register_method("halved")(_of(wrong))
    with pytest.raises(MethodError, match="apply returned a Parameter; return a transformers"):
        paredown.compress(str(base), "halved", tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()
