"""The guarded readers: whatever a file holds, one line of the class asked for, or a value."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paredown.errors import ConfigError, DataError, ModelError
from paredown.spec.reading import (
    DEEPEST,
    json_rows,
    parse_json,
    read_json,
    read_object,
    read_text,
    read_yaml,
    require_tame,
)


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


HOSTILE = {
    "a hundred thousand brackets": (b"[" * 100_000, "nested"),
    "deep and closed": (nested(5000).encode(), "nested"),
    "a little too deep": (nested(DEEPEST + 2).encode(), "nested"),
    "ten thousand digits": (b'{"a": ' + b"9" * 10_000 + b"}", "more than 300 digits"),
    "a thousand digits": (b'{"a": ' + b"9" * 1000 + b"}", "more than 300 digits"),
    "NaN": (b'{"a": NaN}', "nan is no number"),
    "infinite by its exponent": (b'{"a": 1e999}', "inf is no number"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "UTF-16; save it as UTF-8"),
    "Latin-1": ('{"a": "é"}'.encode("latin-1"), "not UTF-8 text"),
    "binary": (bytes(range(256)), "not UTF-8 text|no JSON"),
    "empty": (b"", "no JSON"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_json_is_one_line_of_the_class_asked_for(tmp_path: Path, name: str) -> None:
    data, words = HOSTILE[name]
    file = tmp_path / "f.json"
    file.write_bytes(data)
    with pytest.raises(ModelError, match=words) as caught:
        read_json(file, error=ModelError, mend="download it again")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert str(file) in str(caught.value)


def test_the_deepest_document_that_is_read_can_be_written_again() -> None:
    value = parse_json(nested(DEEPEST + 1), where="here")
    assert json.dumps(value) == nested(DEEPEST + 1)


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    file = tmp_path / "f.json"
    file.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_object(file) == {"a": 1}


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder, where a file belongs"):
        read_text(tmp_path, error=DataError)
    with pytest.raises(DataError, match="there is no such file"):
        read_text(tmp_path / "gone", error=DataError)
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(DataError, match=r"cannot read .*symbolic links"):
        read_text(loop, error=DataError)
    with pytest.raises(DataError, match="File name too long"):
        read_text(tmp_path / ("x" * 5000), error=DataError)


def test_longer_than_any_honest_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paredown.spec.reading.LARGEST_BYTES", 1_000_000)
    file = tmp_path / "f.json"
    file.write_bytes(b" " * 1_000_001)
    with pytest.raises(ConfigError, match="more than 1 MB"):
        read_json(file)


def test_an_object_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "f.json"
    file.write_text("[1]")
    with pytest.raises(ConfigError, match="holds no JSON object"):
        read_object(file)


def test_a_models_config_may_be_infinite_somewhere(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"time_step_limit": [0.0, Infinity]}')
    assert read_object(file, finite=False)["time_step_limit"][1] == float("inf")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: .inf", "inf is no number"),
        ("a: " + "[" * 5000, "nested"),
        ("a: &a [*a]", "nested"),
        ("a: !!python/object:os.system {}", "could not determine a constructor"),
        ("a: " + "9" * 10_000, "more than 300 digits"),
        ("a: [", "expected"),
        ("a: \x00", "special characters"),
    ],
)
def test_hostile_yaml(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "f.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        read_yaml(file)
    assert "\n" not in str(caught.value)


def test_aliases_that_stand_for_more_than_a_machine_holds(tmp_path: Path) -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    for n in range(1, 12):  # ten to the power of twelve values in a few hundred bytes
        lines.append(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]")
    file = tmp_path / "f.yaml"
    file.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="more than 200000 values"):
        read_yaml(file)


def test_rows_end_at_newlines_only() -> None:
    text = '{"a": "x\u2028y\u0085z"}\r\n\n{"a": 2}\n'
    assert list(json_rows(text, where="f")) == [(1, {"a": "x\u2028y\u0085z"}), (3, {"a": 2})]
    with pytest.raises(DataError, match="f, line 2: no JSON"):
        list(json_rows("{}\n{", where="f", error=DataError))


def test_whole_numbers_up_to_what_a_float_holds() -> None:
    require_tame(2**1024 - 1)
    with pytest.raises(ValueError, match="300 digits"):
        require_tame(2**1024)
