"""A model that answers each prompt with the bytes that follow its last one: `a` -> `bcdef...~`.

`python -m tests.runtimes.serving.fake FOLDER --port P ...` serves it as engines serve theirs.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import uvicorn
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from paredown.deploy.process import free_port
from paredown.runtimes.serving.app import Service
from paredown.runtimes.serving.generation import Slots
from paredown.runtimes.serving.main import serve
from paredown.runtimes.serving.texts import Prompts

CONTEXT = 300
END = 127
NAME = "fake"
FAILS, BUG = 1, 2
"""Tokens behind which the engine fails, and which show a bug of its server."""
TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'tool' %}"
    "{{ raise_exception('no tools here') }}{% endif %}[{{ message.content }}]{% endfor %}"
)


def byte_tokenizer() -> Tokenizer:
    """Ids 0 to 255 are bytes."""
    whole = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = iter(range(256, 512))
    letters = [chr(b) if b in whole else chr(next(other)) for b in range(256)]
    core = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    return core


class FakeReader:
    """Remembers what it has read."""

    def __init__(self, pause_s: float) -> None:
        self.ids: list[int] = []
        self._pause_s = pause_s

    def clear(self) -> None:
        self.ids.clear()

    def read(self, rows: list[list[int]], *, keep: int) -> Any:
        time.sleep(self._pause_s)
        self.ids += rows[0]
        if self.ids[-1] == FAILS:
            raise RuntimeError("the engine broke")
        if self.ids[-1] == BUG:
            raise KeyError("a bug")
        logits = np.zeros((1, keep, 256), np.float32)
        logits[0, -1, min(self.ids[-1] + 1, END)] = 9.0
        logits[0, -1, 7] = 5.0
        return logits


class FakeModel:
    """What `Served` asks for."""

    vocabulary, context = 256, CONTEXT
    ends: tuple[int, ...] = (END,)
    errors: ClassVar[tuple[type[Exception], ...]] = (RuntimeError,)

    def __init__(self, folder: Path, threads: int, *, pause_s: float = 0.0) -> None:
        self.tokenizer, self._pause_s = byte_tokenizer(), pause_s

    def reader(self, tokens: int) -> FakeReader:
        return FakeReader(self._pause_s)


@contextmanager
def running(
    folder: Path, *, key: str | None = None, slots: int = 2, pause_s: float = 0.0,
    template: bool = True, queue: int | None = None,
) -> Iterator[str]:  # fmt: skip
    """The server in a thread; its address."""
    if template:
        (folder / "chat_template.jinja").write_text(TEMPLATE)
    model = FakeModel(folder, 1, pause_s=pause_s)
    service = Service(
        Slots(model, slots=slots, context=CONTEXT, queue=queue),
        Prompts(folder, model.tokenizer), name=NAME, key=key,
    )  # fmt: skip
    port = free_port()
    config = uvicorn.Config(service.app(), port=port, lifespan="off", log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


if __name__ == "__main__":
    sys.exit(serve(lambda folder, threads: FakeModel(folder, threads, pause_s=0.03), cache="f32"))
