"""The example plug-in passes the tests that it tells others to pass."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import pytest

from paredown.methods import registry
from paredown.testing.conformance import MethodConformance

SOURCE = Path(__file__).parents[2] / "examples" / "paredown-example-method" / "src"


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    entry = EntryPoint("magnitude_columns", "paredown_example:MagnitudeColumns", registry.GROUP)
    monkeypatch.syspath_prepend(str(SOURCE))
    monkeypatch.setattr(registry, "_plugins", lambda: (entry,))
    yield
    sys.modules.pop("paredown_example", None)


class TestMagnitudeColumns(MethodConformance):
    method_name = "magnitude_columns"
    params: ClassVar[dict[str, Any]] = {"ratio": 0.3}


def test_it_chains_with_built_in_methods() -> None:
    strategy = registry.canonical("magnitude_columns > rtn(bits=8)")
    assert registry.kind_of(strategy) == "pipeline"
    assert registry.label(strategy) == "magnitude_columns > rtn(bits=8)"
