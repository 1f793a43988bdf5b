"""The server as its clients see it."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from paredown.deploy.check import Patience, check_server
from paredown.deploy.client import Client
from paredown.deploy.process import free_port
from paredown.deploy.proof import Golden, Likely, Proof, Tokens
from paredown.errors import ServerError
from tests.deploy.proofs import proof
from tests.runtimes.serving.fake import BUG, CONTEXT, FAILS, NAME, running

ROOT = Path(__file__).parents[3]
TOTAL = math.exp(9) + math.exp(5) + 254
ALPHABET = "".join(map(chr, range(ord("b"), 127)))


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with running(tmp_path_factory.mktemp("served")) as url:
        yield Client(url, timeout_s=20)


def complete(client: Client, **fields: Any) -> dict[str, Any]:
    reply = client.post("/v1/completions", {"model": NAME, "temperature": 0, **fields})
    (choice,) = reply.document()["choices"]
    return {**choice, "usage": reply.document()["usage"]}


def told(**fields: Any) -> Proof:
    """A proof of the fake model."""
    prompts = ("say a", "0")
    return proof(
        golden=[
            Golden(
                message=text, text=text, ids=tuple(text.encode()), is_chat=False,
                next=Likely(
                    ids=(ord(text[-1]) + 1, 7), texts=(chr(ord(text[-1]) + 1), "\x07"),
                    logprobs=(9 - math.log(TOTAL), 5 - math.log(TOTAL)),
                ),
                base_answer="", answer="".join(map(chr, range(ord(text[-1]) + 1, 127)))[:8],
                finish="length",
            )
            for text in prompts
        ],
        tokens=[Tokens(text="é x", ids=tuple("é x".encode()))],
        **fields,
    )  # fmt: skip


def test_it_passes_the_check_of_servers(client: Client) -> None:
    facts = check_server(client.url, proof=told(), patience=Patience(request_s=20, whole_s=100))
    assert not [fact for fact in facts if fact.status == "failed"]
    assert {fact.name for fact in facts if fact.status == "passed"} >= {
        "health", "model listed", "generation", "streaming", "token ids", "agreement", "drift",
        "full context", "overload", "bad requests", "metrics",
    }  # fmt: skip


def test_an_answer_ends_where_the_model_ends_it(client: Client) -> None:
    answer = complete(client, prompt="a", max_tokens=100)
    assert answer["text"] == ALPHABET
    assert answer["finish_reason"] == "stop"
    # The token that ends it counts, as elsewhere.
    assert answer["usage"]["completion_tokens"] == len(ALPHABET) + 1
    assert complete(client, prompt="a", max_tokens=3)["finish_reason"] == "length"
    longer = complete(client, prompt="}", max_tokens=4, ignore_eos=True)
    assert longer["usage"]["completion_tokens"] == 4


def test_stops_leave_nothing_behind(client: Client) -> None:
    stopped = complete(client, prompt="a", max_tokens=50, stop=["gh", "zz"])
    assert (stopped["text"], stopped["finish_reason"]) == ("bcdef", "stop")
    events = client.stream(
        "/v1/completions", {"prompt": "a", "temperature": 0, "max_tokens": 50, "stop": "gh"}
    )
    assert "".join(event["choices"][0]["text"] for event in events) == "bcdef"
    # What only began like a stop is given back.
    assert complete(client, prompt="a", max_tokens=6, stop="gx")["text"] == "bcdefg"


def test_logprobs_are_the_models_own(client: Client) -> None:
    answer = complete(client, prompt="a", max_tokens=2, logprobs=2, temperature=0)
    first = 9 - math.log(TOTAL)
    assert answer["logprobs"]["token_logprobs"] == pytest.approx([first, first])
    assert answer["logprobs"]["top_logprobs"][0] == pytest.approx(
        {"b": first, "\x07": 5 - math.log(TOTAL)}
    )
    chat = client.post(
        "/v1/chat/completions",
        {
            "messages": [{"role": "user", "content": "a"}], "max_tokens": 1, "temperature": 0,
            "logprobs": True, "top_logprobs": 1,
        },
    ).document()  # fmt: skip
    (entry,) = chat["choices"][0]["logprobs"]["content"]
    assert (entry["token"], entry["id"], entry["top_logprobs"][0]["id"]) == ("^", 94, 94)


def test_a_chat_is_written_by_the_models_template(client: Client) -> None:
    messages = [{"role": "system", "content": "x"}, {"role": "user", "content": [
        {"type": "text", "text": "y"}]}]  # fmt: skip
    document = {"messages": messages, "max_tokens": 3, "temperature": 0}
    answer = client.post("/v1/chat/completions", document).document()
    assert answer["usage"]["prompt_tokens"] == len("[x][y]")
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "^_`"}
    events = list(
        client.stream(
            "/v1/chat/completions", {**document, "stream_options": {"include_usage": True}}
        )
    )
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    assert "".join(e["choices"][0]["delta"].get("content", "") for e in events[:-1]) == "^_`"
    assert events[-1]["usage"]["completion_tokens"] == 3
    refused = client.post("/v1/chat/completions", {"messages": [{"role": "tool", "content": "x"}]})
    assert refused.status == 400
    assert "no tools here" in refused.excerpt


def test_without_a_template_there_is_no_chat(tmp_path: Path) -> None:
    with running(tmp_path, template=False) as url:
        reply = Client(url).post(
            "/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}
        )
    assert reply.status == 400
    assert "/v1/completions" in reply.excerpt


def test_a_seed_repeats_an_answer(client: Client) -> None:
    fields = {"prompt": "a", "temperature": 2.0, "max_tokens": 12}
    one, same, other = (complete(client, **fields, seed=seed)["text"] for seed in (1, 1, 2))
    assert one == same != other


def test_an_engine_that_fails_fails_one_request(client: Client) -> None:
    reply = client.post("/v1/completions", {"prompt": [5, FAILS], "max_tokens": 2})
    assert reply.status == 500
    assert "the engine broke" in reply.excerpt
    with pytest.raises(ServerError, match="without"):
        list(client.stream("/v1/completions", {"prompt": [5, FAILS], "max_tokens": 2}))
    assert complete(client, prompt="a", max_tokens=2)["text"] == "bc"
    assert "paredown_requests_failed_total 2" in client.get("/metrics").body.decode()


def test_whoever_hangs_up_frees_the_slot(tmp_path: Path) -> None:
    with running(tmp_path, slots=1, pause_s=0.02) as url:
        client = Client(url, timeout_s=20)
        # At any other temperature one answer in thirty ends at its first tokens.
        asked = {"prompt": "\t", "max_tokens": 110, "temperature": 0}
        events = client.stream("/v1/completions", asked)
        next(events)
        events.close()  # type: ignore[attr-defined]
        with pytest.raises(ServerError, match="within"):
            client.post("/v1/completions", asked, timeout_s=0.1)
        start = time.monotonic()
        assert complete(client, prompt="a", max_tokens=1)["text"] == "b"
        assert time.monotonic() - start < 1.5  # two whole answers would be 4.4 s


def test_too_many_are_refused(tmp_path: Path) -> None:
    with running(tmp_path, slots=1, pause_s=0.05, queue=3) as url:
        client = Client(url, timeout_s=60)

        def ask(_: int) -> int:
            return client.post("/v1/completions", {"prompt": "a", "max_tokens": 2}).status

        n = 12
        with ThreadPoolExecutor(n) as pool:
            statuses = list(pool.map(ask, range(n)))
        assert set(statuses) == {200, 429}
        assert statuses.count(200) >= 4  # one in the slot and three that wait
        assert f"refused_total {statuses.count(429)}" in client.get("/metrics").body.decode()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"prompt": [256]}, "0 to 255"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "no tokens"),
        ({"prompt": "a" * CONTEXT}, f"context is {CONTEXT}"),
        ({"prompt": ["a", "b"]}, "one text"),
        ({"prompt": "a", "n": 2}, "n:"),
        ({"prompt": "a", "echo": True}, "echo"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "a", "logprobs": True}, "logprobs"),
        ({"prompt": "a", "stream": 1}, "stream"),
        ({"prompt": "a", "mirostat": 2}, "mirostat"),
        ({"prompt": "a", "stream_options": {"x": 1}}, "stream_options"),
    ],
)
def test_what_is_wrong_is_refused_by_name(
    client: Client, fields: dict[str, Any], words: str
) -> None:
    reply = client.post("/v1/completions", fields)
    assert reply.status == 400
    assert words in reply.excerpt


def test_the_key_is_asked_of_all_but_probes(tmp_path: Path) -> None:
    with running(tmp_path, key="secret-1") as url:
        assert Client(url).get("/health").status == 200
        for path in ("/v1/models", "/metrics"):
            assert Client(url).get(path).status == 401
            assert Client(url, key="secret-2").get(path).status == 401
            assert Client(url, key="secret-1").get(path).status == 200
        assert Client(url).post("/v1/completions", {"prompt": "a"}).status == 401


@contextmanager
def program(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], Client]]:
    port = free_port()
    words = [sys.executable, "-m", "tests.runtimes.serving.fake", str(folder)]
    words += ["--port", str(port)]
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE) as server:
        client = Client(f"http://127.0.0.1:{port}", timeout_s=20)
        while True:
            try:
                client.get("/health")
                break
            except ServerError:
                assert server.poll() is None
                time.sleep(0.05)
        try:
            yield server, client
        finally:
            server.kill()


def test_as_a_program_it_drains_and_ends_with_0(tmp_path: Path) -> None:
    with program(tmp_path) as (server, client):
        document = {"prompt": "a", "temperature": 0, "max_tokens": 40}
        events = client.stream("/v1/completions", document)
        texts = [next(events)["choices"][0]["text"]]
        server.send_signal(signal.SIGTERM)
        texts += [event["choices"][0]["text"] for event in events]
        assert "".join(texts) == ALPHABET
        assert server.wait(20) == 0


def test_a_bug_ends_the_program_loudly(tmp_path: Path) -> None:
    with program(tmp_path) as (server, client):
        with pytest.raises(ServerError):
            client.post("/v1/completions", {"prompt": [5, BUG], "max_tokens": 1})
        assert server.wait(20) == 70
        assert server.stderr is not None
        assert b"KeyError: 'a bug'" in server.stderr.read()


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--host", "0.0.0.0"], "PAREDOWN_API_KEY"), (["--cache", "q8_0"], "f32")],
)
def test_as_a_program_it_refuses_what_it_cannot(
    tmp_path: Path, words: list[str], said: str
) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "PAREDOWN_API_KEY"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.runtimes.serving.fake", str(tmp_path), *words], cwd=ROOT,
        env=environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert said in done.stderr
