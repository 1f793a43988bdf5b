"""The HTTP side of the server: who may ask, what is answered, and how answers are streamed."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, final

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from paredown.runtimes.serving.answers import Document, Failed, Shape
from paredown.runtimes.serving.generation import Job, Piece, Slots
from paredown.runtimes.serving.metrics import exposition
from paredown.runtimes.serving.requests import RequestError, parse
from paredown.runtimes.serving.texts import Prompts

LONGEST = 16 << 20
"""Bytes of a request."""
_OPEN = "/health"
"""What is answered without the key: probes have none."""


@final
class Service:
    """One model behind OpenAI's API."""

    def __init__(self, slots: Slots, prompts: Prompts, *, name: str, key: str | None) -> None:
        """`key` is asked for where there is one."""
        self._slots, self._prompts, self._name, self._key = slots, prompts, name, key

    def app(self) -> Starlette:
        """The routes, as uvicorn runs them."""
        paths: list[tuple[str, Callable[[Request], Any], str]] = [
            (_OPEN, self._health, "GET"), ("/metrics", self._metrics, "GET"),
            ("/props", self._props, "GET"), ("/v1/models", self._models, "GET"),
            ("/tokenize", self._tokenize, "POST"), ("/v1/completions", self._complete, "POST"),
            ("/v1/chat/completions", self._chat, "POST"),
        ]  # fmt: skip
        routes = [Route(path, self._guarded(do), methods=[how]) for path, do, how in paths]
        return Starlette(routes=routes, exception_handlers={404: _unknown, 405: _unknown})

    def _guarded(self, do: Callable[[Request], Any]) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            if request.url.path != _OPEN and not self._may(request):
                return _error(RequestError("a key is needed", status=401, kind="auth_error"))
            try:
                found: Response = await do(request)
            except RequestError as error:
                return _error(error)
            return found

        return answer

    def _may(self, request: Request) -> bool:
        if self._key is None:
            return True
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        return hmac.compare_digest(given.encode(), self._key.encode())

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _metrics(self, request: Request) -> Response:
        return PlainTextResponse(exposition(self._slots.snapshot(), self._slots.count))

    async def _props(self, request: Request) -> Response:
        return JSONResponse({"total_slots": self._slots.count})

    async def _models(self, request: Request) -> Response:
        model = {
            "id": self._name, "object": "model", "created": 0, "owned_by": "paredown",
            "max_model_len": self._slots.context,
        }  # fmt: skip
        return JSONResponse({"object": "list", "data": [model]})

    async def _tokenize(self, request: Request) -> Response:
        told = await _document(request)
        text = told.get("content")
        if not isinstance(text, str):
            raise RequestError("content: give a text")
        special = told.get("add_special", False) is True
        return JSONResponse({"tokens": self._prompts.encode(text, special=special)})

    async def _complete(self, request: Request) -> Response:
        return await self._answer(request, is_chat=False)

    async def _chat(self, request: Request) -> Response:
        return await self._answer(request, is_chat=True)

    async def _answer(self, request: Request, *, is_chat: bool) -> Response:
        ask = parse(await _document(request), is_chat=is_chat)
        ids = await asyncio.to_thread(self._prompts.ids, ask)  # a long text takes a while
        pieces: asyncio.Queue[Piece] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def tell(piece: Piece) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        job = Job(ask, ids, tell)
        shape = Shape(job, model=self._name, tokenizer=self._prompts.tokenizer)
        self._slots.submit(job)
        if ask.stream:
            return StreamingResponse(_events(job, shape, pieces), media_type="text/event-stream")
        return await _whole(request, job, shape, pieces)


async def _whole(
    request: Request, job: Job, shape: Shape, pieces: asyncio.Queue[Piece]
) -> Response:
    gone = asyncio.create_task(_gone(request))
    found: list[Piece] = []
    try:
        while not found or (found[-1].finish is None and found[-1].error is None):
            following = asyncio.create_task(pieces.get())
            await asyncio.wait({following, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                following.cancel()
                raise ClientDisconnect
            found.append(following.result())
    except ClientDisconnect:
        return Response(status_code=499)  # nobody reads it
    finally:
        gone.cancel()
        job.cancelled.set()
    if (error := found[-1].error) is not None:
        return _failed(Failed(error, "server_error", 500))
    return JSONResponse(shape.whole(found))


async def _gone(request: Request) -> None:
    """Until whoever asked has hung up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _events(job: Job, shape: Shape, pieces: asyncio.Queue[Piece]) -> AsyncIterator[bytes]:
    try:
        if (opening := shape.opening()) is not None:
            yield _event(opening)
        while True:
            piece = await pieces.get()
            if piece.error is not None:
                # The status is sent already; the stream ends without [DONE].
                yield _event(Failed(piece.error, "server_error", 500).document())
                return
            yield _event(shape.event(piece))
            if piece.finish is not None:
                break
        if (closing := shape.closing(piece.tokens)) is not None:
            yield _event(closing)
        yield b"data: [DONE]\n\n"
    finally:
        job.cancelled.set()  # whoever hangs up frees the slot


def _event(document: Document) -> bytes:
    return b"data: " + json.dumps(document, ensure_ascii=False).encode() + b"\n\n"


async def _document(request: Request) -> Document:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > LONGEST:
            raise RequestError(f"a request of more than {LONGEST >> 20} MiB", status=413)
    try:
        found = json.loads(body)
    except ValueError:
        raise RequestError("the body is no JSON") from None
    if not isinstance(found, dict):
        raise RequestError("the body is no JSON object")
    return found


def _error(error: RequestError) -> JSONResponse:
    return _failed(Failed(str(error), error.kind, error.status))


def _failed(failed: Failed) -> JSONResponse:
    headers = {"Retry-After": "1"} if failed.status == 429 else None
    return JSONResponse(failed.document(), status_code=failed.status, headers=headers)


async def _unknown(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    return _failed(
        Failed(f"{request.method} {request.url.path[:60]}: not here", "not_found", status)
    )
