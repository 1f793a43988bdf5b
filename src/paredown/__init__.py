"""paredown: compressed versions of a language model that are worth having, each one measured.

The public functions are loaded when first used; importing the package imports no torch.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paredown.api import (
        Front,
        Steering,
        compress,
        deploy,
        evaluate,
        infer_spec,
        load,
        optimize,
        read_experiment,
        register_method,
    )

__version__ = "0.1.0"
__all__ = [
    "Front", "Steering", "__version__", "compress", "deploy", "evaluate", "infer_spec", "load",
    "optimize", "read_experiment", "register_method",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in __all__ or name == "open":
        from paredown import api

        # `paredown.open(DIR)` reads well, but no `import *` may hide Python's own.
        return getattr(api, "read_experiment" if name == "open" else name)
    raise AttributeError(f"module 'paredown' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


class _Package(ModuleType):
    """Keeps `paredown.evaluate` the function when the package of that name is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
