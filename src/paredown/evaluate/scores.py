"""Scores of a model on benchmarks, beside those of its base on the same items."""

from __future__ import annotations

import importlib.metadata
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from paredown.blocks.memory import release
from paredown.evaluate.comparison import compare, score, surely_lost
from paredown.evaluate.items import Responses, TaskItems
from paredown.evaluate.task_data import rows_hash
from paredown.runtimes.packages import open_model
from paredown.runtimes.registry import engine
from paredown.runtimes.session import Session
from paredown.spec.benchmarks import HUMANEVAL, expand
from paredown.spec.progress import Progress
from paredown.spec.run import EvaluateConfig
from paredown.spec.scores import TaskScore
from paredown.spec.target import Device
from paredown.store.atomic import write_text
from paredown.store.cache import Cache
from paredown.store.content import code, model_hash
from paredown.text.windows import load_tokenizer

_CODE = 4
"""Goes up when the same request may be answered differently."""
_STAGES = (4, 2)
"""A candidate is first asked so many parts of the items, one over each."""
_LEAST = 20
"""Items of a stage that can decide anything."""


@dataclass(frozen=True, kw_only=True)
class ScoreRequest:
    """What is asked of every model alike."""

    config: EvaluateConfig
    data_dir: Path | None
    device: Device
    trust_remote_code: bool
    cache: Cache
    runtime: str = "torch"
    """In which the model is asked."""


def measure_scores(
    folder: Path,
    base: Path,
    request: ScoreRequest,
    *,
    items: Path,
    progress: Progress,
) -> list[TaskScore]:
    """Score `folder` on the request's benchmarks and compare with `base`, item by item.

    The base's items are kept in the cache, so a second artifact of the same base costs none of
    its time; and so are single answers, so a killed evaluation goes on where it stood.

    Args:
        items: folder for the single items of this model, `<benchmark>.jsonl`.

    Raises:
        ConfigError: a benchmark that cannot be had, or not be run on this model.
        DivergedError: logits that are not finite.
    """
    if base == folder:
        mine = answer_items(folder, request, progress)
        return [_scored(answered, items) for answered in mine.values()]
    theirs = answer_items(base, request, lambda done, text: progress(done / 2, f"base, {text}"))
    # The base went with `answer_items`: its room is given back before the next model is loaded.
    release()
    model = _Lazy(folder, request, base=base)
    found = []
    for k, (name, reference) in enumerate(theirs.items()):

        def report(share: float, text: str, k: int = k, name: str = name) -> None:
            progress(0.5 + 0.5 * (k + share) / len(theirs), f"{Path(name).stem}: {text}")

        answered, stopped = _in_stages(name, model, request, reference, report)
        versus = compare(answered, _only(reference, answered), margin=request.config.margin)
        changes = {"versus_base": versus, "stopped": stopped}
        found.append(_scored(answered, items).model_copy(update=changes))
    return found


def _scored(answered: TaskItems, items: Path) -> TaskScore:
    file = items / f"{answered.name.replace(':', '_')}.jsonl"
    answered.write_items(file)
    return score(answered, items=f"{items.name}/{file.name}")


def _in_stages(
    name: str, model: _Lazy, request: ScoreRequest, base: TaskItems, progress: Progress
) -> tuple[TaskItems, str | None]:
    """A quarter of the items, half, all; and why it ended before, if it did."""
    loss, total = request.config.stop_loss, len(base.items)
    for part in _STAGES:
        limit = total // part
        if loss is None or limit < _LEAST:
            continue
        answered = _answered(name, model, request, progress, limit=limit)
        # The draw for a smaller limit lies within that for a larger one: the base was asked all of
        # these.
        reference = _only(base, answered)
        if len(reference.items) == limit and surely_lost(answered, reference, loss):
            why = f"after {limit} of {total} items, for a loss beyond {100 * loss:g} points is sure"
            return answered, why
    return _answered(name, model, request, progress, limit=request.config.limit), None


