"""What strategies are expected to bring: exact sizes, intervals, and unknown as unknown."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from paredown.coordinate import expectation
from paredown.coordinate.expectation import (
    ELSEWHERE,
    FAMILY,
    FLOOR,
    Expected,
    Seen,
    expected_quality,
)
from paredown.coordinate.history import Pair, experiments_in, pairs_of, summaries
from paredown.coordinate.prediction import Ground, Predictions, predict
from paredown.coordinate.skills import Skill
from paredown.errors import ExperimentError
from paredown.hardware.detect import detect
from paredown.judge.limits import State
from paredown.methods import registry
from paredown.runtimes.calibration import Calibration
from paredown.spec.infer import infer_spec
from paredown.spec.model import ModelSpec
from paredown.spec.run import RunConfig
from paredown.spec.strategy import Strategy
from paredown.spec.target import Limits, Target
from paredown.store.experiment import Experiment, read_experiment
from paredown.store.skills import Evidence
from paredown.testing.tiny import tiny_model
from tests.report.report_samples import ok

FOUR = registry.canonical("gptq(bits=4, group_size=32)")
EIGHT = registry.canonical("rtn(bits=8, group_size=32)")
CALIBRATION = Calibration(
    machine="m", threads=1, torch="2", copy_bytes_s=1e10, row_bytes_s=1e9,
    packed_bytes_s={4: 1e9, 8: 1e9}, cache_bytes_s=1e9, few_ops_s=1e11,
    few_packed_ops_s=1e11, dense_ops_s=1e11, packed_ops_s=1e11,
    unpack_s=1e9, layer_s=1e-6, step_s=0.0, process_bytes=1e6,
)  # fmt: skip


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return infer_spec(tiny_model(tmp_path_factory.mktemp("predict") / "m", tokenizer=False))


def seen(strategy: Strategy, quality: float, spec: ModelSpec, family: str = "other") -> Seen:
    """On a model of nearly the same size."""
    return Seen(strategy=strategy, quality=quality, model="other", family=family,
                parameters=spec.parameters + 1)  # fmt: skip


@pytest.fixture(autouse=True)
def shipped(monkeypatch: pytest.MonkeyPatch, spec: ModelSpec) -> None:
    """Two rows instead of those of the package."""
    rows = (seen(FOUR, 1.10, spec), seen(EIGHT, 1.0, spec))
    monkeypatch.setattr("paredown.coordinate.prediction.shipped", lambda: rows)
    monkeypatch.setattr(expectation, "shipped", lambda: rows)


def skill(strategy: Strategy, *ratios: float, parameters: int) -> Skill:
    rows = tuple(
        Evidence(
            experiment=f"{i:016x}", name="e", model="mine", family="llama", parameters=parameters,
            device="cpu", strategy=strategy, worked=True, perplexity_ratio=ratio, n=4, time=i,
        )
        for i, ratio in enumerate(ratios)
    )  # fmt: skip
    return Skill(id="s", family="llama", strategy=strategy, rows=rows)


def ground(spec: ModelSpec, **changes: object) -> Ground:
    return replace(Ground(spec=spec, target=Target()), **changes)  # type: ignore[arg-type]


# --- Quality


def test_what_nobody_knows_is_unknown(spec: ModelSpec) -> None:
    assert expected_quality(registry.canonical("wanda"), spec, ()) is None


def test_one_other_model_gives_a_factor_of_five_of_the_excess(spec: ModelSpec) -> None:
    found = expected_quality(FOUR, spec, ())
    assert found is not None
    assert (found.value, found.n, found.basis) == (1.10, 1, "known of other")
    assert found.high == pytest.approx(1 + 0.10 * ELSEWHERE + FLOOR)
    assert found.low == pytest.approx(1 + 0.10 / ELSEWHERE - FLOOR)


def test_a_model_of_the_family_says_more(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = (seen(FOUR, 1.10, spec, spec.family),)
    monkeypatch.setattr(expectation, "shipped", lambda: rows)
    found = expected_quality(FOUR, spec, ())
    assert found is not None
    assert found.high == pytest.approx(1 + 0.10 * FAMILY + FLOOR)


def test_a_much_larger_model_may_lose_nothing(spec: ModelSpec) -> None:
    larger = spec.model_copy(update={"parameters": 10 * spec.parameters})
    found = expected_quality(FOUR, larger, ())
    assert found is not None
    assert found.low == pytest.approx(1 - FLOOR)


def test_own_experiments_go_before_what_is_shipped_and_say_more(spec: ModelSpec) -> None:
    mine = skill(FOUR, 1.2, 1.3, 1.25, parameters=spec.parameters)
    found = expected_quality(FOUR, spec, (mine,))
    assert found is not None
    assert (found.value, found.n, found.basis) == (1.25, 3, "own experiments on mine")
    assert 1 + 0.25 / 2 < found.low < 1.25 < found.high < 1 + 0.25 * 2


def test_what_training_gained_elsewhere_may_be_lost_here(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expectation, "shipped", lambda: (seen(FOUR, 0.9, spec),))
    found = expected_quality(FOUR, spec, ())
    assert found is not None
    assert found.low <= 0.9 < 1.0 < found.high


def test_recorded_losses_of_one_model_lie_in_the_other_ones_intervals(spec: ModelSpec) -> None:
    """The rule against 309 strategies that were measured on two models of a family."""
    folder = Path(__file__).parents[2] / "benchmarks" / "data"
    demo, sibling = (_recorded(folder / f"search-{n}.json.gz") for n in ("demo", "sibling"))
    for here, there in ((demo, sibling), (sibling, demo)):
        held: dict[bool, list[bool]] = {True: [], False: []}
        for label in here.keys() & there.keys():
            rows = [seen(FOUR, here[label], spec, spec.family)]
            said = expectation._around(rows, spec, "")
            held[here[label] <= 2].append(said.low <= there[label] <= said.high)
        worth, ruined = held[True], held[False]
        assert len(worth) > 80
        assert sum(worth) / len(worth) >= 0.95
        assert sum(ruined) / len(ruined) >= 0.85
        assert not all(ruined)  # else the interval would say nothing


def _recorded(file: Path) -> dict[str, float]:
    """Perplexity over the base's, by label."""
    with gzip.open(file) as opened:
        trials = json.load(opened)["trials"]
    return {
        trial["label"]: m["value"]
        for trial in trials
        for m in trial["measurements"]
        if m["name"] == "perplexity_ratio"
    }


