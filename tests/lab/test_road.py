"""Which stages are done again, and a whole road on a tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paredown.errors import ConfigError
from paredown.hardware.detect import detect
from paredown.lab import analysis, checkpoints, deployment, design, implementation, road
from paredown.lab.checkpoints import Checkpoint, Design, Implementation, Stage
from paredown.lab.context import Lab, Teller
from paredown.lab.road import REPORTS, run_lab
from paredown.pipeline.bench import Base
from paredown.pipeline.messages import AnswerDone
from paredown.runtimes.calibration import Calibration
from paredown.spec.lab import LabConfig
from paredown.spec.reference import plain_model
from paredown.store.atomic import write_json
from paredown.store.experiment import read_experiment
from paredown.store.home import home
from tests.coordinate.fake_run import write_model
from tests.lab import samples
from tests.samples import CALIBRATION, EVALUATE, write_text_file


class Heard(Teller):
    """Remembers which stages were begun, and why."""

    def __init__(self) -> None:
        self.begun: dict[Stage, str] = {}
        self.kept: list[Stage] = []

    def begin(self, stage: Stage, why: str) -> None:
        self.begun[stage] = why

    def keep(self, stage: Stage) -> None:
        self.kept.append(stage)


Go = Callable[..., Heard]


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Go:
    """Go the road with stages that find what the samples say, at once."""
    write_model(tmp_path / "model")
    base = Base(name="m", folder=tmp_path / "model", hash="abc", spec=plain_model())

    def opened(config: LabConfig, folder: Path, teller: Teller) -> Lab:
        return Lab(config=config, folder=folder, base=base, machine=detect(), teller=teller)

    def found(what: Checkpoint, depends_on: dict[str, str]) -> Any:
        return what.model_copy(update={"made_from": depends_on, "made_at": "now"})

    monkeypatch.setattr(road, "_open", opened)
    monkeypatch.setattr(
        analysis, "analyse", lambda lab: found(samples.analysis(), analysis.depends_on(lab))
    )
    monkeypatch.setattr(
        design, "design", lambda lab, a: found(samples.design(), design.depends_on(lab, a))
    )
    made = samples.made(episode=0, asked=0)
    monkeypatch.setattr(
        implementation, "implement",
        lambda lab, d: found(made, implementation.depends_on(lab, d)),
    )  # fmt: skip
    monkeypatch.setattr(
        deployment, "prepare_deployment",
        lambda lab, m: found(samples.deployment(), deployment.depends_on(lab, m)),
    )  # fmt: skip

    def call(only: Stage | None = None, **settings: Any) -> Heard:
        heard = Heard()
        config = LabConfig.model_validate({"model": "m", **settings})
        run_lab(config, tmp_path / "lab", only=only, teller=heard)
        return heard

    return call


def edit(folder: Path, kind: type[Checkpoint], **fields: Any) -> None:
    path = checkpoints.path_of(folder / "lab", kind)
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_the_first_time_every_stage_is_made_and_the_second_none(go: Go, tmp_path: Path) -> None:
    assert list(go().begun) == list(checkpoints.STAGES)
    again = go()
    assert (again.begun, again.kept) == ({}, list(checkpoints.STAGES))
    assert all((tmp_path / "lab" / name).is_file() for name in REPORTS)


@pytest.mark.parametrize(
    ("settings", "begun"),
    [
        # The kept file of a stage tells the same, so what follows from it alone stands.
        ({"constraints": {"max_memory_gb": 3}},
         {"design": "constraints", "implementation": "constraints",
          "deployment": "how it is served"}),
        ({"constraints": {"max_accuracy_loss": 3}},
         {"design": "constraints", "implementation": "constraints"}),
        ({"prompts": ["hello"]}, {"implementation": "prompts"}),
        ({"trials": 2}, {"design": "strategies"}),
        ({"slots": 2}, {"deployment": "how it is served"}),
        ({"lang": "ja"}, {}),
        ({"evaluate": {"tokens": 1024}},
         {"analysis": "how it is measured", "implementation": "how it is measured",
          "deployment": "how it is measured"}),
    ],
)  # fmt: skip
def test_only_what_depends_on_a_change_is_redone(
    go: Go, settings: dict[str, Any], begun: dict[Stage, str]
) -> None:
    go()
    assert go(**settings).begun == {stage: f"changed: {why}" for stage, why in begun.items()}


def test_an_edited_checkpoint_stands_and_what_follows_is_redone(go: Go, tmp_path: Path) -> None:
    go()
    edit(tmp_path, Design, chosen=["rtn(bits=8)"])
    assert go().begun == {"implementation": "changed: chosen strategies"}
    found = checkpoints.require(tmp_path / "lab", Design)
    assert found.chosen == ("rtn(bits=8)",)


def test_another_episode_is_asked_before_it_is_deployed(
    go: Go, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go()
    artifact = tmp_path / "lab" / "experiments" / "x" / "episode_004" / "artifact"
    edit(tmp_path, Implementation, episode=4)
    with pytest.raises(ConfigError, match="episode 4 keeps no artifact; give one of 4, or 0"):
        go()
    write_model(artifact)
    asked: list[Path] = []

    def ask(model: Path, messages: tuple[str, ...], **_: Any) -> AnswerDone:
        asked.append(model)
        return AnswerDone(answers=(samples.GOOD,) * len(messages), is_chat=True)

    monkeypatch.setattr(implementation, "ask", ask)
    assert list(go().begun) == []  # the same weights: the package stands
    assert asked == [tmp_path / "model", artifact]
    found = checkpoints.require(tmp_path / "lab", Implementation)
    assert (found.asked, len(found.exchanges)) == (4, 8)
    go()
    assert len(asked) == 2


def test_a_stage_alone_is_redone_and_no_other(go: Go) -> None:
    with pytest.raises(ConfigError, match="the stage analysis comes first"):
        go("design")
    go()
    heard = go("implementation")
    assert (heard.begun, heard.kept) == ({"implementation": "asked for"}, [])


@pytest.mark.slow
def test_a_whole_road_on_a_tiny_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Analysis with a baseline, two strategies in one experiment, answers, and the report."""
    from paredown.testing.tiny import tiny_model

    model = tiny_model(tmp_path / "model")
    text = write_text_file(tmp_path / "text.txt")
    rates = dict.fromkeys(
        ("copy_bytes_s", "row_bytes_s", "cache_bytes_s", "few_ops_s", "few_packed_ops_s",
         "dense_ops_s", "packed_ops_s", "unpack_s"), 1e10,
    )  # fmt: skip
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    known = Calibration(
        machine=detect().id, threads=1, torch="x", packed_bytes_s={4: 1e10}, layer_s=1e-4,
        step_s=1e-3, process_bytes=4e8, **rates,
    )  # fmt: skip
    write_json(home() / "calibration" / f"{detect().id}-1.json", known)
    settings: dict[str, Any] = {
        "model": str(model), "data": [str(text)], "evaluate": EVALUATE, "calibration": CALIBRATION,
        "strategies": ["rtn(bits=4, group_size=32)", "rtn(bits=8, group_size=32)"],
        "constraints": {"max_accuracy_loss": 1000.0}, "skills": False, "answer_tokens": 4,
        "prompts": ["hello", "and now"],
    }  # fmt: skip
    folder = tmp_path / "lab"
    found = run_lab(LabConfig.model_validate(settings), folder)
    made = checkpoints.require(folder, Implementation)
    record = read_experiment(folder / made.experiment)
    assert [r.episode for r in record.results] == [0, 1, 2]
    assert [r.proposed_by for r in record.trials] == ["user", "user"]
    assert made.episode in {1, 2}
    assert [e.artifact is not None for e in made.exchanges] == [True, True]
    assert all(e.base.tokens > 0 for e in made.exchanges)
    assert found.advice is not None
    assert found.advice.verdict == "pilot"  # torch serves nothing here
    # An edited design adds to the same experiment: the base and what was tried are not run again.
    edit_path = checkpoints.path_of(folder, Design)
    document = json.loads(edit_path.read_text())
    document["chosen"] = ["rtn(bits=8, group_size=32)", "rtn(bits=3, group_size=32)"]
    edit_path.write_text(json.dumps(document))
    heard = Heard()
    run_lab(LabConfig.model_validate(settings), folder, teller=heard)
    assert "analysis" not in heard.begun
    again = read_experiment(folder / made.experiment)
    assert [r.label for r in again.trials][:2] == [r.label for r in record.trials]
    assert len(again.trials) == 3
