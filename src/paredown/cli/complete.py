"""What a shell offers when the user presses Tab. Nothing heavy is imported before that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from paredown.spec.benchmarks import BENCHMARKS, LM_EVAL, NAMES, TEXTS

Completion = Callable[[str], list[str]]


def _methods() -> Iterable[str]:
    from paredown.methods import registry

    return registry.names()


def _runtimes() -> Iterable[str]:
    from paredown.runtimes import registry

    return registry.names()


_TABLE: dict[str, Callable[[], Iterable[str]]] = {
    "methods": _methods,
    "runtimes": _runtimes,
    "benchmarks": lambda: (*NAMES, LM_EVAL),
    "texts": lambda: (*TEXTS, *BENCHMARKS),
    "data": lambda: (*NAMES, *TEXTS, LM_EVAL),
}
"""What `Option.complete` may say."""


def function(key: str | None, words: Sequence[str] = ()) -> Completion | None:
    """The completion of an option: of a kind, or of the words that it allows."""
    if key is None and not words:
        return None

    def offer(incomplete: str) -> list[str]:
        # After a comma the next name begins: `--methods gptq,r<Tab>`.
        head, comma, last = incomplete.rpartition(",")
        known = words if key is None else _TABLE[key]()
        return [f"{head}{comma}{word}" for word in known if word.startswith(last)]

    return offer


def strategy(incomplete: str) -> list[str]:
    """Names of methods behind what is written of a strategy already."""
    head, separator, last = incomplete.rpartition(">")
    lead = f"{head}{separator} " if separator else ""
    return [f"{lead}{name}" for name in _methods() if name.startswith(last.strip())]
