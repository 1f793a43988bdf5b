"""A load test of one server or package, or of two beside each other, level by level in turns."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from paredown.deploy.client import Client
from paredown.deploy.load import LoadPlan, Prepared, prepare, program, run
from paredown.deploy.loadstats import Level, Slo, summarise
from paredown.deploy.package import read_record, read_settings, verify
from paredown.deploy.process import free_port, started
from paredown.deploy.serve import package_command
from paredown.errors import ConfigError, ServerError

_HOST = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What holds for all servers of a load test.

    Attributes:
        key: that servers at URLs ask for.
        name: of the model at URLs; None: the first that each lists.
        request_s: for one answer.
    """

    key: str | None = None
    name: str | None = None
    request_s: float = 300.0


def bench(
    targets: Sequence[str],
    plan: LoadPlan,
    *,
    slo: Slo | None = None,
    options: BenchOptions = BenchOptions(),
    tell: Callable[[Level], None] = lambda level: None,
    words: Callable[[str], None] = lambda line: None,
) -> list[Level]:
    """Drive requests at one or two servers; packages are served on loopback for the purpose.

    Two are measured in turns, a level of one and then of the other, so that what slows the machine
    slows both. Nothing but the named hosts is spoken to, and nothing is left running.

    Args:
        targets: URLs or folders of packages.
        tell: told of every level as it is known.
        words: told what happens, in a line.

    Raises:
        ConfigError: a target is neither, or its bytes have changed.
        MissingExtraError: GuideLLM is not installed.
        ServerError: a server does not answer, or the load test came to nothing.
    """
    program()
    _require(targets)
    found: list[Level] = []
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="paredown-bench-")))
        servers = []
        for k, target in enumerate(targets):
            words(f"warming up {target}")
            client = _client(target, options, scratch / f"server-{k}.log", stack)
            name = options.name if _is_url(target) else None
            servers.append((target, prepare(client, plan, name=name)))
        for number, (levels, order) in enumerate(_turns(plan.levels, servers)):
            for target, server in order:
                folder = scratch / f"{number}-{target.encode().hex()[:32]}-{len(found)}"
                folder.mkdir()
                for level in _levels(target, server, plan, levels, slo, folder):
                    found.append(level)
                    tell(level)
    return found


def _turns(
    levels: Sequence[float], servers: list[tuple[str, Prepared]]
) -> list[tuple[tuple[float, ...], list[tuple[str, Prepared]]]]:
    """Which levels are run of which server, in order.

    One server has all of them in one run of GuideLLM, whose start takes seconds; two take turns at
    every level, and so does who begins.
    """
    if len(servers) == 1:
        return [(tuple(levels), servers)]
    return [((level,), servers if k % 2 == 0 else servers[::-1]) for k, level in enumerate(levels)]


def _levels(
    target: str, server: Prepared, plan: LoadPlan, levels: tuple[float, ...], slo: Slo | None,
    folder: Path,
) -> list[Level]:  # fmt: skip
    runs = run(server, plan, levels, folder)
    found = [summarise(target, one, slo) for one in runs]
    if all(level is None for level in found):
        why = next((one.why for one in runs if one.why), "none came to its end in time")
        raise ServerError(f"{target}: no request was answered: {why}")
    return [level for level in found if level is not None]


def _require(targets: Sequence[str]) -> None:
    if not 1 <= len(targets) <= 2:
        raise ConfigError(f"give one server or package, or two to compare; got {len(targets)}")
    for target in targets:
        if _is_url(target):
            Client(target)
        elif not Path(target).expanduser().is_dir():
            raise ConfigError(f"{target!r}: give http://HOST:PORT, or the folder of a package")


def _is_url(target: str) -> bool:
    return target.startswith(("http://", "https://"))


def _client(target: str, options: BenchOptions, log: Path, stack: ExitStack) -> Client:
    if _is_url(target):
        return Client(target, key=options.key, timeout_s=options.request_s)
    folder, port = Path(target).expanduser(), free_port()
    record = read_record(folder)
    verify(folder)
    settings = read_settings(folder)
    server = stack.enter_context(
        started(
            package_command(folder, record, settings, host=_HOST, port=port),
            url=f"http://{_HOST}:{port}", log=log, timeout_s=options.request_s,
        )
    )  # fmt: skip
    server.wait_ready()
    return server.client
