"""One deadline over the whole exchange, whatever the server drips; no redirects; no tracing."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest

from paredown.advise.client import Advisor, Endpoint
from paredown.advise.untraced import untraced
from paredown.errors import AdviceError
from paredown.spec.run import LlmConfig
from tests.advise.llm_server import (
    Answer,
    LlmServer,
    advice,
    completion,
    redirect,
    repeating,
    silent,
    status,
)

GOOD = advice("rtn(bits=4)")
QUESTION = [{"role": "user", "content": "which?"}]
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
DRIPS: dict[str, Answer] = {
    "headers": repeating(OK, b"X-More: 1\r\n", 20),
    "half a header": repeating(OK + b"X-More: ", b"1", 20),
    "continue": repeating(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 20),
    "early hints": repeating(b"", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", 20),
    "chunks": repeating(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n", 20),
    "trailers": repeating(
        OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n", b"X-More: 1\r\n", 20
    ),
    "silence": silent(20),
    "asks to wait": status(429, "slow down", retry_after="60"),
}


@pytest.fixture
def advisors() -> Iterator[list[Advisor]]:
    found: list[Advisor] = []
    yield found
    for advisor in found:
        advisor.close()


def ask(advisors: list[Advisor], server: LlmServer, timeout_s: float = 5.0) -> Any:
    endpoint = Endpoint(model="m", url=server.url, key="none", price=None)
    advisors.append(Advisor(endpoint, LlmConfig(timeout_s=timeout_s)))
    return advisors[-1].ask(QUESTION, {"type": "object"})


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    """The client takes seconds to import, which are not those of an exchange."""
    import langchain_openai  # noqa: F401


@pytest.mark.parametrize("name", DRIPS)
def test_the_deadline_is_one_over_everything(advisors: list[Advisor], name: str) -> None:
    with LlmServer(GOOD, then=DRIPS[name]) as server:
        ask(advisors, server)  # the client is made
        advisors[0].config = LlmConfig(timeout_s=1.0)
        start = time.monotonic()
        with pytest.raises(AdviceError, match=r"no whole answer in 1 s|imed out|429"):
            advisors[0].ask(QUESTION, {"type": "object"})
        assert time.monotonic() - start < 4


def test_a_name_that_is_looked_up_for_long_is_not_waited_for(
    advisors: list[Advisor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And whoever was left behind with it sends nothing once it is found."""
    found, look_up = threading.Event(), socket.getaddrinfo

    def slow(*args: Any, **kwargs: Any) -> Any:
        found.wait(30)
        return look_up(*args, **kwargs)

    with LlmServer(GOOD, GOOD) as server:
        ask(advisors, server)  # the client is made
        advisors[0].config = LlmConfig(timeout_s=1.0)
        monkeypatch.setattr(socket, "getaddrinfo", slow)
        start = time.monotonic()
        with pytest.raises(AdviceError, match="no whole answer in 1 s"):
            advisors[0].ask(QUESTION, {"type": "object"})
        assert time.monotonic() - start < 4
        left = [t for t in threading.enumerate() if t.name == "question"]
        assert len(left) == 1
        found.set()
        left[0].join(10)
        assert not left[0].is_alive()
        late = time.monotonic() + 10  # the server counts in a thread of its own
        while server.asked < 2 and time.monotonic() < late:
            time.sleep(0.01)
        assert (len(server.seen), server.asked) == (1, 2)  # it was connected to, and told nothing


def test_a_passing_fault_is_asked_again_within_the_deadline(advisors: list[Advisor]) -> None:
    with LlmServer(status(503, "busy", retry_after="0"), GOOD) as server:
        assert ask(advisors, server).text == GOOD
        assert len(server.seen) == 2
    with LlmServer(status(401, "no"), GOOD) as server, pytest.raises(AdviceError, match="401"):
        ask(advisors, server)
    assert len(server.seen) == 1


