"""The guarded readers: text, JSON and YAML from files that anybody may have written.

Whatever is wrong with a file (a folder in its place, too long, not UTF-8, nested without end,
numbers without end, NaN) becomes one line of the error class that the caller names; a reader that
has read knows a value which can be walked, hashed, printed and written again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from paredown.errors import ConfigError

LARGEST_BYTES = 100_000_000
"""Longest file that is read whole; an honest one, such as an index of shards, has a few million."""
DEEPEST = 100
"""Levels of nesting. Python's own stack, which pydantic, `repr` and JSON share, ends near 1000."""
_MOST_YAML = 200_000
"""Values of a YAML document: ten lines of aliases can stand for more than a machine holds."""
_LONGEST_WHOLE = 1 << 1024  # beyond it `float(value)` raises OverflowError


def read_text(path: Path, *, error: type[ConfigError] = ConfigError, mend: str = "") -> str:
    """The text of a UTF-8 file, without a byte-order mark.

    Args:
        path: the file.
        error: class of what is raised; the caller knows what the file is to the user.
        mend: what the user can do about a damaged file, e.g. "download it again".

    Raises:
        ConfigError: (as `error`) no file is there, it cannot be read, is too long, or is no UTF-8.
    """
    data = read_bytes(path, error=error, mend=mend)
    try:
        # "utf-8-sig": editors on Windows begin UTF-8 files with a mark, which is no part of them.
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as found:
        seen = f"({data[found.start]:#04x} at byte {found.start})"
        if data[:2] in {b"\xff\xfe", b"\xfe\xff"}:
            seen = "but UTF-16; save it as UTF-8"
        raise error(f"{path} is not UTF-8 text {seen}{_and(mend)}") from None


def read_bytes(path: Path, *, error: type[ConfigError] = ConfigError, mend: str = "") -> bytes:
    """All bytes of a file that has at most `LARGEST_BYTES`.

    Raises:
        ConfigError: (as `error`) as `read_text`.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_BYTES + 1)  # never more, whatever the file's size claims
    except FileNotFoundError:
        raise error(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise error(f"{path} is a folder, where a file belongs{_and(mend)}") from None
    except OSError as found:
        raise error(f"cannot read {path}: {found.strerror or found}") from None
    if len(data) > LARGEST_BYTES:
        raise error(f"{path} has more than {LARGEST_BYTES // 1_000_000} MB{_and(mend)}")
    return data


def read_json(
    path: Path, *, error: type[ConfigError] = ConfigError, mend: str = "", finite: bool = True
) -> Any:
    """The value of a JSON file.

    Raises:
        ConfigError: (as `error`) as `read_text` and `parse_json`.
    """
    text = read_text(path, error=error, mend=mend)
    return parse_json(text, where=str(path), error=error, mend=mend, finite=finite)


def read_object(
    path: Path, *, error: type[ConfigError] = ConfigError, mend: str = "", finite: bool = True
) -> dict[str, Any]:
    """The object of a JSON file.

    Raises:
        ConfigError: (as `error`) as `read_json`, or the value is no object.
    """
    value = read_json(path, error=error, mend=mend, finite=finite)
    if not isinstance(value, dict):
        raise error(f"{path} holds no JSON object{_and(mend)}")
    return value


def parse_json(
    text: str | bytes,
    *,
    where: str,
    error: type[ConfigError] = ConfigError,
    mend: str = "",
    finite: bool = True,
) -> Any:
    """The value of a JSON text.

    Args:
        text: UTF-8 where it is bytes.
        where: what the message begins with: a file, or a file and a line.
        error: class of what is raised.
        mend: what the user can do.
        finite: refuse NaN and infinities, which Python reads and JSON does not know. Off for
            configs of models: those of state-space models hold an `Infinity`.

    Raises:
        ConfigError: (as `error`) no JSON, nested deeper than `DEEPEST`, or a number out of range.
    """
    try:
        value = json.loads(text)
        require_tame(value, finite=finite)
    except RecursionError:
        raise error(f"{where} is nested too deeply to be read{_and(mend)}") from None
    except ValueError as found:
        raise error(f"{where}: {_reason(found)}{_and(mend)}") from None
    return value


def read_yaml(path: Path, *, error: type[ConfigError] = ConfigError, mend: str = "") -> Any:
    """The value of a YAML file; tags that build objects are refused.

    Raises:
        ConfigError: (as `error`) as `read_text`; or no YAML, nested too deeply, or without end.
    """
    import yaml

    text = read_text(path, error=error, mend=mend)
    try:
        value = yaml.safe_load(text)
        require_tame(value, most=_MOST_YAML)
    except RecursionError:
        raise error(f"{path} is nested too deeply to be read{_and(mend)}") from None
    except yaml.YAMLError as found:
        raise error(f"{path}: {' '.join(str(found).split())[:300]}{_and(mend)}") from None
    except ValueError as found:
        raise error(f"{path}: {_reason(found)}{_and(mend)}") from None
    return value


def json_rows(
    text: str, *, where: str, error: type[ConfigError] = ConfigError
) -> Iterator[tuple[int, Any]]:
    """Line number (from 1) and value of every row of a JSON-lines text that is not blank.

    Rows end at "\\n" only: U+2028, U+0085 and other ends of lines of `str.splitlines` stand raw
    inside JSON strings (RFC 8259, section 7).

    Raises:
        ConfigError: (as `error`) a row is no JSON; the message tells its number.
    """
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, parse_json(line, where=f"{where}, line {number}", error=error)


def require_tame(value: Any, *, finite: bool = True, most: float = math.inf) -> None:
    """Refuse a document that the rest of the program could not walk.

    Args:
        value: what a parser made.
        finite: refuse NaN and infinities.
        most: values that the document may have; JSON is bounded by its bytes.

    Raises:
        ValueError: nested too deeply or without end, or a number that is out of range.
    """
    left, seen = [(value, 0)], 0
    while left:  # on a list of our own: recursion is what is being guarded against
        item, depth = left.pop()
        seen += 1
        if depth > DEEPEST:
            raise ValueError(f"nested more than {DEEPEST} levels deep")
        if seen > most:
            raise ValueError(f"more than {most} values")
        if isinstance(item, dict):
            left += ((v, depth + 1) for v in item.values())
        elif isinstance(item, list | tuple):
            left += ((v, depth + 1) for v in item)
        elif isinstance(item, float) and finite and not math.isfinite(item):
            raise ValueError(f"{item} is no number that can be used")
        elif isinstance(item, int) and abs(item) >= _LONGEST_WHOLE:
            raise ValueError("a whole number of more than 300 digits")


def _reason(found: ValueError) -> str:
    """A parser's complaint in a line; that of Python on long numbers speaks of its settings."""
    if isinstance(found, json.JSONDecodeError):
        return f"no JSON: {found.msg} at line {found.lineno}, character {found.colno}"
    if "integer string conversion" in str(found):
        return "a whole number of more than 300 digits"
    if isinstance(found, UnicodeDecodeError):
        return "not UTF-8 text"
    return str(found).partition("\n")[0][:300]


def _and(mend: str) -> str:
    return f"; {mend}" if mend else ""
