"""Scores of a model on benchmarks, beside those of its base on the same items."""

from __future__ import annotations

import importlib.metadata
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paredown.evaluate.comparison import compare, score
from paredown.evaluate.items import Responses, TaskItems, model_hash
from paredown.evaluate.quality import for_quality
from paredown.evaluate.scorer import CausalScorer
from paredown.evaluate.task_data import describe_rows
from paredown.models.calibration import load_tokenizer
from paredown.models.load import load
from paredown.models.memory import release
from paredown.spec.benchmarks import HUMANEVAL, expand
from paredown.spec.run import EvaluateConfig
from paredown.spec.scores import TaskScore
from paredown.store.atomic import write_text
from paredown.store.cache import Cache

Progress = Callable[[float, str], None]
_VERSION = 1
"""Goes up when the same request may be answered differently."""


@dataclass(frozen=True, kw_only=True)
class ScoreRequest:
    """What is asked of every model alike."""

    config: EvaluateConfig
    data_dir: Path | None
    device: str
    trust_remote_code: bool
    cache: Cache


def measure_scores(
    folder: Path,
    base: Path,
    request: ScoreRequest,
    *,
    items: Path,
    ratio: float | None,
    progress: Progress,
) -> list[TaskScore]:
    """Score `folder` on the request's benchmarks and compare with `base`, item by item.

    The base's items are kept in the cache, so a second artifact of the same base costs none of
    its time; and so are single answers, so a killed evaluation goes on where it stood.

    Args:
        items: folder for the single items of this model, `<benchmark>.jsonl`.
        ratio: how many times smaller the files are than the base's, for the verdicts.

    Raises:
        ConfigError: a benchmark that cannot be had, or not be run on this model.
        DivergedError: logits that are not finite.
    """
    same = base == folder
    share = 1.0 if same else 0.5
    mine = answer_items(folder, request, lambda done, text: progress(done * share, text))
    theirs: Mapping[str, TaskItems] = {}
    if not same:
        release()
        theirs = answer_items(
            base, request, lambda done, text: progress(share + done * share, f"base, {text}")
        )
    found = []
    for name, answered in mine.items():
        file = items / f"{answered.name.replace(':', '_')}.jsonl"
        answered.write_items(file)
        scored = score(answered, items=f"{items.name}/{file.name}")
        if name in theirs:
            margin = request.config.margin
            versus = compare(answered, theirs[name], margin=margin, ratio=ratio)
            scored = scored.model_copy(update={"versus_base": versus})
        found.append(scored)
    return found


def answer_items(folder: Path, request: ScoreRequest, progress: Progress) -> dict[str, TaskItems]:
    """A model's items on all benchmarks of a request, by name; from the cache what is there."""
    model = _Lazy(folder, request)
    names = expand(request.config.benchmarks)
    found = {}
    for k, name in enumerate(names):

        def report(share: float, text: str, k: int = k, name: str = name) -> None:
            progress((k + share) / len(names), f"{Path(name).stem}: {text}")

        key = {**_settings(name, request), "model": model.hash}
        kept = request.cache.get("items", key, ".json")
        if kept is None:
            answered = _answer(name, model, request, report)
            text = answered.to_json()
            kept = request.cache.put("items", key, ".json", lambda p, t=text: write_text(p, t))  # type: ignore[misc]
        found[name] = TaskItems.from_json(kept.read_text(encoding="utf-8"))
        report(1.0, "done")
    return found


def _settings(name: str, request: ScoreRequest) -> dict[str, Any]:
    """Everything that decides the items of one benchmark, besides the model."""
    return {
        "version": _VERSION,
        "benchmark": name,
        "rows": describe_rows(name, request.data_dir),
        "limit": request.config.limit,
        "chat_template": request.config.chat_template,
        "lm_eval": importlib.metadata.version("lm-eval"),
        "device": request.device,
    }


class _Lazy:
    """A model folder that is loaded once, and only if an answer is missing."""

    def __init__(self, folder: Path, request: ScoreRequest) -> None:
        self.folder, self.request = folder, request
        self.hash = model_hash(folder)
        self._scorer: CausalScorer | None = None
        self.tokenizer = load_tokenizer(folder, trust_remote_code=request.trust_remote_code)

    def scorer(self) -> CausalScorer:
        """The model, ready to answer."""
        if self._scorer is None:
            device = self.request.device
            trust = self.request.trust_remote_code
            model = load(self.folder, device=device, trust_remote_code=trust)
            self._scorer = CausalScorer(for_quality(model, device), self.tokenizer, device=device)
        return self._scorer

    def responses(self) -> Responses:
        """What the model has answered before."""
        key = {"version": _VERSION, "model": self.hash, "device": self.request.device}
        return Responses(self.request.cache.path("responses", key, ".jsonl"))


def _answer(name: str, model: _Lazy, request: ScoreRequest, progress: Progress) -> TaskItems:
    from paredown.evaluate.adapter import Adapter
    from paredown.evaluate.humaneval import run_humaneval
    from paredown.evaluate.tasks import run_benchmark

    progress(0.0, "reading the benchmark")
    config = request.config
    adapter = Adapter(model.scorer, model.tokenizer, model.responses(), progress)
    if name == HUMANEVAL:
        return run_humaneval(
            adapter,
            limit=config.limit,
            chat_template=config.chat_template,
            data_dir=request.data_dir,
            allow_unsandboxed=config.allow_unsandboxed_code,
        )
    with tempfile.TemporaryDirectory(prefix="paredown-tasks-") as scratch:
        return run_benchmark(
            name,
            adapter,
            limit=config.limit,
            chat_template=config.chat_template,
            data_dir=request.data_dir,
            scratch=Path(scratch),
        )
