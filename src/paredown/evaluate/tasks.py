"""lm-eval's tasks, prompts and metrics, answered by a session.

Importing this module imports lm-eval, which takes seconds; only worker processes do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lm_eval
import numpy as np
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from paredown.errors import ConfigError, DataError, did_you_mean
from paredown.evaluate.harness import HarnessModel
from paredown.evaluate.items import Item, TaskItems, draw
from paredown.evaluate.task_data import (
    describe_rows,
    own_yaml,
    task_files,
)
from paredown.evaluate.userdata import read_questions
from paredown.spec.benchmarks import BENCHMARKS, LM_EVAL, NAMES
from paredown.spec.redact import first_line

_SEED = 1234
"""Of few-shot examples, lm-eval's own, and of the draw of items."""


@dataclass(frozen=True)
class _Loaded:
    """A benchmark, loaded."""

    name: str
    tasks: Mapping[str, Any]
    metric: str
    filter: str | None
    """None: the first."""
    chance: float | None
    higher_is_better: bool
    rows: str


def run_benchmark(
    name: str,
    model: HarnessModel,
    *,
    limit: int,
    chat_template: bool,
    data_dir: Path | None,
    scratch: Path,
) -> TaskItems:
    """Answer a benchmark's items, or a fixed draw of them.

    Args:
        name: of `spec.benchmarks`, `lm-eval:NAME`, or a .jsonl file of questions.
        limit: items, spread over all subjects in proportion; 0 means all.
        chat_template: wrap prompts in the tokenizer's template.
        data_dir: folder with local rows; None takes PAREDOWN_DATA, else the hub.
        scratch: folder for task files.

    Raises:
        ConfigError: a task that cannot be scored item by item, or a tokenizer without a template.
        DataError: rows are neither local nor to be had from the hub.
        DivergedError: the model's logits are not finite.
    """
    if chat_template and not getattr(model.tokenizer, "chat_template", None):
        raise ConfigError("the tokenizer has no chat template; leave --chat-template out")
    loaded = _load(name, data_dir, scratch)
    sizes = {task: len(obj.eval_docs) for task, obj in loaded.tasks.items()}
    rows = draw(sizes, limit, seed=_SEED)
    tasks = {task: loaded.tasks[task] for task in rows}
    for task in tasks.values():
        _prepare(name, task)
    samples = _answered(model, tasks, rows, chat_template)
    chosen = loaded.filter or samples[next(iter(tasks))][0]["filter"]
    extras = _extras(samples, chosen)
    items = [
        _item(task, tasks[task], sample, loaded, rows[task], model, extras)
        for task in tasks
        for sample in samples[task]
        if sample["filter"] == chosen
    ]
    few_shot = next(iter(tasks.values())).config.num_fewshot
    metric = loaded.metric if chosen == "none" else f"{loaded.metric},{chosen}"
    return TaskItems(
        name=_short(name),
        metric=metric,
        higher_is_better=loaded.higher_is_better,
        chance=loaded.chance,
        few_shot=few_shot,
        n_available=sum(sizes.values()),
        rows=loaded.rows,
        how=_protocol(loaded, tasks, metric, items, sum(sizes.values()), chat_template),
        items=tuple(items),
    )


def _answered(
    model: HarnessModel,
    tasks: Mapping[str, Any],
    rows: Mapping[str, Sequence[int]],
    chat_template: bool,
) -> Mapping[str, Any]:
    """lm-eval's record of every item of `rows`, by task; a list with an entry per filter."""
    model.forget()
    found: Mapping[str, Any] = evaluate(
        lm=model,
        task_dict={"tasks": tasks, "groups": {}, "group_map": {}},
        samples=rows,
        bootstrap_iters=0,  # errors are taken from the items, not from lm-eval
        apply_chat_template=chat_template,
        fewshot_as_multiturn=chat_template,
    )["samples"]
    return found


def _prepare(name: str, task: Any) -> None:
    """What lm-eval's command line does to a task before it runs."""
    if task.OUTPUT_TYPE == "generate_until" and task.config.generation_kwargs.get("do_sample"):
        raise ConfigError(f"{name} draws its answers at random; only greedy answers are scored")
    if getattr(task, "UNSAFE_CODE", False):
        raise ConfigError(f"{name} runs model-written code outside of a sandbox; use humaneval")
    if task.config.num_fewshot is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=_SEED)


def _load(name: str, data_dir: Path | None, scratch: Path) -> _Loaded:
    folder = scratch / "tasks"
    folder.mkdir(parents=True, exist_ok=True)
    if name in BENCHMARKS:
        benchmark = BENCHMARKS[name]
        files = task_files(benchmark, data_dir)
        for file in files:
            (folder / f"{file.task}.yaml").write_text(file.yaml(), encoding="utf-8")
        return _Loaded(
            name=name,
            tasks=_from_folder(name, folder, [file.task for file in files]),
            metric=benchmark.metric,
            filter=None if benchmark.filter == "none" else benchmark.filter,
            chance=benchmark.chance,
            higher_is_better=benchmark.higher_is_better,
            rows=describe_rows(name, data_dir),
        )
    if name.startswith(LM_EVAL):
        return _other(name)
    path = Path(name).expanduser()
    questions = read_questions(path)
    (folder / "own.yaml").write_text(own_yaml(questions, path.stem), encoding="utf-8")
    choices = [len(row["choices"]) for row in questions.rows if "choices" in row]
    return _Loaded(
        name=name,
        tasks=_from_folder(name, folder, [path.stem]),
        metric="acc_norm" if choices else "exact_match",
        filter=None,
        chance=float(np.mean([1 / n for n in choices])) if choices else 0.0,
        higher_is_better=True,
        rows=describe_rows(name, data_dir),
    )


