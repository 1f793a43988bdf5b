"""A line that is typed while the display is redrawn."""

from __future__ import annotations

from paredown.cli.keys import LineEditor

WORDS = ("exclude", "include", "gptq", "gpt_other", "rtn")


def typed(text: str, words: tuple[str, ...] = WORDS) -> tuple[list[str], str]:
    """Lines entered by these keys, and what is left on the line."""
    editor = LineEditor(words)
    lines = [line for key in text if (line := editor.feed(key)) is not None]
    return lines, editor.text


def test_return_enters_the_line() -> None:
    assert typed("stop\nfront\r") == (["stop", "front"], "")
    assert typed("\n") == ([""], "")
    assert typed("größe") == ([], "größe")


def test_a_line_can_be_mended() -> None:
    assert typed("stopp\x7f") == ([], "stop")
    assert typed("\x7f\x7f") == ([], "")
    assert typed("try rtn(bits=3) gptq\x17") == ([], "try rtn(bits=3)")
    assert typed("try rtn\x15stop") == ([], "stop")


def test_tab_completes_what_is_clear() -> None:
    assert typed("ex\t") == ([], "exclude ")
    assert typed("ex\trt\t") == ([], "exclude rtn ")
    assert typed("exclude gp\t") == ([], "exclude gpt")
    assert typed("exclude zz\t\t") == ([], "exclude zz")
    assert typed("\t") == ([], "")


def test_up_and_down_bring_earlier_lines() -> None:
    assert typed("one\ntwo\n\x1b[A") == (["one", "two"], "two")
    assert typed("one\ntwo\n\x1b[A\x1b[A\x1b[A") == (["one", "two"], "one")
    assert typed("one\ntwo\n\x1b[A\x1b[A\x1bOB") == (["one", "two"], "two")
    assert typed("one\n\x1b[A\x1b[B") == (["one"], "")
    assert typed("one\n\x1b[A\n") == (["one", "one"], "")


def test_other_keys_leave_no_rubbish() -> None:
    assert typed("a\x1b[3~b\x1b[1;5Cc\x1b[Hd\x01\x00") == ([], "abcd")
