"""The catalogues are whole: every sentence, every value, and the compiled files as they are."""

from __future__ import annotations

import ast
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from paredown.language import LANGUAGES
from paredown.language.forms import FORMS

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "paredown"
TOOL = ROOT / "docs" / "catalogues.py"


@pytest.fixture(scope="module")
def tool() -> dict[str, Any]:
    pytest.importorskip("babel")
    return runpy.run_path(str(TOOL))


@pytest.mark.parametrize("language", [name for name in LANGUAGES if name != "en"])
def test_a_catalogue_is_complete_and_compiled(language: str, tool: dict[str, Any]) -> None:
    assert tool["faults"](language) == []


def test_what_is_missing_or_says_other_values_is_found(tool: dict[str, Any]) -> None:
    from babel.messages.catalog import Message

    def found(*about: Any) -> list[str]:
        return list(tool["_faults"](Message(*about)))

    assert found("{a} of {b}", "{b}：{a}") == []
    assert found("{a} of {b}", "") == ["not translated: '{a} of {b}'"]
    assert found("{a} of {b}", "{a}") == ["other values than ['a', 'b']: '{a}'"]
    assert found(("{n} day", "{n} days"), ("",)) == ["not translated: '{n} day'"]


def test_no_sentence_is_glued_before_it_is_said(tool: dict[str, Any]) -> None:
    """An f-string in `say` would be looked up with its values in it, and never found."""
    texts = {path: path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py")}
    glued = [
        f"{path.name}:{node.lineno}"
        for path, text in texts.items()
        if "from paredown.language import" in text
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in tool["_CALLED"]
        and any(isinstance(argument, ast.JoinedStr) for argument in node.args)
    ]
    assert glued == []


def test_every_form_is_what_the_source_says() -> None:
    """Word by word, the values aside, somewhere outside of the room itself."""
    said = "\n".join(
        _shape(_NEXT_LINE.sub("", path.read_text(encoding="utf-8")))
        for path in SOURCE.rglob("*.py")
        if path.parent.name != "language"
    )
    assert len(FORMS) > 100
    assert [form for form in FORMS if _shape(form) not in said] == []


_NEXT_LINE = re.compile(r"""["']\s*\n\s*f?["']""")
"""Where a literal goes on in the next line."""
_VALUES = re.compile(r"(\{[^{}\n]*\})+")


def _shape(text: str) -> str:
    """A text with `{}` for each stretch of values, without the one that it begins with."""
    return _VALUES.sub("{}", text).removeprefix("{}: ")


def test_the_tool_says_what_is_wrong(
    tool: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["catalogues.py", "--check"])
    assert tool["main"]() == 0
    assert capsys.readouterr().err == ""
