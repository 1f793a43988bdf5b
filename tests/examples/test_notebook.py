"""The notebook, cell by cell, on a tiny model instead of the built-in one."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from paredown.testing.tiny import tiny_model
from tests.samples import CALIBRATION, EVALUATE

NOTEBOOK = Path(__file__).parents[2] / "examples" / "notebook.ipynb"


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """What a notebook shows of a cell: the value of its last line, if that is an expression."""
    *body, last = ast.parse(source).body
    if not isinstance(last, ast.Expr):
        body, value = [*body, last], None
    exec(compile(ast.Module(body, []), "cell", "exec"), names)
    if isinstance(last, ast.Expr):
        value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    return value


def test_every_cell_runs_and_shows_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    asked = 'MODEL, EPISODES = "demo", 4'
    assert asked in sources[0]
    tiny = f"MODEL, EPISODES = {str(tiny_model(tmp_path / 'tiny'))!r}, 1"
    names: dict[str, Any] = {}
    quick = 'episodes=EPISODES, methods=("rtn",), **QUICK,'
    names["QUICK"] = {"calibration": CALIBRATION, "evaluate": EVALUATE}
    for source in sources:
        source = source.replace(asked, tiny).replace("episodes=EPISODES,", quick)
        shown = run_cell(source, names)
        assert hasattr(shown, "_repr_html_") or shown is names["figure"]
    assert names["results"].index.tolist() == [0, 1]
    assert (tmp_path / "front.pdf").stat().st_size > 1000
