"""Whether the installed torch can use a GPU, without importing it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from paredown.errors import ConfigError


def torch_has_cuda() -> bool:
    """Read off torch's version file: importing torch takes seconds.

    Raises:
        ConfigError: torch is not installed.
    """
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        raise ConfigError("torch is not installed: pip install torch")
    text = (Path(found.origin).parent / "version.py").read_text()
    return re.search(r"^cuda\b[^=]*= *None", text, re.M) is None