def _from_folder(name: str, folder: Path, tasks: list[str]) -> Mapping[str, Any]:
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    return _fetched(name, lambda: manager.load(tasks)["tasks"])


def _other(name: str) -> _Loaded:
    """Any task or group of lm-eval, as it ships."""
    manager = TaskManager()
    wanted = name.removeprefix(LM_EVAL)
    if wanted not in manager.all_tasks:
        raise DataError(
            f"lm-eval has no task {wanted!r}; {did_you_mean(wanted, manager.all_tasks)[:200]}"
        )
    tasks = _fetched(name, lambda: manager.load([wanted])["tasks"])
    better = next(iter(tasks.values())).higher_is_better()
    metric = next(iter(better))
    rows = describe_rows(name, None)
    return _Loaded(name, tasks, metric, None, None, bool(better[metric]), rows)


def _fetched(name: str, load: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        return load()
    except (ConnectionError, OfflineModeIsEnabled, HfHubHTTPError, FileNotFoundError) as error:
        first = first_line(error)
        plain = name.removeprefix(LM_EVAL)
        if plain == name:
            tried = "its rows are neither in a local folder (--data-dir, PAREDOWN_DATA) nor"
        elif plain in NAMES:
            tried = f"`-d {plain}` reads a local folder; under lm-eval's name its rows are not"
        else:
            tried = "its rows come from the hub alone, and are not"
        raise DataError(f"{name}: {tried} to be had from the hub ({first})") from None


def _item(
    name: str,
    task: Any,
    sample: Mapping[str, Any],
    loaded: _Loaded,
    rows: Sequence[int],
    model: HarnessModel,
    extras: Mapping[str, Mapping[str, float]],
) -> Item:
    values = {metric: sample[metric] for metric in sample["metrics"]}
    if not isinstance(values.get(loaded.metric), int | float | np.number):
        raise ConfigError(
            f"{loaded.name} measures {loaded.metric}, which is no mean over items; for perplexity "
            "give a text, e.g. -d wikitext2"
        )
    # lm-eval numbers requests by their place in the draw, and its records by row.
    identity, row = f"{name}/{sample['doc_id']}", (name, rows.index(sample["doc_id"]))
    return Item(
        id=identity,
        part=name,
        hash=sample["doc_hash"][:16],
        score=float(values[loaded.metric]),
        answer=_given_answer(task, sample, loaded.metric),
        metrics={**_numbers(values), **extras.get(identity, {})},
        truncated=row in model.truncated,
        next=model.following.get(row),
        along=model.along.get(row, ()),
    )


def _extras(samples: Mapping[str, Any], chosen: str) -> dict[str, dict[str, float]]:
    """By item, the metrics on other extractions of its answer, as `metric,filter`."""
    found: dict[str, dict[str, float]] = {}
    for task, listed in samples.items():
        for sample in listed:
            if (kind := sample["filter"]) != chosen:
                values = _numbers({metric: sample[metric] for metric in sample["metrics"]})
                named = {f"{metric},{kind}": value for metric, value in values.items()}
                found.setdefault(f"{task}/{sample['doc_id']}", {}).update(named)
    return found


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {k: float(v) for k, v in values.items() if isinstance(v, int | float | np.number)}


def _given_answer(task: Any, sample: Mapping[str, Any], metric: str) -> int | str | None:
    """Which choice the metric takes for the model's, or the text that it extracts."""
    found = sample["filtered_resps"]
    if task.OUTPUT_TYPE == "generate_until":
        return str(found[0])
    if task.OUTPUT_TYPE != "multiple_choice":
        return None
    values = np.array([value for value, _ in found])
    if metric == "acc_norm":
        # Per character, as lm-eval's own acc_norm.
        values = values / [max(len(choice), 1) for choice in task.doc_to_choice(sample["doc"])]
    return int(values.argmax())


def _short(name: str) -> str:
    """How results call a benchmark: a file by its stem."""
    known = name in BENCHMARKS or name.startswith(LM_EVAL)
    return name if known else Path(name).stem


def _protocol(
    loaded: _Loaded,
    tasks: Mapping[str, Any],
    metric: str,
    items: Sequence[Item],
    available: int,
    chat_template: bool,
) -> str:
    first = next(iter(tasks))
    what = first if len(tasks) == 1 else f"{len(tasks)} tasks"
    template = "in the chat template" if chat_template else "as plain text"
    drawn = "all" if len(items) == available else f"seed {_SEED}, in proportion per task,"
    return (
        f"lm-eval {lm_eval.__version__} {what}, {metric}, {tasks[first].config.num_fewshot}-shot, "
        f"prompts {template}, greedy; {len(items)} of {available} items ({drawn} the same for "
        f"every model); rows from {loaded.rows}"
    )
