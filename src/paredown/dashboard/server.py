"""Starts Streamlit on the dashboard: quiet, offline, and on loopback unless told otherwise."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from paredown.dashboard.access import TOKEN
from paredown.errors import MissingExtraError

APP = Path(__file__).with_name("app.py")


def require_streamlit() -> None:
    """Refuse where Streamlit is not installed.

    Raises:
        MissingExtraError: with the pip command.
    """
    if find_spec("streamlit") is None:
        raise MissingExtraError("the dashboard", "streamlit", "dashboard")


def options(host: str, port: int) -> dict[str, object]:
    """Streamlit's settings, whatever stands in its own files and in the environment."""
    return {
        "server.address": host,
        "server.port": port,
        "browser.serverAddress": "localhost" if host in {"0.0.0.0", "::"} else host,
        "server.headless": True,  # opens no browser, and asks for no e-mail address
        "browser.gatherUsageStats": False,
        "server.enableCORS": True,
        "server.enableXsrfProtection": True,
        "server.fileWatcherType": "none",
        "server.runOnSave": False,
        "runner.magicEnabled": False,
        "client.toolbarMode": "minimal",
        "client.showSidebarNavigation": False,
        "global.developmentMode": False,
        "logger.hideWelcomeMessage": True,
        "theme.base": "light",
        "theme.primaryColor": "#0072B2",
    }


def serve(folder: Path, *, host: str, port: int, token: str | None) -> None:
    """Serve the dashboard of a folder until Ctrl-C.

    Raises:
        MissingExtraError: Streamlit is not installed.
    """
    require_streamlit()
    # Now rather than when somebody looks: the first page would wait for them.
    import plotly.graph_objects  # noqa: F401
    from streamlit import net_util
    from streamlit.web import bootstrap

    import paredown.dashboard.app  # noqa: F401

    if token is None:
        os.environ.pop(TOKEN, None)
    else:
        os.environ[TOKEN] = token
    # Streamlit asks a server in the internet for this machine's address when a page of another
    # origin knocks; nothing leaves the machine, so nobody is asked, and the page is refused.
    net_util.get_external_ip = lambda: None
    found = {name.replace(".", "_"): value for name, value in options(host, port).items()}
    bootstrap.load_config_options(found)
    bootstrap.run(str(APP), False, [str(folder)], found)
