"""Words of other tools and of the papers' own scripts, read as ours.

Who comes with a command line of theirs need not look ours up. The help shows one word for each
thing; what it means is in the table below, and in docs/reference-cli.md.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

OPTIONS: Mapping[str, str] = {
    "--dataset": "--data",
    "--data-path": "--data",
    "--benchmark": "--data",
    "--model-path": "--model",
    "--data-samples": "--calibration-samples",
    "--nsamples": "--samples",
    "--save-model": "--output",
    "--output-dir": "--output",
    "--output": "--output-dir",
}
"""Theirs to ours, where a command has ours and not theirs."""
SWITCHES: Mapping[str, tuple[str, str]] = {
    "--gpu": ("--device", "cuda"),
    "--cuda": ("--device", "cuda"),
    "--cpu": ("--device", "cpu"),
}
"""Options without a value that stand for one of ours with a value."""
_AGAIN: Mapping[str, str] = {"--calibration-samples": "--samples"}
"""What ours is called in the commands that have no group of that name."""


def translated(
    args: Sequence[str], known: Container[str], *, takes_model_first: bool = False
) -> list[str]:
    """A command line in our words; what is ours, or unknown, stays as it is.

    Args:
        args: as typed, without the program and the command.
        known: option names of the command.
        takes_model_first: the model is no option of the command but stands by itself.
    """
    found: list[str] = []
    for place, word in enumerate(args):
        if word == "--":  # nothing behind it is an option
            return [*found, *args[place:]]
        found += _one(word, known, takes_model_first=takes_model_first)
    return found


def _one(word: str, known: Container[str], *, takes_model_first: bool) -> list[str]:
    name, equals, value = word.partition("=")
    if not name.startswith("--") or name in known:
        return [word]
    name = name.replace("_", "-")  # argparse scripts write --target_ratio
    if name in known:
        return [name + equals + value]
    if name in SWITCHES and not equals and SWITCHES[name][0] in known:
        return list(SWITCHES[name])
    ours = OPTIONS.get(name)
    if ours == "--model" and takes_model_first:
        return [value] if equals else []
    for candidate in (ours, _AGAIN.get(ours or "")):
        if candidate is not None and candidate in known:
            return [candidate + equals + value]
    return [word]
