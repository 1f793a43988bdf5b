"""Who may look: anybody on this machine; from elsewhere, who has the token."""

from __future__ import annotations

import hmac
import ipaddress
import secrets

from paredown.errors import ConfigError

TOKEN = "PAREDOWN_DASHBOARD_TOKEN"
"""Environment variable of the token."""
_FEWEST = 16
"""Characters of a token that somebody has chosen: it stands between the network and a run."""


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name: who knows where it leads
        return False


def token_for(host: str, chosen: str | None) -> str | None:
    """The token that visitors must know; None where none is needed.

    Args:
        host: address that is listened on.
        chosen: by the user; None: a new one is made where one is needed.

    Raises:
        ConfigError: the chosen one is too short to protect anything.
    """
    if chosen is not None and len(chosen) < _FEWEST:
        raise ConfigError(
            f"--token: {len(chosen)} characters; use {_FEWEST} or more, or leave it out"
        )
    if chosen is not None or is_loopback(host):
        return chosen
    return secrets.token_urlsafe(24)


def is_right(given: str, token: str) -> bool:
    """Whether a visitor knows the token; compared in a time that tells nothing of it."""
    return hmac.compare_digest(given.encode(), token.encode())


def is_local_name(header: str) -> bool:
    """Whether the `Host` that a browser asked for is a name of this machine alone.

    Without a token, a page of the internet could have its own name lead to loopback, and steer.
    """
    name = header.rpartition(":")[0] if header.rpartition(":")[2].isdigit() else header
    return is_loopback(name.strip("[]"))
