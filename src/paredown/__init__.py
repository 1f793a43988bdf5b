"""paredown: compressed versions of a language model that are worth having, each one measured.

The public functions are loaded when first used; importing the package imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paredown.api import Front, compress, evaluate, infer_spec, load, optimize

__version__ = "0.1.0"
__all__ = ["Front", "__version__", "compress", "evaluate", "infer_spec", "load", "optimize"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from paredown import api

        return getattr(api, name)
    raise AttributeError(f"module 'paredown' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
