"""The matrix of families: a share of its cells, one for each cause that a family has broken."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from paredown.artifact.checkpoint import Checkpoint
from paredown.errors import ConfigError
from paredown.methods import registry
from paredown.spec.infer import infer_spec
from paredown.spec.strategy import parse_strategy
from paredown.spec.target import Target
from paredown.testing import families
from paredown.testing.families import (
    METHODS,
    Cell,
    reasons,
    table_head,
    table_row,
    try_method,
    try_spec,
)
from paredown.testing.tiny import tiny_model
from paredown.testing.zoo import FAMILIES


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zoo")


def model(models: Path, family: str) -> Path:
    folder = models / family / "model"
    if not folder.exists():
        tiny_model(folder, family, dtype=torch.float32, tokenizer=False)
    return folder


@pytest.mark.parametrize(
    ("family", "method"),
    [
        ("gpt_neox", "emb8"),  # a head that the file calls otherwise
        ("qwen2_vl", "rtn8"),  # blocks that the file calls otherwise
        ("gptj", "rtn8"),  # blocks that return a tuple, and compute a table of their own
        ("falcon", "rtn8"),  # subclasses of nn.Linear
        ("gemma3n_text", "rtn8"),  # four states per token, parts of each token for every block
        ("mllama", "gptq4"),  # blocks that are passed over where there is no image
        ("olmoe", "gptq4"),  # experts that are fused in memory
        ("gpt_oss", "rtn8"),  # experts that are fused in the file, in turns, with biases
        ("granitemoe", "wanda"),  # the same, written as they were
        ("jamba", "wanda"),  # a hybrid with experts
        ("arcee", "l2"),  # an MLP without a gate
        ("glm4_moe", "lora"),  # shared experts, whose names peft knows of older transformers
        ("gemma3", "smooth"),  # layers that the file calls otherwise, by name in the config
        ("mamba", "rtn8"),  # weights that the code takes of a layer
        ("qwen3_5_text", "hqq4"),  # zero-points that fill one word
        ("gpt_oss", "heads"),  # a sink for every head
        ("olmo", "emb8"),  # no parameter is left
        ("llama4_text", "experts"),  # fused in the file, weights on what experts read
        ("ernie4_5_moe", "experts"),  # a correction for each expert, with an axis of its own
        ("deepseek_v2", "experts"),  # dense blocks, shared experts
    ],
)
def test_it_works(models: Path, tmp_path: Path, family: str, method: str) -> None:
    cell = try_method(model(models, family), family, method, tmp_path / "work")
    assert (cell.status, cell.note) == ("ok", "")


@pytest.mark.parametrize(
    ("family", "method", "why"),
    [
        ("rwkv", "rtn8", "rescales"),
        ("falcon", "int8", "subclass of nn.Linear"),
        ("bloom", "l2", "no word for the width"),
        ("mixtral", "l2", "experts"),
        ("minicpm3", "int8", "inputs of four axes"),
        ("helium", "heads", "its config cannot say"),  # its output matrix is square
        ("mllama", "flap", "passes by its blocks 1,"),
    ],
)
def test_it_is_refused_at_planning(
    models: Path, tmp_path: Path, family: str, method: str, why: str
) -> None:
    cell = try_method(model(models, family), family, method, tmp_path / "work")
    assert cell.status == "refused"
    assert why in cell.note


@pytest.mark.parametrize("family", ["deepseek_v3", "minimax", "gpt_oss", "mllama", "ernie4_5_moe"])
def test_planning_counts_what_is_built(models: Path, family: str) -> None:
    assert try_spec(model(models, family), family) == Cell(family, "spec", "ok")


def test_an_artifact_that_is_not_what_it_claims_is_found(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A method that leaves a layer as it was, though it says that it rounds all of them."""
    method = registry.load("rtn")
    honest = type(method).apply

    def careless(self, source, out, params, context):  # type: ignore[no-untyped-def]
        some = params.model_copy(update={"skip": ("*.0.*",)})
        return honest(self, source, out, some, context)

    monkeypatch.setattr(type(method), "apply", careless)
    cell = try_method(model(models, "llama"), "llama", "rtn8", tmp_path / "work")
    assert cell.status == "wrong"
    assert "other tensors than foretold" in cell.note


