"""Steering in words: the commands that a run takes, from a terminal or through its folder."""

from __future__ import annotations

from paredown.errors import did_you_mean

COMMANDS: dict[str, str] = {
    "try STRATEGY": "run it next, such as: try gptq(bits=3)",
    "drop STRATEGY": "no longer run what was asked for",
    "exclude METHOD": "propose it no more",
    "include METHOD": "propose an excluded method again",
    "pause": "finish the running episode, then wait",
    "resume": "go on",
    "stop": "finish the running episode, then write the report and end",
    "front": "the best trade-offs so far",
    "status": "what was asked for, what is excluded, what can be",
    "help": "this list",
}
"""Every command with its argument, and what it does."""
LONGEST = 200_000
"""Characters of a command; a `try` may hold the plan of a model, matrix by matrix."""


def parted(text: str) -> tuple[str, str]:
    """Verb and argument; the argument is empty where there is none."""
    verb, _, argument = " ".join(text.split()).partition(" ")
    return verb, argument


def complaint(text: str) -> str | None:
    """Why a text is no command, in one line; None where it is one.

    Whether it can be carried out is for the run to say.
    """
    verb, argument = parted(text)
    known = {name.split()[0]: name for name in COMMANDS}
    if len(text) > LONGEST:
        return f"a command has at most {LONGEST} characters, this has {len(text)}"
    if verb not in known:
        return f"no command is called {verb!r}; {did_you_mean(verb, known)}"
    if (" " in known[verb]) != bool(argument):
        return f"write it as: {known[verb]}"
    return None
