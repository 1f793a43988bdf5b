"""Every setting can be said as an option, as a variable and in a file, and arrives."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from paredown.cli.table import Setting, Table
from paredown.errors import ConfigError
from paredown.spec.option import Group, Option
from paredown.spec.requests import CompressRequest, DeployRequest, EvaluateRequest
from paredown.spec.run import RunConfig
from paredown.spec.sizing import MatchRequest, PredictRequest
from tests.cli.asked import parse, say

REQUESTS: dict[str, tuple[type[BaseModel], dict[str, Any]]] = {
    "PAREDOWN_RUN_": (RunConfig, {}),
    "PAREDOWN_COMPRESS_": (CompressRequest, {}),
    "PAREDOWN_EVALUATE_": (EvaluateRequest, {"argument": "model"}),
    "PAREDOWN_DEPLOY_": (DeployRequest, {"argument": "model"}),
    "PAREDOWN_MATCH_": (MatchRequest, {}),
    "PAREDOWN_PREDICT_": (PredictRequest, {}),
}
TABLES = [Table.of(kind, prefix, **more) for prefix, (kind, more) in REQUESTS.items()]
EACH = [
    pytest.param(table, setting, id=setting.env) for table in TABLES for setting in table.settings
]
CANDIDATES = (
    "600", "5", "3", "0.5", "0.05", "7.5", "cpu", "llm", "random", "size,latency", "2.5,10",
    "8,16x1,2", "http://127.0.0.1:8000/v1", "on", "off", "arc_easy", "perplexity", "abc",
    "/somewhere/else", "ttft=500ms,tpot=0.05s", "lora,full", "adamw8bit",
    "always", "ja", "ray", "127.0.0.1:6379",
)  # fmt: skip
"""Texts of which one at least is a value, and not the default, of any setting."""
REQUIRED: dict[tuple[str, ...], dict[str, Any]] = {("address",): {"executor": "ray"}}
"""What has to be set besides."""


def leaves(kind: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of all fields, found without the table: groups are what is a record by default."""
    for name, field in kind.model_fields.items():
        if isinstance(field.default, BaseModel) and "Group(" in repr(field.metadata):
            yield from leaves(type(field.default), (*above, name))
        else:
            yield (*above, name)


def nest(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    for name in reversed(path):
        value = {name: value}
    return value  # type: ignore[no-any-return]


def sample(table: Table[Any], setting: Setting) -> tuple[str, BaseModel]:
    """A text that changes this setting, and the config with the change, made by pydantic alone."""
    base = {**REQUIRED.get(setting.path, {}), "model": "m"}
    usual = table.kind.model_validate(base)
    if setting.path == ("model",):
        del base["model"]
    for text in CANDIDATES:
        value: Any = yaml.safe_load(text)
        try:
            changed = table.kind.model_validate({**base, **nest(setting.path, value)})
        except (ValidationError, ConfigError):
            continue
        if changed != usual:
            return text, changed
    raise AssertionError(f"no candidate is a value of {setting.path}")


@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.kind.__name__)
def test_the_table_has_every_field(table: Table[Any]) -> None:
    assert [s.path for s in table.settings] == list(leaves(table.kind))
    assert all(s.field.description for s in table.settings)


@pytest.mark.parametrize(("table", "setting"), EACH)
def test_every_setting_arrives_from_every_door(
    table: Table[Any], setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, expected = sample(table, setting)
    more = REQUESTS[table.env_prefix][1]

    def parsed(words: list[str]) -> Any:
        return parse(table.kind, table.env_prefix, words, **more)

    model = [] if setting.path == ("model",) else ["m"] if more else ["-m", "m"]
    for name, value in REQUIRED.get(setting.path, {}).items():
        model += [f"--{name}", value]
    if setting.is_switch:
        on, off = setting.flags[-1].split("/")
        option = [on if yaml.safe_load(text) else off]
    else:
        option = [*setting.flags[:1], text]
    assert parsed([*model, *option]) == expected
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump(nest(setting.path, yaml.safe_load(text))))
    assert parsed([*model, "--config", str(file)]) == expected
    monkeypatch.setenv(setting.env, text)
    assert parsed(model) == expected


def run(*words: str) -> RunConfig:
    found = parse(RunConfig, "PAREDOWN_RUN_", ["-m", "m", *words])
    assert isinstance(found, RunConfig)
    return found


