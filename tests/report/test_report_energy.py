"""Energy of a search over its sessions, and the payback."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paredown.report.documents import final_document
from paredown.report.energy import energy_lines, payback, search_energy
from paredown.report.findings import Judged, find
from paredown.report.html import front_html
from paredown.report.markdown import report_markdown
from paredown.spec.result import Measurement, Source, TrialResult
from paredown.spec.units import Unit
from tests.report.report_samples import findings as findings_of
from tests.report.report_samples import several


def reading(kwh: float, country: str = "DEU") -> dict[str, Any]:
    return {
        "event": "energy", "kwh": kwh, "kg_co2e": kwh * 0.4, "seconds": 100.0 * kwh,
        "country": country, "codecarbon": "3.3.2",
    }  # fmt: skip


START = {"event": "started"}
TWO_SESSIONS = (START, reading(0.1), reading(0.5), START, reading(0.25, "FRA"))


def joules(value: float, stderr: float, source: Source = "measured") -> Measurement:
    return Measurement(
        name="energy", value=value, unit=Unit.JOULES_PER_TOKEN, n=3, stderr=stderr,
        lower_is_better=True, source=source, how="",
    )  # fmt: skip


def charged(
    tmp_path: Path,
    base: Measurement | None,
    mine: Measurement | None,
    events: tuple[dict[str, Any], ...] = TWO_SESSIONS,
) -> Judged:
    def with_energy(result: TrialResult) -> TrialResult:
        found = base if result.episode == 0 else mine
        if found is None or result.status == "failed":
            return result
        return result.model_copy(update={"measurements": (*result.measurements, found)})

    findings = findings_of(tmp_path, tuple(map(with_energy, several())))
    return find(replace(findings.record, events=events))


def test_sessions_add_up_by_their_last_reading() -> None:
    used = search_energy(TWO_SESSIONS)
    assert used is not None
    assert used.kwh == pytest.approx(0.75)
    assert used.kg_co2e == pytest.approx(0.3)
    assert used.seconds == pytest.approx(75.0)
    assert used.countries == ("DEU", "FRA")


def test_a_session_that_was_not_metered_takes_nothing_away() -> None:
    events = (START, reading(0.5), START, {"event": "energy", "missing": "no CodeCarbon"})
    used = search_energy(events)
    assert used is not None
    assert used.kwh == pytest.approx(0.5)
    assert search_energy((START, {"event": "energy", "missing": "no CodeCarbon"})) is None


def test_payback_is_the_energy_of_the_search_over_the_saving_per_token(tmp_path: Path) -> None:
    findings = charged(tmp_path, joules(3.0, 0.01), joules(1.0, 0.01))
    found = payback(findings)
    assert found.tokens == pytest.approx(0.75 * 3.6e6 / 2.0)
    assert "after 1.4M generated tokens" in found.in_words
    cost = final_document(findings, "done")["cost"]
    assert cost["energy"]["kwh"] == pytest.approx(0.75)
    assert cost["payback"]["tokens"] == found.tokens
    text = report_markdown(findings, "done")
    assert "750 Wh, 300 g CO2e (grid: DEU and FRA)" in text
    assert "payback: after 1.4M generated tokens" in text
    assert "payback: after 1.4M generated tokens" in front_html(findings)


@pytest.mark.parametrize(
    ("base", "mine", "words"),
    [
        (joules(1.0, 0.01), joules(2.0, 0.01), "none: the recommended model saves none"),
        (joules(1.0, 0.1), joules(0.9, 0.1), "none shown: the difference is within its error"),
        (joules(2.0, 0.1), joules(1.0, 0.1, "estimated"), "measured of one model and estimated"),
        (None, joules(1.0, 0.1), "not known: energy per token was not measured of both models"),
    ],
)
def test_where_nothing_is_shown_to_be_saved_no_payback_is_claimed(
    tmp_path: Path, base: Measurement | None, mine: Measurement | None, words: str
) -> None:
    found = payback(charged(tmp_path, base, mine))
    assert found.tokens is None
    assert words in found.in_words


def test_a_search_that_was_not_metered_says_why(tmp_path: Path) -> None:
    events = (START, {"event": "energy", "missing": "pip install 'paredown[energy]'"})
    findings = charged(tmp_path, joules(3.0, 0.01), joules(1.0, 0.01), events)
    assert energy_lines(findings) == ["energy: not known; pip install 'paredown[energy]'"]
    assert payback(findings).in_words == "not known: the energy of the search was not metered"
    assert final_document(findings, None)["cost"]["energy"] is None