# --- Predictions


def test_sizes_are_those_of_the_methods_and_memory_counts_the_window(spec: ModelSpec) -> None:
    found = predict([FOUR], ground(spec))
    (row,) = found.rows
    made = registry.check(FOUR, spec, Target())
    assert row.result.value("size") == made.weight_bytes
    size = row.result.get("size")
    assert size is not None
    assert size.source == "derived"
    memory = row.result.get("peak_memory")
    assert memory is not None
    assert memory.source == "estimated"
    assert memory.low is not None
    assert memory.low < memory.value
    assert row.result.get("speedup") is None  # the machine was never calibrated


def test_speed_comes_with_the_calibration_and_an_interval(spec: ModelSpec) -> None:
    found = predict([FOUR], ground(spec, calibration=CALIBRATION))
    faster = found.rows[0].result.get("speedup")
    assert faster is not None
    assert faster.low is not None
    assert faster.low < faster.value
    # As many bytes per second packed and dense: as much faster as fewer bytes are read.
    assert faster.value > 1.2
    assert found.base.result.value("speedup") == 1.0


def test_limits_are_met_broken_or_undecided_by_the_interval(spec: ModelSpec) -> None:
    limits = Limits(max_accuracy_loss=5.0, target_ratio=1.2)
    target = Target(limits=limits)
    found = predict([FOUR, EIGHT], ground(spec, target=target))
    states = {row.result.label: {c.limit.field: c.state for c in row.checks} for row in found.rows}
    four, eight = states["gptq(group_size=32)"], states["rtn(bits=8, group_size=32)"]
    assert four["target_ratio"] is State.MET
    assert four["max_accuracy_loss"] is State.UNDECIDED  # 2 % to 51 %
    assert eight["max_accuracy_loss"] is State.MET
    assert _chosen(found) == "rtn(bits=8, group_size=32)"


def test_sizes_and_divergences_are_judged_beforehand(spec: ModelSpec) -> None:
    """A KL is expected where a perplexity is: ln 1.02 to ln 1.51 are 0.02 to 0.41."""
    limits = Limits(bpw=9.6, kl=0.2)
    found = predict([FOUR, EIGHT], ground(spec, target=Target(limits=limits)))
    states = {row.result.label: {c.limit.field: c.state for c in row.checks} for row in found.rows}
    four, eight = states["gptq(group_size=32)"], states["rtn(bits=8, group_size=32)"]
    assert four == {"bpw": State.MET, "kl": State.UNDECIDED}
    assert eight == {"bpw": State.BROKEN, "kl": State.MET}


