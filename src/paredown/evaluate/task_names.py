"""Whether lm-eval has a task of a name, found out before anything is loaded."""

from __future__ import annotations

import difflib
import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

from paredown.errors import ConfigError, DataError
from paredown.spec.benchmarks import LM_EVAL
from paredown.spec.reading import read_object
from paredown.store.atomic import write_json
from paredown.store.home import home

_NAMED = re.compile(r"^(?:task|group):[ \t]*[\"']?([^\s\"'#\[]+)", re.MULTILINE)
_LIST = """
import json
from lm_eval.tasks import TaskManager
print(json.dumps(TaskManager().all_tasks))
"""
_PATIENCE_S = 600


def check_task(benchmark: str, tasks: Path) -> None:
    """See that lm-eval has the task of `lm-eval:NAME`.

    Most names stand in its task files, which takes a second to see. Others (tags, and tasks that
    lm-eval makes up from lists) only lm-eval itself knows; its list is kept.

    Args:
        tasks: lm-eval's folder of tasks.

    Raises:
        DataError: it has none; the nearest names are told.
    """
    name = benchmark.removeprefix(LM_EVAL)
    if _in_files(name, tasks):
        return
    known = _all_tasks()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        known_as = " or ".join(map(repr, near))
        hint = f"did you mean {known_as}?" if near else "`lm-eval ls tasks` lists all"
        raise DataError(f"lm-eval has no task {name!r}; {hint}")


def _in_files(name: str, tasks: Path) -> bool:
    likely_first = sorted(tasks.rglob("*.yaml"), key=lambda file: file.stem != name)
    return any(
        name in _NAMED.findall(file.read_text(encoding="utf-8", errors="replace"))
        for file in likely_first
    )


def _all_tasks() -> list[str]:
    """All names; asked of lm-eval in another process, for it takes torch along, and kept."""
    memo = home() / "cache" / f"lm-eval-tasks-{importlib.metadata.version('lm-eval')}.json"
    kept = _read_memo(memo)
    if kept is None:
        command = [sys.executable, "-c", _LIST]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_PATIENCE_S, check=True
            )
            # What libraries say at import comes before it.
            names = json.loads(done.stdout.splitlines()[-1])
        except (subprocess.SubprocessError, ValueError, IndexError) as error:
            raise DataError(f"lm-eval does not list its tasks: {error}") from None
        write_json(memo, {"tasks": names})
        kept = list(names)
    return kept


def _read_memo(memo: Path) -> list[str] | None:
    """The names that were kept; None where there are none, or the file is damaged."""
    try:
        names = read_object(memo).get("tasks")
    except ConfigError:
        return None
    return names if isinstance(names, list) and all(isinstance(n, str) for n in names) else None
