"""Files that people edit: read with line and field, and hashed by what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paredown.errors import ConfigError
from paredown.lab import checkpoints
from paredown.lab.checkpoints import Analysis, Design, Implementation, changed
from paredown.lab.road import check, read_config, stage_named
from paredown.spec.lab import LabConfig
from paredown.spec.located import line_of
from tests.lab.samples import analysis, design, made


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    for found in (analysis(), design(), made()):
        checkpoints.write(tmp_path, found)
        again = checkpoints.read(tmp_path, type(found))
        assert again is not None
        assert again.content == found.content
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "1-analysis.json", "2-design.json", "3-implementation.json",
    ]  # fmt: skip


def test_the_content_is_what_was_found_and_not_when() -> None:
    one = design()
    later = one.model_copy(update={"made_at": "2027", "made_from": {"a": "b"}})
    edited = one.model_copy(update={"chosen": ("rtn",)})
    assert one.content == later.content != edited.content


def test_a_wrong_edit_is_told_with_its_line_and_field(tmp_path: Path) -> None:
    checkpoints.write(tmp_path, design())
    path = tmp_path / "2-design.json"
    lines = path.read_text().splitlines()
    number = next(i for i, line in enumerate(lines) if '"ratio"' in line)
    lines[number] = '      "ratio": "large",'
    path.write_text("\n".join(lines))
    with pytest.raises(
        ConfigError, match=rf"2-design.json: line {number + 1}: candidates.0.ratio = 'large'"
    ):
        checkpoints.read(tmp_path, Design)
    document = json.loads(path.read_text()) | {"chosn": []}
    document["candidates"][0]["ratio"] = 3.0
    path.write_text(json.dumps(document, indent=2))
    with pytest.raises(ConfigError, match=r"line \d+: no setting 'chosn'; did you mean 'chosen'"):
        checkpoints.read(tmp_path, Design)


def test_a_stage_that_was_not_passed_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"1-analysis.json is not there yet: the stage analysis"):
        checkpoints.require(tmp_path, Analysis)
    assert checkpoints.read(tmp_path, Implementation) is None


def test_what_differs_is_named() -> None:
    assert changed({"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "4"}) == ("b", "c")
    assert changed({"a": "1"}, {"a": "1"}) == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model: demo\nconstraints:\n  max_memry_gb: 2\n",
         r"line 3: no setting 'constraints.max_memry_gb'; did you mean 'max_memory_gb'"),
        ("constraints: {}\n", "line 1: model is missing"),
        ("model: demo\ntrials: 99\n", r"line 2: trials = 99"),
        ("model: demo\nlang: fr\n", r"line 2: lang = 'fr'"),
        ("model: demo\nprompts:\n  - hello\n  - ' '\n", r"line 2: .*blank"),
        ("model: demo\nconstraints:\n  min_speedup: -1\n", r"line 3: constraints.min_speedup"),
        ("- demo\n", "line 1: it must hold settings by name"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_told_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"lab.yaml: {words}"):
        read_config(path)


def test_lines_of_yaml_and_json_alike() -> None:
    text = "a: 1\nb:\n  - x: 2\n    y: 3\n"
    assert line_of(text, ("b", 0, "y")) == 4
    assert line_of(text, ("b", 7)) == 2
    assert line_of('{\n "a": 1,\n "b": [\n  {"y": 2}\n ]\n}', ("b", 0, "y")) == 4
    assert line_of("a: [", ("a",)) is None


def test_names_are_checked_before_anything_is_fetched() -> None:
    with pytest.raises(ConfigError, match="gptk"):
        check(LabConfig(model="nobody/nothing", strategies=("gptk(bits=4)",)))
    wrong = {"model": "m", "constraints": {"deployment_target": "lama.cpp"}}
    with pytest.raises(ConfigError, match=r"no runtime is called 'lama.cpp'.*'llama.cpp'"):
        check(LabConfig.model_validate(wrong))
    assert stage_named("2") == stage_named("design") == "design"
    with pytest.raises(ConfigError, match="--stage 'desing': no such stage; did you mean 'design'"):
        stage_named("desing")


def test_the_target_is_an_engine_and_a_device() -> None:
    found = LabConfig.model_validate(
        {"model": "m", "constraints": {"deployment_target": "llama.cpp@RTX 4090",
                                       "max_memory_gb": 3}}
    ).constraints  # fmt: skip
    assert (found.runtime, found.device) == ("llama.cpp", "RTX 4090")
    assert found.limits.max_memory_gb == 3
    assert LabConfig(model="m").constraints.device is None
