"""Load tests: what GuideLLM is told, what is read of its report, and the numbers made of it."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import sys
from pathlib import Path

import pytest

from paredown.deploy import load
from paredown.deploy.client import Client
from paredown.deploy.load import LevelRun, LoadPlan, Prepared, Timed, prepare, read_report, run
from paredown.deploy.loadfigure import draw
from paredown.deploy.loadstats import Level, Slo, as_csv, knee_of, summarise
from paredown.errors import ConfigError, MissingExtraError, ServerError
from tests.deploy import guide
from tests.deploy.engines import ROOT
from tests.deploy.fake import running


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `guidellm` on the path that is `tests.deploy.guide`; what it saw is left in a file."""
    place = tmp_path / "bin"
    place.mkdir()
    script = place / "guidellm"
    script.write_text(
        f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m tests.deploy.guide "$@"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    monkeypatch.setenv("SEEN", str(tmp_path / "seen.json"))
    monkeypatch.setattr(load, "find_spec", lambda name: None)
    return tmp_path / "seen.json"


def server(model: str = "m", key: str | None = None) -> Prepared:
    client = Client("http://127.0.0.1:1", key=key, timeout_s=5.0)
    return Prepared(client=client, model=model, words=12, ignores_end=True)


PLAN = LoadPlan(levels=(1, 4), requests=3, seconds=5.0, output_tokens=10)


def test_what_it_is_told(stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://elsewhere")
    monkeypatch.setenv("OPENAI_API_KEY", "of-the-user")
    place = tmp_path / "run"
    place.mkdir()
    found = run(server(key="a-key-of-mine"), PLAN, (1, 4), place)
    seen = json.loads(stand_in.read_text())
    spec = seen["settings"]["spec"]
    assert "a-key-of-mine" not in " ".join(seen["argv"])
    assert spec["backend"]["api_key"] == "a-key-of-mine"
    assert not spec["backend"]["follow_redirects"]
    assert not {"HTTPS_PROXY", "OPENAI_API_KEY"} & seen["environment"].keys()
    assert seen["settings"]["benchmarks"] == [{"profile.streams": 1}, {"profile.streams": 4}]
    prompts = [json.loads(line)["prompt"] for line in seen["prompts"]]
    assert len({prompt[:12] for prompt in prompts}) == len(prompts) > 2 * PLAN.requests
    assert not (place / "settings.json").exists()  # the key with it
    assert [(one.level, len(one.done), one.failed) for one in found] == [(1, 2, 1), (4, 2, 1)]
    assert "sk-abcdefgh" not in (found[0].why or "")


def test_an_open_loop_is_poisson(stand_in: Path, tmp_path: Path) -> None:
    run(server(), LoadPlan(levels=(0.5,), is_open=True), (0.5,), tmp_path)
    settings = json.loads(stand_in.read_text())["settings"]
    assert settings["spec"]["profile"] == {"kind": "poisson", "rate": 0.5}


@pytest.mark.parametrize(
    ("model", "words"),
    [("dies", "exit code 3; its last words: Traceback: it could not"),
     ("changed", "version 0.8 is known")],
)  # fmt: skip
def test_its_faults_are_told(model: str, words: str, stand_in: Path, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=words):
        run(server(model), PLAN, (1, 4), tmp_path)


def test_one_that_hangs_is_ended(
    stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "_START_S", -19.5)
    with pytest.raises(ServerError, match=r"not over after 0\.5 s"):
        run(server("hangs"), PLAN, (1, 4), tmp_path)


def test_without_it_the_command_that_gets_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingExtraError, match=r"pip install 'paredown\[bench\]'"):
        load.program()


def test_prompts_are_as_long_as_asked_and_the_warm_up_asks_for_nothing_special() -> None:
    with running("good") as url:
        found = prepare(Client(url), PLAN)
    # The fake server counts 9 tokens in every text: 64 words of them are 9/64 each.
    assert found.words == round(128 / (9 / 64))
    assert found.model == "fake"
    with running("good") as url, pytest.raises(ServerError, match="not other"):
        prepare(Client(url), PLAN, name="other")


def test_numbers_of_a_level_by_hand() -> None:
    (one,) = read_report({"benchmarks": [guide.benchmark(0)]}, [2])
    level = summarise("t", one, Slo(e2el=1500.0))
    assert level is not None
    assert (level.n, level.failed, level.seconds) == (2, 1, 2.0)
    assert level.requests_per_s == pytest.approx(1.0)
    assert level.output_tokens_per_s == pytest.approx(10.0)
    assert level.total_tokens_per_s == pytest.approx(30.0)
    assert level.cached_share == pytest.approx(5 / 40)
    ttft, itl, tpot, e2el = (level.spread(n) for n in ("ttft", "itl", "tpot", "e2el"))
    assert ttft is not None
    assert itl is not None
    assert tpot is not None
    assert e2el is not None
    # Answers of 1 s and 2 s, 10 tokens, the first after 0.1 s: gaps of 100 and 211.1 ms.
    assert itl.mean == pytest.approx((100 + 1900 / 9) / 2)
    assert tpot.mean == pytest.approx(150)
    assert e2el.at(0.5).value == pytest.approx(1500)
    assert e2el.at(0.99).value == pytest.approx(1990)
    assert e2el.at(0.5).low <= 1500 <= e2el.at(0.5).high
    assert level.tokens_per_s_per_user == pytest.approx(1000 / itl.at(0.5).value)
    assert level.goodput is not None
    assert level.goodput.met == pytest.approx(1 / 3)  # one of two that were answered, one was not
    assert level.goodput.requests_per_s == pytest.approx(0.5)


def test_an_answer_of_one_token_has_no_gap() -> None:
    one = Timed(start_s=0.0, end_s=1.0, ttft_ms=900.0, prompt_tokens=1, tokens=1)
    assert one.itl_ms is None
    level = summarise("t", LevelRun(level=1, done=(one,), failed=0, why=None), Slo(itl=1.0))
    assert level is not None
    assert level.spread("itl") is None
    assert level.goodput is not None
    assert level.goodput.met == 1.0
    assert summarise("t", LevelRun(level=1, done=(), failed=3, why="x"), None) is None


def a_level(level: float, all_together: float, each: float) -> Level:
    return Level(
        target="t", level=level, n=1, failed=0, why=None, seconds=1.0, requests_per_s=1.0,
        output_tokens_per_s=all_together, total_tokens_per_s=0.0, tokens_per_s_per_user=each,
        prompt_tokens=1.0, output_tokens=1.0, cached_share=0.0, spreads=(), goodput=None,
    )  # fmt: skip


def test_the_knee() -> None:
    curve = [a_level(1, 10, 10), a_level(2, 19, 9.5), a_level(4, 36, 9), a_level(8, 40, 5),
             a_level(16, 41, 2)]  # fmt: skip
    found = knee_of(curve)
    assert found is not None
    assert found.level == 4
    # What is beaten in both is no part of the curve, and two levels have no knee.
    assert knee_of([*curve[:2], a_level(32, 5, 1)]) is None


def test_csv_and_figure(tmp_path: Path) -> None:
    (one,) = read_report({"benchmarks": [guide.benchmark(0)]}, [2])
    level = summarise("http://h", one, None)
    assert level is not None
    (row,) = csv.DictReader(io.StringIO(as_csv([level])))
    assert (row["target"], row["level"], row["n"]) == ("http://h", "2.0", "2")
    assert float(row["e2el_p50_ms"]) == 1500.0
    draw([level, a_level(1, 3, 4)], tmp_path / "f.png")
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("text", ["ttft", "ttft=-1", "speed=3", "ttft=nan", "itl=1,", "ttft=inf"])
def test_service_levels_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="--slo"):
        Slo.parse(text)
    assert Slo.parse("ttft=500, itl=50") == Slo(ttft=500.0, itl=50.0)


@pytest.mark.parametrize(
    "wrong",
    [{"levels": ()}, {"levels": (0,)}, {"levels": (1.5,)}, {"levels": (math.nan,)},
     {"requests": 1}, {"seconds": 0.0}, {"output_tokens": 1}],
)  # fmt: skip
def test_plans_that_are_none(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        LoadPlan(**wrong)  # type: ignore[arg-type]
