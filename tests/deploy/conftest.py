"""The fake engine, registered while a test runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from paredown.runtimes import registry
from tests.deploy.engines import install


@pytest.fixture(autouse=True)
def fake_engine() -> Iterator[None]:
    install()
    yield
    registry.BUILTIN.pop("fake", None)
    registry.load.cache_clear()
