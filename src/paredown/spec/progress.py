"""How work that takes long tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[float, str], None]
"""Called with the share done, 0 to 1, and a message."""
StageProgress = Callable[[str, float, str], None]
"""Called with the stage (`compress`, `verify`, ...), the share of it done, and a message."""
