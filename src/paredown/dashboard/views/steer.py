"""Steering: commands to a run through its folder, and its answers."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import streamlit as st

from paredown.dashboard.summary import Summary
from paredown.dashboard.views.shared import age, files, plain, table
from paredown.errors import ParedownError
from paredown.report.commands import resume_command_of
from paredown.spec.steering import COMMANDS
from paredown.store.commands import answer_to, answers, send, unanswered

_WAIT_S = 3.0
_SAID = "said"
_SHOWN = 100


def show(summary: Summary) -> None:
    """The page."""
    st.header(f"Steer {plain(summary.folder.name)}", anchor=False)
    events = files().events(summary.folder).read()
    if summary.state == "running":
        _buttons(summary, events)
        _line(summary)
        if said := st.session_state.get(_SAID):
            st.info(plain(said, 2000))
    else:
        more = " --episodes N" if summary.state == "finished" else ""
        st.info(f"It is not running ({summary.state}): nobody is there to steer. To go on with it:")
        st.code(resume_command_of(summary.folder) + more, language="bash", wrap_lines=True)
    _history(summary, events)


def _buttons(summary: Summary, events: Iterable[dict[str, Any]]) -> None:
    moment = summary.moment
    paused, stopping = (False, False) if moment is None else (moment.paused, moment.stopping)
    with st.container(horizontal=True):
        st.button(
            "pause",
            icon=":material/pause:",
            disabled=paused or stopping,
            on_click=_send,
            args=(summary, "pause"),
        )
        st.button(
            "go on",
            icon=":material/play_arrow:",
            disabled=not paused,
            on_click=_send,
            args=(summary, "resume"),
        )
        sure = st.popover("stop", icon=":material/stop:", disabled=stopping)
        sure.write("The running episode is finished, then the report is written.")
        sure.button("stop the run", type="primary", on_click=_send, args=(summary, "stop"))
        st.button("status", on_click=_send, args=(summary, "status"))
    searched, excluded = methods(events)
    left, right = st.columns(2)
    with left:
        _choice(summary, "exclude", [m for m in searched if m not in excluded])
    with right:
        _choice(summary, "include", excluded)


def _choice(summary: Summary, verb: str, names: list[str]) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        name = st.selectbox(
            f"{verb} a method", names, index=None, key=f"{verb}_method", disabled=not names
        )
        st.button(
            verb, disabled=name is None, key=f"{verb}_button", on_click=_send,
            args=(summary, f"{verb} {name}"),
        )  # fmt: skip


def methods(events: Iterable[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """Methods of the search space as the run began it, and those that are excluded now."""
    searched: list[str] = []
    excluded: dict[str, None] = {}
    for event in events:
        if event["event"] == "started":
            searched = [str(name) for name in event.get("methods", ())]
        elif event["event"] == "user" and event.get("command") == "exclude":
            excluded[str(event["method"])] = None
        elif event["event"] == "user" and event.get("command") == "include":
            excluded.pop(str(event["method"]), None)
    return searched, list(excluded)


def _line(summary: Summary) -> None:
    with st.form("command", clear_on_submit=True, border=False):
        st.text_input("or any command", key="command_text", placeholder="try gptq(bits=3)")
        st.form_submit_button("send", on_click=lambda: _typed(summary))
    with st.expander("commands"):
        table(("command", "what it does"), list(COMMANDS.items()), key="commands")


def _typed(summary: Summary) -> None:
    _send(summary, st.session_state["command_text"])


def _send(summary: Summary, text: str) -> None:
    """Send a command and wait a little for its answer."""
    try:
        sent = send(summary.folder, text)
    except ParedownError as error:
        st.session_state[_SAID] = str(error)
        return
    until = time.monotonic() + _WAIT_S
    answer = None
    while answer is None and time.monotonic() < until:
        time.sleep(0.1)
        answer = answer_to(sent, files().events(summary.folder).read())
    told = "sent; the run has not answered yet, see below" if answer is None else answer
    st.session_state[_SAID] = f"{sent.text}: {told}"


def _history(summary: Summary, events: tuple[dict[str, Any], ...]) -> None:
    waiting = [(age(s.time), s.host, s.text, "…") for s in unanswered(summary.folder, events)]
    told = [(age(a.time), a.host, a.text, a.answer) for a in answers(events)]
    rows = [*reversed(waiting), *reversed(told)][:_SHOWN]
    if rows:
        st.subheader("What was asked", anchor=False)
        table(("when", "from", "command", "answer"), rows, key="asked")
