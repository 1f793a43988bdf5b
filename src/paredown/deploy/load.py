"""A load test: GuideLLM drives requests at a server; what each took is read from its report.

GuideLLM is run as a program of its own, found in this environment or on the path, so that it may
live in an environment of its own. It is given one file, because arguments of a process are public
and one of its settings is the key.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from paredown.deploy.client import Client
from paredown.deploy.process import tail
from paredown.deploy.questions import Questioner, models
from paredown.errors import ConfigError, MissingExtraError, ServerError
from paredown.spec.redact import shown
from paredown.store.atomic import write_text

PROGRAM = "guidellm"
_START_S = 180.0
"""For its imports and its end, on a busy machine."""
_SPARE = 2
"""Prompts for every request that is counted: some are under way when the last one is done."""
_TEXT = (
    "river stone light garden paper music window winter letter market bridge forest silver morning "
    "shadow table engine island summer voice"
)
_CALIBRATION = 64
_WARM = 2


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """What is sent.

    Attributes:
        levels: requests at once (a closed loop), or requests per second where `is_open`.
        is_open: requests come at random times (Poisson), whether or not others are answered.
        requests: of each level.
        seconds: after which a level ends, however many it has had.
        prompt_tokens, output_tokens: of each request, as the server counts them.
    """

    levels: tuple[float, ...] = (1, 2, 4, 8)
    is_open: bool = False
    requests: int = 32
    seconds: float = 120.0
    prompt_tokens: int = 128
    output_tokens: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what no load test can be.

        Raises:
            ConfigError: says which number is wrong.
        """
        if not self.levels or any(not math.isfinite(x) or x <= 0 for x in self.levels):
            raise ConfigError("give at least one level, and only numbers above 0")
        if not self.is_open and any(level != int(level) for level in self.levels):
            raise ConfigError("--concurrency: requests at once are whole numbers; or use --rate")
        for name in ("requests", "prompt_tokens", "output_tokens"):
            if getattr(self, name) < 2:
                raise ConfigError(f"--{name.replace('_', '-')} {getattr(self, name)}: at least 2")
        if not self.seconds > 0:
            raise ConfigError(f"--seconds {self.seconds:g}: give more than 0")


@dataclass(frozen=True, kw_only=True)
class Timed:
    """One request that was answered.

    Attributes:
        start_s, end_s: on the clock of the load test.
        prompt_tokens, tokens, cached: as the server counts them; cached are those of the prompt
            that it did not have to read.
    """

    start_s: float
    end_s: float
    ttft_ms: float
    prompt_tokens: int
    tokens: int
    cached: int = 0

    @property
    def e2el_ms(self) -> float:
        """From the request to its last token."""
        return 1e3 * (self.end_s - self.start_s)

    @property
    def itl_ms(self) -> float | None:
        """Between two tokens, behind the first; None of an answer of one token."""
        return None if self.tokens < 2 else (self.e2el_ms - self.ttft_ms) / (self.tokens - 1)

    @property
    def tpot_ms(self) -> float:
        """Per token with the first one counted in, as GuideLLM has it; vLLM's is `itl_ms`."""
        return self.e2el_ms / max(self.tokens, 1)


@dataclass(frozen=True, kw_only=True)
class LevelRun:
    """What came of one level.

    Attributes:
        level: requests at once, or per second.
        failed: requests that got no whole answer, and `why` of the first.
    """

    level: float
    done: tuple[Timed, ...]
    failed: int
    why: str | None


