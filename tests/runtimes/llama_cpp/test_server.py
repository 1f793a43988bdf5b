"""The front of llama.cpp's server: what it passes on, what it refuses, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from paredown.deploy.process import free_port
from paredown.runtimes.llama_cpp.server import _Front, _parse

WORK = "/v1/completions"


class Engine:
    """Stands in for llama.cpp: answers in pieces, each behind a gate."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.gate = asyncio.Event()
        self.left = asyncio.Event()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        lengths = [int(h[15:]) for h in head.lower().split(b"\r\n") if h.startswith(b"content-len")]
        self.seen.append(head + await reader.readexactly(lengths[0] if lengths else 0))
        if head.startswith(b"GET"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nup\n")
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
            waiting = asyncio.ensure_future(self.gate.wait())
            leaving = asyncio.ensure_future(reader.read(1))
            await asyncio.wait({waiting, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if leaving.done():
                self.left.set()
            writer.write(b"data: 2\n\n")
            waiting.cancel()
            leaving.cancel()
        writer.close()


@asynccontextmanager
async def running(room: int) -> AsyncIterator[tuple[Engine, _Front, int]]:
    engine = Engine()
    inner = await asyncio.start_server(engine.answer, "127.0.0.1", 0)
    front = _Front(inner.sockets[0].getsockname()[1], room)
    outer = await asyncio.start_server(front._connection, "127.0.0.1", 0)
    async with inner, outer:
        yield engine, front, outer.sockets[0].getsockname()[1]
        engine.gate.set()
        await asyncio.sleep(0.05)


async def send(port: int, method: str, path: str, body: str = "", more: str = "") -> Any:
    """A connection on which a request was sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    writer.write((head + body).encode())
    return reader, writer


async def ask(port: int, *words: str) -> tuple[int, bytes, bytes]:
    """(status, head, body) of an answer, read to its end."""
    reader, writer = await send(port, *words)
    found = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    head, _, body = found.partition(b"\r\n\r\n")
    return int(head.split()[1]), head.lower(), body


def in_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        await asyncio.sleep(0.01)


def test_requests_and_answers_pass_byte_for_byte() -> None:
    async def test() -> None:
        async with running(1) as (engine, _, port):
            engine.gate.set()
            body = json.dumps({"prompt": "é", "x": "\\u0000"})
            status, _, answer = await ask(
                port, "POST", WORK, body, "Authorization: Bearer k\r\nExpect: 100-continue\r\n"
            )
            assert (status, answer) == (
                100,
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream"
                b"\r\nconnection: close\r\n\r\ndata: 1\n\ndata: 2\n\n",
            )
            (seen,) = engine.seen
            assert seen.endswith(b"\r\n\r\n" + body.encode())
            assert b"authorization: Bearer k" in seen
            assert b"expect" not in seen.lower()

    in_loop(test)


def test_what_is_too_much_is_refused_and_light_requests_are_not() -> None:
    async def test() -> None:
        async with running(2) as (engine, front, port):
            busy = [await send(port, "POST", WORK) for _ in range(2)]
            await until(lambda: front.busy == 2)
            status, head, body = await ask(port, "POST", WORK, "{}")
            assert status == 429
            assert b"retry-after: 2" in head
            assert json.loads(body)["error"]["type"] == "rate_limit_error"
            assert (await ask(port, "GET", "/health"))[0] == 200
            status, _, metrics = await ask(port, "GET", "/metrics")
            assert metrics.endswith(b"paredown:requests_refused_total 1\n")
            engine.gate.set()
            for reader, writer in busy:
                assert (await reader.read()).endswith(b"data: 2\n\n")
                writer.close()
            await until(lambda: front.busy == 0)
            assert (await ask(port, "POST", WORK))[0] == 200

    in_loop(test)


def test_pieces_come_as_they_are_made() -> None:
    async def test() -> None:
        async with running(1) as (engine, _, port):
            reader, writer = await send(port, "POST", WORK)
            assert await asyncio.wait_for(reader.readuntil(b"data: 1\n\n"), 5)
            engine.gate.set()
            assert await reader.read() == b"data: 2\n\n"
            writer.close()

    in_loop(test)


def test_who_goes_away_stops_the_work() -> None:
    async def test() -> None:
        async with running(1) as (engine, front, port):
            reader, writer = await send(port, "POST", WORK)
            await reader.readuntil(b"data: 1\n\n")
            writer.close()
            await asyncio.wait_for(engine.left.wait(), 5)
            await until(lambda: front.busy == 0)

    in_loop(test)


def test_heads_that_are_wrong_are_refused() -> None:
    async def test() -> None:
        async with running(1) as (engine, _, port):
            assert (await ask(port, "POST", WORK, "", "Transfer-Encoding: chunked\r\n"))[0] == 411
            assert (await ask(port, "GET", "/", "", f"x: {'y' * 70_000}\r\n"))[0] == 431
            assert not engine.seen

    in_loop(test)


def test_at_the_end_answers_are_given_and_new_requests_refused() -> None:
    async def test() -> None:
        engine = Engine()
        inner = await asyncio.start_server(engine.answer, "127.0.0.1", 0)
        front = _Front(inner.sockets[0].getsockname()[1], 4)
        port = free_port()
        serving = asyncio.ensure_future(front.serve("127.0.0.1", port))
        await asyncio.sleep(0.05)
        reader, writer = await send(port, "POST", WORK)
        await reader.readuntil(b"data: 1\n\n")
        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: front.is_ending)
        assert (await ask(port, "POST", WORK))[0] == 503
        assert not serving.done()
        engine.gate.set()
        assert await reader.read() == b"data: 2\n\n"
        assert await asyncio.wait_for(serving, 5) == 0
        writer.close()
        inner.close()

    in_loop(test)


def test_twice_the_slots_may_wait_unless_told_otherwise() -> None:
    assert [_parse(["d", "--slots", n]).queue for n in ("1", "4", "16")] == [8, 8, 32]
    assert _parse(["d", "--queue", "0"]).queue == 0
