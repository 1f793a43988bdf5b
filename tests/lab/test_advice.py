"""The recommendation follows from what was measured, by rule."""

from __future__ import annotations

from typing import Any

import pytest

from paredown.deploy.facts import Fact
from paredown.lab.advice import MANY, Sentence, advise, asked, fault, faults, seen
from paredown.lab.checkpoints import Exchange
from tests.lab.samples import BLANK, GOOD, LOOP, case, deployment, limit, measured, result

SOUND = Exchange(message="a", base=GOOD, artifact=GOOD)
SPOILT = Exchange(message="a", base=GOOD, artifact=LOOP)


def names(sentences: tuple[Sentence, ...]) -> set[str]:
    return {one.name for one in sentences}


@pytest.mark.parametrize(
    ("changes", "verdict", "reason"),
    [
        ({}, "deploy", "reason_ready"),
        ({"limits": (limit("met"), limit("undecided"))}, "pilot", "reason_limit_open"),
        ({"limits": (limit("met"), limit("broken"))}, "hold", "reason_limit_broken"),
        ({"limits": ()}, "pilot", "reason_no_constraints"),
        ({"exchanges": (SOUND, SOUND, SPOILT)}, "pilot", "reason_answers_few"),
        ({"exchanges": (SOUND, SPOILT, SPOILT)}, "hold", "reason_answers_many"),
        ({"episode": 0}, "keep", "reason_base_best"),
        ({"episode": None}, "nothing", "reason_nothing_met"),
        ({"config": {"constraints": {"deployment_target": "torch@L4"}}}, "pilot",
         "reason_other_device"),
        ({"deployed": deployment(facts=(), served=None)}, "pilot", "reason_not_served"),
        ({"deployed": deployment(
            facts=(Fact(name="health", status="failed", seen="503"),))}, "hold",
         "reason_not_ready"),
    ],
)  # fmt: skip
def test_each_rule_has_its_verdict_and_its_reason(
    changes: dict[str, Any], verdict: str, reason: str
) -> None:
    found = advise(case(**changes))
    assert found.verdict == verdict
    assert reason in names(found.reasons)


def test_a_fault_counts_only_where_the_base_has_none() -> None:
    alike = Exchange(message="a", base=LOOP, artifact=LOOP)
    empty = Exchange(message="a", base=GOOD, artifact=BLANK)
    assert (fault(LOOP.text), fault(BLANK.text), fault(GOOD.text)) == ("repeats", "blank", None)
    assert faults((alike, empty, SOUND)) == 1
    assert advise(case(exchanges=(alike,) * 3)).verdict == "deploy"
    assert MANY * 3 == 1  # one of three is read by people, two are too many


def test_what_was_measured_makes_the_risks() -> None:
    plain = advise(case())
    assert {"risk_text_only", "risk_few_prompts", "risk_machine"} <= names(plain.risks)
    assert "risk_flips" not in names(plain.risks)
    flipped = result(4, artifact="a").model_copy(
        update={"measurements": (measured("top1_agreement", 0.8), measured("kl", 0.3))}
    )
    found = advise(case(results=(flipped,)))
    assert {"risk_flips", "risk_kl"} <= names(found.risks)
    (share,) = [one.values["share"] for one in found.risks if one.name == "risk_flips"]
    assert share == "20"


def test_the_alarm_of_quality_is_what_was_accepted() -> None:
    bound = limit("met", "max_accuracy_loss").model_copy(update={"unit": "%", "bound": 10.0})
    found = advise(case(limits=(bound,)))
    (watched,) = [m for m in found.monitors if m.what.name == "monitor_quality"]
    assert (watched.usual, watched.alarm) == ("perplexity 24", "perplexity 22")  # 20 of the base


def test_bounds_and_values_in_their_units() -> None:
    memory = limit("met")
    assert asked(memory) == Sentence("at_most", {"value": "2 GB"})
    assert seen(memory) == "1 GB (0.9 GB – 1.1 GB)"  # noqa: RUF001
    speed = limit("met", "min_speedup")
    assert asked(speed) == Sentence("at_least", {"value": "2x"})
    assert seen(memory.model_copy(update={"seen": None})) == Sentence("not_measured")
