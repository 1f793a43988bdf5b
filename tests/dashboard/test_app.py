"""The pages themselves, as Streamlit draws them, without a browser."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from paredown.coordinate.door import Door
from paredown.dashboard.access import TOKEN
from paredown.dashboard.server import APP
from paredown.dashboard.views.shared import files
from paredown.store.commands import answers
from paredown.store.events import read_events
from tests.coordinate.fake_run import FakeExecutor, fake_run
from tests.dashboard.folders import at_work, failed_only, many, with_plan
from tests.search.search_fakes import use_fakes

pytest.importorskip("streamlit")

from streamlit.testing.v1 import AppTest


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("root")
    many(place / "some", 60, seed=1, limits={"target_ratio": 2.0})
    with_plan(place / "some", episode=5)
    failed_only(place / "failed")
    return place


@pytest.fixture(autouse=True)
def afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN, raising=False)
    files.clear()


def opened(
    monkeypatch: pytest.MonkeyPatch, root: Path, page: str = "", experiment: str = ""
) -> AppTest:
    """The app, on a page of an experiment."""
    monkeypatch.setattr(sys, "argv", ["app", str(root)])
    app = AppTest.from_file(str(APP), default_timeout=30)
    if page:
        app.session_state["page"] = page
    if experiment:
        app.session_state["experiment"] = experiment
    app.run()
    assert not app.exception
    return app


def said(app: AppTest) -> str:
    """All text of the page."""
    kinds = (app.header, app.subheader, app.markdown, app.caption, app.info, app.success,
             app.warning, app.error, app.code)  # fmt: skip
    return "\n".join(str(element.value) for kind in kinds for element in kind)


def plots(app: AppTest) -> list[dict[str, Any]]:
    return [json.loads(found.proto.spec) for found in app.get("plotly_chart")]


def test_without_experiments_it_says_how_to_begin(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    app = opened(monkeypatch, tmp_path)
    assert "There is no experiment" in said(app)
    assert "paredown run -m demo" in said(app)


def test_the_list_has_every_experiment(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    table = opened(monkeypatch, root).dataframe[0].value
    assert set(table["name"]) == {"some", "failed"}
    assert dict(zip(table["name"], table["episodes"], strict=True))["some"] == "60 of 60"


def test_a_folder_of_one_experiment_opens_on_it(
    monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    app = opened(monkeypatch, root / "some")
    assert app.header[0].value == "some"


def test_the_page_of_an_experiment(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    app = opened(monkeypatch, root, "Front", "some")
    front, parallel = plots(app)
    assert sum(len(trace.get("text", ())) for trace in front["data"]) > 50
    assert front["layout"]["shapes"]  # the limit
    assert len(parallel["data"]) == 20
    assert "Take " in app.success[0].value
    assert len(app.dataframe[0].value) == 50


@pytest.mark.slow
def test_any_two_quantities(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    app = opened(monkeypatch, root, "Front", "some")
    app.selectbox(key="x").set_value("latency")
    app.selectbox(key="y").set_value("memory").run()
    layout = plots(app)[0]["layout"]
    assert layout["xaxis"]["title"]["text"] == "decode latency, ms/token"
    assert layout["yaxis"]["title"]["text"] == "peak memory, GB"


@pytest.mark.slow
def test_filters_sort_and_pages(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    app = opened(monkeypatch, root, "Front", "some")
    app.number_input(key="page_number").set_value(2).run()
    assert list(app.dataframe[0].value["episode"]) == list(range(50, 61))
    app.text_input(key="contains").set_value("MIXED").run()
    # One page is left, so that is shown.
    assert app.number_input(key="page_number").value == 1
    table = app.dataframe[0].value
    assert len(table) == 10
    assert all(label.startswith("mixed") for label in table["strategy"])
    app.selectbox(key="sort").set_value("size")
    app.segmented_control(key="order").set_value("descending").run()
    sizes = list(app.dataframe[0].value["size"].dropna())
    assert sizes == sorted(sizes, reverse=True)
    # And a refresh, as it comes every few seconds, leaves all of it.
    app.run()
    assert app.text_input(key="contains").value == "MIXED"
    assert list(app.dataframe[0].value["size"].dropna()) == sizes
    app.multiselect(key="outcome").set_value(["failed"])
    app.text_input(key="contains").set_value("").run()
    assert set(app.dataframe[0].value["outcome"]) == {"failed"}


def test_only_failures_are_shown_as_such(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    app = opened(monkeypatch, root, "Front", "failed")
    assert "every trial so far has failed" in said(app)
    assert "Keep the uncompressed model" in said(app)
    assert plots(app) == []
    assert "took more than 60 s" in list(app.dataframe[0].value["why"])[1]


def test_an_episode_with_a_plan(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    app = opened(monkeypatch, root, "Episode", "some")
    app.number_input(key="episode").set_value(5).run()
    text = said(app)
    assert "the next of the grid" in text
    assert "paredown compress -m demo" in text
    assert str(root / "some" / "episode_005" / "artifact") in text
    assert "block 2 of 12" in text
    (heat,) = plots(app)
    assert heat["data"][0]["type"] == "heatmap"
    assert heat["data"][0]["x"] == ["q", "v", "up", "down"]
    measured = app.dataframe[0].value
    assert {"measured", "derived", "estimated"} <= set(measured["source"])


def test_a_failed_episode_says_why(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    app = opened(monkeypatch, root, "Episode", "failed")
    app.number_input(key="episode").set_value(1).run()
    assert app.error[0].value == "**timeout in evaluate:** took more than 60 s"


def test_episodes_side_by_side(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    app = opened(monkeypatch, root, "Compare", "some")
    app.multiselect(key="compared").set_value([0, 1, 2]).run()
    table = app.dataframe[0].value
    assert list(table.columns) == ["quantity", "episode 0", "episode 1", "episode 2"]
    assert "±" in dict(zip(table["quantity"], table["episode 1"], strict=True))["perplexity"]
    app.multiselect(key="compared").set_value([0]).run()
    assert "Choose two or more" in said(app)


def test_what_was_learned_and_what_it_cost(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    text = said(opened(monkeypatch, root, "Learned", "some"))
    for title in ("Energy and cost", "What was learned", "What was tried, and why"):
        assert title in text


def test_progress_of_a_run(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    with at_work(root / "some", episode=3, message="block 5 of 30", left_s=754.0):
        app = opened(monkeypatch, root, "Front", "some")
    told = {metric.label: metric.value for metric in app.metric}
    assert told["state"] == "running"
    assert told["time left"].startswith("12m3")
    assert "block 5 of 30" in app.get("progress")[0].proto.text


def test_who_is_not_running_is_not_steered(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    app = opened(monkeypatch, root, "Steer", "some")
    assert not app.button
    assert f"paredown resume {root / 'some'}" in said(app)


def test_a_run_is_steered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_fakes(monkeypatch)
    run, _ = fake_run(tmp_path, FakeExecutor())
    folder = run.experiment.folder
    run.experiment.events.add("started", episodes=6, strategies=9, methods=("quant", "prune"))
    with at_work(folder), Door(run.experiment, run.steering):
        app = opened(monkeypatch, folder, "Steer")
        pause = next(button for button in app.button if button.label == "pause")
        pause.click().run()
        assert run.steering.paused
        assert "pausing after the running episode" in app.info[0].value
        app.text_input(key="command_text").set_value("frobnicate")
        next(button for button in app.button if button.label == "send").click().run()
        assert "no command is called" in app.info[0].value
        app.selectbox(key="exclude_method").set_value("prune").run()
        app.button(key="exclude_button").click().run()
    told = {found.text: found.answer for found in answers(read_events(folder / "events.jsonl"))}
    assert list(told) == ["pause", "exclude prune"]
    assert app.dataframe[-1].value["command"].tolist() == ["exclude prune", "pause"]


def test_nothing_is_shown_before_the_token(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.setenv(TOKEN, "a-token-of-16-or-more")
    monkeypatch.setattr("time.sleep", lambda _: None)
    app = opened(monkeypatch, root)
    assert not app.dataframe
    assert not app.sidebar.radio
    app.text_input[0].set_value("another")
    app.button[0].click().run()
    assert "another one" in app.error[0].value
    assert not app.dataframe
    app.text_input[0].set_value("a-token-of-16-or-more")
    app.button[0].click().run()
    assert len(app.dataframe[0].value) == 2


def test_another_name_for_this_machine_needs_a_token(
    monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    """A page of the internet that has its own name lead to loopback."""
    monkeypatch.setattr("paredown.dashboard.app.is_local_name", lambda _: False)
    monkeypatch.setattr("paredown.dashboard.access.is_loopback", lambda _: False)
    app = opened(monkeypatch, root)
    assert not app.dataframe
    assert "localhost alone" in said(app)