def _only(base: TaskItems, mine: TaskItems) -> TaskItems:
    wanted = {item.id for item in mine.items}
    return replace(base, items=tuple(item for item in base.items if item.id in wanted))


def answer_items(folder: Path, request: ScoreRequest, progress: Progress) -> dict[str, TaskItems]:
    """A model's items on all benchmarks of a request, by name; from the cache what is there."""
    model = _Lazy(folder, request)
    names = expand(request.config.benchmarks)
    found = {}
    for k, name in enumerate(names):

        def report(share: float, text: str, k: int = k, name: str = name) -> None:
            progress((k + share) / len(names), f"{Path(name).stem}: {text}")

        found[name] = _answered(name, model, request, report, limit=request.config.limit)
        report(1.0, "done")
    return found


def _answered(
    name: str, model: _Lazy, request: ScoreRequest, progress: Progress, *, limit: int
) -> TaskItems:
    config = request.config.model_copy(update={"limit": limit})
    asked = replace(request, config=config)
    key = {**_settings(name, asked), "model": model.hash, "along": model.base_hash}

    def write(path: Path) -> None:
        write_text(path, _answer(name, model, asked, progress).to_json())

    kept = request.cache.get_or_put("items", key, ".json", write)
    return TaskItems.from_json(kept.read_text(encoding="utf-8"))


def _settings(name: str, request: ScoreRequest) -> dict[str, Any]:
    """Everything that decides the items of one benchmark, besides the model."""
    return {
        **code(_CODE),
        "benchmark": name,
        "rows": rows_hash(name, request.data_dir),
        "limit": request.config.limit,
        "chat_template": request.config.chat_template,
        "lm_eval": importlib.metadata.version("lm-eval"),
        "device": request.device,
        "runtime": request.runtime,
    }


class _Lazy:
    """A model folder that is loaded once, and only if an answer is missing."""

    def __init__(self, folder: Path, request: ScoreRequest, *, base: Path | None = None) -> None:
        """`base` is the model along whose answers this one is asked; None: itself."""
        self.folder, self.request = folder, request
        self.hash = model_hash(folder)
        self.base_hash = self.hash if base is None else model_hash(base)
        self._session: Session | None = None
        self.tokenizer = load_tokenizer(folder, trust_remote_code=request.trust_remote_code)

    def session(self) -> Session:
        """The model, ready to answer."""
        if self._session is None:
            self._session = open_model(
                engine(self.request.runtime),
                self.folder,
                device=self.request.device,
                trust_remote_code=self.request.trust_remote_code,
                stream=self.request.config.stream,
            )
            self._session.for_many_tokens()
        return self._session

    def responses(self, *, of_base: bool = False) -> Responses:
        """What the model, or its base, has answered before."""
        key = {
            **code(_CODE),
            "model": self.base_hash if of_base else self.hash,
            "device": self.request.device,
            "runtime": self.request.runtime,
        }
        return Responses(self.request.cache.path("responses", key, ".jsonl"))


def _answer(name: str, model: _Lazy, request: ScoreRequest, progress: Progress) -> TaskItems:
    from paredown.evaluate.harness import HarnessModel
    from paredown.evaluate.humaneval import run_humaneval
    from paredown.evaluate.tasks import run_benchmark

    progress(0.0, "reading the benchmark")
    config = request.config
    base = None if model.base_hash == model.hash else model.responses(of_base=True)
    asked = HarnessModel(model.session, model.tokenizer, model.responses(), progress, base)
    if name == HUMANEVAL:
        return run_humaneval(
            asked,
            limit=config.limit,
            chat_template=config.chat_template,
            data_dir=request.data_dir,
            allow_unsandboxed=config.allow_unsandboxed_code,
        )
    with tempfile.TemporaryDirectory(prefix="paredown-tasks-") as scratch:
        return run_benchmark(
            name,
            asked,
            limit=config.limit,
            chat_template=config.chat_template,
            data_dir=request.data_dir,
            scratch=Path(scratch),
        )