def _chosen(found: Predictions) -> str | None:
    rows = {row.result.episode: row.result.label for row in (found.base, *found.rows)}
    return None if found.choice.episode is None else rows[found.choice.episode]


def test_unknown_quality_is_never_chosen(spec: ModelSpec) -> None:
    wanda = registry.canonical("wanda")
    found = predict([wanda, EIGHT], ground(spec, target=Target(limits=Limits(max_accuracy_loss=9))))
    assert found.rows[0].quality is None
    assert found.rows[0].checks[0].state is State.UNDECIDED
    assert _chosen(found) == "rtn(bits=8, group_size=32)"


def test_what_cannot_run_is_told_with_the_reason(spec: ModelSpec) -> None:
    bad = registry.canonical("gptq(bits=4, group_size=48)")
    found = predict([bad, EIGHT], ground(spec))
    assert len(found.rows) == 1
    (why,) = found.refused.values()
    assert "do not divide into groups of 48" in why


def test_without_names_those_are_taken_that_something_is_known_of(spec: ModelSpec) -> None:
    found = predict([], ground(spec))
    assert {row.result.label for row in found.rows} == {
        "gptq(group_size=32)", "rtn(bits=8, group_size=32)",
    }  # fmt: skip
    assert all(isinstance(row.quality, Expected) for row in found.rows)


def test_what_is_sure_stands_beside_what_is_smaller_and_hoped_for(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training that gained elsewhere hides nothing that surely loses nothing."""
    rows = (seen(FOUR, 0.90, spec), seen(EIGHT, 1.0, spec))
    monkeypatch.setattr("paredown.coordinate.prediction.shipped", lambda: rows)
    monkeypatch.setattr(expectation, "shipped", lambda: rows)
    found = predict([], ground(spec, target=Target(limits=Limits(max_accuracy_loss=5))))
    assert len(found.rows) == 2
    assert _chosen(found) == "rtn(bits=8, group_size=32)"


# --- History


def experiment(folder: Path, spec: ModelSpec) -> Path:
    """An experiment of a base and one trial; its size is what is predicted."""
    made = registry.check(FOUR, spec, Target())
    base = {"perplexity": 20.0, "size": float(spec.weight_bytes), "peak_memory": 4.3e8}
    mine = {"perplexity": 22.0, "size": float(made.weight_bytes), "peak_memory": 4.2e8,
            "perplexity_ratio": 1.4}  # fmt: skip
    run = {"versions": {}, "hardware": {"cpu": "made up", "cores": 2}}
    found = Experiment.create(folder, RunConfig(model="demo"), spec, run)
    for result in (ok(0, None, base), ok(1, str(FOUR), mine)):
        found.begin(result.episode, result.strategy)
        found.finish(result)
    return folder


def test_history_sets_predictions_against_what_was_measured(
    spec: ModelSpec, tmp_path: Path
) -> None:
    folder = experiment(tmp_path / "one", spec)
    assert experiments_in(folder) == experiments_in(tmp_path) == [folder]
    pairs = pairs_of(read_experiment(folder), detect(), None)
    by_name = {(p.label, p.name): p for p in pairs}
    label = next(p.label for p in pairs if p.label != "base")
    size = by_name[label, "size"]
    assert size.ratio == 1.0
    assert size.covered
    quality = by_name[label, "perplexity_ratio"]
    assert (quality.predicted, quality.measured) == (1.10, 1.4)
    assert quality.covered  # up to 1.51
    found = {s.name: s for s in summaries(pairs)}
    assert found["size"].n == 2
    assert found["perplexity_ratio"].worst_factor == pytest.approx(1.4 / 1.1)
    assert "decode_latency" not in found


def test_an_interval_that_misses_counts_against_it() -> None:
    one = Pair(experiment="e", label="l", name="size", predicted=2, low=1.5, high=3, measured=4)
    (found,) = summaries([one, replace(one, measured=2)])
    assert (found.covered, found.worst_factor, found.median_ratio) == (0.5, 2.0, 0.75)


def test_a_folder_without_experiments_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="no experiment lies here"):
        experiments_in(tmp_path)
