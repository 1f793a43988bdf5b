"""The door to lm-eval: its tasks, prompts and metrics, answered by our adapter.

Importing this module imports lm-eval, which takes seconds; only worker processes do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import lm_eval
import numpy as np
from lm_eval.api.model import TemplateLM
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from paredown.errors import ConfigError, DataError, did_you_mean
from paredown.evaluate.adapter import CausalScorer, Pair
from paredown.evaluate.items import Item, Responses, TaskItems, draw
from paredown.evaluate.task_data import (
    describe_rows,
    own_yaml,
    task_files,
)
from paredown.evaluate.userdata import read_questions
from paredown.spec.benchmarks import BENCHMARKS, LM_EVAL
from paredown.spec.units import human_seconds

Progress = Callable[[float, str], None]
_Found = TypeVar("_Found")
_SEED = 1234
"""Of few-shot examples, lm-eval's own, and of the draw of items."""
_MAX_TOKENS = 256
"""Of an answer, where the task does not say; lm-eval's own."""


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


class Adapter(TemplateLM):  # type: ignore[misc]  # lm-eval is not typed
    """lm-eval's view of a model. What was answered before is not computed again."""

    def __init__(
        self,
        scorer: Callable[[], CausalScorer],
        tokenizer: Any,
        responses: Responses,
        progress: Progress,
    ) -> None:
        """`scorer` loads the model, and is called only if a request was never answered."""
        super().__init__()
        self.tokenizer, self.responses, self.progress = tokenizer, responses, progress
        self._load = scorer
        self._scorer: CausalScorer | None = None
        self.truncated: set[tuple[str, int]] = set()
        """Task and row of requests that lost the beginning of their prompt."""

    @property
    def scorer(self) -> CausalScorer:
        """The model, loaded now if need be."""
        self._scorer = self._scorer or self._load()
        return self._scorer

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without a prompt: BOS, else EOS, as in lm-eval."""
        begin, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        if begin is None and end is None:
            raise ConfigError("the tokenizer has neither a BOS nor an EOS token")
        return int(end if begin is None else begin)

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Token ids; a text that begins with BOS gets no second one."""
        options = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        if add_special_tokens is None and self._begins(string):
            options = {"add_special_tokens": False}
        return list(self.tokenizer.encode(string, **options))

    def _begins(self, string: str) -> bool:
        begin, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        prefix = end if begin is None else begin
        return prefix is not None and string.startswith(self.tokenizer.decode(prefix))

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The prompt of a chat model."""
        return str(
            self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )

    def loglikelihood(self, requests: list[Any], **_: Any) -> list[tuple[float, bool]]:
        """Score continuations; those of one question share their prompt."""
        keys = [Responses.key("loglikelihood", request.args) for request in requests]
        groups = [
            [i for i in members if self.responses.get(keys[i]) is None]
            for _, members in groupby(range(len(requests)), key=lambda i: _row_of(requests[i]))
        ]
        groups = [group for group in groups if group]
        if groups:
            pairs = [[self._pair(*requests[i].args) for i in group] for group in groups]
            found = self.scorer.score(pairs)
            for group, scored in self._watched(found, len(groups)):
                answers = {
                    keys[i]: [s.loglikelihood, s.greedy, s.truncated]
                    for i, s in zip(groups[group], scored, strict=True)
                }
                self.responses.add(answers)
        results = [self._answer(key, request) for key, request in zip(keys, requests, strict=True)]
        return [(float(value), bool(greedy)) for value, greedy, _ in results]

    def loglikelihood_rolling(self, requests: list[Any], **_: Any) -> list[float]:
        """Score whole texts, window by window."""
        keys = [Responses.key("rolling", request.args) for request in requests]
        todo = [i for i, key in enumerate(keys) if self.responses.get(key) is None]
        windows = {i: [[pair] for pair in self._windows(requests[i].args[0])] for i in todo}
        for done, i in enumerate(todo):
            scores = [scored[0].loglikelihood for _, scored in self.scorer.score(windows[i])]
            self.responses.add({keys[i]: [sum(scores), False, False]})
            self.progress((done + 1) / len(todo), f"{done + 1} of {len(todo)} texts")
        return [float(self._answer(k, r)[0]) for k, r in zip(keys, requests, strict=True)]

    def generate_until(self, requests: list[Any], **_: Any) -> list[str]:
        """Write greedily up to a stop sequence."""
        keys = [Responses.key("generate", request.args) for request in requests]
        todo = [i for i, key in enumerate(keys) if self.responses.get(key) is None]
        todo.sort(key=lambda i: _settings(requests[i].args[1]))
        batches = groupby(todo, key=lambda i: _settings(requests[i].args[1]))
        for (stops, max_tokens), members in batches:
            chosen = list(members)
            prompts = [self.tok_encode(requests[i].args[0]) for i in chosen]
            found = self.scorer.write(prompts, stops=self._stops(stops), max_tokens=max_tokens)
            for k, written in self._watched(found, len(chosen)):
                self.responses.add({keys[chosen[k]]: [written.text, False, written.truncated]})
        return [str(self._answer(k, r)[0]) for k, r in zip(keys, requests, strict=True)]

    def _loglikelihood_tokens(self, requests: Any, **_: Any) -> Any:
        raise AssertionError("loglikelihood does not come here")

    def _stops(self, stops: Sequence[str]) -> list[str]:
        end = self.tokenizer.eos_token_id
        return [*stops] if end is None else [*stops, self.tokenizer.decode(end)]

    def _pair(self, context: str, continuation: str) -> Pair:
        """Token ids as lm-eval cuts them."""
        if context:
            before, after = self._encode_pair(context, continuation)
            return Pair(tuple(before), tuple(after))
        ids = self.tok_encode(continuation, add_special_tokens=False)
        if ids[0] == self.prefix_token_id:
            return Pair(tuple(ids[:1]), tuple(ids[1:]))
        return Pair((self.prefix_token_id,), tuple(ids))

    def _windows(self, text: str) -> Iterator[Pair]:
        windows = get_rolling_token_windows(
            token_list=self.tok_encode(text),
            prefix_token=self.prefix_token_id,
            max_seq_len=self.scorer.context,
            context_len=1,
        )
        for window in windows:
            before, after = make_disjoint_window(window)
            yield Pair(tuple(before), tuple(after))

    def _answer(self, key: str, request: Any) -> list[Any]:
        answer = self.responses.get(key)
        if answer is None:
            raise AssertionError("every request was answered")
        if answer[2]:
            self.truncated.add(_row_of(request))
        return answer

    def _watched(self, found: Iterator[_Found], total: int) -> Iterator[_Found]:
        start = time.monotonic()
        for done, item in enumerate(found, start=1):
            yield item
            left = (time.monotonic() - start) * (total - done) / done
            self.progress(done / total, f"{done} of {total} items, {human_seconds(left)} left")


def run_benchmark(
    name: str,
    adapter: Adapter,
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
    if chat_template and not getattr(adapter.tokenizer, "chat_template", None):
        raise ConfigError("the tokenizer has no chat template; leave --chat-template out")
    loaded = _load(name, data_dir, scratch)
    sizes = {task: len(obj.eval_docs) for task, obj in loaded.tasks.items()}
    rows = draw(sizes, limit, seed=_SEED)
    tasks = {task: loaded.tasks[task] for task in rows}
    for task in tasks.values():
        _prepare(name, task)
    adapter.truncated.clear()
    samples = evaluate(
        lm=adapter,
        task_dict={"tasks": tasks, "groups": {}, "group_map": {}},
        samples=rows,
        bootstrap_iters=0,
        apply_chat_template=chat_template,
        fewshot_as_multiturn=chat_template,
    )["samples"]
    chosen = loaded.filter or samples[next(iter(tasks))][0]["filter"]
    items = [
        _item(task, tasks[task], sample, loaded, rows[task], adapter.truncated)
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
        first = str(error).splitlines()[0]
        raise DataError(
            f"{name}: its rows are neither in a local folder (--data-dir, PAREDOWN_DATA) nor to be "
            f"had from the hub ({first})"
        ) from None


def _item(
    name: str,
    task: Any,
    sample: Mapping[str, Any],
    loaded: _Loaded,
    rows: Sequence[int],
    truncated: set[tuple[str, int]],
) -> Item:
    values = {metric: sample[metric] for metric in sample["metrics"]}
    if not isinstance(values.get(loaded.metric), int | float | np.number):
        raise ConfigError(
            f"{loaded.name} measures {loaded.metric}, which is no mean over items; for perplexity "
            "give a text, e.g. -d wikitext2"
        )
    return Item(
        id=f"{name}/{sample['doc_id']}",
        part=name,
        hash=sample["doc_hash"][:16],
        score=float(values[loaded.metric]),
        answer=_given_answer(task, sample, loaded.metric),
        metrics={k: float(v) for k, v in values.items() if isinstance(v, int | float | np.number)},
        truncated=(name, rows.index(sample["doc_id"])) in truncated,
    )


def _given_answer(task: Any, sample: Mapping[str, Any], metric: str) -> int | str | None:
    """Which choice the metric takes for the model's, or the text that it extracts."""
    found = sample["filtered_resps"]
    if task.OUTPUT_TYPE == "generate_until":
        return str(found[0])
    if task.OUTPUT_TYPE != "multiple_choice":
        return None
    values = np.array([value for value, _ in found])
    if metric == "acc_norm":
        values = values / [max(len(choice), 1) for choice in task.doc_to_choice(sample["doc"])]
    return int(values.argmax())


def _row_of(request: Any) -> tuple[str, int]:
    return request.task_name, request.doc_id


def _settings(options: Mapping[str, Any]) -> tuple[tuple[str, ...], int]:
    """Stop sequences and the most tokens of a request to write."""
    until = options.get("until") or []
    stops = (until,) if isinstance(until, str) else tuple(until)
    limits = [options.get(k) for k in ("max_gen_toks", "max_new_tokens", "max_tokens")]
    return stops, int(next((n for n in limits if n is not None), _MAX_TOKENS))


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
