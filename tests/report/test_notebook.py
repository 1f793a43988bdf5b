"""Results in Python: frames, pictures, and what a notebook shows."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from PIL import Image

import paredown
from paredown import api
from paredown.errors import ExperimentError, MissingExtraError
from paredown.report.figures import drawn, search_space_figure
from paredown.report.frame import frame
from paredown.report.latex import escaped, front_latex
from paredown.report.style import PALETTE, colours, hue_of
from paredown.store.history import LONG_FIELDS
from tests.report.report_samples import failed, findings, ok, several

MANY = tuple(
    ok(n, f"gptq(bits={n % 7 + 2})", {"perplexity": 10 + n / 9, "size": 1e8 - 1e5 * n})
    for n in range(1, 80)
)


def test_a_frame_holds_what_the_csv_holds(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    shown = findings(tmp_path / "x", several())
    wide = frame(shown)
    assert list(wide.index) == [r.episode for r in shown.record.results]
    assert wide.loc[1, "perplexity"] == shown.record.results[1].value("perplexity")
    assert wide["on_front"].dtype == bool
    assert set(wide.index[wide["on_front"]]) == set(shown.front.episodes)
    assert wide["energy_joules"].isna().all()  # a column of numbers all the same
    assert wide["energy_joules"].dtype == float
    long = frame(shown, long=True)
    assert tuple(long.columns) == LONG_FIELDS
    assert len(long) == sum(len(r.measurements) for r in shown.record.results)


def test_without_pandas_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match=r"paredown\[pandas\]"):
        frame(findings(tmp_path / "x", several()))


def test_a_front_is_short_in_text_and_small_in_html(tmp_path: Path) -> None:
    shown = findings(tmp_path / "x", (several()[0], *MANY))
    front = api.Front(shown.record, shown)
    assert repr(front).startswith("Front(x: 79 of 79 trials ok; recommended: ")
    assert len(repr(front)) < 200
    html = front._repr_html_()
    assert "<table>" in html
    assert "data:image/png;base64," in html
    assert len(html) < 120_000
    assert len(repr(front.points)) < 120 * len(front.points)


def test_results_and_models_are_short_too(tmp_path: Path) -> None:
    shown = findings(tmp_path / "x", (several()[0], failed(1)))
    base, broken = shown.record.results
    assert repr(base) == f"TrialResult(0: uncompressed; {len(base.measurements)} measurements)"
    assert "perplexity" in base._repr_html_()
    assert broken.failure is not None
    assert str(broken.failure.kind) in repr(broken)
    spec = shown.record.spec
    assert f"{spec.parameters:,} parameters" in repr(spec)
    assert spec.architecture in spec._repr_html_()


def test_paredown_opens_what_a_run_left(tmp_path: Path) -> None:
    shown = findings(tmp_path / "x", several())
    assert paredown.open is paredown.read_experiment
    assert "open" not in paredown.__all__  # `import *` hides nothing of Python's own
    with pytest.raises(ExperimentError, match="no experiment folder"):
        paredown.open(tmp_path / "y")
    del shown


@pytest.mark.parametrize(
    ("form", "start"), [("svg", b"<?xml"), ("pdf", b"%PDF"), ("png", b"\x89PNG")]
)
def test_one_figure_in_three_forms(form: str, start: bytes, tmp_path: Path) -> None:
    shown = findings(tmp_path / "x", several())
    first = drawn(search_space_figure(shown), form)
    assert first.startswith(start)
    assert first == drawn(search_space_figure(shown), form)  # nothing of the clock


def test_by_kind_singles_are_blue_and_combinations_red(tmp_path: Path) -> None:
    rows = (*several(), ok(9, "wanda(ratio=0.5) > gptq(bits=4)", {"perplexity": 11, "size": 4e7}))
    colour = colours(rows, "kind")
    assert hue_of(rows[1], colour) == PALETTE[0]
    assert hue_of(rows[-1], colour) == PALETTE[1]
    shown = findings(tmp_path / "x", rows)
    with Image.open(io.BytesIO(drawn(search_space_figure(shown, "kind")))) as picture:
        seen = {rgb for _, rgb in picture.convert("RGB").getcolors(1 << 24) or ()}
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)} <= seen


def test_latex_that_compiles_has_nothing_bare(tmp_path: Path) -> None:
    text = front_latex(findings(tmp_path / "x", several()))
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0]
    rows = [line for line in body.splitlines() if line.strip()]
    columns = text.split(r"\begin{tabular}{")[1].split("}")[0]
    for row in rows:
        assert row.count(" & ") == len(columns) - 1
        assert row.endswith(r" \\")
    assert escaped("50% of a_b & {c} ±") == r"50\% of a\_b \& \{c\} $\pm$"
    assert escaped("\\") == r"\textbackslash{}"
