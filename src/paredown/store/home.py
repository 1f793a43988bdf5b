"""Where paredown keeps what outlives an experiment: the built-in model, and cached results."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """`$PAREDOWN_HOME`, else `paredown` in the user's cache folder."""
    chosen = os.environ.get("PAREDOWN_HOME")
    if chosen:
        return Path(chosen).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return (Path(base).expanduser() / "paredown").resolve()


def data_home() -> Path:
    """Where lasting user data lies: `$PAREDOWN_HOME`, else `paredown` in the data folder."""
    if os.environ.get("PAREDOWN_HOME"):
        return home()
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return (Path(base).expanduser() / "paredown").resolve()