def program() -> tuple[str, ...]:
    """How GuideLLM is started.

    Raises:
        MissingExtraError: it is neither in this environment nor on the path.
    """
    if find_spec(PROGRAM) is not None:
        return sys.executable, "-m", PROGRAM
    if (found := shutil.which(PROGRAM)) is not None:
        return (found,)
    raise MissingExtraError("paredown bench", PROGRAM, "bench")


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A server that is warm, and how its requests are made.

    Attributes:
        words: of a prompt, so that it has about as many tokens as are wanted.
        ignores_end: whether it can be made to write on behind the end of a text.
    """

    client: Client
    model: str
    words: int
    ignores_end: bool


def prepare(client: Client, plan: LoadPlan, *, name: str | None = None) -> Prepared:
    """Warm a server up, and find out how long its prompts are; none of this is counted.

    Raises:
        ServerError: it does not answer.
    """
    listed = [str(model["id"]) for model in models(client)]
    if not listed or (name is not None and name not in listed):
        raise ServerError(f"{client.url} lists {', '.join(listed) or 'no model'}, not {name}")
    model = name or listed[0]
    ask = Questioner(client, model)
    rng = random.Random(plan.seed - 1)
    answer = ask.complete(_prompt(rng, _CALIBRATION), max_tokens=1)
    per_word = (answer.prompt_tokens or _CALIBRATION) / _CALIBRATION
    words = max(1, round(plan.prompt_tokens / per_word))
    body = {"model": model, "max_tokens": 2, "temperature": 0, "ignore_eos": True}
    # A strict server refuses a field that it does not know; then answers may end early.
    reply = client.post("/v1/completions", {**body, "prompt": _prompt(rng, words)})
    for _ in range(_WARM):
        ask.complete(_prompt(rng, words), max_tokens=plan.output_tokens)
    return Prepared(client=client, model=model, words=words, ignores_end=reply.is_ok)


def _prompt(rng: random.Random, words: int) -> str:
    """A text that no prompt before begins like: a cache of prefixes would flatter."""
    begin = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=12))
    return " ".join([begin, *rng.choices(_TEXT.split(), k=max(words - 1, 0))])


def run(server: Prepared, plan: LoadPlan, levels: Sequence[float], folder: Path) -> list[LevelRun]:
    """Have some levels of a plan driven at a server.

    Args:
        folder: empty; gets the prompts, GuideLLM's settings, its report and its log.

    Raises:
        MissingExtraError: GuideLLM is not installed.
        ServerError: it ended without a report, or did not end.
    """
    command = program()
    prompts, report, log = folder / "prompts.jsonl", folder / "report.json", folder / "log"
    rng = random.Random(f"{plan.seed} {server.client.url} {levels}")
    count = _SPARE * plan.requests * len(levels) + int(sum(levels))
    lines = (json.dumps({"prompt": _prompt(rng, server.words)}) for _ in range(count))
    write_text(prompts, "\n".join(lines) + "\n")
    settings = folder / "settings.json"
    settings.touch(mode=0o600)  # it holds the key
    settings.write_text(json.dumps(_settings(server, plan, levels, prompts, report)))
    limit = _START_S + len(levels) * (plan.seconds + server.client.timeout_s)
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "run", "-c", str(settings), "--disable-console"], stdin=subprocess.DEVNULL,
            stdout=out, stderr=out, env=_environment(), start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            why = f"the load test was not over after {limit:g} s"
            raise ServerError(f"{why}; {_last(log)}") from None
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            settings.unlink()
    if code or not report.is_file():
        raise ServerError(f"the load test ended with exit code {code}; {_last(log)}")
    return read_report(json.loads(report.read_text()), levels)


def _settings(
    server: Prepared, plan: LoadPlan, levels: Sequence[float], prompts: Path, report: Path
) -> dict[str, Any]:
    """GuideLLM's file: one benchmark for each level."""
    body: dict[str, Any] = {"temperature": 0}
    if server.ignores_end:
        body["ignore_eos"] = True
    backend = {
        "kind": "openai_http", "target": server.client.url, "model": server.model,
        "request_format": "/v1/completions", "max_tokens": plan.output_tokens, "http2": False,
        "timeout": server.client.timeout_s, "verify": True, "extras": {"body": body},
        # By default it would go wherever the server sends it.
        "follow_redirects": False,
    }  # fmt: skip
    if server.client.key is not None:
        backend["api_key"] = server.client.key
    key, values = ("rate", [float(x) for x in levels])
    if not plan.is_open:
        key, values = "streams", [int(x) for x in levels]
    return {
        "spec": {
            "backend": backend,
            "profile": {"kind": "poisson" if plan.is_open else "concurrent", key: values[0]},
            "constraints": [
                {"kind": "max_requests", "count": plan.requests},
                {"kind": "max_duration", "seconds": plan.seconds},
            ],
            "data": [{"kind": "json_file", "path": str(prompts)}],
            "outputs": [{"kind": "json", "path": str(report)}],
        },
        "benchmarks": [{f"profile.{key}": value} for value in values],
    }


def _environment() -> dict[str, str]:
    """Of the load test: no proxies, no hub, no keys."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.lower().endswith("_proxy") and not name.endswith(("_KEY", "_TOKEN"))
    }
    return kept | {"HF_HUB_OFFLINE": "1", "NO_PROXY": "*"}


def read_report(report: Mapping[str, Any], levels: Sequence[float]) -> list[LevelRun]:
    """What each request took, from GuideLLM's report (0.8).

    Raises:
        ServerError: it has another form.
    """
    try:
        benchmarks = report["benchmarks"]
        return [
            _level(level, benchmark) for level, benchmark in zip(levels, benchmarks, strict=True)
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ServerError(
            f"GuideLLM's report is not read ({type(error).__name__}: {shown(str(error), 80)}); "
            "version 0.8 is known"
        ) from None


def _level(level: float, benchmark: Mapping[str, Any]) -> LevelRun:
    requests = benchmark["requests"]
    errored = requests["errored"]
    why = None
    if errored:
        why = shown(str(errored[0].get("info", {}).get("error") or "no reason is told"), 120)
    return LevelRun(
        level=level,
        done=tuple(_timed(one) for one in requests["successful"]),
        failed=len(errored),
        why=why,
    )


def _timed(one: Mapping[str, Any]) -> Timed:
    return Timed(
        start_s=float(one["request_start_time"]),
        end_s=float(one["request_end_time"]),
        ttft_ms=float(one["time_to_first_token_ms"]),
        prompt_tokens=int(one["prompt_tokens"] or 0),
        tokens=int(one["output_tokens"] or 0),
        cached=int(one.get("cached_tokens") or 0),
    )


def _last(log: Path) -> str:
    lines = [line.strip() for line in tail(log).splitlines() if line.strip()]
    return f"its last words: {' | '.join(shown(line, 200) for line in lines[-3:])}"
