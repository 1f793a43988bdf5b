"""Canonical JSON, schema versions and content hashes."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel

SCHEMA_VERSION = 1


def plain(value: Any) -> Any:
    """`value` as plain JSON types; pydantic models become dicts."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value


def canonical(value: Any) -> str:
    """JSON with sorted keys and no blanks: equal values give equal text. NaN is refused."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def content_hash(value: Any, *, length: int = 16) -> str:
    """Hex digest of the canonical JSON of `value`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:length]


def readable(value: Any) -> str:
    """JSON for files people look into: indented, with a final newline."""
    return json.dumps(plain(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
