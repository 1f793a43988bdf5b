"""The one redactor: foreign words (of a hub, an endpoint, a library) without keys.

Servers repeat what they were sent, tokens included, and such words end in records, logs and on the
screen. Whatever paredown did not write itself passes `redact` before it is kept or shown.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Any

BLOT = "[key]"
_SECRET_NAMES = ("_KEY", "_TOKEN", "_SECRET", "_PASSWORD")
_LEAST = 8
"""Characters of a value that counts as a secret; blotting out shorter ones would blot out words."""
_KEY_LIKE = re.compile(
    r"\b(?:hf_|sk-|ls__|lsv2_|ghp_)[A-Za-z0-9_*-]{6,}"
    r"|(?i:\bbearer)\s+[^\s'\",}]+"
    r"|(?<=://)[^/\s@'\"]+(?=@)"  # user and password within an address
)


def redact(text: str) -> str:
    """`text` without anything that is, or looks like, a key."""
    for secret in _secrets():
        text = text.replace(secret, BLOT)
    return _KEY_LIKE.sub(BLOT, text)


def redact_all(value: Any) -> Any:
    """A plain JSON value with every text in it redacted, names of fields included."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {redact(name): redact_all(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [redact_all(inner) for inner in value]
    return value


def first_line(error: BaseException, limit: int = 300) -> str:
    """What an error of another library says, as one short printable line without keys."""
    line = next((part for part in str(error).splitlines() if part.strip()), type(error).__name__)
    return shown(line, limit)


def shown(text: str, limit: int = 300) -> str:
    """Foreign words as they may be shown and recorded: redacted, printable, cut."""
    return "".join(c if c.isprintable() else " " for c in redact(text))[:limit]


def _secrets() -> list[str]:
    """Values that must not be seen: of variables named like secrets, and the saved hub login."""
    found = [v for name, v in os.environ.items() if name.upper().endswith(_SECRET_NAMES)]
    hub = sys.modules.get("huggingface_hub")
    # A saved login can only have been sent, and come back, once the hub's library is loaded.
    if hub is not None and (token := hub.get_token()):
        found.append(token)
    # Longest first: a secret may begin with another, whose rest would stay.
    return sorted({v for v in found if len(v) >= _LEAST}, key=len, reverse=True)
