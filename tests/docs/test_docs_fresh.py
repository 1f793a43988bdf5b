"""What pages say is so. (That generated ones are up to date is seen by `make lint`.)"""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest

from paredown.errors import StrategyError
from paredown.methods import registry
from paredown.report import write
from paredown.spec.result import TrialResult
from paredown.store.history import HISTORY_FIELDS, LONG_FIELDS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))


def generate(*words: str, script: Path = DOCS / "generate.py") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(script), *words], capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_a_stale_page_is_noticed(tmp_path: Path) -> None:
    script = tmp_path / "generate.py"
    script.write_text((DOCS / "generate.py").read_text())
    (tmp_path / "methods.md").write_text("# Methods\n")
    done = generate("--check", script=script)
    assert done.returncode == 1
    assert "methods.md is stale" in done.stderr


def test_the_generated_page_names_every_parameter() -> None:
    text = (DOCS / "methods.md").read_text()
    for name in registry.BUILTIN:
        section = text.split(f"\n## `{name}`\n")[1].split("\n## ")[0]
        for field in registry.load(name).params_type.model_fields:
            assert f"| `{field}` |" in section


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if "://" not in link:
            assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_strategies_in_the_docs_can_be_read(page: Path) -> None:
    for strategy in re.findall(r'-s "([^"]+)"', page.read_text()):
        if strategy.split("(")[0] in registry.BUILTIN:
            registry.canonical(strategy)


def test_the_page_on_files_names_all_of_them() -> None:
    text = (DOCS / "files.md").read_text()
    files = [value for name, value in vars(write).items() if name.endswith("_FILE")]
    for name in (*files, *HISTORY_FIELDS, *LONG_FIELDS, *TrialResult.model_fields):
        assert name in text, name


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_python_sessions_run(page: Path) -> None:
    blocks = re.findall(r"```python\n(>>>.*?)```", page.read_text(), re.S)
    for number, block in enumerate(blocks):
        test = doctest.DocTestParser().get_doctest(block, {}, page.name, f"{page}:{number}", 0)
        assert doctest.DocTestRunner().run(test).failed == 0


def test_errors_of_the_strategy_language_read_as_shown() -> None:
    block = (DOCS / "strategies.md").read_text().split("## Errors")[1].split("```")[1]
    found, expected = [], []
    for line in block.strip().splitlines():
        strategy, message = line.split("  ", 1)
        try:
            registry.canonical(strategy)
        except StrategyError as error:
            found.append(str(error))
            expected.append(message.strip())
    assert len(found) >= 6  # the others need a model to be wrong on
    assert found == expected