def test_a_redirect_carries_nothing_elsewhere(advisors: list[Advisor]) -> None:
    with LlmServer(then=GOOD) as other, LlmServer(then=redirect(other.url)) as server:
        with pytest.raises(AdviceError, match=r"redirects \(307\); refused"):
            ask(advisors, server)
        assert other.seen == []
        assert len(server.seen) == 1  # what paredown has refused is not asked again


@pytest.mark.parametrize("role", ["user", "system", "", "tool", None, 7])
def test_a_reply_of_another_role_is_no_answer(advisors: list[Advisor], role: Any) -> None:
    document = completion(GOOD, role=role)
    with (
        LlmServer(then=lambda h: h.send_json(200, document)) as server,
        pytest.raises(AdviceError),
    ):
        ask(advisors, server)


@pytest.mark.parametrize(
    "count", ['"many"', "NaN", "1e999", "-5", "[1]", "9" * 400, "true", "null", "{}"]
)
def test_usage_that_is_no_count(advisors: list[Advisor], count: str) -> None:
    usage = f'"usage": {{"prompt_tokens": {count}, "completion_tokens": {count}}}'
    body = (
        '{"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": '
        '[{"index": 0, "message": {"role": "assistant", "content": "hello"}}], ' + usage + "}"
    )
    with LlmServer(then=lambda h: h.send_body(200, body.encode())) as server:
        try:
            reply = ask(advisors, server)
        except AdviceError:
            return
    assert reply.text == "hello"
    assert 0 <= reply.sent < 10**9


def forget_environment() -> None:
    """The library remembers what it has read."""
    from langsmith.utils import get_env_var

    get_env_var.cache_clear()  # type: ignore[attr-defined]  # behind overloads


def test_tracing_that_the_environment_asks_for_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    from langchain_core.tracers.context import _tracing_v2_is_enabled

    for name in ("LANGSMITH_TRACING", "LANGCHAIN_TRACING_V2", "LANGCHAIN_TRACING"):
        monkeypatch.setenv(name, "true")
    forget_environment()
    assert _tracing_v2_is_enabled()
    with untraced():
        assert not _tracing_v2_is_enabled()
        assert "LANGCHAIN_TRACING" not in os.environ  # with it alone, langchain raises
    assert os.environ["LANGSMITH_TRACING"] == "true"
    forget_environment()


def test_an_advisor_is_not_traced(advisors: list[Advisor], monkeypatch: pytest.MonkeyPatch) -> None:
    """The service itself is played by a server: nothing may reach it."""
    with LlmServer(then="{}") as service, LlmServer(then=GOOD) as server:
        monkeypatch.setenv("LANGSMITH_TRACING", "true")
        monkeypatch.setenv("LANGSMITH_API_KEY", "lsv2_pt_0123456789")
        monkeypatch.setenv("LANGSMITH_ENDPOINT", service.url)
        forget_environment()
        ask(advisors, server)
        time.sleep(0.5)
        assert service.seen == []
        assert service.asked == 0
        forget_environment()


@pytest.mark.parametrize("quiet", [True, False])
def test_a_graph_is_not_traced(quiet: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service is played by a server. Without `untraced` it is told everything: the proof that
    this test can see it."""
    from langgraph.graph import END, START, StateGraph

    graph: Any = StateGraph(dict)
    graph.add_node("node", lambda state: {"folder": "/home/me"})
    graph.add_edge(START, "node")
    graph.add_edge("node", END)
    with LlmServer(then="{}") as service:
        monkeypatch.setenv("LANGSMITH_TRACING", "true")
        monkeypatch.setenv("LANGSMITH_API_KEY", "lsv2_pt_0123456789")
        monkeypatch.setenv("LANGSMITH_ENDPOINT", service.url)
        forget_environment()
        with untraced() if quiet else nullcontext():
            graph.compile().invoke({})
        end = time.monotonic() + (1.0 if quiet else 20.0)
        while time.monotonic() < end and not service.asked:
            time.sleep(0.05)
        assert bool(service.asked) is not quiet
        forget_environment()