def test_names_that_users_type() -> None:
    found = run(
        "-d", "gsm8k", "-d", "wikitext2", "-e", "3", "-b", "1.5", "--max-memory-gb", "2",
        "--max-accuracy-loss", "5", "--min-speedup", "1.2", "--target-ratio", "2",
        "--methods", "gptq, rtn", "--policy", "grid", "--coordinator", "llm", "--llm", "local",
        "--llm-url", "http://h/v1", "--llm-budget", "2usd", "--skills", "s.db", "--no-skills",
        "--calibration", "c4", "--data-dir", "d", "--device", "cpu", "--country", "deu",
        "--seed", "7", "--eval-tokens", "1024", "--limit", "0", "--final-limit", "0",
        "--allow-unsandboxed-code",
    )  # fmt: skip
    assert (found.data, found.evaluate.benchmarks) == ("wikitext2", ("gsm8k",))
    assert (found.episodes, found.budget_h, found.methods) == (3, 1.5, ("gptq", "rtn"))
    limits = found.limits
    assert (limits.max_memory_gb, limits.max_accuracy_loss) == (2.0, 5.0)
    assert (limits.min_speedup, limits.target_ratio) == (1.2, 2.0)
    assert (found.llm.model, found.llm.url) == ("local", "http://h/v1")
    assert (found.llm.budget_usd, found.llm.budget_tokens) == (2.0, 200_000)
    assert (found.skills, found.skills_file) == (False, Path.cwd() / "s.db")
    assert (found.calibration.source, found.country) == ("c4", "DEU")
    assert (found.evaluate.tokens, found.evaluate.limit, found.final_limit) == (1024, 0, 0)
    assert found.evaluate.allow_unsandboxed_code
    assert run("--llm-budget", "1000").llm.budget_tokens == 1000
    assert (run().llm.share, run().llm.leads) == (0.3, False)
    assert (run("--llm-share", "1").llm.share, run("--llm-share", "1").llm.leads) == (1.0, True)


def test_lists_are_repeated_or_written_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("--methods", "gptq,rtn", "--methods", "awq").methods == ("gptq", "rtn", "awq")
    assert run("--llm-price", "2.5,10").llm.price == (2.5, 10.0)
    monkeypatch.setenv("PAREDOWN_RUN_METHODS", '["hqq", "nf4"]')
    assert run().methods == ("hqq", "nf4")
    monkeypatch.setenv("PAREDOWN_RUN_METHODS", "hqq,nf4")
    assert run().methods == ("hqq", "nf4")


def test_none_is_a_value_where_there_may_be_none(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("budget_h: 3\npatience: 2\n")
    found = run("--config", str(file), "--budget", "none", "--patience", "None")
    assert (found.budget_h, found.patience) == (None, None)
    with pytest.raises(ConfigError, match="episodes = 'none'"):
        run("--episodes", "none")


def test_a_record_may_be_json() -> None:
    grid = run("--eval-grid", '{"prompts": [8], "seconds": 0.5}').evaluate.grid
    assert grid is not None
    assert (grid.prompts, grid.batches, grid.seconds) == ((8,), (1, 4), 0.5)
    assert run("--eval-grid", "8x1").evaluate.grid != run("--eval-grid", "off").evaluate.grid


def test_groups_are_merged_field_by_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"evaluate": {"tokens": 1000, "window": 100, "repeats": 3}}))
    monkeypatch.setenv("PAREDOWN_RUN_EVALUATE__WINDOW", "200")
    monkeypatch.setenv("PAREDOWN_RUN_EVALUATE__REPEATS", "4")
    found = run("-c", str(file), "--eval-repeats", "5").evaluate
    assert (found.tokens, found.window, found.repeats) == (1000, 200, 5)


class Inner(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    new: int = 1
    """A field that was added today."""


class Outer(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    inner: Annotated[Inner, Group("in", "Inside")] = Inner()
    max_energy: float | None = Field(default=None, gt=0)
    """Another."""


def test_a_new_field_is_an_option_by_itself() -> None:
    assert [s.flags for s in Table.of(Outer, "P_").settings] == [("--in-new",), ("--max-energy",)]
    found = parse(Outer, "P_", ["--in-new", "4", "--max-energy", "0.5"])
    assert found == Outer(inner=Inner(new=4), max_energy=0.5)


def test_two_fields_with_one_option_are_a_mistake_of_ours() -> None:
    class Twice(BaseModel):
        a: Annotated[int, Option("--same")] = 1
        b: Annotated[int, Option("--same")] = 2

    with pytest.raises(TypeError, match="--same"):
        Table.of(Twice, "P_")


def test_help_teaches_the_common_ones_first(capsys: pytest.CaptureFixture[str]) -> None:
    said = say(capsys, "run", "--help")
    titles = [line[:-1] for line in said.out.splitlines() if line.endswith(":") and line[0] != " "]
    assert titles == [
        "Common", "Limits", "This command", "Measuring", "Calibration", "Search", "LLM",
        "More settings",
    ]  # fmt: skip
    for setting in TABLES[0].settings:
        assert all(flag.split("/")[0] in said.out for flag in setting.flags)
    words = " ".join(said.out.split())
    assert "Strategies to try after the baseline. [default: 10]" in words
    assert "One of: portfolio, surrogate, bayesian" in words


def test_the_same_settings_are_told_by_help_and_reference() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference-cli.md").read_text()
    for table in TABLES:
        for setting in table.settings:
            assert f"| `{setting.env}` | `{'.'.join(setting.path)}` |" in page
