"""The program in a chat answer: between its fences, or among its prose."""

from __future__ import annotations

import ast
import re

_OPENING = re.compile(r"^(?P<indent>[ \t]*)(?P<fence>`{3,}(?=[^`]*$)|~{3,})")
_FUTURE = re.compile(
    r"^from[ \t]+__future__[ \t]+import[ \t]+(?:\([^)]*\)|[^\n]*)\n?", re.MULTILINE
)
_BEGINS = re.compile(r"^(?:def\b|class\b|async\b|@)", re.MULTILINE)
_DEFINING = (
    ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign,
    ast.AnnAssign, ast.AugAssign, ast.If, ast.Try, ast.With, ast.For, ast.While,
)  # fmt: skip
"""What the top level of a program is made of; a word of prose parses as well, as an expression."""


def fenced_blocks(text: str) -> list[str]:
    """Contents of the fenced code blocks, in order, without the indentation of their fence.

    By CommonMark 0.31, section 4.5: a fence is three or more backticks or tildes; it is closed by
    as many of the same, indented by at most three blanks more than the block (so a fence inside a
    docstring closes nothing), or by the end of the text.
    """
    blocks: list[str] = []
    lines = text.split("\n")
    at = 0
    while at < len(lines):
        opening = _OPENING.match(lines[at])
        at += 1
        if opening is None:
            continue
        fence, indent = opening["fence"], len(opening["indent"].expandtabs(4))
        closing = re.compile(rf"^[ \t]*{re.escape(fence[0])}{{{len(fence)},}}[ \t\r]*$")
        block: list[str] = []
        while at < len(lines):
            line = lines[at]
            at += 1
            outside = len(line.expandtabs(4)) - len(line.expandtabs(4).lstrip(" "))
            if closing.match(line) and outside <= indent + 3:
                break
            block.append(line.expandtabs(4)[min(indent, outside) :] if indent else line)
        blocks.append("\n".join(block) + "\n")
    return blocks


def defines(source: str, name: str) -> bool:
    """Whether a function of this name is defined at the left margin."""
    return definition(name).search(source) is not None


def definition(name: str) -> re.Pattern[str]:
    """Finds the head of a function's definition."""
    return re.compile(rf"^(?:async[ \t]+)?def[ \t]+{re.escape(name)}[ \t]*\(", re.MULTILINE)


def code_among_prose(text: str, name: str) -> str | None:
    """The longest run of lines around a function's definition that is a program.

    None where there is no definition, or no run of lines with it can be parsed.
    """
    lines = text.split("\n")
    pattern = definition(name)
    first = next((i for i, line in enumerate(lines) if pattern.match(line)), None)
    if first is None:
        return None
    ends = (end for end in range(len(lines), first, -1) if _is_program(lines[first:end]))
    end = next(ends, None)
    if end is None:
        return None
    # What stands before it, imports and helpers, as far as it is code: `first` itself always is.
    start = next(i for i in range(first + 1) if _is_program(lines[i:end]))
    return "\n".join(lines[start:end]) + "\n"


def future_first(program: str) -> tuple[str, str]:
    """The `from __future__` imports of a program, and the program without them.

    They have to stand before everything else, and a program may get something put before it.
    """
    begins = _BEGINS.search(program)
    split = begins.start() if begins else len(program)
    head, body = program[:split], program[split:]  # a docstring in the body may quote anything
    found = [match if match.endswith("\n") else match + "\n" for match in _FUTURE.findall(head)]
    return "".join(found), _FUTURE.sub("", head) + body


def _is_program(lines: list[str]) -> bool:
    try:
        body = ast.parse("\n".join(lines)).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    documented = body[1:] if body and _is_docstring(body[0]) else body
    return bool(documented) and all(isinstance(node, _DEFINING) for node in documented)


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and (
        isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    )
