"""The page that Streamlit runs: who may look, which experiment, which view."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import streamlit as st

from paredown.dashboard.access import TOKEN, is_local_name, is_right
from paredown.dashboard.queries import experiment_folders
from paredown.dashboard.summary import Summary
from paredown.dashboard.views import compare, episode, experiments, front, learned, steer
from paredown.dashboard.views.shared import (
    COMPARE,
    EPISODE,
    EXPERIMENT,
    EXPERIMENTS,
    FRONT,
    LEARNED,
    PAGE,
    PAGES,
    STEER,
    begin_with,
    follow_jump,
    summary_of,
)
from paredown.errors import ConfigError
from paredown.store.state import state_in

# Comments, not strings below: Streamlit would show those on the page.
LIVE_S = 3.0  # between two looks at a run that goes on
IDLE_S = 15.0  # between two looks at a folder in which nothing runs
_WRONG_S = 1.0
_VIEWS: dict[str, Callable[[Summary], None]] = {
    FRONT: front.show, EPISODE: episode.show, COMPARE: compare.show, LEARNED: learned.show,
    STEER: steer.show,
}  # fmt: skip


def main() -> None:
    """The whole page."""
    st.set_page_config(page_title="paredown", page_icon="📉", layout="wide")
    st.html("<style>.block-container { padding-top: 3rem; }</style>")
    if not _may_look():
        return
    root = Path(sys.argv[1] if len(sys.argv) > 1 else "data/experiments").resolve()
    folders = experiment_folders(root)
    folder, page = _chosen(folders)
    if folder is None:
        _live(lambda: experiments.show(root, experiment_folders(root)), IDLE_S)
        return
    state = state_in(folder)

    def body() -> None:
        if state_in(folder) != state:
            st.rerun()  # it has ended, or begun again: how often to look changes with it
        try:
            _VIEWS[page](summary_of(folder))
        except ConfigError as error:
            st.error(str(error))

    _live(body, LIVE_S if state == "running" else None)


def _live(body: Callable[[], None], every: float | None) -> None:
    """Draw a part of the page, again and again: what is outside of it stays untouched."""

    @st.fragment(run_every=every)
    def drawn() -> None:
        follow_jump()
        body()

    drawn()


def _chosen(folders: list[Path]) -> tuple[Path | None, str]:
    """The experiment and the view; the list of experiments has no folder."""
    names = [folder.name for folder in folders]
    begin_with(PAGE, EXPERIMENTS if len(folders) != 1 else FRONT, PAGES)
    if names:
        begin_with(EXPERIMENT, names[0], names)
    with st.sidebar:
        st.markdown("### paredown")
        page = st.radio("view", PAGES, key=PAGE, bind="query-params", label_visibility="collapsed")
        name = st.selectbox(
            "experiment", names, key=EXPERIMENT, bind="query-params", disabled=not names
        )
    if page is None or page == EXPERIMENTS or name is None:
        return None, EXPERIMENTS
    return folders[names.index(name)], page


def _may_look() -> bool:
    """Whether the visitor knows the token, where one is needed; asks for it first."""
    token = os.environ.get(TOKEN)
    if token is None:
        host = st.context.headers.get("Host") or "localhost"
        if not is_local_name(host):
            st.error(f"Opened as {host!r}: without a token this page answers to localhost alone.")
            return False
        return True
    if st.session_state.get("known"):
        return True
    with st.form("token"):
        given = st.text_input("token", type="password")
        asked = st.form_submit_button("look")
    if asked and is_right(given, token):
        st.session_state["known"] = True
        st.rerun()
    if asked:
        time.sleep(_WRONG_S)  # guessing takes its time
        st.error("That is another one. `paredown dashboard` has printed it where it was started.")
    return False


if __name__ == "__main__":
    main()
