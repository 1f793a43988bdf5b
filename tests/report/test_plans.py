"""Plans as tables, and `paredown plan`: what stands in the cells, and what differs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from paredown.cli.main import app
from paredown.errors import ConfigError
from paredown.report.plans import by_kind, differences, heat_map, summary, why_high
from paredown.spec.plan import PlanRecord, UnitPlan, read_word, scheme_word
from paredown.spec.scheme import Scheme

INNER = "model.layers.{}.self_attn.{}"


def unit(option: str, *layers: str, kl: float | None = 0.01) -> UnitPlan:
    return UnitPlan(layers=layers, option=option, nbytes=1000, kl=kl)


RECORD = PlanRecord(
    parameters=8_000,
    nbytes=4_250,
    kl=0.08,
    units=(
        unit("6a64", "model.embed_tokens", kl=0.02),
        unit("3a64", INNER.format(0, "q_proj"), INNER.format(0, "k_proj")),
        unit("6a64", INNER.format(0, "v_proj"), kl=0.001),
        unit("3a64", INNER.format(1, "q_proj"), INNER.format(1, "k_proj")),
        unit("16", INNER.format(1, "v_proj"), kl=0.0),
    ),
)


@pytest.mark.parametrize(
    ("word", "scheme"),
    [("4a64", Scheme(4, 64, False)), ("8s", Scheme(8, -1, True)), ("2s16", Scheme(2, 16, True))],
)
def test_words_name_schemes(word: str, scheme: Scheme) -> None:
    assert read_word(word) == scheme
    assert scheme_word(scheme) == word
    assert read_word(scheme_word(None)) is None


@pytest.mark.parametrize("word", ["", "4", "9a64", "4x64", "4a8", "4a064x", "a64", "16a64"])
def test_other_words_are_refused(word: str) -> None:
    with pytest.raises(ValueError, match="is no option"):
        read_word(word)


def test_a_heat_map_has_a_row_for_each_block() -> None:
    found = heat_map(RECORD)
    assert found.kinds == ("q", "k", "v")
    assert found.rows == {0: {"q": 3, "k": 3, "v": 6}, 1: {"q": 3, "k": 3, "v": 16}}
    assert found.outside == {"embed_tokens": 6}


def test_experts_of_a_block_are_averaged() -> None:
    experts = [f"model.layers.2.mlp.experts.{i}.w1" for i in range(2)]
    record = RECORD.model_copy(
        update={"units": (unit("3a64", experts[0]), unit("4a64", experts[1]))}
    )
    assert heat_map(record).rows == {2: {"w1": 3.5}}


def test_kinds_count_layers_and_forecasts() -> None:
    rows = {row.kind: row for row in by_kind(RECORD)}
    assert rows["q"].layers == 4
    assert rows["q"].bits == {3: 4}
    assert rows["q"].kl == pytest.approx(0.02)
    assert rows["v"].bits == {6: 1, 16: 1}
    assert (
        summary(RECORD) == "4.2 kB, 4.25 bits per weight, 5 units in 3 to 16 bits, forecast KL 0.08"
    )


def test_what_is_kept_high_is_told_with_its_price() -> None:
    # 3 bits more than usual: 0.001 x (4^3 - 1) = 0.063. What is kept whole has no price to tell.
    (line,) = why_high(RECORD)
    assert line.startswith(INNER.format(0, "v_proj") + " has 6 bits: with 3,")
    assert "0.063 nats" in line
    plain = tuple(u.model_copy(update={"kl": None}) for u in RECORD.units)
    assert why_high(RECORD.model_copy(update={"units": plain})) == []


def other() -> PlanRecord:
    changed = RECORD.units[2].model_copy(update={"option": "4a64"})
    return RECORD.model_copy(update={"units": (*RECORD.units[:2], changed, *RECORD.units[3:4])})


def test_differences_name_layers_that_one_plan_lacks() -> None:
    found = [(d.layer, d.first, d.second) for d in differences(RECORD, other())]
    assert found == [
        (INNER.format(0, "v_proj"), "6a64", "4a64"),
        (INNER.format(1, "v_proj"), "16", None),
    ]
    assert differences(RECORD, RECORD) == []


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """A plan as a file, and another inside an artifact."""
    (tmp_path / "one.json").write_text(RECORD.model_dump_json())
    (tmp_path / "artifact").mkdir()
    document = {"strategy": {}, "plan": other().model_dump(mode="json")}
    (tmp_path / "artifact" / "paredown.json").write_text(json.dumps(document))
    return str(tmp_path / "one.json"), str(tmp_path / "artifact")


def test_plan_show_prints_plain_text_into_a_pipe(files: tuple[str, str]) -> None:
    done = CliRunner().invoke(app, ["plan", "show", files[0]], catch_exceptions=False)
    assert done.exit_code == 0
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    assert lines[0] == summary(RECORD)
    assert any(line.split() == ["block", "q", "k", "v"] for line in lines)
    assert any(line.split() == ["1", "3", "3", "16"] for line in lines)


def test_plan_show_as_json_is_the_record(files: tuple[str, str]) -> None:
    done = CliRunner().invoke(app, ["plan", "show", files[1], "--json"], catch_exceptions=False)
    found = json.loads(done.stdout)
    assert found.pop("bpw") == 4.25
    assert PlanRecord.model_validate(found) == other()


def test_plan_diff_ends_like_diff(files: tuple[str, str]) -> None:
    run = CliRunner()
    done = run.invoke(app, ["plan", "diff", *files], catch_exceptions=False)
    assert done.exit_code == 1
    assert f"{INNER.format(0, 'v_proj')}  6a64   4a64" in done.stdout
    same = run.invoke(app, ["plan", "diff", files[0], files[0]], catch_exceptions=False)
    assert same.exit_code == 0
    assert "no layer differs" in same.stdout
    as_json = run.invoke(app, ["plan", "diff", *files, "--json"], catch_exceptions=False)
    assert json.loads(as_json.stdout)["differences"][1]["second"] is None


def test_an_artifact_without_a_plan_is_told(tmp_path: Path) -> None:
    (tmp_path / "paredown.json").write_text('{"strategy": {}}')
    with pytest.raises(ConfigError, match="was not made from a plan"):
        PlanRecord.read(tmp_path)