def test_what_nobody_has_foreseen_is_a_crash(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise KeyError("nobody knows")

    monkeypatch.setattr(type(registry.load("rtn")), "apply", broken)
    cell = try_method(model(models, "llama"), "llama", "rtn8", tmp_path / "work")
    assert (cell.status, cell.is_sound) == ("crash", False)


def die(family: str, methods: list[str]) -> list[Cell]:
    """A row in whose first method the process ends."""
    if family == "llama" and methods != []:
        os._exit(9)
    return [Cell(family, "spec", "ok"), *(Cell(family, m, "ok") for m in methods)]


def test_a_row_whose_process_dies_is_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "try_family", die)
    rows = {row[0].family: row for row in families.matrix(["llama", "opt"], ["rtn8"], jobs=1)}
    assert [cell.status for cell in rows["opt"]] == ["ok", "ok"]
    assert [cell.status for cell in rows["llama"]] == ["ok", "crash"]


def test_the_table_and_the_reasons() -> None:
    cells = [
        Cell("a", "spec", "ok"),
        Cell("a", "int8", "partial", coverage=0.09),
        Cell("a", "l2", "refused", "AForCausalLM: no"),
    ]
    assert table_head(["int8", "l2"]) == "| family | spec | int8 | l2 |\n|---|---|---|---|"
    assert table_row(cells) == "| a | ok | 9 % | - |"


def test_reasons_that_differ_by_names_alone_are_one() -> None:
    cells = [
        Cell("a", "int8", "partial", coverage=0.09),
        Cell("a", "awq4", "refused", "awq: the layers of a are not known"),
        Cell("b", "awq4", "refused", "awq: the layers of b_text are not known"),
        Cell("a", "l2", "refused", "AForCausalLM is unknown; l2_structured leaves those alone"),
        Cell("a", "flap", "refused", "AForCausalLM: it is unknown; flap leaves those alone"),
        Cell("c", "l2", "ok"),
    ]
    assert reasons(cells) == [
        "| | methods | families | reason |",
        "|---|---|---|---|",
        "| partial | int8 | a |  |",
        "| refused | l2, flap | a | it is unknown; the method leaves those alone |",
        "| refused | awq4 | all but c | the layers of this family are not known |",
    ]


@pytest.mark.parametrize(
    "strategy", ["structured_snip", "snip", "wanda_sp", "l2_structured(ratio=0.3, repair=true)"]
)
def test_nothing_is_measured_in_blocks_that_text_passes_by(models: Path, strategy: str) -> None:
    """Llama 3.2 Vision runs its cross-attention where there is an image alone."""
    spec = infer_spec(model(models, "mllama"))
    with pytest.raises(ConfigError, match="text without an image passes by its blocks 1,"):
        registry.check(parse_strategy(strategy), spec, Target())
    registry.check(parse_strategy("l2_structured(ratio=0.3)"), spec, Target())


def test_the_matrix_in_the_docs_is_that_of_the_code() -> None:
    text = (Path(__file__).parents[2] / "docs" / "families.md").read_text()
    assert table_head(list(METHODS)) in text
    rows = re.findall(r"^\| (\w+) \|((?: (?:ok|-) \|)+)$", text, re.MULTILINE)
    assert [family for family, _ in rows] == list(FAMILIES)
    words = [word for _, cells in rows for word in cells.replace("|", "").split()]
    assert len(words) == len(FAMILIES) * (1 + len(METHODS))
    counted = f"{words.count('ok')} are ok, {words.count('-')} are refused at planning"
    assert f"of {len(words)} cells {counted}" in " ".join(text.split())
    assert all(f"| {name} | `{strategy}` |" in text for name, strategy in METHODS.items())


def test_each_family_stands_once() -> None:
    assert len(FAMILIES) == len(set(FAMILIES))


def test_fused_experts_are_written_as_they_were(models: Path, tmp_path: Path) -> None:
    """Nothing of a step that leaves experts alone may change them, or their place in the file."""
    for family in ("granitemoe", "gpt_oss", "llama4_text"):
        source = model(models, family)
        work = tmp_path / family
        ((step, params),) = registry.resolve(registry.canonical("magnitude(ratio=0.5)"))
        skipping = params.model_copy(update={"skip": ("*experts*",)})
        (work / "out").mkdir(parents=True)
        step.apply(Checkpoint(source), work / "out", skipping, families._context(source, work))
        before = load_file(source / "model.safetensors")
        after = load_file(work / "out" / "model.safetensors")
        assert before.keys() == after.keys()
        fused = [n for n in before if "experts" in n or "put_linear" in n]
        assert fused
        assert all(torch.equal(before[n], after[n]) for n in fused)
